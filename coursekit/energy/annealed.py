r"""Annealed Langevin dynamics: one score network for all noise levels, and a walk from the noisiest to the cleanest.

A chain in a valley of the data's energy does not see the other valleys, and where no data are no score was learnt.
Under much noise both are mended: valleys merge, and the noise has points everywhere. So the chain walks a while at each
of the times t_0 > t_1 > ... of a schedule, in steps proportional to the variance of the noise,

    x' = x + r sigma_t^2 s(x, t) + sqrt(2 r) sigma_t xi,

between two times x is multiplied by the ratio of their alphas, so that what has been found of x_0 stays where it is,
and at last the noise that is left is taken off at once, E[x_0 | x_t] = (x_t + sigma_t^2 s(x_t, t)) / alpha_t.
Reference: Song and Ermon, "Generative Modeling by Estimating Gradients of the Data Distribution", 2019, arXiv
1907.05600, algorithm 1 (for any alpha, where r = epsilon / (2 sigma_L^2)).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from coursekit.diffusion.chain import expand
from coursekit.diffusion.grids import time_grid
from coursekit.diffusion.losses import Stratified, Times
from coursekit.diffusion.schedules import Schedule
from coursekit.energy.langevin import langevin_by_score
from coursekit.energy.matching import diffused_score_matching
from coursekit.shapes import check_points, checked_shape

__all__ = ["ScoreModel", "annealed_langevin"]


@torch.no_grad()
def annealed_langevin(
    score: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    schedule: Schedule,
    times: Tensor,
    steps: int = 10,
    step: float = 0.2,
    generator: torch.Generator | None = None,
    trajectory: bool = False,
) -> Tensor:
    """Walk N chains down the noise levels of a schedule.

    Args:
        score: s, called as s(x_t (N, ...), t (N,)).
        x: where the chains start, (N, ...): sigma at the first time, times normal noise.
        schedule: of alpha and sigma.
        times: falling, (K,), such as `coursekit.diffusion.time_grid` gives.
        steps: of Langevin dynamics at each time.
        step: r. Of chains at rest at a level the variances are too large by a factor of at most 1 / (1 - r / 2).
        generator: source of the noise.
        trajectory: return the states after each time, and the denoised ones, (K + 2, N, ...), instead of the last.

    Returns:
        The denoised states (N, ...).

    Raises:
        ValueError: for times that do not fall, impossible settings, no signal at the last time, or a score that is
            not finite.

    Example:
        >>> from coursekit.diffusion import VE, time_grid
        >>> schedule = VE()
        >>> x = float(schedule.sigma(1.0)) * torch.randn(5, 2)
        >>> point = lambda x, t: -x / schedule.sigma(t)[:, None] ** 2  # all data lie at the origin
        >>> annealed_langevin(point, x, schedule, time_grid(schedule, 10)).abs().max().item() < 1e-5
        True
    """
    times = times.detach().double().cpu()
    if times.ndim != 1 or not len(times) or bool((times.diff() >= 0).any()):
        raise ValueError(f"times must fall strictly, got {times.tolist()[:8]}")
    alphas, sigmas = schedule.alpha(times).tolist(), schedule.sigma(times).tolist()
    if not alphas[-1] > 0 or not sigmas[-1] > 0:
        raise ValueError(f"alpha and sigma must be positive at the last time, got {alphas[-1]} and {sigmas[-1]}")
    on_device, states = times.to(x.device, torch.promote_types(x.dtype, torch.float32)), [x]
    for i, (alpha, sigma) in enumerate(zip(alphas, sigmas, strict=True)):
        t = on_device[i].expand(len(x))
        x = x * (alpha / alphas[i - 1]) if i and alphas[i - 1] else x
        x = langevin_by_score(lambda x, t=t: score(x, t), x, step * sigma**2, steps, generator=generator)
        states = [*states, x] if trajectory else states
    denoised = (x + sigma**2 * score(x, t)) / alpha
    return torch.stack([*states, denoised]) if trajectory else denoised


class ScoreModel(nn.Module):
    """A score network along a schedule: trained by denoising, drawn from by annealed Langevin dynamics.

    The network's output is divided by sigma_t, since a score under noise is of size 1 / sigma_t.

    Args:
        network: called as network(x_t (N, ...), t (N,)) -> (N, ...).
        schedule: of alpha and sigma.
        shape: of one x.
        times: draws the times of training; stratified uniform if None.
        t_min: the cleanest time that is met; it keeps 1 / sigma finite.

    Raises:
        ValueError: if a size is not positive or t_min lies outside (0, 1).

    Example:
        >>> from coursekit.diffusion import LinearVP
        >>> from coursekit.networks import TimeMLP
        >>> model = ScoreModel(TimeMLP(2), LinearVP(), 2)
        >>> model.loss(torch.zeros(8, 2)).shape, model.sample(3, steps=1).shape
        (torch.Size([]), torch.Size([3, 2]))
    """

    def __init__(
        self,
        network: Callable[[Tensor, Tensor], Tensor],
        schedule: Schedule,
        shape: int | Sequence[int],
        times: Times | None = None,
        t_min: float = 1e-3,
    ) -> None:
        super().__init__()
        if not 0 < t_min < 1:
            raise ValueError(f"t_min must lie in (0, 1), got {t_min}")
        self.network, self.schedule, self.times, self.t_min = network, schedule, times, t_min
        self.shape = checked_shape(shape)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The score of the data under noise, (N, *shape) and (N,) -> (N, *shape)."""
        t = t.clamp(min=self.t_min)
        return self.network(x_t, t) / expand(self.schedule.sigma(t).to(x_t.dtype), x_t)

    def loss(self, x: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """`diffused_score_matching` of a batch (N, *shape), a scalar; labels y are not looked at.

        Raises:
            ValueError: if x has another shape.
        """
        check_points(x, self.shape)
        return diffused_score_matching(self, x, self.schedule, self._times, generator)

    def _times(self, n: int, generator: torch.Generator | None, device: torch.device) -> tuple[Tensor, Tensor]:
        t, weight = (self.times or Stratified())(n, generator, device)
        return t.clamp(min=self.t_min), weight

    @torch.no_grad()
    def sample(
        self,
        n: int,
        y: Tensor | None = None,
        generator: torch.Generator | None = None,
        levels: int = 20,
        steps: int = 10,
        step: float = 0.2,
    ) -> Tensor:
        """n draws (n, *shape) by `annealed_langevin` down `levels` times of the grid "karras", as far as t_min.

        Raises:
            ValueError: if n is not positive, or a setting is impossible.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        times = time_grid(self.schedule, levels, "karras")
        times = times[times >= self.t_min]
        like = next(self.parameters())
        x = torch.empty(n, *self.shape, dtype=like.dtype, device=like.device).normal_(generator=generator)
        x = math.sqrt(float(self.schedule.alpha(times[0])) ** 2 + float(self.schedule.sigma(times[0])) ** 2) * x
        return annealed_langevin(self, x, self.schedule, times, steps, step, generator)
