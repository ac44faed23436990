r"""Variances of the step back, p(x_{k-1} | x_k) = N(a_k D(x_k) + b_k x_k, s_k^2).

The mean is the posterior mean with the denoiser's estimate D in the place of x_0 (see `coursekit.diffusion.chain`); the
variance s_k^2 is free:

    lower     v_k, right if all data were one point           (Ho et al., 2020, arXiv 2006.11239, section 3.2)
    upper     beta_k, right if the data were N(0, I)
    optimal   v_k + a_k^2 E|x_0 - D(x_k)|^2 / D, the best single number a step: with the exact denoiser the last factor
              is tr Cov[x_0 | x_k] / D  (Bao et al., "Analytic-DPM", 2022, arXiv 2201.06503, theorem 1; "Estimating the
              Optimal Covariance with Imperfect Mean", 2022, arXiv 2206.07309, section 3)
    learned   log s^2 = w log beta_k + (1 - w) log v_k, w (N, ...) from a network  (Nichol and Dhariwal, "Improved
              Denoising Diffusion Probabilistic Models", 2021, arXiv 2102.09672, eq. 15 and 16)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from coursekit.diffusion.chain import DiscreteChain, expand
from coursekit.diffusion.likelihood.capacity import capacity, capacity_grid, ends
from coursekit.diffusion.schedules import Schedule

__all__ = ["OptimalVariance", "ReverseVariance", "Step", "lower_variance", "upper_variance"]


@dataclass(frozen=True)
class Step:
    """What is known before a step back from x_k to x_{k-1}.

    Attributes:
        chain: with its tables.
        k: (N,), where each sample stands.
        t: (N,), the time of k.
        x_k: (N, ...).
        estimate: D(x_k), (N, ...).
        y: labels (N,), or None.
    """

    chain: DiscreteChain
    k: Tensor
    t: Tensor
    x_k: Tensor
    estimate: Tensor
    y: Tensor | None

    def table(self, name: str) -> Tensor:
        """The entry of a table of the chain at k, shaped to multiply x_k."""
        return expand(getattr(self.chain, name)[self.k], self.x_k).to(self.x_k.dtype)

    def divergence(self, x_0: Tensor, log_variance: Tensor) -> Tensor:
        """KL(q(x_{k-1} | x_k, x_0) || p(x_{k-1} | x_k)) in nats, (N,), for k >= 2 and log s^2 that broadcasts to x."""
        log_ratio = torch.log(self.table("posterior_variance")) - log_variance
        missed = (self.table("posterior_mean_x0") * (x_0 - self.estimate)).square() * torch.exp(-log_variance)
        return 0.5 * (torch.expm1(log_ratio) - log_ratio + missed).flatten(1).sum(1)


ReverseVariance = Callable[[Step], Tensor]
"""A step -> log s^2, of a shape that broadcasts to x_k."""


def lower_variance(step: Step) -> Tensor:
    """log v_k, (N, 1, ...)."""
    return torch.log(step.table("posterior_variance"))


def upper_variance(step: Step) -> Tensor:
    """log beta_k, (N, 1, ...)."""
    return torch.log(step.table("beta"))


class OptimalVariance(nn.Module):
    """The best variance of each step, from the denoiser's mean squared error as a function of the noise level.

    The error is measured once, at some levels, and read off between them along straight lines of its logarithm against
    the capacity c = log(1 + SNR) / 2; so it serves chains of any length.

    Args:
        capacities: (M,), rising.
        error: (M,), E|x_0 - D(x_t)|^2 / D at these levels, positive.

    Raises:
        ValueError: if there are not two levels or more, or they do not rise.
    """

    capacities: Tensor
    log_error: Tensor

    def __init__(self, capacities: Tensor, error: Tensor) -> None:
        super().__init__()
        shapes = tuple(capacities.shape), tuple(error.shape)
        if capacities.ndim != 1 or shapes[0] != shapes[1] or len(error) < 2 or bool((capacities.diff() <= 0).any()):
            raise ValueError(f"capacities must rise and error match them, got shapes {shapes[0]} and {shapes[1]}")
        self.register_buffer("capacities", capacities)
        self.register_buffer("log_error", torch.log(error))

    @classmethod
    @torch.no_grad()
    def measured(
        cls,
        denoiser: nn.Module,
        x: Tensor,
        y: Tensor | None = None,
        levels: int = 50,
        generator: torch.Generator | None = None,
    ) -> Self:
        """Measure the error on data (N, ...), all of them at each of `levels` noise levels, equally far in capacity."""
        schedule: Schedule = denoiser.schedule
        t = capacity_grid(schedule, levels, *ends(denoiser))
        errors = []
        for alpha, sigma, time in zip(schedule.alpha(t).tolist(), schedule.sigma(t).tolist(), t.tolist(), strict=True):
            x_t = alpha * x + sigma * torch.empty_like(x).normal_(generator=generator)
            estimate = denoiser(x_t, torch.full((len(x),), time, dtype=x.dtype, device=x.device), y)
            errors.append((x - estimate).square().mean())
        return cls(capacity(schedule, t).to(x), torch.stack(errors))

    def error(self, c: Tensor) -> Tensor:
        """The denoiser's mean squared error per dimension at capacities of any shape."""
        right = torch.searchsorted(self.capacities, c.contiguous()).clamp(1, len(self.capacities) - 1)
        a, b = self.capacities[right - 1], self.capacities[right]
        return torch.exp(torch.lerp(self.log_error[right - 1], self.log_error[right], ((c - a) / (b - a)).clamp(0, 1)))

    def forward(self, step: Step) -> Tensor:
        c = 0.5 * torch.log1p((step.table("alpha") / step.table("sigma")).square())
        return torch.log(step.table("posterior_variance") + step.table("posterior_mean_x0").square() * self.error(c))
