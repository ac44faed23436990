"""What all guidance shares: a denoiser around a denoiser, so that each can stand wherever the other can."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from coursekit.diffusion.chain import expand
from coursekit.diffusion.schedules import Schedule

__all__ = ["Unlabelled", "Wrapper", "latest_time", "matched", "per_sample", "slope", "tweedie"]


class Wrapper(nn.Module, ABC):
    """A denoiser around a denoiser: times, schedule and classes are those of the one inside.

    A subclass gives `pair`, the estimates of x_0 without any guidance and with all of it, from as few calls of the
    network as it can; `forward` is the second. With `pair` one wrapper moderates another one without a call of its own.

    Args:
        denoiser: anything with `schedule` and `forward(x_t, t, y)` = E[x_0 | x_t]: a trained `Denoiser`, an exact one
            or another wrapper.

    Raises:
        TypeError: if the denoiser has no schedule.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        if not hasattr(denoiser, "schedule"):
            raise TypeError(f"denoiser must have a schedule, got {type(denoiser).__name__}")
        self.denoiser = denoiser

    @property
    def schedule(self) -> Schedule:
        """The noise axis."""
        return self.denoiser.schedule

    @property
    def t_min(self) -> float:
        """The least noisy time that the network knows."""
        return getattr(self.denoiser, "t_min", 0.0)

    @property
    def t_max(self) -> float:
        """The noisiest time that the network knows."""
        return getattr(self.denoiser, "t_max", 1.0)

    @property
    def num_classes(self) -> int | None:
        """Labels are 0..num_classes - 1, and num_classes says "no label"; None without labels."""
        return getattr(self.denoiser, "num_classes", None)

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """The estimate of x_0, (N, ...), for x_t (N, ...), times t (N,) or (), and labels y (N,)."""
        return self.pair(x_t, t, y)[1]

    @abstractmethod
    def pair(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The estimates of x_0 without any guidance and with all of it, each (N, ...)."""

    def plain(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """The first of `pair` alone, from no more calls of the network than it takes."""
        inner = getattr(self.denoiser, "plain", self.denoiser)
        return inner(x_t, t, y)

    def inner_pair(self, x_t: Tensor, t: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """`pair` of the denoiser inside; twice its estimate if that one guides nothing."""
        if isinstance(self.denoiser, Wrapper):
            return self.denoiser.pair(x_t, t, y)
        estimate = self.denoiser(x_t, t, y)
        return estimate, estimate


class Unlabelled(Wrapper):
    """D(x_t), the label withheld: what a classifier or a difference of labels is added to.

    Example:
        >>> from coursekit.diffusion import Denoiser, Rectified
        >>> denoiser = Denoiser(lambda x, t, y: x * y[:, None], Rectified(), "x0", num_classes=4)
        >>> t = torch.tensor(1.0)
        >>> denoiser(torch.ones(1, 1), t, torch.tensor([2])).item(), Unlabelled(denoiser)(torch.ones(1, 1), t).item()
        (2.0, 4.0)
    """

    @property
    def num_classes(self) -> None:
        """None: this denoiser takes no labels, or ignores them."""
        return None

    def plain(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return super().plain(x_t, t, None)

    def pair(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.inner_pair(x_t, t, None)


def per_sample(t: Tensor | float, x_t: Tensor) -> Tensor:
    """The times as (N,) on the device of x_t (N, ...), from a number, a scalar or N times."""
    if not isinstance(t, Tensor):
        return x_t.new_full((len(x_t),), t, dtype=torch.promote_types(x_t.dtype, torch.float32))
    return t.expand(len(x_t)) if t.ndim == 0 else t


def latest_time(schedule: Schedule, floor: float) -> float:
    """The time at which alpha / sigma has fallen to `floor`; 1 where a schedule keeps more signal than that.

    Raises:
        ValueError: if floor is not positive.
    """
    if not floor > 0:
        raise ValueError(f"floor must be positive, got {floor}")
    return float(schedule.time(2 * math.log(floor)))


def matched(here: Schedule, there: Schedule, t: Tensor, x_t: Tensor, latest: float) -> tuple[Tensor, Tensor]:
    """x' and t' on another schedule that say the same of x_0 as x_t at t does: equal log-SNR, no later than `latest`.

    alpha x + sigma eps tells of x_0 what alpha / sigma lets it tell, whatever its size: with the radius rho =
    sqrt(alpha^2 + sigma^2), x' = (rho' / rho) x_t. Noisier points than those of `latest` count as being there.

    Args:
        here: the schedule of x_t.
        there: the schedule of x'.
        t: (N,).
        x_t: (N, ...).
        latest: a time of `there`.
    """
    time = t if here == there else there.time(here.log_snr(t)).to(t.dtype)
    time = time.clamp(max=latest)
    ratio = torch.hypot(there.alpha(time), there.sigma(time)) / torch.hypot(here.alpha(t), here.sigma(t))
    return x_t * expand(ratio, x_t).to(x_t.dtype), time


def tweedie(schedule: Schedule, t: Tensor, x_t: Tensor) -> Tensor:
    """sigma^2 / alpha, one factor a sample, shaped to multiply x_t: it turns a gradient of log p_t into an estimate.

    Tweedie's formula: E[x_0 | x_t] = (x_t + sigma^2 grad log p_t) / alpha, so what is added to a score is added to the
    estimate with this factor.
    """
    return expand((schedule.sigma(t) ** 2 / schedule.alpha(t)).to(x_t.dtype), x_t)


def slope(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The gradient of sum(function(x)) by x, also under `no_grad`; differentiable itself if x wants a gradient."""
    learning = torch.is_grad_enabled() and x.requires_grad
    with torch.enable_grad():
        x = x if learning else x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(function(x).sum(), x, create_graph=learning)
    return gradient
