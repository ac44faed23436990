r"""Grids and paths: the times at which a sampler looks, and the noise levels between which it steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from coursekit.diffusion.schedules import Schedule

__all__ = ["Path", "time_grid"]


def time_grid(schedule: Schedule, steps: int, kind: str = "uniform", t_max: float = 1.0) -> Tensor:
    """The `steps` times at which a sampler looks, (steps,) float64, strictly falling from the noisiest.

    The i-th step goes from the i-th entry to the next one; the last goes to clean data, which is no entry.

    Args:
        schedule: the noise axis.
        steps: N.
        t_max: the noisiest time.
        kind: "uniform" in t; "angle", uniform in phi = atan2(sigma, alpha); or "karras", uniform in
            (sigma / alpha)^(1/7) from 80 to 0.002 (arXiv 2206.00364, eq. 5), as far as the schedule reaches.

    Raises:
        ValueError: for fewer than one step or an unknown kind.

    Example:
        >>> from coursekit.diffusion.schedules import Rectified
        >>> time_grid(Rectified(), 4).tolist()
        [1.0, 0.75, 0.5, 0.25]
    """
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a positive integer, got {steps!r}")
    clean_start = float(schedule.sigma(0.0)) == 0  # then t = 0 is clean data itself and not a time to look at
    if kind == "uniform":
        return _levels(t_max, 0.0, steps, clean_start)
    if kind == "angle":
        first, last = float(schedule.angle(t_max)), float(schedule.angle(0.0))
        times = schedule.time(-2 * torch.log(torch.tan(_levels(first, last, steps, clean_start))))
        times[0] = t_max
        return times
    if kind == "karras":
        first, last = (float(torch.tan(schedule.angle(t))) for t in (t_max, 0.0))
        levels = _levels(min(first, 80.0) ** (1 / 7), max(last, 0.002) ** (1 / 7), steps, False) ** 7
        return schedule.time(-2 * torch.log(levels))
    raise ValueError(f"grid must be 'uniform', 'angle' or 'karras', got {kind!r}")


def _levels(first: float, last: float, steps: int, drop_last: bool) -> Tensor:
    if steps == 1:
        return torch.tensor([first], dtype=torch.float64)
    return torch.linspace(first, last, steps + drop_last, dtype=torch.float64)[:steps]


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
            ValueError: if the times do not fall.
        """
        times = times.detach().double().cpu()
        if times.ndim != 1 or not len(times) or bool((times.diff() >= 0).any()):
            raise ValueError(f"times must fall strictly, got {times.tolist()[:8]}")
        return cls(
            schedule,
            tuple(times.tolist()),
            (*schedule.alpha(times).tolist(), 1.0),
            (*schedule.sigma(times).tolist(), 0.0),
        )

    def __len__(self) -> int:
        return len(self.times)

    def angle_step(self, i: int) -> float:
        """phi_{i+1} - phi_i, a negative number."""
        return math.atan2(self.sigma[i + 1], self.alpha[i + 1]) - math.atan2(self.sigma[i], self.alpha[i])

    def radius(self, i: int) -> float:
        """rho_i = sqrt(alpha_i^2 + sigma_i^2)."""
        return math.hypot(self.alpha[i], self.sigma[i])
