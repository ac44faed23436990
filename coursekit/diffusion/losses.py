r"""Which errors count how much, and at which times: the weights and the times of the denoising loss.

The loss of one sample is w ||D(x_t) - x_0||^2, D the denoiser. A *weighting* gives log w as a function of the
log-SNR lambda and of log c, where c is the factor that turns the squared error of the network's own
output F into that of x_0 (||D - x_0||^2 = c ||F - target||^2). Everything is said in x_0 space, so that
the same weighting is the same loss whatever the network predicts; only `simple` depends on it, by definition.

A *sampler of times* maps (n, generator, device) to times in (0, 1) and the weight of each in the mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

__all__ = [
    "WEIGHTINGS",
    "ImportanceSampled",
    "LogitNormal",
    "Stratified",
    "Times",
    "Uniform",
    "Weighting",
    "edm",
    "min_snr",
    "p2",
    "simple",
    "snr",
]

Weighting = Callable[[Tensor, Tensor], Tensor]
"""(log_snr (N,), log c (N,)) -> log w (N,), the weight of the squared error of x_0."""


def simple(log_snr: Tensor, log_scale: Tensor) -> Tensor:
    """The plain squared error of what the network predicts, w c = 1 (arXiv 2006.11239, eq. 14 for eps)."""
    return -log_scale


def snr(log_snr: Tensor, log_scale: Tensor) -> Tensor:
    """w = SNR: the squared error of eps, whatever the network predicts (arXiv 2202.00512, section 4)."""
    return log_snr


def min_snr(gamma: float = 5.0) -> Weighting:
    """w = min(SNR, gamma): Hang et al., "Efficient Diffusion Training via Min-SNR Weighting", 2023, arXiv 2303.09556.

    Raises:
        ValueError: if gamma is not positive.
    """
    if not gamma > 0:
        raise ValueError(f"gamma must be positive, got {gamma}")
    return lambda log_snr, log_scale: log_snr.clamp(max=math.log(gamma))


def p2(k: float = 1.0, gamma: float = 1.0) -> Weighting:
    """w = SNR / (k + SNR)^gamma: Choi et al., "Perception Prioritized Training", 2022, arXiv 2204.00227, eq. 8.

    Raises:
        ValueError: if k is not positive.
    """
    if not k > 0:
        raise ValueError(f"k must be positive, got {k}")
    return lambda log_snr, log_scale: log_snr - gamma * torch.logaddexp(log_snr, torch.full_like(log_snr, math.log(k)))


def edm(sigma_data: float = 1.0) -> Weighting:
    """w = 1 / sigma_data^2 + SNR: Karras et al., 2022, arXiv 2206.00364, table 1, lambda(sigma) with SNR = 1 / sigma^2.

    Raises:
        ValueError: if sigma_data is not positive.
    """
    if not sigma_data > 0:
        raise ValueError(f"sigma_data must be positive, got {sigma_data}")
    floor = -2 * math.log(sigma_data)
    return lambda log_snr, log_scale: torch.logaddexp(log_snr, torch.full_like(log_snr, floor))


WEIGHTINGS: dict[str, Weighting] = {"simple": simple, "snr": snr, "min-snr": min_snr(), "p2": p2(), "edm": edm()}


class Times(Protocol):
    """Draws the n times of a batch and their weights, both (n,) float32 on `device`."""

    def __call__(self, n: int, generator: torch.Generator | None, device: torch.device) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Uniform:
    """Independent times, uniform on (0, 1)."""

    def __call__(self, n: int, generator: torch.Generator | None, device: torch.device) -> tuple[Tensor, Tensor]:
        t = torch.rand(n, generator=generator, device=device)
        return t, torch.ones_like(t)


@dataclass(frozen=True)
class Stratified:
    """One uniform time in each of n equal pieces of (0, 1): the same mean, less variance.

    The pieces are dealt out at random, so that the i-th sample of a batch is at no special time. In the
    spirit of Kingma et al., "Variational Diffusion Models", 2021, arXiv 2107.00630, appendix I.1.

    Example:
        >>> t, weight = Stratified()(4, torch.Generator().manual_seed(0), torch.device("cpu"))
        >>> (t.sort().values * 4).int().tolist()
        [0, 1, 2, 3]
    """

    def __call__(self, n: int, generator: torch.Generator | None, device: torch.device) -> tuple[Tensor, Tensor]:
        piece = torch.randperm(n, generator=generator, device=device)
        t = (piece + torch.rand(n, generator=generator, device=device)) / n
        return t, torch.ones_like(t)


@dataclass(frozen=True)
class LogitNormal:
    """log(t / (1 - t)) ~ N(mean, std^2): most times in the middle, where the work is.

    Esser et al., "Scaling Rectified Flow Transformers", 2024, arXiv 2403.03206, section 3.1. The weights are 1: the
    density of the times is meant as part of the loss.

    Attributes:
        mean, std: of the logit of t.
        base: the uniform times that are bent into shape; stratified by default.
    """

    mean: float = 0.0
    std: float = 1.0
    base: Times = Stratified()

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std must be positive, got {self.std}")

    def __call__(self, n: int, generator: torch.Generator | None, device: torch.device) -> tuple[Tensor, Tensor]:
        u, weight = self.base(n, generator, device)
        u = u.clamp(2.0**-24, 1 - 2.0**-24)  # a float32 can be exactly 0, whose logit is infinite
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u)), weight


class ImportanceSampled(nn.Module):
    """Times drawn more often where the loss is large and varies, weighted so that the mean stays the same.

    The square root of a running mean of the squared loss in each of `bins` equal pieces of (0, 1) is the
    unnormalised density: the best one for the variance (arXiv 2102.09672, section 3.3). A share `uniform` of the
    density stays uniform, so that no piece is forgotten. Call `update` after each batch.

    Raises:
        ValueError: if bins < 1, or a share lies outside (0, 1].
    """

    second_moment: Tensor

    def __init__(self, bins: int = 64, uniform: float = 0.1, memory: float = 0.95) -> None:
        super().__init__()
        if bins < 1 or not 0 < uniform <= 1 or not 0 <= memory < 1:
            raise ValueError(
                f"bins >= 1, 0 < uniform <= 1, 0 <= memory < 1 are wanted, got {bins}, {uniform}, {memory}"
            )
        self.bins, self.uniform, self.memory = bins, uniform, memory
        self.register_buffer("second_moment", torch.ones(bins))

    def density(self) -> Tensor:
        """The probability density of the times in each piece, (bins,), of mean 1."""
        root = self.second_moment.sqrt()
        return self.uniform + (1 - self.uniform) * root / root.mean()

    def __call__(self, n: int, generator: torch.Generator | None, device: torch.device) -> tuple[Tensor, Tensor]:
        return self.warp(Stratified()(n, generator, device)[0])

    def warp(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Uniform numbers (n,) in (0, 1), bent to the density: times and weights, each (n,)."""
        density = self.density()
        edges = torch.cumsum(density, 0) / self.bins
        piece = torch.searchsorted(edges, u).clamp(max=self.bins - 1)
        before = edges[piece] - density[piece] / self.bins
        t = (piece + ((u - before) * self.bins / density[piece]).clamp(0, 1)) / self.bins
        return t, 1 / density[piece]

    @torch.no_grad()
    def update(self, t: Tensor, loss: Tensor) -> None:
        """Take in the loss (n,) of the samples at times t (n,); nothing is fetched from the device."""
        piece = (t * self.bins).long().clamp(max=self.bins - 1)
        total = torch.zeros_like(self.second_moment).index_add_(0, piece, loss.float() ** 2)
        count = torch.zeros_like(self.second_moment).index_add_(0, piece, torch.ones_like(loss, dtype=torch.float32))
        mean = torch.where(count > 0, total / count.clamp(min=1), self.second_moment)
        self.second_moment.lerp_(mean, 1 - self.memory)
