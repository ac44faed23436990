r"""Noise levels measured by what gets through: the capacity of a Gaussian channel, in nats per dimension.

    c_t = log(1 + SNR_t) / 2 = -log sin(phi_t),    SNR = alpha^2 / sigma^2,  phi = atan2(sigma, alpha).

It falls from data to noise and, unlike the log-SNR, is finite where no signal is left (c = 0). In it the diffusion part
of the variational bound has an integrand that is bounded at both ends,

    1/2 int |x - D|^2 d SNR = int (1 + SNR) |x - D|^2 dc,

and that does not depend on c at all for data of unit variance without structure, N(0, I). So it is the variable in
which bounds are integrated here, and its times are those to train with if likelihood is what counts: with the weighting
`edm` (w = 1 + SNR) the loss of a `Denoiser` then is the bound's diffusion part, up to constants. Kingma et al., 2021,
arXiv 2107.00630, section 5; Guo et al., "Mutual Information and Minimum Mean-Square Error in Gaussian Channels",
2005, arXiv cs/0412108.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coursekit.diffusion.chain import DiscreteChain
from coursekit.diffusion.grids import Path
from coursekit.diffusion.losses import Stratified
from coursekit.diffusion.schedules import Schedule

__all__ = ["CapacityTimes", "capacity", "capacity_grid", "chain_through", "ends", "time_of_capacity"]


def capacity(schedule: Schedule, t: Tensor | float) -> Tensor:
    """c_t in nats per dimension, of t's shape.

    Example:
        >>> from coursekit.diffusion.schedules import Rectified
        >>> round(capacity(Rectified(), 0.5).item(), 4)  # log(2) / 2
        0.3466
    """
    return 0.5 * F.softplus(schedule.log_snr(t))


def time_of_capacity(schedule: Schedule, c: Tensor) -> Tensor:
    """The inverse of `capacity`, of c's shape, kept within [0, 1]."""
    return schedule.time(2 * c + torch.log(-torch.expm1(-2 * c)))


def ends(denoiser: nn.Module, t_min: float | None = None) -> tuple[float, float]:
    """The times between which a denoiser is asked: t_min (its own, or 1e-5, if None) and its t_max.

    Raises:
        ValueError: if no noise is left at t_min, or t_min is not below t_max.
    """
    t_min, t_max = getattr(denoiser, "t_min", 1e-5) if t_min is None else t_min, getattr(denoiser, "t_max", 1.0)
    if not (0 <= t_min < t_max and float(denoiser.schedule.sigma(t_min)) > 0):
        raise ValueError(f"t_min must lie below t_max = {t_max} and leave some noise, got {t_min}")
    return t_min, t_max


def capacity_grid(schedule: Schedule, steps: int, t_min: float, t_max: float = 1.0) -> Tensor:
    """`steps` times equally spaced in capacity, falling from t_max to t_min, (steps,) float64.

    Raises:
        ValueError: for fewer than two steps.

    Example:
        >>> from coursekit.diffusion.schedules import Rectified
        >>> capacity_grid(Rectified(), 3, 0.5).tolist()  # the middle one has half the capacity of 0.5
        [1.0, 0.6084, 0.5]
    """
    if not isinstance(steps, int) or steps < 2:
        raise ValueError(f"steps must be an integer of at least 2, got {steps!r}")
    low, high = float(capacity(schedule, t_max)), float(capacity(schedule, t_min))
    times = time_of_capacity(schedule, torch.linspace(low, high, steps, dtype=torch.float64))
    times[0], times[-1] = t_max, t_min
    return times


def chain_through(schedule: Schedule, times: Tensor) -> tuple[DiscreteChain, Tensor]:
    """The chain that visits `times` (T,), falling, and the time of each k = 0..T; that of k = 0 is never asked for."""
    path = Path.along(schedule, times)
    alpha, sigma = (torch.tensor(levels, dtype=torch.float64).flip(0) for levels in (path.alpha, path.sigma))
    return DiscreteChain(alpha, sigma), torch.tensor((*path.times, 0.0), dtype=torch.float64).flip(0)


class CapacityTimes:
    """Times for training that are uniform, and stratified, in capacity.

    They are meant for a `Denoiser` with the same schedule, t_min and t_max, whose loss maps (0, 1) to [t_min, t_max].

    Args:
        schedule: the noise axis.
        t_min: the earliest time; some noise must be left there.
        t_max: the latest.

    Example:
        >>> from coursekit.diffusion.schedules import Rectified
        >>> u, weight = CapacityTimes(Rectified(), 0.01)(1000, torch.Generator().manual_seed(0), torch.device("cpu"))
        >>> round((u < 0.1).float().mean().item(), 2)  # half of the times
        0.54
    """

    def __init__(self, schedule: Schedule, t_min: float, t_max: float = 1.0) -> None:
        self.schedule, self.t_min, self.t_max = schedule, t_min, t_max
        self.low, self.high = (float(capacity(schedule, t)) for t in (t_max, t_min))

    def __call__(self, n: int, generator: torch.Generator | None, device: torch.device) -> tuple[Tensor, Tensor]:
        u, weight = Stratified()(n, generator, device)
        t = time_of_capacity(self.schedule, self.low + (self.high - self.low) * u)
        return ((t - self.t_min) / (self.t_max - self.t_min)).clamp(0, 1), weight
