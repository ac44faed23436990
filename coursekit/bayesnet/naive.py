"""Bayesian networks: naive Bayes, the smallest one that generates.

The label y is the only parent of every feature x_d, so that the joint density factorises,

    p(x, y) = p(y) prod_d p(x_d | y),

with each factor Bernoulli or Gaussian. Fitting is counting: each maximum-likelihood estimate has a closed
form. A feature that was not observed drops out of the product, which makes missing features easy to fill in.
Densities are in nats and computed with logarithms throughout.

Reference: Bishop, Pattern Recognition and Machine Learning, 2006, section 8.2.2.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from coursekit.bayesnet.base import LabelledDensity

__all__ = ["BernoulliNaiveBayes", "GaussianNaiveBayes", "NaiveBayes"]


class NaiveBayes(LabelledDensity):
    """What both models share: everything that follows from the joint density.

    Args:
        num_classes: Number of classes C.
        shape: Shape of one x, such as (1, 28, 28), or the number of features.
        smoothing: What is added so that no estimate is degenerate; its meaning is the subclass's.

    Raises:
        ValueError: If `smoothing` is negative.
    """

    def __init__(self, num_classes: int, shape: int | Sequence[int], smoothing: float) -> None:
        super().__init__(shape, num_classes)
        if smoothing < 0:
            raise ValueError(f"smoothing must be at least 0, got {smoothing}")
        self.smoothing = smoothing

    @abstractmethod
    def _log_likelihoods(self, features: Tensor, observed: Tensor) -> Tensor:
        """Sum over observed features of log p(x_d | y): (N, D) and a mask (N, D) or (1, D) -> (N, C)."""

    @abstractmethod
    def _means(self) -> Tensor:
        """E[x | y], (C, D)."""

    @abstractmethod
    def _draw(self, y: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw x given labels (N,), (N, D)."""

    def _count(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (N, D), one-hot labels (N, C) and the count of each class (C,); sets the prior."""
        self._check(x, y)
        x = x.flatten(1)
        one_hot = F.one_hot(y, self.num_classes).to(x)
        counts = one_hot.sum(dim=0)
        if (counts == 0).any():
            raise ValueError(f"each class needs an example, got none of {(counts == 0).nonzero()[:, 0].tolist()}")
        self.log_prior = (counts / len(y)).log()
        return x, one_hot, counts

    def log_joint(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """Log p(x, y) of each class, (N, C), in nats.

        Args:
            x: Points, (N, *shape).
            observed: True where x was observed, (*shape) or (N, *shape); the rest is summed out. All if None.
        """
        self._check(x, None)
        features = x.flatten(1)
        if observed is None:
            mask = torch.ones_like(features[:1], dtype=torch.bool)
        else:
            mask = observed.reshape(-1, self.dims).to(x.device, torch.bool)
        return self.log_prior + self._log_likelihoods(features, mask)

    def _log_prob_given(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.log_joint(x) - self.log_prior).gather(1, y[:, None])[:, 0]

    def _sample_given(self, n: int, y: Tensor, generator: torch.Generator | None) -> Tensor:
        return self._draw(y, generator).view(n, *self.shape)

    def loss(self, x: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Mean of -log p(x, y), or of -log p(x) without labels: a scalar in nats. `fit` minimises it exactly."""
        if y is None:
            return -self.log_prob(x).mean()
        self._check(x, y)
        return -self.log_joint(x).gather(1, y[:, None]).mean()

    def posterior(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """P(y | observed part of x), (N, C), by Bayes' rule."""
        return self.log_joint(x, observed).softmax(dim=1)

    def fill_in(self, x: Tensor, observed: Tensor) -> Tensor:
        """Replace what was not observed by its expectation given the rest, sum_y P(y | observed) E[x | y].

        Args:
            x: Points, (N, *shape); their values outside the mask are ignored.
            observed: True where x was observed, (*shape) or (N, *shape).
        """
        expected = (self.posterior(x, observed) @ self._means()).view_as(x)
        return torch.where(observed.to(x.device, torch.bool), x, expected)


class BernoulliNaiveBayes(NaiveBayes):
    """Naive Bayes on binary features, written {-1, 1} or {0, 1}; other values are refused.

    Grey pictures go through `coursekit.pixels.binarise` first. Samples and expectations are in [-1, 1], like the
    course's pictures.

    Args:
        num_classes: Number of classes C.
        shape: Shape of one x, or the number of features.
        smoothing: Imagined examples of "on", and as many of "off", in each class (Laplace, Lidstone).

    Example:
        >>> x, y = torch.tensor([[1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]), torch.tensor([0, 0, 1])
        >>> model = BernoulliNaiveBayes(2, 2).fit(x, y)
        >>> model.predict(torch.tensor([[1.0, -1.0], [-1.0, 1.0]])).tolist()
        [0, 1]
    """

    logits: Tensor

    def __init__(self, num_classes: int, shape: int | Sequence[int], smoothing: float = 1.0) -> None:
        super().__init__(num_classes, shape, smoothing)
        self.register_buffer("logits", torch.zeros(num_classes, math.prod(self.shape)))

    def fit(self, x: Tensor, y: Tensor) -> BernoulliNaiveBayes:
        """Estimate P(y) and P(x_d on | y) = (on + smoothing) / (count + 2 smoothing) from (N, *shape), (N,).

        Raises:
            ValueError: If x is not binary, a label is out of range, or a class has no example.
        """
        features, one_hot, counts = self._count(x, y)
        _check_binary(features)
        on = (features > 0).to(x.dtype)
        ons = one_hot.T @ on  # (C, D)
        weight_on, weight_off = ons + self.smoothing, counts[:, None] - ons + self.smoothing
        least = torch.finfo(x.dtype).tiny  # without smoothing "never" is very improbable instead of -inf
        self.logits = weight_on.clamp(min=least).log() - weight_off.clamp(min=least).log()
        return self

    def _log_likelihoods(self, features: Tensor, observed: Tensor) -> Tensor:
        _check_binary(torch.where(observed, features, 1))
        on = (features > 0) & observed
        off = (features <= 0) & observed
        log_on, log_off = F.logsigmoid(self.logits), F.logsigmoid(-self.logits)  # (C, D)
        return on.to(log_on) @ log_on.T + off.to(log_on) @ log_off.T

    def _means(self) -> Tensor:
        return 2 * self.logits.sigmoid() - 1

    def _draw(self, y: Tensor, generator: torch.Generator | None) -> Tensor:
        return 2 * torch.bernoulli(self.logits.sigmoid()[y], generator=generator) - 1


class GaussianNaiveBayes(NaiveBayes):
    """Naive Bayes on real features: p(x_d | y) = N(mean_yd, variance_yd).

    Args:
        num_classes: Number of classes C.
        shape: Shape of one x, or the number of features.
        smoothing: Added to each variance, as a fraction of the largest variance of a feature over all data.
            scikit-learn adds 1e-9, which lets pixels that never change decide everything.

    Example:
        >>> x, y = torch.tensor([[-1.0], [-2.0], [1.0], [3.0]]), torch.tensor([0, 0, 1, 1])
        >>> GaussianNaiveBayes(2, 1).fit(x, y).mean.tolist()
        [[-1.5], [2.0]]
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, num_classes: int, shape: int | Sequence[int], smoothing: float = 1e-2) -> None:
        super().__init__(num_classes, shape, smoothing)
        self.register_buffer("mean", torch.zeros(num_classes, math.prod(self.shape)))
        self.register_buffer("variance", torch.ones(num_classes, math.prod(self.shape)))

    def fit(self, x: Tensor, y: Tensor) -> GaussianNaiveBayes:
        """Estimate prior, means and variances from points (N, *shape) and labels (N,).

        Raises:
            ValueError: If a feature is constant within a class and `smoothing` is 0.
        """
        features, one_hot, counts = self._count(x, y)
        self.mean = one_hot.T @ features / counts[:, None]
        squares = (features - self.mean[y]) ** 2
        floor = self.smoothing * features.var(dim=0, correction=0).max()
        variance = one_hot.T @ squares / counts[:, None] + floor
        if (variance <= 0).any():
            raise ValueError("smoothing must be positive for features that are constant within a class, got 0")
        self.variance = variance
        return self

    def _log_likelihoods(self, features: Tensor, observed: Tensor) -> Tensor:
        # One class at a time: (N, D) of memory instead of (N, C, D), and none of the cancellation of
        # x^2 - 2 x m + m^2, which costs whole nats in float32 where variances are small.
        scores = []
        for mean, variance in zip(self.mean, self.variance, strict=True):
            terms = (features - mean) ** 2 / variance + (2 * math.pi * variance).log()
            scores.append(-0.5 * (terms * observed).sum(dim=1))
        return torch.stack(scores, dim=1)

    def _means(self) -> Tensor:
        return self.mean

    def _draw(self, y: Tensor, generator: torch.Generator | None) -> Tensor:
        mean = self.mean[y]
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        return mean + self.variance[y].sqrt() * noise


def _check_binary(x: Tensor) -> None:
    """Refuse what is neither in {-1, 1} nor in {0, 1}; on an accelerator nothing is looked at."""
    if x.device.type == "cpu" and not ((x.abs() == 1).all() or ((x == 0) | (x == 1)).all()):
        wrong = x[(x != 1) & (x != 0)] if (x == 0).any() else x[x.abs() != 1]
        raise ValueError(
            "x must be binary, {-1, 1} or {0, 1} throughout (see coursekit.pixels.binarise), "
            f"got {wrong[0].item():g}" + (" beside 0" if (x == 0).any() else "")
        )
