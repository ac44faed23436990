r"""Noise schedules: how much of a picture is left at time t, and how much noise has been added.

Every schedule is a pair of functions of the time t in [0, 1], t = 0 for data and t = 1 for noise:

    x_t = alpha_t x + sigma_t eps,    eps ~ N(0, I),    lambda_t = log(alpha_t^2 / sigma_t^2),

and, equivalently, the linear stochastic differential equation dx = f_t x dt + g_t dw with
f = d log(alpha)/dt and g^2 = d(sigma^2)/dt - 2 f sigma^2 (Kingma et al., "Variational Diffusion
Models", 2021, arXiv 2107.00630, eq. 3; Song et al., "Score-Based Generative Modeling through
Stochastic Differential Equations", 2021, arXiv 2011.13456, section 3.4).

A schedule holds Python numbers only. It works on any shape of t, on whatever device t is, in the
precision of t; half precision is raised to float32, since in bfloat16 half of 1,000 times coincide.
Differences of nearly equal numbers are rewritten with expm1, log1p and sums of sines, so that float32
keeps its digits near t = 0 and t = 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from coursekit.diffusion.chain import DiscreteChain

__all__ = ["Schedule", "as_real", "as_time", "grid", "require"]


def as_time(t: Tensor | float) -> Tensor:
    """Turn t into a tensor of float32 or float64 and refuse what does not lie in [0, 1].

    Tensors on an accelerator are not inspected: that would make the host wait for the device.

    Raises:
        ValueError: if a Python number or a CPU tensor holds a value outside [0, 1], or NaN.
    """
    t = t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64, device="cpu")
    if not t.is_floating_point() or t.dtype in (torch.float16, torch.bfloat16):
        t = t.float()
    if t.device.type == "cpu" and t.numel():
        low, high = (float(end) for end in t.detach().aminmax())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"t must lie in [0, 1], got values from {low:.6g} to {high:.6g}")
    return t


def as_real(value: Tensor | float) -> Tensor:
    """Turn a log-SNR into a tensor of float32 or float64, held within 80 nats of zero, where no schedule looks."""
    value = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64, device="cpu")
    return (value.float() if value.dtype in (torch.float16, torch.bfloat16) else value).clamp(-80, 80)


class Schedule(ABC):
    """The noise axis x_t = alpha_t x + sigma_t eps; see the module's head for the symbols.

    Every method takes t of any shape and returns a tensor of that shape; `time` takes a log-SNR.
    """

    @abstractmethod
    def alpha(self, t: Tensor | float) -> Tensor:
        """The share of the data in x_t, falling from 1 (never rising)."""

    @abstractmethod
    def sigma(self, t: Tensor | float) -> Tensor:
        """The standard deviation of the noise in x_t, rising."""

    @abstractmethod
    def d_alpha(self, t: Tensor | float) -> Tensor:
        """The derivative of alpha by t."""

    @abstractmethod
    def d_sigma(self, t: Tensor | float) -> Tensor:
        """The derivative of sigma by t. Infinite at t = 0 for every schedule with sigma ~ sqrt(t)."""

    @abstractmethod
    def time(self, log_snr: Tensor | float) -> Tensor:
        """The inverse of `log_snr`: the time at which the log-SNR has this value, kept within [0, 1]."""

    def log_snr(self, t: Tensor | float) -> Tensor:
        """lambda_t = log(alpha_t^2 / sigma_t^2), in nats, falling; infinite where alpha or sigma is 0."""
        return 2 * (torch.log(self.alpha(t)) - torch.log(self.sigma(t)))

    def d_log_snr(self, t: Tensor | float) -> Tensor:
        """The derivative of the log-SNR by t, never positive."""
        return 2 * (self.d_alpha(t) / self.alpha(t) - self.d_sigma(t) / self.sigma(t))

    def drift(self, t: Tensor | float) -> Tensor:
        """f_t of dx = f_t x dt + g_t dw; minus infinity where alpha is 0."""
        return self.d_alpha(t) / self.alpha(t)

    def diffusion(self, t: Tensor | float) -> Tensor:
        """g_t of dx = f_t x dt + g_t dw; infinite where alpha is 0."""
        sigma = self.sigma(t)
        return torch.sqrt(2 * sigma * (self.d_sigma(t) - self.drift(t) * sigma))

    def angle(self, t: Tensor | float) -> Tensor:
        """atan2(sigma_t, alpha_t), in radians: 0 for clean data, pi/2 for pure noise."""
        return torch.atan2(self.sigma(t), self.alpha(t))

    def discretised(self, T: int = 1000) -> DiscreteChain:
        """The Markov chain x_0 -> x_1 -> ... -> x_T whose noise levels are those of t = k/T.

        Raises:
            ValueError: if T is not a positive integer.
        """
        t = grid(T)
        alpha, sigma = self.alpha(t), self.sigma(t)
        alpha[0], sigma[0] = 1.0, 0.0  # k = 0 is the data itself, also where sigma(0) > 0
        return DiscreteChain(alpha, sigma)


def grid(T: int) -> Tensor:
    """The times k / T, k = 0..T, (T + 1,) float64."""
    if not isinstance(T, int) or T < 1:
        raise ValueError(f"T must be a positive integer, got {T!r}")
    return torch.arange(T + 1, dtype=torch.float64) / T


def require(condition: bool, message: str) -> None:
    """Raise ValueError(message) unless the condition holds."""
    if not condition:
        raise ValueError(message)
