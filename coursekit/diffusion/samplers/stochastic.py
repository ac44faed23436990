r"""Stochastic samplers besides `ddpm`: fresh noise on the way forgets the errors that were made before.

Between noise levels (alpha, sigma) and (alpha', sigma') the reverse-time SDE that has the marginals of the forward
process is solved exactly, for a D that does not change, by the step of `ddpm`; `dpmpp_2m_sde` guesses D better, `edm`
adds noise and then follows the ODE down, and `pc` lets every sample walk where it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from coursekit.diffusion.chain import expand
from coursekit.diffusion.grids import Level, Path
from coursekit.diffusion.samplers.interpolation import Coordinate, evenest, mean_weights
from coursekit.diffusion.samplers.single_step import Denoise, ancestral_step, heun_step

__all__ = ["dpmpp_2m_sde", "edm", "pc"]


def dpmpp_2m_sde(
    denoise: Denoise,
    x: Tensor,
    path: Path,
    generator: torch.Generator | None = None,
    coordinate: Coordinate | None = None,
) -> Iterator[Tensor]:
    """SDE-DPM-Solver++(2M): the step of `ddpm`, with D halfway on the line through the last two estimates; one call.

    Second order in law. No estimate knows what D makes of the noise that the step itself brings, but half of what it
    made of the noise of the step before is in the line, and on average stands in for it.
    Lu et al., 2022, arXiv 2211.01095, on diffusion SDEs.

    Args:
        denoise: of D.
        x: pure noise, (N, ...).
        path: from noise to data.
        generator: source of the fresh noise.
        coordinate: of the line; `evenest` if None, `log_snr` in the paper.
    """
    coordinate, past = coordinate or evenest(path), []
    for i in range(len(path) - 1):
        past = [denoise(x, path.times[i]), *past[:1]]
        weights = mean_weights(path, i, range(i, i - len(past), -1), coordinate)
        guess = past[0] if len(past) == 1 else torch.lerp(past[0], past[1], weights[1])
        x = ancestral_step(x, path, i, guess, generator)
        yield x
    yield denoise(x, path.times[-1])


def edm(
    denoise: Denoise,
    x: Tensor,
    path: Path,
    generator: torch.Generator | None = None,
    churn: float = 5.0,
    noise_min: float = 0.0,
    noise_max: float = math.inf,
    inflation: float = 1.0,
) -> Iterator[Tensor]:
    """Add a little noise, ask the denoiser there, and follow the ODE to the next level: two calls a step, second order.

    Karras et al., 2022, arXiv 2206.00364, algorithm 2, for q = sigma / alpha so that any alpha will do, and with the
    Heun step in the angle. Noise is never raised above the first level of the path: the denoiser knows no more.

    Args:
        denoise: of D.
        x: pure noise, (N, ...).
        path: from noise to data.
        generator: source of the fresh noise.
        churn: S_churn; q grows by the factor 1 + min(churn / N, sqrt(2) - 1) before each step.
        noise_min: S_tmin, the lowest q at which noise is added.
        noise_max: S_tmax, the highest.
        inflation: S_noise, the standard deviation of what is added, over what the level says; a little above 1 makes up
            for a network that takes out too much.

    Raises:
        ValueError: if a setting is negative.
    """
    if min(churn, noise_min, noise_max, inflation) < 0:
        raise ValueError(f"settings must not be negative, got {churn}, {noise_min}, {noise_max}, {inflation}")
    gamma = min(churn / len(path), math.sqrt(2) - 1)
    for i in range(len(path)):
        here = path.level(i)
        if gamma and noise_min <= math.tan(here.angle) <= noise_max:
            x, here = _add_noise(x, here, _churned(path, i, gamma), inflation, generator)
        if i < len(path) - 1:
            x = heun_step(denoise, x, here, path.level(i + 1))
            yield x
    yield denoise(x, here.time)


def _churned(path: Path, i: int, gamma: float) -> Level:
    """The level with q_i (1 + gamma), the first of the path at most."""
    here = path.level(i)
    angle = math.atan2(here.sigma * (1 + gamma), here.alpha)
    return path.level(0) if angle >= path.level(0).angle else path.at_angle(angle)


def _add_noise(
    x: Tensor, here: Level, there: Level, inflation: float, generator: torch.Generator | None
) -> tuple[Tensor, Level]:
    """From a level to a noisier one, as the forward process goes; nowhere if there is nothing to add."""
    keep = there.alpha / here.alpha if here.alpha else 1.0
    variance = there.sigma**2 - (keep * here.sigma) ** 2
    if variance <= 0:
        return x, here
    noise = torch.empty_like(x).normal_(generator=generator)
    return torch.add(x * keep, noise, alpha=inflation * math.sqrt(variance)), there


def pc(
    denoise: Denoise,
    x: Tensor,
    path: Path,
    generator: torch.Generator | None = None,
    snr: float = 0.16,
    corrections: int = 1,
) -> Iterator[Tensor]:
    """Predict by a step of `ddpm`, then correct by Langevin dynamics at the new level: 1 + corrections calls a step.

    Song et al., 2021, arXiv 2011.13456, algorithms 1, 4 and 5, with ancestral sampling for a predictor. The step
    2 (snr |noise| / |score|)^2 is measured per sample, not as a mean over the batch, so that nobody's result depends on
    the others; and it is held at sigma^2, where the walk is stable whatever the data, since no log-density under noise
    curves more than 1 / sigma^2. Norms tell little in few dimensions: this sampler is for pictures.

    Args:
        denoise: of D.
        x: pure noise, (N, ...).
        path: from noise to data.
        generator: source of the fresh noise.
        snr: r, how far a corrector's step goes.
        corrections: M, Langevin steps at each level.

    Raises:
        ValueError: if snr is not positive or corrections is negative.
    """
    if not snr > 0 or corrections < 0:
        raise ValueError(f"snr > 0 and corrections >= 0 are wanted, got {snr} and {corrections}")
    for i in range(len(path) - 1):
        x = ancestral_step(x, path, i, denoise(x, path.times[i]), generator)
        for _ in range(corrections):
            x = _langevin_step(denoise, x, path.level(i + 1), snr, generator)
        yield x
    yield denoise(x, path.times[-1])


def _langevin_step(denoise: Denoise, x: Tensor, level: Level, snr: float, generator: torch.Generator | None) -> Tensor:
    variance, estimate = level.sigma**2, denoise(x, level.time)
    score = torch.add(x * (-1 / variance), estimate, alpha=level.alpha / variance)
    noise = torch.empty_like(x).normal_(generator=generator)
    ratio = _norms(noise) / _norms(score)
    step = expand((2 * (snr * ratio) ** 2).clamp(max=variance), x)
    return torch.addcmul(x, score, step).addcmul_(noise, torch.sqrt(2 * step))


def _norms(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.flatten(1), dim=1)
