r"""Somebody else's network as a denoiser: from the function that a paper trains to E[x_0 | x_t].

    score s(x, t)           x_0 = (x + sigma^2 s) / alpha
    eps_theta(x, t)         x_0 = (x - sigma eps) / alpha
    velocity v(x, tau)      x_0 = x + (1 - tau) v,     tau = 1 - t on the straight line
    D(x; sigma)             x_0 = D
    F(c_in x; c_noise)      x_0 = c_skip x + c_out F

Each `from_...` returns a denoiser on the axis that the function is made for; `coursekit.diffusion.views.OnSchedule`
moves it to another. The first two divide by alpha: an error of the network (and of rounding) grows by sigma / alpha, so
schedules that end in pure noise are refused unless `t_max` stays below 1. What is passed in may be a function or a
module; with `num_classes` it gets labels as a further argument.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from coursekit.diffusion.chain import DiscreteChain, expand
from coursekit.diffusion.denoiser import Denoiser
from coursekit.diffusion.schedules import EDM, Rectified, Schedule
from coursekit.diffusion.views import Preconditioning

__all__ = ["ForeignDenoiser", "from_ddpm", "from_edm", "from_edm_network", "from_eps", "from_score", "from_velocity"]


class ForeignDenoiser(Denoiser):
    """A `Denoiser` whose network is given x_t itself, not scaled to unit variance; the arguments are the same."""

    def _network(self, x_t: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor, y: Tensor | None) -> Tensor:
        if self.num_classes is None:
            return self.network(x_t, t)
        return self.network(x_t, t, torch.full((len(x_t),), self.num_classes, device=x_t.device) if y is None else y)


def from_score(score: Callable[..., Tensor], schedule: Schedule, **settings: Any) -> Denoiser:
    """The denoiser of a score s(x_t, t) = grad log p_t (N, ...), as in arXiv 2011.13456.

    Args:
        score: (x_t (N, ...), t (N,)) -> (N, ...).
        schedule: the axis on which p_t is meant.
        **settings: of `Denoiser`, such as `num_classes` and `t_max`.

    Raises:
        ValueError: if the schedule leaves no signal at t_max.

    Example:
        >>> from coursekit.diffusion import LinearVP
        >>> normal = from_score(lambda x, t: -x, LinearVP())  # the score of N(0, I), which stays N(0, I)
        >>> t = torch.tensor([0.5])
        >>> torch.allclose(normal(torch.ones(1, 1), t), LinearVP().alpha(t)[:, None])
        True
    """
    return ForeignDenoiser(score, schedule, "score", **settings)


def from_eps(eps: Callable[..., Tensor], schedule: Schedule, **settings: Any) -> Denoiser:
    """The denoiser of a noise predictor eps(x_t, t) of continuous times; `from_ddpm` takes one of whole steps.

    Args:
        eps: (x_t (N, ...), t (N,)) -> (N, ...).
        schedule: the axis that it was trained on.
        **settings: of `Denoiser`.

    Raises:
        ValueError: if the schedule leaves no signal at t_max.

    Example:
        >>> from coursekit.diffusion import EDM
        >>> from_eps(lambda x, t: 0 * x, EDM())(torch.ones(1, 1), torch.tensor([0.5]))
        tensor([[1.]])
    """
    return ForeignDenoiser(eps, schedule, "eps", **settings)


def from_velocity(velocity: Callable[..., Tensor], **settings: Any) -> Denoiser:
    """The denoiser, on `Rectified`, of a flow-matching velocity v(x, tau) from noise at tau = 0 to data at tau = 1.

    Args:
        velocity: (x (N, ...), tau (N,)) -> E[data - noise | x] (N, ...), as in arXiv 2210.02747 and 2209.03003.
        **settings: of `Denoiser`. If noise and data were coupled in its training, pass the coupling.

    Example:
        >>> point = from_velocity(lambda x, tau: (3 - x) / (1 - tau)[:, None])  # every path ends in 3
        >>> point(torch.zeros(1, 1), torch.tensor([0.5]))
        tensor([[3.]])
    """
    return ForeignDenoiser(_Backwards(velocity), Rectified(), "velocity", **settings)


def from_edm(
    denoise: Callable[..., Tensor], sigma_min: float = 0.002, sigma_max: float = 80.0, **settings: Any
) -> Denoiser:
    """The denoiser, on `EDM`, of a function D(x; sigma) as in arXiv 2206.00364.

    Args:
        denoise: (x (N, ...), sigma (N,)) -> E[x_0 | x] (N, ...).
        sigma_min: the smallest sigma that it knows.
        sigma_max: the largest.
        **settings: of `Denoiser`.

    Example:
        >>> normal = from_edm(lambda x, sigma: x / (1 + sigma**2)[:, None])
        >>> normal(80 * torch.ones(1, 1), torch.ones(1))
        tensor([[0.0125]])
    """
    schedule = EDM(sigma_min, sigma_max)
    return ForeignDenoiser(_BySigma(denoise, schedule), schedule, "x0", **settings)


def from_edm_network(
    network: Callable[..., Tensor],
    preconditioning: Preconditioning | None = None,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    **settings: Any,
) -> Denoiser:
    """The denoiser of a raw network F of arXiv 2206.00364, with its preconditioning put around it.

    Args:
        network: (c_in x (N, ...), c_noise (N,)) -> F (N, ...).
        preconditioning: the coefficients; those of sigma_data = 0.5 if None.
        sigma_min: the smallest sigma that it knows.
        sigma_max: the largest.
        **settings: of `Denoiser`.

    Example:
        >>> half = from_edm_network(lambda x, c_noise: 0 * x, sigma_max=0.5)  # c_skip alone
        >>> half(torch.ones(1, 1), torch.ones(1))
        tensor([[0.5000]])
    """
    preconditioning = preconditioning or Preconditioning()
    return from_edm(_Preconditioned(network, preconditioning), sigma_min, sigma_max, **settings)


def from_ddpm(
    eps: Callable[..., Tensor], chain: DiscreteChain, schedule: Schedule, num_classes: int | None = None
) -> nn.Module:
    """The denoiser, on any schedule, of a noise predictor eps_theta(x_k, k) that knows whole steps only.

    A time between two levels of the chain is answered by the one that is nearer in log-SNR: the error is of the order
    of 1 / T. At the chain's own levels there is none.

    Args:
        eps: (x_k (N, ...), k (N,) whole numbers 1..T) -> (N, ...). Code that counts from 0 wants k - 1.
        chain: the levels that it was trained on.
        schedule: the axis of the denoiser.
        num_classes: if it takes labels.

    Raises:
        ValueError: if the chain ends in pure noise, of which eps says nothing about x_0.

    Example:
        >>> from coursekit.diffusion import LinearVP, Rectified
        >>> chain = LinearVP().discretised(1000)
        >>> denoiser = from_ddpm(lambda x, k: 0 * x, chain, Rectified())
        >>> denoiser(torch.full((1, 1), 0.5), torch.tensor([0.5])).round(decimals=2)  # x / alpha
        tensor([[1.]])
    """
    if float(chain.alpha[-1]) < 1e-6:
        raise ValueError("chain must keep some signal at its last step for a prediction of eps, got alpha_T = 0")
    return _ChainDenoiser(eps, chain, schedule, num_classes)


class _ChainDenoiser(nn.Module):
    """See `from_ddpm`."""

    def __init__(
        self, eps: Callable[..., Tensor], chain: DiscreteChain, schedule: Schedule, num_classes: int | None
    ) -> None:
        super().__init__()
        self.network, self.chain, self.schedule, self.num_classes = eps, chain, schedule, num_classes
        log_snr = 2 * (torch.log(chain.alpha[1:]) - torch.log(chain.sigma[1:]))
        self.t_min, self.t_max = (float(schedule.time(log_snr[k].double())) for k in (0, -1))
        self.register_buffer("borders", -(log_snr[1:] + log_snr[:-1]) / 2, persistent=False)  # rising, (T - 1,)

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """The estimate of x_0 (N, ...) for x_t (N, ...) at times t (N,) or (), from the chain's nearest level."""
        t = t.expand(len(x_t)) if t.ndim == 0 else t
        k = 1 + torch.searchsorted(self.borders, -self.schedule.log_snr(t).to(self.borders.dtype))
        alpha, sigma = (level.to(x_t.dtype) for level in self.chain.level(k))
        ratio = torch.hypot(alpha, sigma) / torch.hypot(self.schedule.alpha(t), self.schedule.sigma(t))
        x_k = expand(ratio, x_t) * x_t
        labels = () if self.num_classes is None else (torch.full_like(k, self.num_classes) if y is None else y,)
        return (x_k - expand(sigma, x_t) * self.network(x_k, k, *labels)) / expand(alpha, x_t)


