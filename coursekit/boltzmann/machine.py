r"""The fully visible Boltzmann machine: every pair of units pulls at each other.

    p(x) = exp(-E(x)) / Z,    E(x) = -x^T W x / 2 - b^T x,    x in {-1, 1}^D,

W symmetric with a zero diagonal. One unit given all others feels the field a_i = b_i + (W x)_i, which does not depend
on x_i, and is 1 with probability sigmoid(2 a_i): that is all that Gibbs sampling needs. Z is a sum over 2^D states.
Reference: Ackley, Hinton and Sejnowski, "A Learning Algorithm for Boltzmann Machines", 1985.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coursekit.boltzmann.chains import ContrastiveDivergence, NegativePhase
from coursekit.boltzmann.units import MAX_UNITS, draw_spins, log_sum_over_states
from coursekit.pixels import check_binary
from coursekit.shapes import check_points, check_start, checked_shape

__all__ = ["BoltzmannMachine"]


class BoltzmannMachine(nn.Module):
    """Units -1 and 1 with a weight for each pair.

    Args:
        shape: of one x, or the number of units D.
        negative: where the states of the negative phase come from; one-sweep contrastive divergence if None.

    Attributes:
        couplings: the weights of the pairs i > j, row by row, (D (D - 1) / 2,): W cannot be anything but symmetric.
        bias: b, (D,).

    Raises:
        ValueError: if a size is not positive.

    Example:
        >>> from coursekit.boltzmann import every_state
        >>> machine = BoltzmannMachine(3)
        >>> machine.log_prob(every_state(3)).exp().sum()
        tensor(1.0000, grad_fn=<SumBackward0>)
    """

    def __init__(self, shape: int | Sequence[int], negative: NegativePhase | None = None) -> None:
        super().__init__()
        self.shape = checked_shape(shape)
        self.dims = math.prod(self.shape)
        self.couplings = nn.Parameter(0.01 * torch.randn(self.dims * (self.dims - 1) // 2))
        self.bias = nn.Parameter(torch.zeros(self.dims))
        self.negative = ContrastiveDivergence() if negative is None else negative

    @property
    def weight(self) -> Tensor:
        """W, (D, D)."""
        rows, columns = torch.tril_indices(self.dims, self.dims, -1, device=self.couplings.device)
        lower = self.couplings.new_zeros(self.dims, self.dims).index_put((rows, columns), self.couplings)
        return lower + lower.T

    def energy(self, x: Tensor) -> Tensor:
        """E(x) in nats, (N, *shape) -> (N,).

        Raises:
            ValueError: if x has another shape or holds anything but -1 and 1.
        """
        check_points(x, self.shape)
        check_binary(x)
        return self._energy(x.flatten(1))

    free_energy = energy  # nothing is hidden

    def _energy(self, flat: Tensor) -> Tensor:
        return -0.5 * ((flat @ self.weight) * flat).sum(1) - flat @ self.bias

    def log_partition(self) -> Tensor:
        """log Z in nats, a scalar, by enumeration.

        Raises:
            ValueError: for more than `MAX_UNITS` units.
        """
        if self.dims > MAX_UNITS:
            raise ValueError(f"log Z is enumerated for at most {MAX_UNITS} units, got {self.dims}")
        return log_sum_over_states(self.dims, lambda x: -self._energy(x), self.bias, self.dims)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), exact, (N,) in nats.

        Raises:
            ValueError: for more than `MAX_UNITS` units, or if x has another shape or other values.
        """
        return -self.energy(x) - self.log_partition()

    def pseudo_log_prob(self, x: Tensor) -> Tensor:
        """sum_i log p(x_i | all other units), (N,) in nats: no density, but largest at the same machine, without Z.

        Besag, "Statistical Analysis of Non-Lattice Data", 1975.

        Raises:
            ValueError: if x has another shape or other values.
        """
        check_points(x, self.shape)
        check_binary(x)
        flat = x.flatten(1)
        return F.logsigmoid(2 * flat * (flat @ self.weight + self.bias)).sum(1)

    def loss(self, x: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Mean E of the data less mean E of the negative phase: the gradient counts, the value is no likelihood.

        Args:
            x: (N, *shape).
            y: not looked at; labelled data may be handed over as they are.
            generator: of the negative phase.

        Raises:
            ValueError: if x has another shape or other values.
        """
        return self.energy(x).mean() - self.energy(self.negative(self, x, generator)).mean()

    @torch.no_grad()
    def gibbs(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One sweep: every unit in turn is drawn given all others, (N, *shape) -> (N, *shape)."""
        flat, weight = x.flatten(1).clone(), self.weight
        for i in range(self.dims):
            flat[:, i] = draw_spins(flat @ weight[i] + self.bias[i], generator)
        return flat.view(x.shape)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        y: Tensor | None = None,
        generator: torch.Generator | None = None,
        steps: int = 100,
        start: Tensor | None = None,
    ) -> Tensor:
        """The states (n, *shape) of n chains after `steps` sweeps from `start`, or from units tossed by the biases.

        Raises:
            ValueError: if n is not positive or the start has another shape.
        """
        if start is None:
            start = draw_spins(self.bias.expand(n, -1), generator).view(n, *self.shape)
        check_start(start, n, self.shape)
        for _ in range(steps):
            start = self.gibbs(start, generator)
        return start
