r"""The probability-flow ODE to a tolerance: steps as long as each sample allows."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from coursekit.diffusion.chain import expand
from coursekit.diffusion.grids import Path
from coursekit.diffusion.ode import DORMAND_PRINCE, Pair, odeint
from coursekit.diffusion.samplers.single_step import Denoise

__all__ = ["adaptive"]


def adaptive(
    denoise: Denoise,
    x: Tensor,
    path: Path,
    generator: torch.Generator | None = None,
    rtol: float = 1e-3,
    atol: float = 1e-3,
    pair: Pair = DORMAND_PRINCE,
    last: float = 0.002,
) -> Iterator[Tensor]:
    """Follow dz/dphi from the first level of the path to a trace of noise with a step size per sample, then denoise.

    The number of calls is the solver's business, and of the path only the first level counts; nothing is yielded on the
    way. See `coursekit.diffusion.ode` for the method; a batch takes as many calls as its hardest sample. Song et al.,
    2021, arXiv 2011.13456, appendix D.4, where one step size serves the whole batch.

    Args:
        denoise: of D, at a time per sample.
        x: pure noise, (N, ...).
        path: from noise to data.
        generator: not used.
        rtol: tolerance of one step relative to the size of z = x / sqrt(alpha^2 + sigma^2).
        atol: absolute tolerance of one step.
        pair: the Runge-Kutta formulae.
        last: sigma / alpha where the denoiser's mean is taken, an error of the order of its square; not below what
            the schedule reaches.

    Raises:
        RuntimeError: if the tolerances cannot be met.
    """
    schedule, first = path.schedule, path.level(0)

    def slope(z: Tensor, angle: Tensor) -> Tensor:
        t = schedule.time(2 * torch.log(torch.cos(angle).clamp(min=0) / torch.sin(angle))).clamp(max=first.time)
        alpha, sigma = (expand(c, z) for c in (schedule.alpha(t), schedule.sigma(t)))
        rho = torch.hypot(alpha, sigma)
        return ((alpha * z - rho * denoise(rho * z, t)) / sigma).to(z.dtype)

    end = path.at_angle(math.atan(last))
    solution = odeint(slope, x / first.radius, first.angle, end.angle, rtol=rtol, atol=atol, pair=pair)
    yield denoise(end.radius * solution.x, end.time)