class _Backwards(nn.Module):
    """dx/dt of the straight line from a velocity in the time tau = 1 - t that runs from noise to data."""

    def __init__(self, velocity: Callable[..., Tensor]) -> None:
        super().__init__()
        self.velocity = velocity

    def forward(self, x: Tensor, t: Tensor, *y: Tensor) -> Tensor:
        return -self.velocity(x, 1 - t, *y)


class _BySigma(nn.Module):
    """A function of sigma as one of the time of a schedule."""

    def __init__(self, denoise: Callable[..., Tensor], schedule: Schedule) -> None:
        super().__init__()
        self.denoise, self.schedule = denoise, schedule

    def forward(self, x: Tensor, t: Tensor, *y: Tensor) -> Tensor:
        return self.denoise(x, self.schedule.sigma(t), *y)


class _Preconditioned(nn.Module):
    """D(x; sigma) around a raw network F."""

    def __init__(self, network: Callable[..., Tensor], preconditioning: Preconditioning) -> None:
        super().__init__()
        self.network, self.preconditioning = network, preconditioning

    def forward(self, x: Tensor, sigma: Tensor, *y: Tensor) -> Tensor:
        c = self.preconditioning
        F = self.network(expand(c.c_in(sigma), x) * x, c.c_noise(sigma), *y)
        return expand(c.c_skip(sigma), x) * x + expand(c.c_out(sigma), x) * F
