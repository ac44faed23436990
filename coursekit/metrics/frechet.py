"""The Frechet distance between two sets of features, and the difference of two such distances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from coursekit.estimates import Estimate, numpy_rng
from coursekit.metrics.points import pair_of_matrices

__all__ = ["FrechetDistance", "frechet_difference", "frechet_distance"]


@dataclass(frozen=True)
class FrechetDistance(Estimate):
    """A Frechet distance, corrected for the bias of finite samples.

    Attributes:
        plug_in: The distance of the two samples' own Gaussians, without correction: what papers report as
            FID. It is too large, by more the smaller the samples are.
    """

    plug_in: float = 0.0


def _moments(x: Tensor, counts: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean (D,) and a root R of the covariance R R^T (D, D), of rows that occur `counts` times."""
    weights = x.new_ones(len(x)) if counts is None else counts
    mean = weights @ x / len(x)
    centred = x - mean
    covariance = (centred.T * weights) @ centred / (len(x) - 1)
    values, vectors = torch.linalg.eigh(covariance)
    return mean, vectors * values.clamp(min=0).sqrt()


def _frechet(mean_a: Tensor, root_a: Tensor, mean_b: Tensor, root_b: Tensor) -> float:
    """Equation (6) of the source; tr (A B)^{1/2} is the sum of the singular values of root_a^T root_b."""
    overlap = torch.linalg.svdvals(root_a.T @ root_b).sum()
    return float((mean_a - mean_b).square().sum() + root_a.square().sum() + root_b.square().sum() - 2 * overlap)


def frechet_distance(
    features_a: Tensor,
    features_b: Tensor,
    resamples: int = 100,
    level: float = 0.95,
    generator: torch.Generator | None = None,
) -> FrechetDistance:
    """Squared Frechet distance between Gaussians fitted to two sets of features.

    The plain estimate is biased upwards, and the usual percentile interval of its bootstrap almost never holds the
    truth: resampling adds the bias a second time. So the bias is estimated by the bootstrap and taken off, and the
    interval is the reflected one, [2 d - q_high, 2 d - q_low]. Where two samples agree, the corrected distance may
    be slightly negative, like the unbiased MMD; more so for the halves of a split by class, which agree better than
    independent samples do.

    Args:
        features_a: First sample, (N, ...), flattened to (N, D).
        features_b: Second sample, (M, ...), with as many features.
        resamples: Number of bootstrap samples for bias and interval.
        level: Confidence.
        generator: Source of randomness.

    Returns:
        The corrected distance with its interval, and the plain estimate as `plug_in`.

    Raises:
        ValueError: If the shapes do not fit or a value is not finite.

    Source: Heusel et al., GANs trained by a two time-scale update rule, arXiv 1706.08500, equation (6); Chong
        and Forsyth, Effectively unbiased FID, arXiv 1911.07023, on the bias.

    Example:
        >>> a = torch.tensor([[0.0], [2.0]])
        >>> frechet_distance(a, a + 3.0).plug_in
        9.0
    """
    a, b = pair_of_matrices(features_a, features_b, ("features_a", "features_b"))
    plug_in = _frechet(*_moments(a), *_moments(b))
    rng = numpy_rng(generator)
    again = [_frechet(*_moments(a, _counts(a, rng)), *_moments(b, _counts(b, rng))) for _ in range(resamples)]
    return FrechetDistance(*_reflected(plug_in, again, level), level, plug_in)


def frechet_difference(
    features_a: Tensor,
    features_b: Tensor,
    features_real: Tensor,
    resamples: int = 100,
    level: float = 0.95,
    generator: torch.Generator | None = None,
) -> Estimate:
    """How much farther a lies from the real sample than b does, if row n of a and of b came from the same noise.

    The difference of two `frechet_distance`s, resampled together: what the two owe to the same noise and to the same
    real sample cancels, so that the interval is much narrower than those of the distances.

    Args:
        features_a: First sample, (N, ...).
        features_b: Second sample, (N, ...), paired with the first.
        features_real: What both are compared with, (M, ...).
        resamples: Number of bootstrap samples for bias and interval.
        level: Confidence.
        generator: Source of randomness.

    Returns:
        The corrected difference, negative if a is nearer, with its interval.

    Raises:
        ValueError: If the shapes do not fit or a value is not finite.

    Example:
        >>> real = torch.tensor([[0.0], [2.0]])
        >>> frechet_difference(real + 3, real + 1, real, resamples=2).value > 0
        True
    """
    if len(features_a) != len(features_b):
        raise ValueError(f"features_a and features_b must be paired, got {len(features_a)} and {len(features_b)} rows")
    a, real = pair_of_matrices(features_a, features_real, ("features_a", "features_real"))
    b, _ = pair_of_matrices(features_b, features_real, ("features_b", "features_real"))
    rng = numpy_rng(generator)

    def difference(rows: Tensor | None, real_rows: Tensor | None) -> float:
        truth = _moments(real, real_rows)
        return _frechet(*_moments(a, rows), *truth) - _frechet(*_moments(b, rows), *truth)

    again = [difference(_counts(a, rng), _counts(real, rng)) for _ in range(resamples)]
    return Estimate(*_reflected(difference(None, None), again, level), level)


def _counts(x: Tensor, rng: np.random.Generator) -> Tensor:
    """How often each row of x (N, D) occurs in a bootstrap sample, (N,)."""
    return torch.from_numpy(rng.multinomial(len(x), np.full(len(x), 1 / len(x)))).to(x)


def _reflected(plug_in: float, again: list[float], level: float) -> tuple[float, float, float]:
    """The estimate less the bias that resampling shows, and the reflected interval."""
    q_low, q_high = np.quantile(again, [(1 - level) / 2, (1 + level) / 2])
    value, low, high = (2 * plug_in - float(at) for at in (np.mean(again), q_high, q_low))
    return value, low, high
