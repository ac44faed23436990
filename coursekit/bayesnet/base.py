"""What every model of pictures in this folder shares: a density p(x), or p(x, y) = p(y) p(x | y) with labels.

A model says how probable x is given the label and draws x given the label. The rest follows by the rules of
probability:

    p(x) = sum_y p(y) p(x | y),        p(y | x) = p(y) p(x | y) / p(x),

so that each labelled model is a classifier as well. Densities are in nats.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from coursekit.labels import check_labels, check_num_classes
from coursekit.shapes import check_points, checked_shape

__all__ = ["LabelledDensity"]

CHUNK = 256  # pictures whose hidden layers are in memory together


class LabelledDensity(nn.Module, ABC):
    """A density of x, (N, *shape), given a label y in 0..num_classes - 1, or of x alone.

    Args:
        shape: of one x, such as (1, 28, 28), or the number of variables.
        num_classes: C; None for a model without labels.

    Attributes:
        log_prior: log p(y), (C,); the labels are equally probable unless a subclass estimates it. (1,) of 0 without
            labels.

    Raises:
        ValueError: if a size is not positive.
    """

    log_prior: Tensor

    def __init__(self, shape: int | Sequence[int], num_classes: int | None = None) -> None:
        super().__init__()
        self.shape = checked_shape(shape)
        check_num_classes(num_classes)
        self.num_classes = num_classes
        classes = num_classes or 1
        self.register_buffer("log_prior", torch.full((classes,), -math.log(classes)))

    @property
    def dims(self) -> int:
        """D, how many numbers one x has."""
        return math.prod(self.shape)

    @abstractmethod
    def _log_prob_given(self, x: Tensor, y: Tensor | None) -> Tensor:
        """Log p(x | y) in nats, (N, *shape) and (N,) -> (N,); y is None for a model without labels."""

    @abstractmethod
    def _sample_given(self, n: int, y: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """Draw (n, *shape) given labels (n,); y is None for a model without labels."""

    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Log p(x | y) if labels (N,) are given, else log p(x): (N,), in nats.

        In a model with labels, log p(x) is a sum over all of them and costs as much as C calls with labels.

        Raises:
            ValueError: if x has the wrong shape or values, or y labels outside 0..C-1.
        """
        if y is None and self.num_classes is not None:
            return self.log_joint(x).logsumexp(dim=1)
        self._check(x, y)
        parts = x.split(CHUNK) if len(x) else (x,)
        labels = [None] * len(parts) if y is None else y.split(CHUNK)
        return torch.cat([self._log_prob_given(part, label) for part, label in zip(parts, labels, strict=False)])

    def log_joint(self, x: Tensor) -> Tensor:
        """Log p(x, y) for every label, (N, C), in nats.

        Raises:
            ValueError: if the model has no labels.
        """
        if self.num_classes is None:
            raise ValueError("num_classes must be a number for a model of x and y, got None")
        labels = torch.arange(self.num_classes, device=x.device)
        conditional = [self.log_prob(x, label.expand(len(x))) for label in labels]
        return self.log_prior + torch.stack(conditional, dim=1)

    def posterior(self, x: Tensor) -> Tensor:
        """P(y | x), (N, C), by Bayes' rule."""
        return self.log_joint(x).softmax(dim=1)

    def predict(self, x: Tensor) -> Tensor:
        """The most probable label, (N,)."""
        return self.log_joint(x).argmax(dim=1)

    def loss(self, x: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Mean of -log p(x | y), or of -log p(x) without labels: a scalar in nats."""
        return -self.log_prob(x, y).mean()

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Draw n of x, (n, *shape), by ancestral sampling: first y from its prior, unless given (n,), then x given y.

        Raises:
            ValueError: if n is not positive, or y does not hold n labels in 0..C-1.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        return self._sample_given(n, self._given_or_drawn(y, n, generator), generator)

    def _given_or_drawn(self, y: Tensor | None, n: int, generator: torch.Generator | None) -> Tensor | None:
        """The labels that were asked for, or n from the prior; None in a model without labels."""
        y = self._draw_labels(self.log_prior.expand(n, -1), generator) if y is None else y
        check_labels(y, n, self.num_classes)
        return y

    def _draw_labels(self, log_probs: Tensor, generator: torch.Generator | None) -> Tensor | None:
        """One label from each row of (n, C) unnormalised log-probabilities, (n,); None without labels."""
        if self.num_classes is None:
            return None
        return torch.multinomial(log_probs.softmax(dim=1), 1, generator=generator)[:, 0]

    def _check(self, x: Tensor, y: Tensor | None) -> None:
        check_points(x, self.shape)
        if y is not None:
            check_labels(y, len(x), self.num_classes)
