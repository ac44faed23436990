"""Schedules that preserve variance, alpha^2 + sigma^2 = 1: data of unit variance keep it along the whole axis."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from coursekit.diffusion.chain import DiscreteChain
from coursekit.diffusion.schedules.base import Schedule, as_real, as_time, grid, require

__all__ = [
    "Cosine",
    "ExponentialVP",
    "LinearVP",
    "ScaledLinearVP",
    "SigmoidAlphaBar",
    "SigmoidBetaVP",
    "VariancePreserving",
]


class VariancePreserving(Schedule):
    """A schedule with alpha^2 + sigma^2 = 1: data of unit variance keep unit variance."""

    def d_sigma(self, t: Tensor | float) -> Tensor:  # from alpha d_alpha + sigma d_sigma = 0
        return -self.alpha(t) * self.d_alpha(t) / self.sigma(t)

    def d_log_snr(self, t: Tensor | float) -> Tensor:
        return 2 * self.d_alpha(t) / (self.alpha(t) * self.sigma(t) ** 2)

    def diffusion(self, t: Tensor | float) -> Tensor:
        return torch.sqrt(-2 * self.drift(t))


class ExponentialVP(VariancePreserving):
    """A variance-preserving schedule given by its rate beta(t): alpha_t = exp(-B_t / 2), B_t the integral of beta.

    Subclasses give `beta`, its integral from 0 and the integral's inverse.
    """

    @abstractmethod
    def beta(self, t: Tensor | float) -> Tensor:
        """The rate at which variance is replaced by noise, per unit of t."""

    @abstractmethod
    def integral(self, t: Tensor | float) -> Tensor:
        """B_t, the integral of beta from 0 to t."""

    @abstractmethod
    def time_of_integral(self, B: Tensor) -> Tensor:
        """The inverse of `integral`."""

    def alpha(self, t: Tensor | float) -> Tensor:
        return torch.exp(-self.integral(t) / 2)

    def sigma(self, t: Tensor | float) -> Tensor:
        return torch.sqrt(-torch.expm1(-self.integral(t)))

    def log_snr(self, t: Tensor | float) -> Tensor:  # e^-B / (1 - e^-B) = 1 / (e^B - 1)
        return -torch.log(torch.expm1(self.integral(t)))

    def d_alpha(self, t: Tensor | float) -> Tensor:
        return -self.beta(t) / 2 * self.alpha(t)

    def drift(self, t: Tensor | float) -> Tensor:
        return -self.beta(t) / 2

    def d_log_snr(self, t: Tensor | float) -> Tensor:
        return self.beta(t) / torch.expm1(-self.integral(t))

    def time(self, log_snr: Tensor | float) -> Tensor:
        return self.time_of_integral(_softplus(-as_real(log_snr))).clamp(0, 1)

    def discretised(self, T: int = 1000) -> DiscreteChain:
        """The chain of the paper: beta_k = beta((k - 1) / (T - 1)) / T, which for T = 1000 is DDPM's table.

        Its alpha_bar differs from alpha(k/T)^2 by O(1/T): a product of (1 - beta_k) is not the exponential of a sum.

        Raises:
            ValueError: if T is so small that a beta_k reaches 1.
        """
        grid(T)
        beta = self.beta(torch.linspace(0, 1, T, dtype=torch.float64)) / T
        require(
            float(beta.max()) < 1,
            f"T must be larger than the largest rate {float(beta.max()) * T:.6g} of {type(self).__name__}, got {T}",
        )
        return DiscreteChain.from_betas(beta)


def _softplus(u: Tensor) -> Tensor:
    return torch.logaddexp(u, torch.zeros_like(u))


@dataclass(frozen=True)
class LinearVP(ExponentialVP):
    """beta(t) = beta_min + t (beta_max - beta_min): the schedule of DDPM, in continuous time.

    Ho et al., "Denoising Diffusion Probabilistic Models", 2020, arXiv 2006.11239, section 4; the continuous
    form is eq. 33 of arXiv 2011.13456. DDPM's beta_1 = 1e-4 and beta_1000 = 0.02 are the defaults, times 1,000.

    Example:
        >>> schedule = LinearVP()
        >>> t = torch.tensor([0.0, 0.5, 1.0])
        >>> torch.allclose(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, torch.ones(3))
        True
        >>> round(schedule.log_snr(0.5).item(), 3)
        -2.455
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        require(
            0 < self.beta_min <= self.beta_max,
            f"0 < beta_min <= beta_max is wanted, got {self.beta_min}, {self.beta_max}",
        )

    def beta(self, t: Tensor | float) -> Tensor:
        return self.beta_min + as_time(t) * (self.beta_max - self.beta_min)

    def integral(self, t: Tensor | float) -> Tensor:
        t = as_time(t)
        return t * (self.beta_min + t * ((self.beta_max - self.beta_min) / 2))

    def time_of_integral(self, B: Tensor) -> Tensor:  # the root of a quadratic, written without a difference
        return 2 * B / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * B))


