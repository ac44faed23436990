r"""Which noise goes with which picture: couplings of a batch, for straighter paths.

Flow matching trains on x_t = alpha x_0 + sigma eps with x_0 and eps drawn independently, so that paths cross and the
learned field, their average, bends. Any joint law of (x_0, eps) with the same two marginals has a field that carries
noise to data; one in which near goes with near has paths that hardly cross. Within a batch of n the best one, for the
cost |x_0 - eps|^2, is a permutation of the noise: the optimal assignment, which POT's network simplex finds exactly.
Tong et al., "Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal Transport", 2023, arXiv
2302.00482; Pooladian et al., "Multisample Flow Matching: Straightening Flows with Minibatch Couplings", 2023, arXiv
2304.14772.

What it costs. Given x_0 the noise is no longer N(0, I), so the law of x_t given x_0 is not Gaussian, and

    grad log p_t(x) = -E[eps | x_t = x] / sigma

does not hold: a coupled model has a velocity but no score. Deterministic samplers follow the velocity and are right, on
any schedule, as the pair (x_0, eps) is the same on each; best on one that begins with pure noise, since signal that is
left at the start is tied to the noise. Samplers that add noise, chains, classifier guidance and
posterior sampling are not: they, `Denoiser.score` and the views that need a score refuse a coupled model. With labels
the pairs must be sought within each class: otherwise the noise that belongs to a class is not N(0, I), from which one
starts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Coupling", "MinibatchTransport", "bend", "refuse_coupled", "transport_cost"]

Coupling = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]
"""(x_0 (N, ...), noise (N, ...), labels (N,) or None) -> the same noise, in the order that goes with x_0."""


def transport_cost(x_0: Tensor, noise: Tensor) -> Tensor:
    """|x_0 - eps|^2 of each pair of the batch, (N,)."""
    return (x_0 - noise).square().flatten(1).sum(1)


@dataclass(frozen=True)
class MinibatchTransport:
    """The coupling of a batch with the least mean of |x_0 - eps|^2; with labels, within each class.

    An assignment is found on the CPU: a step on an accelerator waits for it. n = 256 takes some milliseconds, and the
    time grows faster than n^2.

    Attributes:
        per_class: seek pairs within each class if there are labels. Turn it off only for a model that is not told them.

    Example:
        >>> x_0, noise = torch.tensor([[5.0], [-5.0], [0.0]]), torch.tensor([[0.1], [1.0], [-1.0]])
        >>> MinibatchTransport()(x_0, noise).flatten().tolist()  # on a line, the order is kept
        [1.0, -1.0, 0.10000000149011612]
    """

    per_class: bool = True

    def __call__(self, x_0: Tensor, noise: Tensor, y: Tensor | None = None) -> Tensor:
        """The noise (N, ...), permuted so that the i-th goes with the i-th of x_0 (N, ...).

        Raises:
            ValueError: if x_0 and the noise differ in shape, or the labels are not N.
        """
        if x_0.shape != noise.shape or (y is not None and y.shape != x_0.shape[:1]):
            found = f"{tuple(noise.shape)} and {None if y is None else tuple(y.shape)}"
            raise ValueError(
                f"noise and y must have the shapes {tuple(x_0.shape)} and {tuple(x_0.shape[:1])}, got {found}"
            )
        a, b = (part.detach().flatten(1).cpu().double() for part in (x_0, noise))
        cost = torch.cdist(a, b).square()
        if y is not None and self.per_class:
            forbidden = (y[:, None] != y).cpu()  # noise i was drawn for x_0 i, and has its class
            cost = cost + forbidden * (len(cost) * cost.max() + 1)
        return noise[_assignment(cost.numpy()).to(noise.device)]


def _assignment(cost: np.ndarray) -> Tensor:
    """The permutation (N,) that minimises sum_i cost[i, permutation_i] for a cost matrix (N, N)."""
    import ot  # here, since importing it takes a second and looks for every other array library

    n = len(cost)
    plan = ot.emd(np.ones(n), np.ones(n), cost, numItermax=10_000_000)  # a vertex of the polytope: zeros and ones
    return torch.from_numpy(plan.argmax(1))


def bend(states: Tensor) -> Tensor:
    """How far paths are from straight: the mean squared distance from their chord, run through at even speed, (N,).

    0 for a path on which one Euler step is exact. In the spirit of Liu et al., 2022, arXiv 2209.03003, section 2.2.

    Args:
        states: (steps + 1, N, ...) at equal distances of t, as `sample(..., trajectory=True)` gives them.

    Example:
        >>> bend(torch.tensor([[0.0], [1.0], [2.0]])), bend(torch.tensor([[0.0], [2.0], [2.0]]))
        (tensor([0.]), tensor([0.3333]))
    """
    share = torch.linspace(0, 1, len(states), dtype=states.dtype, device=states.device)
    chord = torch.lerp(states[:1], states[-1:], share.view(-1, *(1,) * (states.ndim - 1)))
    return (states - chord).reshape(*states.shape[:2], -1).square().sum(2).mean(0)


def refuse_coupled(denoiser: nn.Module, what: str) -> None:
    """Refuse a denoiser, or one around it, whose noise was chosen to suit the data.

    Raises:
        ValueError: naming what it was wanted for.
    """
    if any(getattr(part, "coupling", None) is not None for part in denoiser.modules()):
        raise ValueError(
            f"denoiser must be trained on noise that is independent of the data for {what}, got one with a coupling"
        )
