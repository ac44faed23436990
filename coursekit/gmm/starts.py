r"""Where EM starts: K means from the data, and covariances from what lies around them.

k-means++ draws the next mean with a probability proportional to the squared distance from those already drawn (Arthur
and Vassilvitskii, "k-means++: The Advantages of Careful Seeding", 2007); Lloyd's rounds then move each mean to the
centre of the points that are nearest to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["KMeansPlusPlus", "RandomPoints", "Start"]

Start = Callable[[Tensor, int, "torch.Generator | None"], Tensor]
"""(x (N, D), K, generator) -> means (K, D)."""


@dataclass(frozen=True)
class RandomPoints:
    """K points of the data, drawn without repetition."""

    def __call__(self, x: Tensor, K: int, generator: torch.Generator | None = None) -> Tensor:
        """The means (K, D) from points x (N, D)."""
        return x[torch.randperm(len(x), generator=generator, device=_device(generator, x))[:K].to(x.device)]


@dataclass(frozen=True)
class KMeansPlusPlus:
    """Means far from each other, then a few of Lloyd's rounds.

    Attributes:
        rounds: of Lloyd's algorithm; 0 keeps the points that were drawn.

    Example:
        >>> x = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
        >>> KMeansPlusPlus()(x, 2, torch.Generator().manual_seed(0)).sort(dim=0).values
        tensor([[0.0500],
                [5.0500]])
    """

    rounds: int = 10

    def __call__(self, x: Tensor, K: int, generator: torch.Generator | None = None) -> Tensor:
        """The means (K, D) from points x (N, D).

        Raises:
            ValueError: if x has fewer than K different points.
        """
        means = self._seeds(x, K, generator)
        for _ in range(self.rounds):
            label = nearest(x, means)
            count = torch.bincount(label, minlength=K)[:, None]
            sums = torch.zeros_like(means).index_add_(0, label, x)
            means = torch.where(count > 0, sums / count.clamp(min=1), means)
        return means

    def _seeds(self, x: Tensor, K: int, generator: torch.Generator | None) -> Tensor:
        device = _device(generator, x)
        chosen = torch.randint(len(x), (1,), generator=generator, device=device)
        distance = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
        means = [x[chosen.to(x.device)]]
        for k in range(1, K):
            distance = torch.minimum(distance, (x - means[-1]).square().sum(1))
            if not bool(distance.max() > 0):
                raise ValueError(f"K must be at most the number of different points in x, {k}, got {K}")
            # the inverse of the distribution function: multinomial refuses more than 2^24 points
            cumulated = distance.cumsum(0)
            u = torch.rand(1, generator=generator, device=device, dtype=x.dtype).to(x.device) * cumulated[-1]
            means.append(x[torch.searchsorted(cumulated, u, right=True).clamp(max=len(x) - 1)])
        return torch.cat(means)


def nearest(x: Tensor, means: Tensor) -> Tensor:
    """The index of the nearest mean (K, D) for each point x (N, D), (N,)."""
    centre = means.mean(0)
    x, means = x - centre, means - centre
    return torch.addmm(means.square().sum(1), x, means.T, alpha=-2).argmin(1)


def _device(generator: torch.Generator | None, x: Tensor) -> torch.device:
    return x.device if generator is None else generator.device