@dataclass(frozen=True)
class ScaledLinearVP(ExponentialVP):
    """sqrt(beta(t)) linear in t: the schedule of latent diffusion models.

    Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2022, arXiv 2112.10752,
    released code; beta_1 = 0.00085 and beta_1000 = 0.012 are the defaults, times 1,000.
    """

    beta_min: float = 0.85
    beta_max: float = 12.0

    def __post_init__(self) -> None:
        require(
            0 < self.beta_min < self.beta_max,
            f"0 < beta_min < beta_max is wanted, got {self.beta_min}, {self.beta_max}",
        )

    @property
    def _line(self) -> tuple[float, float]:
        start = math.sqrt(self.beta_min)
        return start, math.sqrt(self.beta_max) - start

    def beta(self, t: Tensor | float) -> Tensor:
        start, slope = self._line
        return (start + slope * as_time(t)) ** 2

    def integral(self, t: Tensor | float) -> Tensor:
        (start, slope), t = self._line, as_time(t)
        return t * (start**2 + t * (start * slope + t * (slope**2 / 3)))

    def time_of_integral(self, B: Tensor) -> Tensor:  # u^3 = start^3 + 3 slope B, and u - start without a difference
        start, slope = self._line
        u = (start**3 + 3 * slope * B) ** (1 / 3)
        return 3 * B / (u**2 + u * start + start**2)


@dataclass(frozen=True)
class SigmoidBetaVP(ExponentialVP):
    """beta(t) = beta_min + (beta_max - beta_min) S(12 t - 6), S the logistic function: "sigmoid" in beta.

    Xu et al., "GeoDiff", 2022, arXiv 2203.02923, released code. Not to be taken for `SigmoidAlphaBar`.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        require(
            0 < self.beta_min <= self.beta_max,
            f"0 < beta_min <= beta_max is wanted, got {self.beta_min}, {self.beta_max}",
        )

    def beta(self, t: Tensor | float) -> Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) * torch.sigmoid(12 * as_time(t) - 6)

    def integral(self, t: Tensor | float) -> Tensor:  # the difference of two softplus, as one log1p
        t, floor = as_time(t), 1 / (1 + math.exp(6))
        return self.beta_min * t + (self.beta_max - self.beta_min) / 12 * torch.log1p(floor * torch.expm1(12 * t))

    def time_of_integral(self, B: Tensor) -> Tensor:
        """Newton's method from the right: `integral` is convex and rising, so the steps never overshoot."""
        t = torch.ones_like(B)
        for _ in range(32):
            t = (t - (self.integral(t) - B) / self.beta(t)).clamp(0, 1)
        return t


@dataclass(frozen=True)
class Cosine(VariancePreserving):
    """alpha_t = cos(theta_t) / cos(theta_0) with theta_t = (pi/2) (t + s) / (1 + s): no signal at t = 1.

    Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models", 2021, arXiv 2102.09672, eq. 17.
    """

    s: float = 0.008

    def __post_init__(self) -> None:
        require(self.s >= 0, f"s must not be negative, got {self.s}")

    @property
    def _rate(self) -> float:  # d theta / dt
        return math.pi / 2 / (1 + self.s)

    @property
    def _theta_0(self) -> float:
        return self._rate * self.s

    def alpha(self, t: Tensor | float) -> Tensor:  # cos(theta) = sin(pi/2 - theta) keeps its digits near t = 1
        return torch.sin(self._rate * (1 - as_time(t))) / math.cos(self._theta_0)

    def sigma(self, t: Tensor | float) -> Tensor:  # cos^2 a - cos^2 b = sin(b - a) sin(b + a)
        t = as_time(t)
        return torch.sqrt(torch.sin(self._rate * t) * torch.sin(self._rate * (t + 2 * self.s))) / math.cos(
            self._theta_0
        )

    def d_alpha(self, t: Tensor | float) -> Tensor:
        return -self._rate * torch.sin(self._rate * (as_time(t) + self.s)) / math.cos(self._theta_0)

    def time(self, log_snr: Tensor | float) -> Tensor:
        log_snr, theta_0 = as_real(log_snr), self._theta_0
        cos = torch.sigmoid(log_snr).sqrt() * math.cos(theta_0)
        variance = torch.sigmoid(-log_snr) * math.cos(theta_0) ** 2  # = sin^2 theta - sin^2 theta_0
        sin = torch.sqrt(variance + math.sin(theta_0) ** 2)
        plus = sin * math.cos(theta_0) + cos * math.sin(theta_0)  # sin(theta + theta_0)
        minus = torch.atan2(variance / plus.clamp_min(1e-30), cos * math.cos(theta_0) + sin * math.sin(theta_0))
        return (minus / self._rate).clamp(0, 1)

    def discretised(self, T: int = 1000, max_beta: float = 0.999) -> DiscreteChain:
        """The chain with alpha_bar_k = alpha(k/T)^2, each beta_k held at `max_beta` as in the paper.

        alpha_bar is recomputed from the clipped beta, so that the two agree.

        Raises:
            ValueError: if T is not a positive integer.
        """
        alpha_bar = self.alpha(grid(T)) ** 2
        return DiscreteChain.from_betas((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=max_beta))


