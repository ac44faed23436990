"""How far two sets of points are apart, with an interval beside every number.

Given samples a ~ p and b ~ q (of features, (N, D)), the distances here are estimates of

    Frechet:   |m_p - m_q|^2 + tr(C_p + C_q - 2 (C_p C_q)^{1/2}),  means m, covariances C
    MMD^2:     E k(a, a') + E k(b, b') - 2 E k(a, b),              k a Gaussian kernel
    two-sample test: the accuracy of a classifier that tells a from b on points it has not seen

Each result is a small frozen dataclass with `value`, `low` and `high` (see `coursekit.estimates`). Distances
are computed in float64 on the CPU; randomness comes through `generator`.
"""

from coursekit.estimates import Estimate, TestResult, accuracy_interval, bootstrap_interval
from coursekit.metrics.discrepancy import mmd
from coursekit.metrics.frechet import FrechetDistance, frechet_difference, frechet_distance
from coursekit.metrics.pictures import Neighbours, features_of, nearest_neighbours, recognised_share
from coursekit.metrics.two_sample import classifier_two_sample_test

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
