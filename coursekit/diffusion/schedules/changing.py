"""Schedules that let the variance of x_t change: exploding (VE, EDM), sub-VP, and the straight line."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from coursekit.diffusion.schedules.base import Schedule, as_real, as_time, require
from coursekit.diffusion.schedules.preserving import LinearVP

__all__ = ["EDM", "VE", "Rectified", "SubVP", "VarianceExploding"]


class VarianceExploding(Schedule):
    """A schedule with alpha = 1: noise is added, the data are left alone."""

    def alpha(self, t: Tensor | float) -> Tensor:
        return torch.ones_like(as_time(t))

    def d_alpha(self, t: Tensor | float) -> Tensor:
        return torch.zeros_like(as_time(t))

    def log_snr(self, t: Tensor | float) -> Tensor:
        return -2 * torch.log(self.sigma(t))

    def d_log_snr(self, t: Tensor | float) -> Tensor:
        return -2 * self.d_sigma(t) / self.sigma(t)


def _check_sigmas(sigma_min: float, sigma_max: float) -> None:
    require(0 < sigma_min < sigma_max, f"0 < sigma_min < sigma_max is wanted, got {sigma_min}, {sigma_max}")


@dataclass(frozen=True)
class VE(VarianceExploding):
    """sigma_t = sigma_min (sigma_max / sigma_min)^t, alpha = 1; at t = 0 a noise of sigma_min is left.

    Song et al., arXiv 2011.13456, eq. 31; `sigma_max` should be near the largest distance between two data.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        _check_sigmas(self.sigma_min, self.sigma_max)

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def sigma(self, t: Tensor | float) -> Tensor:
        return self.sigma_min * torch.exp(as_time(t) * self._log_ratio)

    def d_sigma(self, t: Tensor | float) -> Tensor:
        return self._log_ratio * self.sigma(t)

    def time(self, log_snr: Tensor | float) -> Tensor:
        return ((-as_real(log_snr) / 2 - math.log(self.sigma_min)) / self._log_ratio).clamp(0, 1)


@dataclass(frozen=True)
class EDM(VarianceExploding):
    """alpha = 1 and sigma_t^(1/rho) linear in t: equal steps of t are the grid of Karras et al.

    Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, arXiv 2206.00364,
    eq. 5: their i-th of N noise levels is sigma(1 - i / (N - 1)).
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        _check_sigmas(self.sigma_min, self.sigma_max)
        require(self.rho > 0, f"rho must be positive, got {self.rho}")

    @property
    def _line(self) -> tuple[float, float]:
        start = self.sigma_min ** (1 / self.rho)
        return start, self.sigma_max ** (1 / self.rho) - start

    def sigma(self, t: Tensor | float) -> Tensor:
        start, slope = self._line
        return (start + slope * as_time(t)) ** self.rho

    def d_sigma(self, t: Tensor | float) -> Tensor:
        start, slope = self._line
        return self.rho * slope * (start + slope * as_time(t)) ** (self.rho - 1)

    def time(self, log_snr: Tensor | float) -> Tensor:
        start, slope = self._line
        return ((torch.exp(-as_real(log_snr) / (2 * self.rho)) - start) / slope).clamp(0, 1)


@dataclass(frozen=True)
class SubVP(Schedule):
    """alpha_t of `LinearVP` with sigma_t = 1 - alpha_t^2, which is smaller than the variance-preserving one.

    Song et al., arXiv 2011.13456, eq. 28-29.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        LinearVP(self.beta_min, self.beta_max)  # the same bounds

    @property
    def _vp(self) -> LinearVP:
        return LinearVP(self.beta_min, self.beta_max)

    def alpha(self, t: Tensor | float) -> Tensor:
        return self._vp.alpha(t)

    def sigma(self, t: Tensor | float) -> Tensor:
        return -torch.expm1(-self._vp.integral(t))

    def d_alpha(self, t: Tensor | float) -> Tensor:
        return self._vp.d_alpha(t)

    def d_sigma(self, t: Tensor | float) -> Tensor:
        return self._vp.beta(t) * torch.exp(-self._vp.integral(t))

    def log_snr(self, t: Tensor | float) -> Tensor:  # alpha / sigma = 1 / (2 sinh(B / 2))
        return -2 * torch.log(2 * torch.sinh(self._vp.integral(t) / 2))

    def time(self, log_snr: Tensor | float) -> Tensor:
        return self._vp.time_of_integral(2 * torch.asinh(torch.exp(-as_real(log_snr) / 2) / 2)).clamp(0, 1)

    def drift(self, t: Tensor | float) -> Tensor:
        return self._vp.drift(t)

    def diffusion(self, t: Tensor | float) -> Tensor:
        return torch.sqrt(-self._vp.beta(t) * torch.expm1(-2 * self._vp.integral(t)))


@dataclass(frozen=True)
class Rectified(Schedule):
    """alpha_t = 1 - t, sigma_t = t: the straight line of rectified flow and flow matching.

    Liu et al., "Flow Straight and Fast", 2022, arXiv 2209.03003, eq. 1; Lipman et al., "Flow Matching for
    Generative Modeling", 2022, arXiv 2210.02747, eq. 20-22 with sigma_min = 0. Both count time the other way.

    Example:
        >>> round(Rectified().time(Rectified().log_snr(0.25)).item(), 12)
        0.25
    """

    def alpha(self, t: Tensor | float) -> Tensor:
        return 1 - as_time(t)

    def sigma(self, t: Tensor | float) -> Tensor:
        return as_time(t).clone()

    def d_alpha(self, t: Tensor | float) -> Tensor:
        return -torch.ones_like(as_time(t))

    def d_sigma(self, t: Tensor | float) -> Tensor:
        return torch.ones_like(as_time(t))

    def time(self, log_snr: Tensor | float) -> Tensor:
        return torch.sigmoid(-as_real(log_snr) / 2)
