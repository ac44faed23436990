"""A classifier that tries to tell two sets of points apart."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from scipy import stats
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from coursekit.estimates import TestResult, accuracy_interval, numpy_rng
from coursekit.metrics.points import pair_of_matrices

__all__ = ["classifier_two_sample_test"]


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
    a, b = pair_of_matrices(x, y, ("x", "y"))
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