@dataclass(frozen=True)
class SigmoidAlphaBar(VariancePreserving):
    """alpha_t^2 falls along a piece of a logistic curve, from 1 to exactly 0: "sigmoid" in alpha-bar.

    With S the logistic function and u_t = (start + t (end - start)) / tau,
    alpha_t^2 = (S(u_1) - S(u_t)) / (S(u_1) - S(u_0)). Jabri et al., "Scalable Adaptive Computation for
    Iterative Generation", 2022, arXiv 2212.11972; Chen, "On the Importance of Noise Scheduling for
    Diffusion Models", 2023, arXiv 2301.10972, section 2.1.
    """

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0

    def __post_init__(self) -> None:
        require(self.start < self.end, f"start must lie below end, got {self.start} and {self.end}")
        require(self.tau > 0, f"tau must be positive, got {self.tau}")

    @property
    def _ends(self) -> tuple[float, float]:
        return self.start / self.tau, self.end / self.tau

    def _u(self, t: Tensor | float) -> Tensor:
        first, last = self._ends
        return first + as_time(t) * (last - first)

    def alpha(self, t: Tensor | float) -> Tensor:  # S(b) - S(a) = sinh((b - a) / 2) / (2 cosh(a / 2) cosh(b / 2))
        (first, last), t = self._ends, as_time(t)
        part = torch.sinh((1 - t) * ((last - first) / 2)) / torch.cosh(self._u(t) / 2)
        return torch.sqrt(part * (math.cosh(first / 2) / math.sinh((last - first) / 2)))

    def sigma(self, t: Tensor | float) -> Tensor:
        (first, last), t = self._ends, as_time(t)
        part = torch.sinh(t * ((last - first) / 2)) / torch.cosh(self._u(t) / 2)
        return torch.sqrt(part * (math.cosh(last / 2) / math.sinh((last - first) / 2)))

    def d_alpha(self, t: Tensor | float) -> Tensor:
        """The derivative of alpha by t; minus infinity at t = 1, where alpha ~ sqrt(1 - t)."""
        first, last = self._ends
        total = 1 / (1 + math.exp(-last)) - 1 / (1 + math.exp(-first))
        slope = (last - first) / (2 * torch.cosh(self._u(t) / 2)) ** 2  # of S(u_t)
        return -slope / (2 * total * self.alpha(t))

    def time(self, log_snr: Tensor | float) -> Tensor:
        """From sinh(t h) / sinh((1 - t) h) = r, h half the piece's length: t h = atanh(...) without a difference."""
        (first, last), half = self._ends, (self._ends[1] - self._ends[0]) / 2
        log_ratio = -as_real(log_snr) + math.log(math.cosh(first / 2) / math.cosh(last / 2))
        # tanh(t h) = r sinh(h) / (1 + r cosh(h)) and its mirror image for 1 - t: whichever is small is computed
        early = torch.exp(log_ratio.clamp(max=0))
        late = torch.exp((-log_ratio).clamp(max=0))
        t_early = torch.atanh(early * math.sinh(half) / (1 + early * math.cosh(half))) / half
        t_late = 1 - torch.atanh(late * math.sinh(half) / (1 + late * math.cosh(half))) / half
        return torch.where(log_ratio < 0, t_early, t_late).clamp(0, 1)
