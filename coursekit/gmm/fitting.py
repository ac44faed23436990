"""Fitting a mixture: what data and settings are accepted, where EM starts and which of several runs is kept."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from coursekit.gmm.covariances import Covariance
from coursekit.gmm.em import EMHistory, Parameters, Settings, run
from coursekit.gmm.starts import Start, nearest
from coursekit.gmm.stepwise import Shuffled, run_stepwise

__all__ = ["StartCovariance", "fit"]

SAMPLE = 20_000
"""The most points that a start looks at."""


class Mixture(Protocol):
    """A mixture to start from."""

    log_weights: Tensor
    means: Tensor
    structure: Covariance


class StartCovariance(Protocol):
    """How EM makes its first covariances: from residuals (n, D) of points from their nearest means, and K."""

    def __call__(self, residuals: Tensor, K: int) -> Covariance: ...


@dataclass(frozen=True)
class Batches:
    """Batches from any iterable, checked; a batch that is a tuple, as data loaders make them, starts with x."""

    source: Iterable[Any]

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self.source:
            yield checked(batch[0] if isinstance(batch, (tuple, list)) else batch)


def checked(x: Any) -> Tensor:
    """Points (N, D) as a tensor.

    Raises:
        TypeError: if they are not float32 or float64.
        ValueError: for a wrong shape, NaN or infinity.
    """
    x = torch.as_tensor(x)
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"x must be float32 or float64, got {x.dtype}")
    if x.ndim != 2 or not x.numel():
        raise ValueError(f"x must have shape (N, D), got {tuple(x.shape)}")
    if not all(bool(torch.isfinite(part).all()) for part in x.split(max(1, 2**20 // x.shape[1]))):
        raise ValueError("x must be finite, got NaN or infinity")
    return x


def points_of(x: Any, K: int) -> Tensor:
    """All points (N, D) at once: at least K of them."""
    x = checked(x)
    if len(x) < K:
        raise ValueError(f"K must be at most the number of points, {len(x)}, got {K}")
    return x


def sample_of(batches: Iterable[Tensor], K: int) -> Tensor:
    """The first points of the batches: enough for a start."""
    parts, seen = [], 0
    for batch in batches:
        parts.append(batch)
        seen += len(batch)
        if seen >= max(SAMPLE, K):
            break
    if seen < K:
        raise ValueError(f"K must be at most the number of points, {seen}, got {K}")
    return torch.cat(parts)[: max(SAMPLE, K)]


def check_regular(x: Tensor, covariance: StartCovariance) -> None:
    """Refuse points in a plane: no mixture with such covariances is the most likely one.

    Raises:
        ValueError: if the structure finds a direction without variance.
    """
    centred = x.cpu().double() - x.cpu().double().mean(0)
    deviation = centred.square().mean(0).sqrt()
    constant = deviation <= 1e-12 * x.abs().amax(0).cpu()
    standard = centred / torch.where(constant, torch.inf, deviation)  # units do not matter
    if bool(constant.all()) or bool((covariance(standard, 1).smallest() < 1e-12).any()):
        raise ValueError(
            f"x is singular: {int(constant.sum())} of its {x.shape[1]} dimensions are constant, or {len(x)} points lie "
            "in a plane, so that the likelihood has no maximum. Leave such dimensions out, choose another covariance, "
            "or give `floor` (the variance that such directions are to have) or a `prior`"
        )


def first_guess(
    x: Tensor, K: int, covariance: StartCovariance, start: Start | Mixture, floor: float, generator: Any
) -> Parameters:
    """Where EM begins: at a given mixture, or with means from `start` and what lies around them."""
    if not hasattr(start, "structure"):
        means = start(x, K, generator)
        structure = covariance(x - means[nearest(x, means)], K).mended(floor)
        return Parameters(torch.full_like(means[:, 0], 1 / K).log(), means, structure)
    if start.means.shape != (K, x.shape[1]):
        raise ValueError(f"start must have means of shape {(K, x.shape[1])}, got {tuple(start.means.shape)}")
    return Parameters(start.log_weights.to(x), start.means.to(x), copy.deepcopy(start.structure).to(x))


@torch.no_grad()
def fit(
    x: Any,
    K: int,
    covariance: StartCovariance,
    start: Start | Mixture,
    settings: Settings,
    restarts: int = 1,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Parameters, EMHistory]:
    """The best of `restarts` runs of EM; `GaussianMixture.fit` explains the arguments."""
    for name, value in (("K", K), ("restarts", restarts), ("batch_size", 1 if batch_size is None else batch_size)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    array = hasattr(x, "shape")
    points = points_of(x, K) if array and batch_size is None else None
    if points is None and not settings.steps:
        raise ValueError("steps must be at least 1 where the data come in batches, got 0")
    if not array and (not isinstance(x, Iterable) or iter(x) is x):
        raise TypeError(f"x must be an array, or batches that can be gone through again, got {type(x).__name__}")
    size = batch_size or max(SAMPLE, K)
    batches = Batches(Shuffled(x if points is None else points, size, generator) if array else x)
    sample = sample_of(batches, K)
    if settings.refuses_singular:
        check_regular(sample, covariance)

    def attempt() -> tuple[Parameters, EMHistory]:
        guess = first_guess(sample, K, covariance, start, settings.variance_floor, generator)
        return run_stepwise(guess, batches, settings) if points is None else run(guess, points, settings)

    parameters, history = max((attempt() for _ in range(restarts)), key=lambda found: found[1].objective[-1])
    history.collapsed = parameters.collapsed(sample, len(x) if array else len(sample), settings.variance_floor)
    if history.collapsed and settings.floor is None:
        warnings.warn(
            f"components {list(history.collapsed)} collapsed on a point or a plane (or lost all points): their "
            f"smallest variance is the floor, {settings.variance_floor}. Try other starts, fewer components or a prior",
            RuntimeWarning,
            stacklevel=3,
        )
    return parameters, history
