r"""Estimates of x_0 that also know an observation b = A x_0 + s n: each adds a gain times what b says of the estimate.

    D~ = D + K (b - A D),    D = E[x_0 | x_t],   V = (sigma^2 / alpha) dD/dx_t = Cov[x_0 | x_t],

the second equation for V being Tweedie's formula once more (Efron, "Tweedie's Formula and Selection Bias", 2011).

    Projected        K = A^+                                             arXiv 2212.00490
    DPS              K = zeta (alpha / sigma) V A^T / rms(b - A D)       arXiv 2209.14687
    PiGDM            K = V A^T (r_t^2 A A^T + s^2 I)^{-1}                Song et al., ICLR 2023
    MomentMatching   K = V A^T (A V A^T + s^2 I)^{-1}                    arXiv 2405.13712

Were p(x_0 | x_t) the Gaussian N(D, V), then D~ = E[x_0 | x_t, b] for the last K: it is exact when the data are one
Gaussian. The others put something simpler in the place of A V A^T + s^2 I. V is never built: V u is a vector-Jacobian
product, one backward pass through the network. In a trained network dD/dx_t is only nearly symmetric; it is its
transpose that is used.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from coursekit.diffusion.chain import expand
from coursekit.diffusion.guidance.wrapper import Wrapper, latest_time, matched, per_sample, tweedie
from coursekit.diffusion.inverse.operators import LinearOperator
from coursekit.diffusion.inverse.solver import conjugate_residuals
from coursekit.diffusion.transport import refuse_coupled

__all__ = ["DPS", "MomentMatching", "PiGDM", "Projected"]


class Observed(Wrapper):
    """A denoiser with an observation of the very samples that it denoises."""

    observation: Tensor

    def __init__(self, denoiser: nn.Module, operator: LinearOperator, observation: Tensor) -> None:
        super().__init__(denoiser)
        self.operator = operator
        self.register_buffer("observation", observation)

    def residual(self, x: Tensor) -> Tensor:
        """b - A x, in the shape of A x.

        Raises:
            ValueError: if the observation does not fit x.
        """
        seen = self.operator(x)
        if self.observation.shape[1:] != seen.shape[1:] or len(self.observation) not in (1, len(seen)):
            raise ValueError(
                f"observation must have shape {tuple(seen.shape)} or 1 in place of {len(seen)}, got "
                f"{tuple(self.observation.shape)} (guidance that doubles the batch goes inside)"
            )
        return self.observation - seen


class Projected(Observed):
    """The estimate with what was seen put in its place: D + A^+ (b - A D), so that A D~ = A A^+ b.

    The unseen part knows of the observation only through later x_t. Noise in b goes into the samples. Wang et al.,
    "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model" (DDNM), 2022, arXiv 2212.00490,
    section 3.2.

    Args:
        denoiser: may be guided.
        operator: A.
        observation: b, (N, ...) in the shape of A x, or (1, ...) for all samples.
    """

    def pair(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        plain, estimate = self.inner_pair(x_t, t, y)
        return plain, estimate + self.operator.pseudo_inverse(self.residual(estimate))


class Pulled(Observed):
    """D + V A^T w for weights w of the residual that a subclass chooses; the result carries no gradient.

    Points with an alpha / sigma below 0.01 count as having this one, since V = (sigma^2 / alpha) dD/dx_t is infinity
    times zero at pure noise.

    Raises:
        ValueError: if the denoiser has a coupling: then V is not (sigma^2 / alpha) dD/dx_t.
    """

    def __init__(self, denoiser: nn.Module, operator: LinearOperator, observation: Tensor) -> None:
        super().__init__(denoiser, operator, observation)
        refuse_coupled(denoiser, "the covariance of x_0 given x_t")
        self.latest = latest_time(self.schedule, 0.01)

    def pair(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, t = matched(self.schedule, self.schedule, per_sample(t, x_t), x_t.detach(), self.latest)
        with torch.enable_grad():
            x = x.requires_grad_()
            plain, estimate = self.inner_pair(x, t, y)
        factor = tweedie(self.schedule, t, x)

        def covary(u: Tensor) -> Tensor:
            return factor * torch.autograd.grad(estimate, x, u, retain_graph=True)[0]

        found = estimate.detach()
        weights = self.weigh(self.residual(found), t, covary)
        return plain.detach(), found + covary(self.operator.adjoint(weights))

    @abstractmethod
    def weigh(self, residual: Tensor, t: Tensor, covary: Callable[[Tensor], Tensor]) -> Tensor:
        """w in the shape of the residual b - A D, from times (N,) and the product u -> V u."""


class DPS(Pulled):
    r"""A step down the distance to the observation: D - zeta sigma sqrt(M) grad |b - A D(x_t)|, M values in b.

    Dividing by the residual's own root mean square stands in for its unknown deviation, sample by sample; s does not
    enter. Chung et al., "Diffusion Posterior Sampling for General Noisy Inverse Problems", 2022, arXiv 2209.14687,
    algorithm 1, where after each step x is moved by -zeta' grad |b - A D|^2 / |b - A D|. A sampler that multiplies the
    estimate by c in its step (c = alpha_next - alpha sigma_next / sigma for DDIM) moves x by as much if
    zeta' = zeta c sigma sqrt(M) / 2, for N steps of equal angle on a variance-preserving schedule
    zeta' = zeta pi sqrt(M) / (4 N): their 0.3 with half of 256 x 256 x 3 values and N = 1000 is zeta = 1.2.

    Args:
        denoiser: may be guided.
        operator: A.
        observation: b, (N, ...) in the shape of A x, or (1, ...) for all samples.
        zeta: the length of the step; of the order of one whatever M, N and the schedule, if A keeps lengths as a mask
            does.
    """

    def __init__(self, denoiser: nn.Module, operator: LinearOperator, observation: Tensor, zeta: float = 1.0) -> None:
        super().__init__(denoiser, operator, observation)
        self.zeta = zeta

    def weigh(self, residual: Tensor, t: Tensor, covary: Callable[[Tensor], Tensor]) -> Tensor:
        square = residual.square().flatten(1).mean(1)
        signal = (self.schedule.alpha(t) / self.schedule.sigma(t)).to(residual.dtype)
        return residual * expand(self.zeta * signal * torch.where(square > 0, square, 1.0).rsqrt(), residual)


class PiGDM(Pulled):
    """Gaussian posterior with an isotropic variance in the denominator: (r_t^2 A A^T + s^2 I)^{-1} (b - A D).

    r_t^2 = sigma^2 d^2 / (alpha^2 d^2 + sigma^2) is the variance of x_0 given x_t for data N(0, d^2 I). Song et al.,
    "Pseudoinverse-Guided Diffusion Models for Inverse Problems", 2023, ICLR, section 3, there with d = 1.

    Args:
        denoiser: may be guided.
        operator: A.
        observation: b, (N, ...) in the shape of A x, or (1, ...) for all samples.
        deviation: s.
        sigma_data: d.
        iterations: of conjugate residuals, without the network; where A A^T is a multiple of I one is exact.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        operator: LinearOperator,
        observation: Tensor,
        deviation: float = 0.0,
        sigma_data: float = 1.0,
        iterations: int = 20,
    ) -> None:
        super().__init__(denoiser, operator, observation)
        self.deviation, self.sigma_data, self.iterations = deviation, sigma_data, iterations

    def weigh(self, residual: Tensor, t: Tensor, covary: Callable[[Tensor], Tensor]) -> Tensor:
        data, noise = self.schedule.alpha(t) * self.sigma_data, self.schedule.sigma(t)
        variance = ((noise * self.sigma_data) ** 2 / (data**2 + noise**2)).to(residual.dtype)

        def gram(v: Tensor) -> Tensor:
            return expand(variance, v) * self.operator(self.operator.adjoint(v)) + self.deviation**2 * v

        return conjugate_residuals(gram, residual, self.iterations)


