r"""Grids and paths: the times at which a sampler looks, and the noise levels between which it steps.

A grid is a function (schedule, steps, t_max) -> N times that fall strictly from the noisiest one; the step after the
last time goes to clean data, which is no time to look at. Some quantity takes equal steps:

    uniform     t, from t_max to 0
    quadratic   sqrt(t), likewise                   (Song et al., 2020, arXiv 2010.02502, appendix D)
    angle       phi = atan2(sigma, alpha), from phi(t_max) to phi(0)
    angle^2     sqrt(phi), likewise: the last level falls as 1/N^2, so that the jump from it to clean data, whose error
                is of the order of its square, does not hide what a sampler of order 3 or 4 has gained
    karras      (sigma / alpha)^(1/7), from 80 to 0.002 as far as the schedule reaches
                                                    (Karras et al., 2022, arXiv 2206.00364, eq. 5)
    log-snr     log(alpha / sigma), likewise        (Lu et al., 2022, arXiv 2206.00927)
    trailing    t = t_max k / T, k = the whole number nearest to T (N - i) / N, i = 0..N-1, in a chain of T = 1000 steps
    leading     k = 1 + (N - 1 - i) floor(T / N)    (both: Lin et al., 2023, arXiv 2305.08891, table 2)

In the first four the end t = 0 is an (N + 1)-th entry, left out, if it is clean; where the schedule keeps noise there
(VE, EDM) it is the N-th. "trailing" is "uniform" rounded to the steps of a chain that a network was trained on.
"leading" is here to be compared with: it never looks at the noisiest level, k = T, and yet starts from pure noise, so
that the first step takes noise for signal.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from coursekit.diffusion.schedules import Schedule

__all__ = ["GRIDS", "Grid", "Level", "Path", "time_grid"]

Grid = Callable[[Schedule, int, float], Tensor]
"""(schedule, steps, t_max) -> (steps,) times, float64, strictly falling."""

T = 1000
"""Length of the chain whose steps "trailing" and "leading" keep to."""


def _uniform(schedule: Schedule, steps: int, t_max: float) -> Tensor:
    return _towards(schedule, t_max, 0.0, steps)


def _quadratic(schedule: Schedule, steps: int, t_max: float) -> Tensor:
    return t_max * _towards(schedule, 1.0, 0.0, steps) ** 2


def _angle(schedule: Schedule, steps: int, t_max: float, root: int = 1) -> Tensor:
    first, last = (float(schedule.angle(t)) ** (1 / root) for t in (t_max, 0.0))
    angles = _towards(schedule, first, last, steps) ** root
    times = schedule.time(-2 * torch.log(torch.tan(angles)))
    times[0] = t_max  # the inverse may round, and does not reach an infinite log-SNR
    return times


def _angle_squared(schedule: Schedule, steps: int, t_max: float) -> Tensor:
    return _angle(schedule, steps, t_max, 2)


def _karras(schedule: Schedule, steps: int, t_max: float) -> Tensor:
    first, last = _ends(schedule, t_max)
    levels = _between(first ** (1 / 7), last ** (1 / 7), steps) ** 7
    return schedule.time(-2 * torch.log(levels)).clamp(max=t_max)


def _log_snr(schedule: Schedule, steps: int, t_max: float) -> Tensor:
    first, last = _ends(schedule, t_max)
    return schedule.time(-2 * _between(math.log(first), math.log(last), steps)).clamp(max=t_max)


def _trailing(schedule: Schedule, steps: int, t_max: float) -> Tensor:
    k = torch.round(torch.arange(steps, 0, -1, dtype=torch.float64) * T / _within_chain(steps))
    return t_max * (k / T)


def _leading(schedule: Schedule, steps: int, t_max: float) -> Tensor:
    k = 1 + torch.arange(steps - 1, -1, -1, dtype=torch.float64) * (T // _within_chain(steps))
    return t_max * (k / T)


GRIDS: dict[str, Grid] = {
    "uniform": _uniform,
    "quadratic": _quadratic,
    "angle": _angle,
    "angle^2": _angle_squared,
    "karras": _karras,
    "log-snr": _log_snr,
    "trailing": _trailing,
    "leading": _leading,
}
"""Every grid by name."""


def time_grid(schedule: Schedule, steps: int, kind: str | Grid | Tensor = "uniform", t_max: float = 1.0) -> Tensor:
    """The `steps` times at which a sampler looks, (steps,) float64, strictly falling from the noisiest.

    The i-th step goes from the i-th entry to the next one; the last goes to clean data, which is no entry.

    Args:
        schedule: the noise axis.
        steps: N.
        kind: a name in `GRIDS` (see the module), such a function, or the N times themselves.
        t_max: the noisiest time that the denoiser knows.

    Raises:
        ValueError: for fewer than one step, more steps than a chain has, an unknown kind, or times that are not N, do
            not fall strictly or leave (0, t_max].

    Example:
        >>> from coursekit.diffusion.schedules import Rectified
        >>> time_grid(Rectified(), 4).tolist()
        [1.0, 0.75, 0.5, 0.25]
        >>> time_grid(Rectified(), 4, "quadratic").tolist()
        [1.0, 0.5625, 0.25, 0.0625]
        >>> time_grid(Rectified(), 4, "leading").tolist()
        [0.751, 0.501, 0.251, 0.001]
    """
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a positive integer, got {steps!r}")
    if isinstance(kind, str):
        if kind not in GRIDS:
            raise ValueError(f"grid must be one of {', '.join(GRIDS)}, got {kind!r}")
        kind = GRIDS[kind]
    times = kind if isinstance(kind, Tensor) else kind(schedule, steps, t_max)
    times = _falling(times)
    if len(times) != steps or not float(times[0]) <= t_max * (1 + 1e-6):  # float32 may round up
        raise ValueError(f"{steps} times up to {t_max} are wanted, got {len(times)} times up to {float(times[0]):.6g}")
    return times


def _towards(schedule: Schedule, first: float, last: float, steps: int) -> Tensor:
    """Equal steps from `first` to `last`, which stands for t = 0 and is left out if that is clean data."""
    clean_start = float(schedule.sigma(0.0)) == 0
    return _between(first, last, steps + clean_start)[:steps]


def _between(first: float, last: float, count: int) -> Tensor:
    """`count` equal steps, both ends included; the first one if there is one only."""
    return torch.linspace(first, last if count > 1 else first, count, dtype=torch.float64)


def _ends(schedule: Schedule, t_max: float) -> tuple[float, float]:
    """sigma / alpha at the first and last level of "karras" and "log-snr"."""
    first, last = (float(torch.tan(schedule.angle(t))) for t in (t_max, 0.0))
    return min(first, 80.0), max(last, 0.002)


def _within_chain(steps: int) -> int:
    if steps > T:
        raise ValueError(f"steps must not exceed the {T} steps of the chain, got {steps}")
    return steps


def _falling(times: Tensor) -> Tensor:
    times = times.detach().double().cpu()
    if times.ndim != 1 or not len(times) or not bool((times.diff() < 0).all()):
        raise ValueError(f"times must fall strictly, got {times.tolist()[:8]}")
    return times


class Level(NamedTuple):
    """A time and its noise level, as Python numbers."""

    time: float
    alpha: float
    sigma: float

    @property
    def angle(self) -> float:
        """Phi = atan2(sigma, alpha)."""
        return math.atan2(self.sigma, self.alpha)

    @property
    def radius(self) -> float:
        """Rho = sqrt(alpha^2 + sigma^2)."""
        return math.hypot(self.alpha, self.sigma)


@dataclass(frozen=True)
class Path:
    """The N times of a sampler and the N + 1 noise levels between which it steps, the last one clean.

    Attributes:
        schedule: the noise axis.
        times: N Python numbers.
        alpha, sigma: N + 1 Python numbers each, ending in 1 and 0.
    """

    schedule: Schedule
    times: tuple[float, ...]
    alpha: tuple[float, ...]
    sigma: tuple[float, ...]

    @classmethod
    def along(cls, schedule: Schedule, times: Tensor) -> Path:
        """The path of `schedule` through `times` (strictly falling).

        Raises:
            ValueError: if the times do not fall, leave [0, 1], or reach clean data.
        """
        times = _falling(times)
        alpha, sigma = schedule.alpha(times), schedule.sigma(times)
        if not float(sigma[-1]) > 0:
            raise ValueError(
                f"times must end where there is noise, got {float(times[-1]):.6g}: the last step is implied"
            )
        return cls(schedule, tuple(times.tolist()), (*alpha.tolist(), 1.0), (*sigma.tolist(), 0.0))

    def __len__(self) -> int:
        return len(self.times)

    def level(self, i: int) -> Level:
        """The i-th of the N levels that are looked at."""
        return Level(self.times[i], self.alpha[i], self.sigma[i])

    def at_angle(self, angle: float) -> Level:
        """The level where atan2(sigma, alpha) has this value, or comes nearest: for a look between two entries."""
        time = float(self.schedule.time(-2 * math.log(math.tan(angle))))
        return Level(time, float(self.schedule.alpha(time)), float(self.schedule.sigma(time)))
