"""Numbers with their errors: an estimate without an interval cannot be compared with another.

An interval [low, high] of level 0.95 is a recipe that holds the truth in 95 of 100 repetitions of the
experiment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

__all__ = ["Estimate", "TestResult", "accuracy_interval", "bootstrap_interval", "mean_interval", "numpy_rng"]


@dataclass(frozen=True)
class Estimate:
    """A number and where it may lie.

    Attributes:
        value: The estimate.
        low: Lower end of the interval.
        high: Upper end of the interval.
        level: Share of repetitions in which such an interval holds the truth.
    """

    value: float
    low: float
    high: float
    level: float = 0.95

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True)
class TestResult(Estimate):
    """An estimate with the p-value of "both samples come from one distribution".

    Attributes:
        p_value: Probability, if that were so, of an estimate at least as large.
    """

    __test__ = False  # for pytest, which collects names that start with "Test"

    p_value: float = 1.0


def numpy_rng(generator: torch.Generator | None) -> np.random.Generator:
    """A NumPy generator seeded by the next number of torch's, for scipy and scikit-learn."""
    device = generator.device if generator is not None else None
    seed = torch.randint(2**62, (1,), generator=generator, device=device)
    return np.random.default_rng(int(seed))


def accuracy_interval(correct: int, total: int, level: float = 0.95) -> Estimate:
    """Share of successes with its exact binomial interval (Clopper and Pearson 1934), from scipy.

    Raises:
        ValueError: If not 0 <= correct <= total, total > 0 and 0 < level < 1.

    Example:
        >>> print(accuracy_interval(117, 120))
        0.975 [0.9287, 0.9948]
    """
    if not 0 <= correct <= total or total < 1:
        raise ValueError(f"correct must lie in 0..total and total be positive, got {correct} of {total}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    interval = stats.binomtest(int(correct), int(total)).proportion_ci(level, method="exact")
    return Estimate(correct / total, float(interval.low), float(interval.high), level)


def mean_interval(values: Tensor, level: float = 0.95) -> Estimate:
    """The mean of many independent values with Student's interval: what Monte Carlo gives, of any number of draws.

    Args:
        values: Independent values, (N,); enough of them for their mean to be normal.
        level: Confidence.

    Raises:
        ValueError: If there are fewer than two values.

    Example:
        >>> print(mean_interval(torch.tensor([0.0, 1.0, 2.0])))
        1 [-1.484, 3.484]
    """
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"values must have shape (N,) with N >= 2, got {tuple(values.shape)}")
    values = values.detach().cpu().double()
    mean, error = values.mean().item(), values.std().item() / len(values) ** 0.5
    reach = error * float(stats.t.ppf((1 + level) / 2, len(values) - 1))
    return Estimate(mean, mean - reach, mean + reach, level)


def bootstrap_interval(
    values: Tensor,
    statistic: Callable[..., Any] = np.mean,
    resamples: int = 2000,
    level: float = 0.95,
    generator: torch.Generator | None = None,
) -> Estimate:
    """A statistic of independent values with its bias-corrected accelerated bootstrap interval, from scipy.

    Args:
        values: Independent values, (N,).
        statistic: NumPy function of an array that takes `axis=`, such as `np.mean` or `np.std`.
        resamples: Number of bootstrap samples.
        level: Confidence.
        generator: Source of randomness.

    Source: Efron, Better bootstrap confidence intervals, JASA 82, 1987.

    Example:
        >>> bootstrap_interval(torch.ones(5))
        Estimate(value=1.0, low=1.0, high=1.0, level=0.95)
    """
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"values must have shape (N,) with N >= 2, got {tuple(values.shape)}")
    array = values.detach().cpu().double().numpy()
    value = float(statistic(array, axis=0))
    if np.ptp(array) == 0:
        return Estimate(value, value, value, level)
    rng = numpy_rng(generator)
    result = stats.bootstrap((array,), statistic, n_resamples=resamples, confidence_level=level, rng=rng)
    return Estimate(value, float(result.confidence_interval.low), float(result.confidence_interval.high), level)