class MomentMatching(Pulled):
    """Gaussian posterior with the mean and covariance that the denoiser implies: (A V A^T + s^2 I)^{-1} (b - A D).

    Exact for Gaussian data once conjugate residuals have converged; with an exact denoiser a few iterations do on
    pictures. The Jacobian of a trained network is a poor covariance where there is much noise. Rozet et al., "Learning
    Diffusion Priors from Observations by Expectation Maximization" (MMPS), 2024, arXiv 2405.13712, section 4.

    Args:
        denoiser: may be guided.
        operator: A.
        observation: b, (N, ...) in the shape of A x, or (1, ...) for all samples.
        deviation: s.
        iterations: of conjugate residuals, a backward pass through the network each, and one more at the end.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        operator: LinearOperator,
        observation: Tensor,
        deviation: float = 0.0,
        iterations: int = 3,
    ) -> None:
        super().__init__(denoiser, operator, observation)
        self.deviation, self.iterations = deviation, iterations

    def weigh(self, residual: Tensor, t: Tensor, covary: Callable[[Tensor], Tensor]) -> Tensor:
        def covariance(v: Tensor) -> Tensor:
            return self.operator(covary(self.operator.adjoint(v))) + self.deviation**2 * v

        return conjugate_residuals(covariance, residual, self.iterations)
