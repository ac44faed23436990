r"""An energy-based model: any network that makes one number of a point.

    p(x) = exp(-E(x)) / Z,    Z = integral of exp(-E(x)) dx, unknown,    score(x) = -grad E(x), without Z.

How it is trained is an object of its own, an *objective*: `Contrastive`, `NoiseContrastive`, or a function that calls
one of the score-matching losses. Reference: LeCun et al., "A Tutorial on Energy-Based Learning", 2006.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from coursekit.energy.contrastive import Contrastive
from coursekit.energy.langevin import langevin
from coursekit.energy.scores import energy_and_score
from coursekit.shapes import check_points, check_start, checked_shape

__all__ = ["EnergyModel", "Objective"]

Objective = Callable[["EnergyModel", Tensor, "torch.Generator | None"], Tensor]
"""(model, data (N, *shape), generator) -> the scalar that training minimises."""


class EnergyModel(nn.Module):
    """A density known up to its normaliser.

    Args:
        network: (N, *shape) -> (N,) or (N, 1), the energy.
        shape: of one x, or the number of variables.
        objective: what `loss` minimises; `Contrastive(shape)` if None.

    Raises:
        ValueError: if a size is not positive.

    Example:
        >>> from coursekit.energy import denoising_score_matching
        >>> from coursekit.networks import MLP
        >>> model = EnergyModel(MLP([2, 32, 1]), 2, lambda m, x, g: denoising_score_matching(m.score, x, 0.1, g))
        >>> model(torch.zeros(5, 2)).shape, model.score(torch.zeros(5, 2)).shape
        (torch.Size([5]), torch.Size([5, 2]))
        >>> model.loss(torch.zeros(5, 2)).backward()
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        shape: int | Sequence[int],
        objective: Objective | None = None,
    ) -> None:
        super().__init__()
        self.network, self.shape = network, checked_shape(shape)
        self.objective = Contrastive(self.shape) if objective is None else objective

    def forward(self, x: Tensor) -> Tensor:
        """E(x) in nats, (N, *shape) -> (N,).

        Raises:
            ValueError: if x has another shape, or the network does not return one number a point.
        """
        check_points(x, self.shape)
        value = self.network(x)
        if value.shape not in ((len(x),), (len(x), 1)):
            raise ValueError(f"network must return shape ({len(x)},) or ({len(x)}, 1), got {tuple(value.shape)}")
        return value.view(len(x))

    def score(self, x: Tensor) -> Tensor:
        """-grad E(x), (N, *shape) -> (N, *shape); differentiable where gradients are recorded.

        Raises:
            ValueError: if x has another shape, or its energy is not finite.
        """
        return energy_and_score(self, x)[1]

    def loss(self, x: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """What the objective says of a batch (N, *shape), a scalar; labels y are not looked at.

        Raises:
            ValueError: if x has another shape, or an energy is not finite.
        """
        check_points(x, self.shape)
        return self.objective(self, x, generator)

    def sample(
        self,
        n: int,
        y: Tensor | None = None,
        generator: torch.Generator | None = None,
        start: Tensor | None = None,
        **walk: float | None,
    ) -> Tensor:
        """The states (n, *shape) of n chains of `langevin` from `start`, or from uniform noise in [-1, 1].

        Args:
            n: chains.
            y: not looked at.
            generator: source of start and noise.
            start: (n, *shape).
            **walk: `step` and `steps` (0.01 and 1000), `temperature` and `clip` of `langevin`; those of contrastive
                training, but for the number of steps, if they are not given.

        Raises:
            ValueError: if n is not positive, the start has another shape, or an energy is not finite.
        """
        if start is None:
            like = next(self.parameters())
            start = torch.empty(n, *self.shape, dtype=like.dtype, device=like.device)
            start = start.uniform_(-1, 1, generator=generator)
        check_start(start, n, self.shape)
        settings = {"step": 0.01} | getattr(self.objective, "walk", {}) | {"steps": 1000} | walk
        return langevin(self, start, generator=generator, **settings)
