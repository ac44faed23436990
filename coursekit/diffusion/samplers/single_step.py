r"""Single-step samplers: what a step does depends on where it stands, not on the steps before.

Deterministic ones follow the probability-flow ODE in the angle, dz/dphi = (alpha x / rho - rho D(x)) / sigma (see
`coursekit.diffusion.samplers`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from coursekit.diffusion.grids import Path

__all__ = ["Denoise", "Sampler", "ddim", "ddpm", "euler", "heun"]

Denoise = Callable[[Tensor, float], Tensor]
"""(x, t) -> the estimate of x_0 at time t, the same for all samples."""

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
        alpha, sigma, alpha_next, sigma_next = path.alpha[i], path.sigma[i], path.alpha[i + 1], path.sigma[i + 1]
        posterior = (sigma_next / sigma) ** 2 * max(0.0, sigma**2 - (alpha / alpha_next * sigma_next) ** 2)
        fresh = eta**2 * posterior  # variance of the new noise
        a = math.sqrt(max(0.0, sigma_next**2 - fresh)) / sigma
        estimate = denoise(x, path.times[i])
        x = torch.add(x * a, estimate, alpha=alpha_next - a * alpha)
        if fresh > 0:
            x = x.add_(torch.empty_like(x).normal_(generator=generator), alpha=math.sqrt(fresh))
        yield x


ddpm = partial(ddim, eta=1.0)
"""Ancestral sampling: x_{i+1} ~ q(x_{i+1} | x_i, x_0 = D(x_i)). Ho et al., 2020, arXiv 2006.11239, algorithm 2."""


def euler(denoise: Denoise, x: Tensor, path: Path, generator: torch.Generator | None = None) -> Iterator[Tensor]:
    """Euler's method on dz/dphi: one call of the denoiser a step, first order."""
    for i in range(len(path) - 1):
        ratio, step = path.radius(i + 1) / path.radius(i), path.angle_step(i)
        a = ratio * (1 + step * path.alpha[i] / path.sigma[i])
        b = -ratio * step * path.radius(i) ** 2 / path.sigma[i]
        x = torch.add(x * a, denoise(x, path.times[i]), alpha=b)
        yield x
    yield denoise(x, path.times[-1])


def heun(denoise: Denoise, x: Tensor, path: Path, generator: torch.Generator | None = None) -> Iterator[Tensor]:
    """Heun's method on dz/dphi: two calls a step (one for the last), second order.

    As algorithm 1 of Karras et al., 2022, arXiv 2206.00364, in the angle instead of sigma.
    """

    def slope(x: Tensor, i: int) -> Tensor:
        rho = path.radius(i)
        return torch.add(
            x * (path.alpha[i] / (rho * path.sigma[i])), denoise(x, path.times[i]), alpha=-rho / path.sigma[i]
        )

    for i in range(len(path) - 1):
        step, rho = path.angle_step(i), path.radius(i + 1)
        z, here = x / path.radius(i), slope(x, i)
        there = slope(rho * torch.add(z, here, alpha=step), i + 1)
        x = rho * torch.add(z, here + there, alpha=step / 2)
        yield x
    yield denoise(x, path.times[-1])
