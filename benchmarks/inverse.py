"""How far each posterior sampler is from the exact posterior, on Gaussian mixtures: b = A x + s n.

    python -m benchmarks.inverse [--number 2000] [--steps 50] [--observations 6]

The denoiser is exact, so what is wrong is the method. Three priors: one Gaussian and a mixture of six in R^8, of which
three combinations of coordinates are seen with s = 0.1; and lesson 02's kind of mixture, fitted to the horses, in all
784 pixels, of which the left half is seen without noise (a tenth of the samples). For each observation: the distance of
the mean from the posterior's and the ratio of the deviations (roots of traces), both in posterior deviations, and the
sliced Wasserstein distance of order 2 (200 directions) in the same unit. Modes is the total variation between the
shares of the prior's components among the samples and in the posterior. The last row draws from the exact posterior:
the floor.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from coursekit.completion import half_hidden, half_mixture
from coursekit.diffusion import Cosine, ExactDenoiser, sample
from coursekit.diffusion.inverse import (
    DPS,
    LinearOperator,
    Mask,
    Matrix,
    MomentMatching,
    PiGDM,
    Projected,
    Replacement,
    exact_posterior,
)
from coursekit.gmm import GaussianMixture

D, M, NOISE = 8, 3, 0.1
Method = tuple[nn.Module, str | Replacement, int]


@dataclass(frozen=True)
class Problem:
    """One observation: what is seen of a draw from the prior, and the law of what is not.

    Attributes:
        prior: of x.
        operator: A.
        observation: b, (1, M).
        deviation: s.
        posterior: of the coordinates of x that are `asked`.
        asked: mask, (D,).
    """

    prior: GaussianMixture
    operator: LinearOperator
    observation: Tensor
    deviation: float
    posterior: GaussianMixture
    asked: Tensor


def in_eight_dimensions(K: int, observations: int) -> Iterator[Problem]:
    """K Gaussians, as a whole of about unit variance, and as many observations, each with a prior of its own."""
    within = 0.5 if K > 1 else 1.0  # deviation of a component
    for seed in range(observations):
        generator = torch.Generator().manual_seed(seed)
        root = within * torch.randn(K, D, D, generator=generator) / D**0.5
        means = (1 - within**2) ** 0.5 * torch.randn(K, D, generator=generator)
        prior = GaussianMixture(torch.ones(K), means, root @ root.mT + 0.01 * torch.eye(D))
        operator = Matrix(torch.randn(M, D, generator=generator) / D**0.5)
        observation = operator.measure(prior.sample(1, generator), NOISE, generator)
        posterior = exact_posterior(prior, operator.matrix, observation[0], NOISE)
        yield Problem(prior, operator, observation, NOISE, posterior, torch.ones(D, dtype=torch.bool))


def in_pixels(observations: int) -> Iterator[Problem]:
    """Left halves of horses, under four factor analysers."""
    prior, horses = half_mixture("horse"), half_hidden("horse", observations, torch.Generator().manual_seed(0))
    seen = torch.zeros(784, dtype=torch.bool).index_fill(0, horses.seen.index, True)
    for observation in horses.observation:
        yield Problem(prior, Mask(seen), observation[None], 0.0, prior.conditional(seen, observation), ~seen)


def methods(problem: Problem) -> dict[str, Method]:
    """By name a denoiser and a sampler to draw with; `steps` is divided by the last number."""
    A, b, s = problem.operator, problem.observation, problem.deviation
    denoiser = ExactDenoiser(problem.prior, Cosine())
    return {
        "replacement": (denoiser, Replacement(A, b), 1),
        "replacement, each step 5 times": (denoiser, Replacement(A, b, repeats=5), 5),
        "projection": (Projected(denoiser, A, b), "ddpm", 1),
        "DPS, zeta = 1": (DPS(denoiser, A, b), "ddpm", 1),
        "DPS, zeta = 3": (DPS(denoiser, A, b, zeta=3.0), "ddpm", 1),
        "PiGDM": (PiGDM(denoiser, A, b, s), "ddpm", 1),
        "moment matching, 1 iteration": (MomentMatching(denoiser, A, b, s, 1), "ddpm", 1),
        "moment matching, 3 iterations": (MomentMatching(denoiser, A, b, s, 3), "ddpm", 1),
        "moment matching, 3, heun": (MomentMatching(denoiser, A, b, s, 3), "heun", 2),
        "moment matching, 10 iterations": (MomentMatching(denoiser, A, b, s, 10), "ddpm", 1),
    }


def errors(x: Tensor, truth: Tensor, posterior: GaussianMixture, generator: torch.Generator) -> tuple[float, ...]:
    """Distance of means, ratio of deviations, sliced Wasserstein distance in posterior deviations; error of modes."""
    means, weights, size = posterior.means, posterior.weights, x.shape[1]
    mean = weights @ means
    variance = (weights @ posterior.covariances.diagonal(dim1=1, dim2=2)).sum()
    variance = variance + weights @ (means - mean).square().sum(1)
    modes = posterior.responsibilities(x).mean(0) - posterior.responsibilities(truth).mean(0)
    direction = normalize(torch.randn(200, size, generator=generator), dim=1)
    sliced = ((x @ direction.T).sort(0).values - (truth @ direction.T).sort(0).values).square().mean()
    return (
        float((x.mean(0) - mean).square().sum().sqrt() / variance.sqrt()),
        float((x.var(0).sum() / variance).sqrt()),
        float((sliced * size / variance).sqrt()),
        0.5 * float(modes.abs().sum()),
    )


def compare(title: str, problems: Iterator[Problem], number: int, steps: int) -> None:
    """Print one table."""
    found: dict[str, list[tuple[float, ...]]] = {}
    for problem in problems:
        generator, posterior = torch.Generator().manual_seed(0), problem.posterior
        truth, shape = posterior.sample(number, generator), (number, len(problem.asked))
        for name, (model, sampler, share) in methods(problem).items():
            x = sample(model, shape, sampler, steps // share, grid="angle", generator=generator)
            found.setdefault(name, []).append(errors(x[:, problem.asked], truth, posterior, generator))
        again = errors(posterior.sample(number, generator), truth, posterior, generator)
        found.setdefault("the exact posterior", []).append(again)
    print(f"{title:34}   mean   deviation   sliced W2   modes")
    for name, rows in found.items():
        mean, deviation, sliced, modes = (statistics.mean(column) for column in zip(*rows, strict=True))
        print(f"{name:34} {mean:6.3f} {deviation:11.3f} {sliced:11.3f} {modes:7.3f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=2000, help="samples for each observation")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--observations", type=int, default=6)
    arguments = parser.parse_args()
    number, steps, observations = arguments.number, arguments.steps, arguments.observations
    compare("one Gaussian in R^8", in_eight_dimensions(1, observations), number, steps)
    compare("mixture of 6 in R^8", in_eight_dimensions(6, observations), number, steps)
    compare("half a horse, mixture of 4 in R^784", in_pixels(observations), number // 10, steps)
