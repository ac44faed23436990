"""The maximum mean discrepancy between two sets of points."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from coursekit.estimates import TestResult, numpy_rng
from coursekit.metrics.points import pair_of_matrices

__all__ = ["mmd"]


def _weighted_mmd(kernel: Tensor, weights_x: Tensor, weights_y: Tensor) -> Tensor:
    """Squared MMD (R,) for weights (R, N) on the pooled points; the kernel (N, N) has a zero diagonal.

    Pairs of distinct points are averaged with weights w_i w_j: with weights 0 and 1 this is the unbiased
    estimate, with multinomial weights its bootstrap copy.
    """

    def mean_over_pairs(weights: Tensor) -> Tensor:
        pairs = weights.sum(dim=1) ** 2 - weights.square().sum(dim=1)
        return ((weights @ kernel) * weights).sum(dim=1) / pairs

    across = ((weights_x @ kernel) * weights_y).sum(dim=1) / (weights_x.sum(dim=1) * weights_y.sum(dim=1))
    return mean_over_pairs(weights_x) + mean_over_pairs(weights_y) - 2 * across


def mmd(
    x: Tensor,
    y: Tensor,
    bandwidth: float | None = None,
    permutations: int = 1000,
    resamples: int = 200,
    level: float = 0.95,
    generator: torch.Generator | None = None,
) -> TestResult:
    """Unbiased squared maximum mean discrepancy with a Gaussian kernel, and its permutation test.

    The p-value is exact for any sample size; all permutations are one matrix product. Time grows with
    (N + M)^2 (permutations + resamples), memory with (N + M)^2.

    Args:
        x: First sample, (N, ...), flattened to (N, D).
        y: Second sample, (M, ...), with as many features.
        bandwidth: Standard deviation of the kernel; the median distance between pooled points if None.
        permutations: Number of random relabellings behind the p-value.
        resamples: Number of bootstrap samples behind the interval.
        level: Confidence of the interval.
        generator: Source of randomness.

    Returns:
        The estimate (it may be slightly negative), its interval and the p-value.

    Raises:
        ValueError: If the shapes do not fit, a value is not finite, or the bandwidth is not positive.

    Source: Gretton et al., A kernel two-sample test, JMLR 13, 2012, equation (3); Phipson and Smyth,
        Permutation p-values should never be zero, arXiv 1603.05766.

    Example:
        >>> points = torch.arange(20.0)[:, None]
        >>> mmd(points, points + 100, generator=torch.Generator().manual_seed(0)).p_value < 0.01
        True
    """
    a, b = pair_of_matrices(x, y, ("x", "y"))
    pooled = torch.cat([a, b])
    distances = torch.cdist(pooled, pooled)
    if bandwidth is None:
        bandwidth = float(distances[tuple(torch.triu_indices(*distances.shape, offset=1))].median())
    if not bandwidth > 0:
        raise ValueError(f"bandwidth must be positive (half of all points coincide if it was None), got {bandwidth}")
    kernel = torch.exp(-0.5 * (distances / bandwidth) ** 2).fill_diagonal_(0)
    rng = numpy_rng(generator)
    first = torch.arange(len(pooled)) < len(a)
    shuffled = torch.from_numpy(rng.permuted(np.tile(first.numpy(), (permutations, 1)), axis=1))
    members = torch.cat([first[None], shuffled]).to(kernel)  # row 0 is the observed labelling
    value, *permuted = _weighted_mmd(kernel, members, 1 - members).tolist()
    p_value = (1 + sum(other >= value - 1e-12 for other in permuted)) / (permutations + 1)
    again = _weighted_mmd(kernel, *_bootstrap_weights(len(a), len(b), resamples, rng))
    low, high = np.quantile(again, [(1 - level) / 2, (1 + level) / 2])
    return TestResult(value, float(low), float(high), level, p_value)


def _bootstrap_weights(n: int, m: int, resamples: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """How often each pooled point is drawn when both samples are resampled: two (resamples, n + m)."""
    counts = (rng.multinomial(size, np.full(size, 1 / size), resamples) for size in (n, m))
    drawn_x, drawn_y = (torch.from_numpy(count).double() for count in counts)
    return F.pad(drawn_x, (0, m)), F.pad(drawn_y, (n, 0))
