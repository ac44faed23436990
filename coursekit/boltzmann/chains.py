r"""The negative phase: where the states come from that a Boltzmann machine is pulled away from.

The gradient of a machine's log-likelihood is a difference of two means,

    d/dtheta mean log p(x_n) = -mean_n dF(x_n)/dtheta + E_{x ~ p} dF(x)/dtheta,

and the second one is over the machine itself. Both strategies replace it by the mean over chains that were moved by a
few Gibbs sweeps only. Those of contrastive divergence start at the batch (Hinton, "Training Products of Experts by
Minimizing Contrastive Divergence", 2002): quick, but states far from all data are never visited, so the machine may
keep probability there unseen. Persistent chains go on from where they were in the step before (Tieleman, "Training
Restricted Boltzmann Machines using Approximations to the Likelihood Gradient", 2008): they wander wherever the machine
puts probability, as long as it changes more slowly than they mix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

__all__ = ["ContrastiveDivergence", "NegativePhase", "PersistentChains"]


class _Machine(Protocol):
    def gibbs(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor: ...


NegativePhase = Callable[[_Machine, Tensor, "torch.Generator | None"], Tensor]
"""(machine, data (N, *shape), generator) -> states (M, *shape) of chains, without gradient."""


class ContrastiveDivergence(nn.Module):
    """CD-k: k Gibbs sweeps from the data.

    Args:
        k: sweeps.

    Raises:
        ValueError: if k is not positive.

    Example:
        >>> from coursekit.boltzmann import RBM
        >>> machine = RBM(4, hidden=3, negative=ContrastiveDivergence(k=2))
        >>> machine.loss(torch.ones(5, 4)).shape
        torch.Size([])
    """

    def __init__(self, k: int = 1) -> None:
        super().__init__()
        self.k = _sweeps(k)

    @torch.no_grad()
    def forward(self, machine: _Machine, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The states of the chains, (N, *shape)."""
        for _ in range(self.k):
            x = machine.gibbs(x, generator)
        return x


class PersistentChains(nn.Module):
    """PCD-k: k Gibbs sweeps from where the chains were left.

    The chains are a buffer: they are saved with the machine, so that a resumed run goes on as if it had not stopped.

    Args:
        shape: of one x, or the number of units.
        number: of chains.
        k: sweeps a step.

    Raises:
        ValueError: if a number is not positive.

    Example:
        >>> from coursekit.boltzmann import RBM
        >>> machine = RBM(4, hidden=3, negative=PersistentChains(4, number=10))
        >>> machine.state_dict()["negative.chains"].shape
        torch.Size([10, 4])
    """

    chains: Tensor
    unaveraged: ClassVar[tuple[str, ...]] = ("chains",)

    def __init__(self, shape: int | Sequence[int], number: int = 128, k: int = 1) -> None:
        super().__init__()
        if number < 1:
            raise ValueError(f"number must be at least 1, got {number}")
        self.k = _sweeps(k)
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self.register_buffer("chains", torch.where(torch.rand(number, *shape) < 0.5, 1.0, -1.0))

    @torch.no_grad()
    def forward(self, machine: _Machine, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The states of the chains, (number, *shape); the data x are not looked at."""
        states = self.chains
        for _ in range(self.k):
            states = machine.gibbs(states, generator)
        self.chains.copy_(states)
        return states


def _sweeps(k: int) -> int:
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return k
