"""How far two sets of points are apart, with an interval beside every number.

Given samples a ~ p and b ~ q (of features, (N, D)), the distances here are estimates of

    Frechet:   |m_p - m_q|^2 + tr(C_p + C_q - 2 (C_p C_q)^{1/2}),  means m, covariances C
    MMD^2:     E k(a, a') + E k(b, b') - 2 E k(a, b),              k a Gaussian kernel
    two-sample test: the accuracy of a classifier that tells a from b on points it has not seen

Each result is a small frozen dataclass with `value`, `low` and `high` (see `coursekit.estimates`). Distances
are computed in float64 on the CPU; randomness comes through `generator`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from coursekit.classifiers import evaluating
from coursekit.estimates import Estimate, TestResult, accuracy_interval, bootstrap_interval, numpy_rng

__all__ = [
    "Estimate",
    "FrechetDistance",
    "Neighbours",
    "TestResult",
    "accuracy_interval",
    "bootstrap_interval",
    "classifier_two_sample_test",
    "features_of",
    "frechet_difference",
    "frechet_distance",
    "mmd",
    "nearest_neighbours",
    "recognised_share",
]


@dataclass(frozen=True)
class Neighbours:
    """The nearest pictures to each sample.

    Attributes:
        distances: Euclidean distances in pixel space, (N, k), ascending.
        indices: Rows of the neighbours, (N, k).
    """

    distances: Tensor
    indices: Tensor


def _matrix(x: Tensor, name: str) -> Tensor:
    """Points (N, ...) as float64 on the CPU, (N, D)."""
    if x.ndim < 2 or len(x) < 2:
        raise ValueError(f"{name} must have shape (N, D) with N >= 2, got {tuple(x.shape)}")
    matrix = x.detach().cpu().double().flatten(1)
    if not torch.isfinite(matrix).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return matrix


def _pair(a: Tensor, b: Tensor, names: tuple[str, str]) -> tuple[Tensor, Tensor]:
    first, second = _matrix(a, names[0]), _matrix(b, names[1])
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"{names[1]} must have {first.shape[1]} features like {names[0]}, got {second.shape[1]}")
    return first, second


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
    a, b = _pair(features_a, features_b, ("features_a", "features_b"))
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
    a, real = _pair(features_a, features_real, ("features_a", "features_real"))
    b, _ = _pair(features_b, features_real, ("features_b", "features_real"))
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
    a, b = _pair(x, y, ("x", "y"))
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


class _Predictor(Protocol):
    def fit(self, X: Any, y: Any) -> Any: ...

    def predict(self, X: Any) -> Any: ...


def classifier_two_sample_test(
    x: Tensor,
    y: Tensor,
    classifier: _Predictor | None = None,
    level: float = 0.95,
    generator: torch.Generator | None = None,
) -> TestResult:
    """Can a classifier tell two samples apart on points that it has not seen?

    A random half of the points trains it; the other half gives the accuracy, 1/2 at chance since the larger
    sample is cut at random to the size of the smaller. The p-value is that of Fisher's exact test, one-sided.

    Args:
        x: First sample, (N, ...), flattened to (N, D).
        y: Second sample, (M, ...), with as many features.
        classifier: Anything with scikit-learn's `fit` and `predict`; if None, standardised features and as
            many nearest neighbours as the square root of the training points.
        level: Confidence of the accuracy's exact binomial interval.
        generator: Source of randomness.

    Returns:
        The accuracy with its interval and the p-value.

    Raises:
        ValueError: If the shapes do not fit or a value is not finite.

    Source: Lopez-Paz and Oquab, Revisiting classifier two-sample tests, arXiv 1610.06545.

    Example:
        >>> points = torch.arange(40.0)[:, None]
        >>> result = classifier_two_sample_test(points, points + 100, generator=torch.Generator().manual_seed(0))
        >>> result.value, result.p_value < 1e-6
        (1.0, True)
    """
    a, b = _pair(x, y, ("x", "y"))
    size, rng = min(len(a), len(b)), numpy_rng(generator)
    points = np.concatenate([rng.permutation(part.numpy())[:size] for part in (a, b)])
    origin = np.repeat([0, 1], size)
    train_x, test_x, train_y, test_y = train_test_split(
        points, origin, test_size=0.5, stratify=origin, random_state=int(rng.integers(2**31))
    )
    if classifier is None:
        neighbours = KNeighborsClassifier(max(1, round(len(train_y) ** 0.5)))
        classifier = make_pipeline(StandardScaler(), neighbours)
    guess = classifier.fit(train_x, train_y).predict(test_x)
    table = [[np.sum((guess == i) & (test_y == j)) for j in (0, 1)] for i in (0, 1)]
    p_value = float(stats.fisher_exact(table, alternative="greater").pvalue)
    accuracy = accuracy_interval(table[0][0] + table[1][1], len(test_y), level)
    return TestResult(float(accuracy.value), accuracy.low, accuracy.high, level, p_value)


def nearest_neighbours(samples: Tensor, pictures: Tensor, k: int = 1, chunk: int = 256) -> Neighbours:
    """The k nearest pictures to each sample, by Euclidean distance between pixels: is a sample a copy?

    Candidates are found by a matrix product on `chunk` samples at a time; their distances are then computed
    again from differences, so that a copy has distance exactly zero.

    Args:
        samples: Samples, (N, ...).
        pictures: Pictures to search, (M, ...), of the same shape and device.
        k: Number of neighbours.
        chunk: Samples compared at a time; memory is chunk x M numbers.

    Raises:
        ValueError: If the shapes do not fit or k is not in 1..M.

    Example:
        >>> pictures = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
        >>> nearest_neighbours(torch.tensor([[3.0, 3.0]]), pictures).distances
        tensor([[1.]])
    """
    if samples.shape[1:] != pictures.shape[1:]:
        raise ValueError(f"samples must have pictures of {tuple(pictures.shape[1:])}, got {tuple(samples.shape[1:])}")
    if not 1 <= k <= len(pictures):
        raise ValueError(f"k must lie in 1..{len(pictures)}, got {k}")
    wanted = pictures.flatten(1)
    candidates = min(k + 4, len(pictures))
    distances, indices = [], []
    for part in samples.flatten(1).split(chunk):
        rough = wanted.square().sum(dim=1) - 2 * part @ wanted.T  # (chunk, M), up to a constant of each row
        rows = rough.topk(candidates, largest=False).indices
        exact, order = (part[:, None] - wanted[rows]).norm(dim=2).sort(dim=1)
        distances.append(exact[:, :k])
        indices.append(rows.gather(1, order)[:, :k])
    return Neighbours(torch.cat(distances), torch.cat(indices))


def features_of(classifier: Any, images: Tensor, batch_size: int = 1000) -> Tensor:
    """The penultimate features of a classifier, (N, F), on the CPU: batch by batch, in evaluation mode.

    Args:
        classifier: A module with `features(x)`, such as `coursekit.classifiers.ConvClassifier`.
        images: Pictures in [-1, 1], (N, 1, H, W).
        batch_size: Pictures at a time.
    """
    device = next(classifier.parameters()).device
    with evaluating(classifier):
        return torch.cat([classifier.features(part.to(device)).cpu() for part in images.split(batch_size)])


def recognised_share(
    classifier: Any, images: Tensor, labels: Tensor, level: float = 0.95, batch_size: int = 1000
) -> Estimate:
    """Share of pictures in which a classifier sees the animal that was asked for, with its exact interval.

    Args:
        classifier: A module with `predict(x)`.
        images: Pictures in [-1, 1], (N, 1, H, W).
        labels: The classes asked for, (N,).
        level: Confidence.
        batch_size: Pictures at a time.

    Raises:
        ValueError: If the numbers of images and labels differ.
    """
    if len(images) != len(labels):
        raise ValueError(f"labels must be as many as images, {len(images)}, got {len(labels)}")
    device = next(classifier.parameters()).device
    guess = torch.cat([classifier.predict(part.to(device)).cpu() for part in images.split(batch_size)])
    return accuracy_interval(int((guess == labels.cpu()).sum()), len(labels), level)
