r"""Single-step samplers: what a step does depends on where it stands, not on the steps before.

`euler` and `heun` follow the probability-flow ODE in the angle, dz/dphi = (alpha x / rho - rho D(x)) / sigma (see
`coursekit.diffusion.samplers`). `ddim` and `dpmpp_2s` are exponential: exact wherever D does not change in a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from coursekit.diffusion.grids import Level, Path

__all__ = ["Denoise", "Sampler", "ddim", "ddpm", "dpmpp_2s", "euler", "heun"]

Denoise = Callable[[Tensor, "float | Tensor"], Tensor]
"""(x, t) -> the estimate of x_0 at time t: one number, the same for all samples, or one for each, (N,)."""

Sampler = Callable[[Denoise, Tensor, Path, "torch.Generator | None"], Iterator[Tensor]]
"""(denoise, x, path, generator) -> x after each step."""


def ddim(
    denoise: Denoise, x: Tensor, path: Path, generator: torch.Generator | None = None, eta: float = 0.0
) -> Iterator[Tensor]:
    """Keep the estimates of x_0 and eps, move to the next noise level, replace a part of the noise by fresh noise.

    eta = 0 is deterministic and of first order; eta = 1 is ancestral sampling (`ddpm`). Song et al., "Denoising
    Diffusion Implicit Models", 2020, arXiv 2010.02502, eq. 12 and 16, for any alpha and sigma.

    Raises:
        ValueError: if eta lies outside [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
    for i in range(len(path)):
        x = ancestral_step(x, path, i, denoise(x, path.times[i]), generator, eta)
        yield x


def ancestral_step(
    x: Tensor, path: Path, i: int, estimate: Tensor, generator: torch.Generator | None, eta: float = 1.0
) -> Tensor:
    """The step of `ddim` from level i to i + 1, given the estimate of x_0."""
    alpha, sigma, alpha_next, sigma_next = path.alpha[i], path.sigma[i], path.alpha[i + 1], path.sigma[i + 1]
    posterior = (sigma_next / sigma) ** 2 * max(0.0, sigma**2 - (alpha / alpha_next * sigma_next) ** 2)
    fresh = eta**2 * posterior  # variance of the new noise
    a = math.sqrt(max(0.0, sigma_next**2 - fresh)) / sigma
    x = torch.add(x * a, estimate, alpha=alpha_next - a * alpha)
    return x if fresh == 0 else x.add_(torch.empty_like(x).normal_(generator=generator), alpha=math.sqrt(fresh))


ddpm = partial(ddim, eta=1.0)
"""Ancestral sampling: x_{i+1} ~ q(x_{i+1} | x_i, x_0 = D(x_i)). Ho et al., 2020, arXiv 2006.11239, algorithm 2."""


def euler(denoise: Denoise, x: Tensor, path: Path, generator: torch.Generator | None = None) -> Iterator[Tensor]:
    """Euler's method on dz/dphi: one call of the denoiser a step, first order."""
    for i in range(len(path) - 1):
        here, there = path.level(i), path.level(i + 1)
        ratio, step = there.radius / here.radius, there.angle - here.angle
        estimate = denoise(x, here.time)
        a, b = ratio * (1 + step * here.alpha / here.sigma), -ratio * step * here.radius**2 / here.sigma
        x = torch.add(x * a, estimate, alpha=b)
        yield x
    yield denoise(x, path.times[-1])


def heun(denoise: Denoise, x: Tensor, path: Path, generator: torch.Generator | None = None) -> Iterator[Tensor]:
    """Heun's method on dz/dphi: two calls a step (one for the last), second order.

    As algorithm 1 of Karras et al., 2022, arXiv 2206.00364, in the angle instead of sigma.
    """
    for i in range(len(path) - 1):
        x = heun_step(denoise, x, path.level(i), path.level(i + 1))
        yield x
    yield denoise(x, path.times[-1])


def heun_step(denoise: Denoise, x: Tensor, here: Level, there: Level) -> Tensor:
    """Heun's step from one noise level to another."""
    step, z, slope = there.angle - here.angle, x / here.radius, angle_slope(denoise, x, here)
    slope_there = angle_slope(denoise, there.radius * torch.add(z, slope, alpha=step), there)
    return there.radius * torch.add(z, slope + slope_there, alpha=step / 2)


def angle_slope(denoise: Denoise, x: Tensor, level: Level) -> Tensor:
    """dz/dphi = (alpha x / rho - rho D(x)) / sigma."""
    rho = level.radius
    estimate = denoise(x, level.time)
    return torch.add(x * (level.alpha / (rho * level.sigma)), estimate, alpha=-rho / level.sigma)


def dpmpp_2s(denoise: Denoise, x: Tensor, path: Path, generator: torch.Generator | None = None) -> Iterator[Tensor]:
    """DPM-Solver++(2S), the exponential midpoint method: two calls a step (one for the last), second order.

    Lu et al., 2022, arXiv 2211.01095, algorithm 1 with r = 1/2, halfway in the angle instead of the log-SNR: between
    pure noise and any other level no log-SNR is halfway.
    """
    for i in range(len(path) - 1):
        x = midpoint_step(denoise, x, path, i, denoise(x, path.times[i]))
        yield x
    yield denoise(x, path.times[-1])


def midpoint_step(denoise: Denoise, x: Tensor, path: Path, i: int, estimate: Tensor) -> Tensor:
    """From level i to i + 1 with D as it is halfway, where the given estimate D_i leads."""
    here, there = path.level(i), path.level(i + 1)
    middle = path.at_angle((here.angle + there.angle) / 2)
    halfway = exponential_step(x, here, middle, estimate)
    return exponential_step(x, here, there, denoise(halfway, middle.time))


def exponential_step(x: Tensor, here: Level, there: Level, estimate: Tensor) -> Tensor:
    """The exact step of the probability-flow ODE if D is the estimate all along: DDIM's."""
    a = there.sigma / here.sigma
    return torch.add(x * a, estimate, alpha=there.alpha - a * here.alpha)
