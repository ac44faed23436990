"""How far each posterior sampler is from the exact posterior, on Gaussian mixtures: data b = A x + s n, x in R^8.

    python -m benchmarks.inverse [--number 2000] [--steps 50] [--observations 6]

Two priors, one Gaussian and a mixture of six; three combinations of the eight coordinates are seen, s = 0.1. The
denoiser is exact, so what is wrong is the method. For each observation: the distance of the mean from the
posterior's and the ratio of the deviations (roots of traces), both in posterior deviations, and the sliced Wasserstein
distance of order 2 (200 directions) in the same unit. Modes is the total variation between the shares of the prior's
components among the samples and in the posterior. The last row draws from the exact posterior: the floor.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from torch import Tensor, nn

from coursekit.diffusion import Cosine, ExactDenoiser, sample
from coursekit.diffusion.inverse import DPS, Matrix, MomentMatching, PiGDM, Projected, Replacement, exact_posterior
from coursekit.gmm import GaussianMixture

D, M, NOISE = 8, 3, 0.1
Method = tuple[nn.Module, str | Replacement, int]


def prior(K: int, generator: torch.Generator) -> GaussianMixture:
    """K Gaussians, as a whole of about unit variance."""
    within = 0.5 if K > 1 else 1.0  # deviation of a component
    root = within * torch.randn(K, D, D, generator=generator) / D**0.5
    means = (1 - within**2) ** 0.5 * torch.randn(K, D, generator=generator)
    return GaussianMixture(torch.ones(K), means, root @ root.mT + 0.01 * torch.eye(D))


def methods(denoiser: nn.Module, operator: Matrix, observation: Tensor) -> dict[str, Method]:
    """By name a denoiser and a sampler to draw with; `steps` is divided by the last number."""

    def moments(iterations: int) -> nn.Module:
        return MomentMatching(denoiser, operator, observation, NOISE, iterations)

    return {
        "replacement": (denoiser, Replacement(operator, observation), 1),
        "replacement, each step 5 times": (denoiser, Replacement(operator, observation, repeats=5), 5),
        "projection": (Projected(denoiser, operator, observation), "ddpm", 1),
        "DPS, zeta = 1": (DPS(denoiser, operator, observation), "ddpm", 1),
        "DPS, zeta = 3": (DPS(denoiser, operator, observation, zeta=3.0), "ddpm", 1),
        "PiGDM": (PiGDM(denoiser, operator, observation, NOISE), "ddpm", 1),
        "moment matching, 1 iteration": (moments(1), "ddpm", 1),
        "moment matching, 3 iterations": (moments(3), "ddpm", 1),
        "moment matching, 3, heun": (moments(3), "heun", 2),
    }


def errors(
    x: Tensor, truth: Tensor, posterior: GaussianMixture, mixture: GaussianMixture, generator: torch.Generator
) -> tuple[float, ...]:
    """Distance of means, ratio of deviations, sliced Wasserstein distance in posterior deviations; error of modes."""
    means, weights = posterior.means, posterior.weights
    mean = weights @ means
    variance = (weights @ posterior.covariances.diagonal(dim1=1, dim2=2)).sum()
    variance = variance + weights @ (means - mean).square().sum(1)
    modes = mixture.responsibilities(x).mean(0) - mixture.responsibilities(truth).mean(0)
    direction = torch.nn.functional.normalize(torch.randn(200, D, generator=generator), dim=1)
    sliced = ((x @ direction.T).sort(0).values - (truth @ direction.T).sort(0).values).square().mean()
    return (
        float((x.mean(0) - mean).square().sum().sqrt() / variance.sqrt()),
        float((x.var(0).sum() / variance).sqrt()),
        float((sliced * D / variance).sqrt()),
        0.5 * float(modes.abs().sum()),
    )


def compare(K: int, number: int, steps: int, observations: int) -> None:
    """Print one table."""
    found: dict[str, list[tuple[float, ...]]] = {}
    for seed in range(observations):
        generator = torch.Generator().manual_seed(seed)
        mixture, operator = prior(K, generator), Matrix(torch.randn(M, D, generator=generator) / D**0.5)
        observation = operator.measure(mixture.sample(1, generator), NOISE, generator)[0]
        posterior = exact_posterior(mixture, operator.matrix, observation, NOISE)
        truth, denoiser = posterior.sample(number, generator), ExactDenoiser(mixture, Cosine())
        for name, (model, sampler, share) in methods(denoiser, operator, observation[None]).items():
            x = sample(model, (number, D), sampler, steps // share, grid="angle", generator=generator)
            found.setdefault(name, []).append(errors(x, truth, posterior, mixture, generator))
        again = errors(posterior.sample(number, generator), truth, posterior, mixture, generator)
        found.setdefault("the exact posterior", []).append(again)
    print(f"{'one Gaussian' if K == 1 else f'mixture of {K}':34}   mean   deviation   sliced W2   modes")
    for name, rows in found.items():
        mean, deviation, sliced, modes = (statistics.mean(column) for column in zip(*rows, strict=True))
        print(f"{name:34} {mean:6.3f} {deviation:11.3f} {sliced:11.3f} {modes:7.3f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=2000, help="samples for each observation")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--observations", type=int, default=6)
    arguments = parser.parse_args()
    for K in (1, 6):
        compare(K, arguments.number, arguments.steps, arguments.observations)
