"""The fullest Bayesian network: in some order of the variables, each has all earlier ones as parents.

    p(x | y) = prod_k p(x_o(k) | x_o(1), ..., x_o(k-1), y)

No independence is assumed, so any density can be written like this, in any order. A network gives the parameters of all
factors in one pass; `MADE` and `PixelCNN` differ in how they keep each from seeing what comes later.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from coursekit.bayesnet.base import LabelledDensity
from coursekit.pixels import Bernoulli, PixelDistribution

__all__ = ["Autoregressive"]


class Autoregressive(LabelledDensity):
    """What MADE and PixelCNN share: everything that follows from the factors.

    Args:
        shape: of one x, or the number of variables.
        order: `order[k]` is the variable that comes k-th, a number in 0..D-1 (pictures are read row by row).
        head: the law of one variable, given the network's output for it; `Bernoulli()` if None.
        num_classes: C; None without labels.

    Attributes:
        order: as above, (D,).
        head: as above.
    """

    order: Tensor

    def __init__(
        self, shape: int | Sequence[int], order: Tensor, head: PixelDistribution | None, num_classes: int | None
    ) -> None:
        super().__init__(shape, num_classes)
        self.head = Bernoulli() if head is None else head
        self.register_buffer("order", order, persistent=False)

    @abstractmethod
    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """What the head is given for each variable, which depends on the earlier ones alone.

        For one-channel pictures (N, 1, H, W) the result is (N, head.channels, H, W); for other shapes
        (N, head.channels, D).

        Raises:
            ValueError: if labels are missing in a model that has them, or given to one that has none.
        """

    def _check_given(self, y: Tensor | None) -> None:
        """One factor wants its label: a sum over labels is no product of factors."""
        if (y is None) != (self.num_classes is None):
            got = "None" if y is None else "labels"
            raise ValueError(
                f"y must be labels exactly if the model has them, got {got} for {self.num_classes} classes"
            )

    @abstractmethod
    def _complete(self, x: Tensor, observed: Tensor, y: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """Draw what was not observed in (N, *shape), variable after variable, each layer's work done once."""

    def log_prob_terms(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Log p(x_i | what comes before it, y) in nats, (N, *shape); their sum is `log_prob(x, y)`."""
        parameters = self(x, y).flatten(2)  # (N, channels, D)
        return self.head.log_prob(parameters, x.reshape(len(x), 1, -1)).view_as(x)

    def _log_prob_given(self, x: Tensor, y: Tensor | None) -> Tensor:
        return self.log_prob_terms(x, y).flatten(1).sum(dim=1)

    def _sample_given(self, n: int, y: Tensor | None, generator: torch.Generator | None) -> Tensor:
        x = self._blank(n)
        return self._complete(x, torch.zeros_like(x, dtype=torch.bool), y, generator)

    def _blank(self, n: int) -> Tensor:
        return next(self.parameters()).new_zeros(n, *self.shape)

    @torch.no_grad()
    def fill_in(
        self, x: Tensor, observed: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw the missing end of x given its beginning (and the labels), exactly.

        Args:
            x: (N, *shape); the values of missing variables are ignored.
            observed: true where a variable was observed, (*shape) or (N, *shape): the first ones in the model's order.
                Were a later one observed, the draw would ignore what it says about those before it.
            y: labels, (N,); drawn from p(y | observed variables) if None.
            generator: source of randomness.

        Returns:
            (N, *shape), equal to x where it was observed.

        Raises:
            ValueError: if a missing variable comes before an observed one.
        """
        observed = observed.to(x.device, torch.bool).expand_as(x)
        along = observed.flatten(1)[:, self.order]
        if (along[:, 1:] & ~along[:, :-1]).any():
            raise ValueError("observed must mark the first variables of the order, got an observed one after a gap")
        x = torch.where(observed, x, 1.0)  # any value that the head admits
        self._check(x, y)
        y = self._draw_labels(self._log_joint_observed(x, observed), generator) if y is None else y
        return self._complete(x, observed, y, generator)

    def _log_joint_observed(self, x: Tensor, observed: Tensor) -> Tensor:
        """Log p(y, observed variables) for each label, (N, C)."""
        labels = [None] if self.num_classes is None else torch.arange(self.num_classes, device=x.device)
        terms = [self.log_prob_terms(x, None if y is None else y.expand(len(x))) for y in labels]
        return self.log_prior + torch.stack([(t * observed).flatten(1).sum(dim=1) for t in terms], dim=1)

    @torch.no_grad()
    def sample_naive(self, n: int, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """As `sample`, from the same noise the same draws, but with a whole pass of the network for each variable.

        It is here to show what reuse buys.
        """
        y = self._given_or_drawn(y, n, generator)
        x = self._blank(n)
        for i in self.order.tolist():
            parameters = self(x, y).flatten(2)[:, :, i, None]
            x.view(n, -1)[:, i] = self.head.sample(parameters, generator)[:, 0, 0]
        return x
