r"""Covariances of factor analysers, C_k = W_k W_k^T + diag(psi_k): few directions, and a noise for each pixel.

A point of component k is x = m_k + W_k z + noise, with a latent z ~ N(0, I_R) and noise ~ N(0, diag(psi_k)). With
M = I + W^T diag(1/psi) W, an R x R matrix,

    C^-1 = diag(1/psi) - diag(1/psi) W M^-1 W^T diag(1/psi),    log det C = log det M + sum log psi,
    E[z | x] = beta (x - m),  beta = M^-1 W^T diag(1/psi),      Cov[z | x] = M^-1

(Woodbury's identity), so no D x D matrix is ever built. EM as in Ghahramani and Hinton, "The EM Algorithm for
Mixtures of Factor Analyzers", 1996, Technical Report CRG-TR-96-1, eq. 8-16, with sums around the present means.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Self

import torch
from torch import Tensor

from coursekit.gmm.covariances import Covariance, Residuals
from coursekit.gmm.moments import Moments

__all__ = ["LowRank"]


class LowRank(Covariance):
    """Factors W_k and noise psi_k for each component: K (D R + D - R (R - 1) / 2) numbers.

    Args:
        factors: W, (K, D, R).
        noise: psi, (K, D), positive.

    Example:
        >>> LowRank(torch.tensor([[[1.0], [2.0]]]), torch.ones(1, 2)).dense(1, 2)
        tensor([[[2., 2.],
                 [2., 5.]]])
    """

    factors: Tensor
    noise: Tensor
    beta: Tensor  # (K, R, D)
    root: Tensor  # the Cholesky factor of M, (K, R, R)

    def __init__(self, factors: Tensor, noise: Tensor) -> None:
        super().__init__()
        scaled = factors / noise[..., None]
        M = factors.mT @ scaled + torch.eye(factors.shape[-1], dtype=factors.dtype, device=factors.device)
        root, _ = torch.linalg.cholesky_ex(M)
        self.register_buffer("factors", factors)
        self.register_buffer("noise", noise)
        self.register_buffer("root", root)
        self.register_buffer("beta", torch.cholesky_solve(scaled.mT, root))

    @classmethod
    def of_rank(cls, rank: int) -> Callable[[Tensor, int], Self]:
        """What to give to `GaussianMixture.fit` as `covariance`: R = rank factors for each component.

        Raises:
            ValueError: if the rank is not a positive integer.
        """
        if not isinstance(rank, int) or rank < 1:
            raise ValueError(f"rank must be a positive integer, got {rank!r}")
        return partial(cls.start, rank=rank)

    @property
    def rank(self) -> int:
        """The number of factors, R."""
        return self.factors.shape[2]

    def check(self, K: int, D: int) -> None:
        if self.factors.shape[:2] != (K, D) or self.noise.shape != (K, D):
            shapes = f"{tuple(self.factors.shape)} and {tuple(self.noise.shape)}"
            raise ValueError(f"factors (K, D, R) and noise (K, D) with K, D = {K}, {D} are wanted, got {shapes}")
        if not bool((self.noise > 0).all() & torch.isfinite(self.noise).all() & torch.isfinite(self.factors).all()):
            raise ValueError("noise must be positive, and factors and noise finite")

    def dense(self, K: int, D: int) -> Tensor:
        return self.factors @ self.factors.mT + torch.diag_embed(self.noise)

    def count_parameters(self, K: int, D: int) -> int:
        R = min(self.rank, D)
        return K * (D * R + D - R * (R - 1) // 2)

    def residuals(self, x: Tensor, means: Tensor) -> tuple[Tensor, Residuals]:
        difference = x.T - means[..., None]  # (K, D, n)
        z = torch.bmm(self.beta, difference)  # (K, R, n)
        squares = difference.square()
        squared = torch.bmm(self.noise.reciprocal()[:, None], squares)[:, 0]
        return squared - torch.bmm(self.root.mT, z).square().sum(1), (difference, squares, z)

    def half_log_det(self, D: int) -> Tensor:
        return self.root.diagonal(dim1=1, dim2=2).log().sum(1) + 0.5 * self.noise.log().sum(1)

    def sample(self, k: Tensor, D: int, generator: torch.Generator | None) -> Tensor:
        noise = torch.empty(len(k), self.rank + D, dtype=self.noise.dtype, device=self.noise.device)
        z, noise = noise.normal_(generator=generator).split([self.rank, D], dim=1)
        return torch.einsum("ndr,nr->nd", self.factors[k], z) + self.noise[k].sqrt() * noise

    def marginal(self, dims: Tensor) -> Self:
        return type(self)(self.factors[:, dims], self.noise[:, dims])

    def conditional(self, seen: Tensor, hidden: Tensor) -> Self:
        # z | seen has the covariance M^-1 = L^-T L^-1
        factors = torch.linalg.solve_triangular(self.marginal(seen).root, self.factors[:, hidden].mT, upper=False).mT
        return type(self)(factors, self.noise[:, hidden])

    def regress(self, seen: Tensor, hidden: Tensor, difference: Tensor) -> Tensor:
        return self.factors[:, hidden] @ (self.marginal(seen).beta @ difference)

    def diffused(self, alpha: float, sigma: float) -> Self:
        return type(self)(alpha * self.factors, alpha**2 * self.noise + sigma**2)

    def noisy(self, x_t: Tensor, means: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Residuals]:
        alpha, sigma = alpha[..., None], sigma[..., None]
        precision = 1 / (alpha**2 * self.noise + sigma**2)  # (N or 1, K, D), of the noise alone
        difference = x_t[:, None] - alpha * means  # (N, K, D)
        gram = torch.einsum("kdr,kds->kdrs", self.factors, self.factors).flatten(2)
        M = torch.einsum("nkd,kdq->nkq", precision, gram).unflatten(2, (self.rank, self.rank))
        M = alpha[..., None] ** 2 * M + torch.eye(self.rank, dtype=M.dtype, device=M.device)
        root = torch.linalg.cholesky_ex(M)[0]
        seen = torch.einsum("nkd,kdr->nkr", precision * difference, self.factors)[..., None]
        z = alpha[..., None] * torch.cholesky_solve(seen, root)  # E[z | x_t], (N, K, R, 1)
        solved = precision * (difference - alpha * torch.einsum("nkr,kdr->nkd", z[..., 0], self.factors))
        squared = (difference * solved).sum(-1)
        log_det = 2 * root.diagonal(dim1=2, dim2=3).log().sum(-1) - precision.log().sum(-1)
        return -0.5 * (squared + log_det + x_t.shape[1] * math.log(2 * math.pi)), (solved,)

    def precise(self, r: Tensor, noisy: Residuals) -> Tensor:
        return torch.einsum("nk,nkd->nd", r, noisy[0])

    def shrunk(self, r: Tensor, noisy: Residuals, alpha: Tensor) -> Tensor:
        weighted = alpha[..., None] * r[..., None] * noisy[0]  # (N, K, D)
        z = torch.einsum("nkd,kdr->nkr", weighted, self.factors)
        return torch.einsum("nkr,kdr->nd", z, self.factors) + (weighted * self.noise).sum(1)

    @classmethod
    def start(cls, residuals: Tensor, K: int, rank: int = 1) -> Self:
        """The same factors for all components: the principal axes of the residuals."""
        n, D = residuals.shape
        if rank > min(n, D):
            raise ValueError(f"rank must be at most the number of dimensions and of points, {min(n, D)}, got {rank}")
        variances = residuals.square().mean(0)
        axes = residuals[:rank].T
        for _ in range(10):  # subspace iterations
            axes = torch.linalg.qr(residuals.T @ (residuals @ axes))[0]  # (D, R)
        lengths = (residuals @ axes).square().mean(0)
        rest = (variances.sum() - lengths.sum()) / max(D - rank, 1)  # the mean of the other eigenvalues
        factors = axes * (lengths - rest).clamp(min=0).sqrt()
        noise = torch.maximum(variances - factors.square().sum(1), 0.1 * variances)
        return cls(factors.repeat(K, 1, 1), noise.repeat(K, 1))

    def sums(self, residuals: Residuals, r: Tensor) -> tuple[Tensor, ...]:
        difference, squares, z = residuals
        weights, weighted_z = r[..., None], (z * r[:, None]).mT
        first, squares = torch.bmm(difference, weights)[..., 0], torch.bmm(squares, weights)[..., 0]
        return first, squares, torch.bmm(difference, weighted_z)

    def moments(self, count: Tensor, sums: tuple[Tensor, ...]) -> Moments:
        first, squares, cross = sums  # sum r d, sum r d^2, sum r d z^T
        latent = (self.beta @ first[..., None])[..., 0]  # sum r E[z]
        second = count[:, None, None] * self._latent_covariance() + self.beta @ cross  # sum r E[z z^T]
        return Moments(count, first, (squares, cross, latent, second))

    def _latent_covariance(self) -> Tensor:
        return torch.cholesky_inverse(self.root)

    def moved(self, moments: Moments, shift: Tensor) -> Moments:
        squares, cross, latent, second = moments.second
        first = moments.first - moments.count[:, None] * shift
        squares = squares - shift * (moments.first + first)
        cross = cross - shift[..., None] * latent[:, None]
        return Moments(moments.count, first, (squares, cross, latent, second))

    def maximise(self, moments: Moments, strength: float, scale: Tensor, floor: float) -> tuple[Tensor, Self]:
        """Regress d on (z, 1): the slopes are the new factors, the intercept is the shift of the mean.

        The prior is worth `strength` imagined points of covariance diag(scale) around the mean, wherever it lies. A
        tiny number more have the covariance C_k: a component that has lost all its own points stays as it is.
        """
        squares, cross, latent, second = moments.second
        tiny = 10 * torch.finfo(scale.dtype).eps
        count = moments.count[:, None]
        imagined = strength * scale[:, None] * self.beta.mT + tiny * self.factors  # sum d z^T of imagined points
        second = second + (strength + tiny) * self._latent_covariance() + self.beta @ imagined
        squares = squares + strength * scale + tiny * (self.noise + self.factors.square().sum(2))
        border = torch.cat([latent, count + tiny], dim=1)  # (K, R + 1)
        design = torch.cat([torch.cat([second, latent[:, None]], dim=1), border[..., None]], dim=2)
        target = torch.cat([cross + imagined, moments.first[..., None]], dim=2)  # (K, D, R + 1)
        slopes = torch.linalg.solve(design, target.mT).mT
        noise = (squares - (slopes * target).sum(2)) / (count + strength + tiny)
        rounding = torch.finfo(scale.dtype).eps * squares / (count + strength + tiny)
        return slopes[..., -1], type(self)(slopes[..., :-1].contiguous(), torch.maximum(noise, rounding) + floor)

    def energy(self, scale: Tensor) -> Tensor:
        explained = (torch.linalg.solve_triangular(self.root, self.factors.mT, upper=False).square()).sum(1)
        precision = 1 / self.noise - explained / self.noise.square()  # the diagonal of C_k^-1, (K, D)
        return 2 * self.half_log_det(len(scale)).sum() + (precision * scale).sum()

    def smallest(self) -> Tensor:
        return self.noise.amin(1)

    def mended(self, floor: float) -> Self:
        rounding = torch.finfo(self.noise.dtype).eps ** 2 * self.noise.max()
        return type(self)(self.factors, self.noise.clamp(min=floor).maximum(rounding))

    def free(self) -> dict[str, Tensor]:
        return {"factors": self.factors, "log_noise": self.noise.log()}

    @classmethod
    def from_free(cls, free: dict[str, Tensor]) -> Self:
        return cls(free["factors"], free["log_noise"].exp())
