"""Where samplers must end: a mixture on the line whose probability flow is known, and Gaussians, pushed exactly."""

import math

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch import Tensor

from coursekit.diffusion import EDM, SCHEDULES, VE, ExactDenoiser, Schedule, sample, time_grid
from coursekit.diffusion.grids import Grid, Path
from coursekit.diffusion.samplers import Sampler
from coursekit.gmm import GaussianMixture

WEIGHTS, MEANS, DEVIATIONS = np.array([0.3, 0.7]), np.array([-1.0, 0.6]), np.array([0.35, 0.5])

DEEP = {name: kind() for name, kind in SCHEDULES.items()} | {"ve": VE(sigma_min=1e-5), "edm": EDM(sigma_min=1e-5)}
"""Every schedule, down to next to no noise: the sigma_min of the papers is an error of its square that never falls."""


def mixture() -> GaussianMixture:
    columns = (torch.tensor(a, dtype=torch.float64) for a in (WEIGHTS, MEANS[:, None], DEVIATIONS[:, None, None] ** 2))
    return GaussianMixture(*columns)


def mixture_cdf(value: np.ndarray) -> np.ndarray:
    return (WEIGHTS * stats.norm.cdf((np.asarray(value)[..., None] - MEANS) / DEVIATIONS)).sum(-1)


def quantile_map(x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
    """Where the probability-flow ODE takes x_t: in one dimension it keeps quantiles, so by inverting CDFs."""
    spread = np.sqrt(alpha**2 * DEVIATIONS**2 + sigma**2)
    ranks = (WEIGHTS * stats.norm.cdf((x[:, None] - alpha * MEANS) / spread)).sum(1)
    return np.array([optimize.brentq(lambda v, r=r: float(mixture_cdf(v)) - r, -12, 12, xtol=1e-13) for r in ranks])


def flow_error(schedule: Schedule, sampler: str | Sampler, steps: int, grid: str | Grid) -> float:
    """Root mean square distance to the exact flow of 9 points, from the first level of the grid on."""
    first = Path.along(schedule, time_grid(schedule, steps, grid)).level(0)
    x_T = first.radius * torch.linspace(-1.8, 1.8, 9, dtype=torch.float64)[:, None]
    exact = quantile_map(x_T[:, 0].numpy(), first.alpha, first.sigma)
    x = sample(ExactDenoiser(mixture(), schedule), x_T.shape, sampler, steps, x_T=x_T, grid=grid)
    return float(np.sqrt(np.mean((x[:, 0].numpy() - exact) ** 2)))


def slope(steps: list[int], errors: list[float]) -> float:
    """Of log error against log steps, by least squares, sign turned."""
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


def gaussian_moments(sampler: Sampler, path: Path, mean: float, variance: float) -> tuple[float, float]:
    """Mean and variance of what `sampler` draws if the data are N(mean, variance), without drawing.

    Each step is affine, so x is kept as its coefficients, (1, K): of the start (column 0), of 1 (column 1), of each
    fresh noise. A sampler that measures norms sees sqrt(E x^2), as it would of a picture with very many pixels.
    """

    def denoise(x: Tensor, t: float) -> Tensor:
        alpha, sigma = float(path.schedule.alpha(t)), float(path.schedule.sigma(t))
        gain = alpha * variance / (alpha**2 * variance + sigma**2)
        estimate = gain * x
        estimate[:, 1] += mean * (1 - gain * alpha)
        return estimate

    x = torch.zeros(1, 3 * len(path) + 2, dtype=torch.float64)
    x[0, 0] = math.sqrt(path.alpha[0] ** 2 * variance + path.sigma[0] ** 2)
    x[0, 1] = path.alpha[0] * mean
    fresh = iter(range(2, x.shape[1]))

    def unit_noise(tensor: Tensor, generator: object = None) -> Tensor:
        tensor.zero_()[:, next(fresh)] = 1.0
        return tensor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "normal_", unit_noise)
        *_, x = sampler(denoise, x, path, None)
    return float(x[0, 1]), float(x.square().sum() - x[0, 1] ** 2)
