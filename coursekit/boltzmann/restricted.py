r"""Restricted Boltzmann machines: hidden units beside visible ones, and no connection within a side.

    RBM          E(x, h) = -x^T W h - b^T x - c^T h,                              x in {-1, 1}^D, h in {-1, 1}^H
    GaussianRBM  E(x, h) = |x - b|^2 / (2 s^2) - x^T W h / s^2 - c^T h,           x in R^D

p(x, h) = exp(-E(x, h)) / Z. Given one side, the units of the other are independent,

    p(h_j = 1 | x) = sigmoid(2 (c_j + (W^T x)_j))             RBM; W^T x / s^2 in the Gaussian machine
    p(x_i = 1 | h) = sigmoid(2 (b_i + (W h)_i)),              x | h ~ N(b + W h, s^2 I) in the Gaussian machine,

so that a Gibbs sweep takes two matrix products, and the hidden side can be summed out: p(x) = exp(-F(x)) / Z,

    F(x) = -b^T x - sum_j log 2 cosh(c_j + (W^T x)_j),        |x - b|^2 / (2 s^2) for -b^T x in the Gaussian machine.

The Gaussian machine is a mixture of 2^H Gaussians with the means b + W h. References: Smolensky, "Information
Processing in Dynamical Systems: Foundations of Harmony Theory", 1986; Hinton and Salakhutdinov, "Reducing the
Dimensionality of Data with Neural Networks", 2006; Cho, Ilin and Raiko, "Improved Learning of Gaussian-Bernoulli
Restricted Boltzmann Machines", 2011, whose scaling of W by 1 / s^2 is used.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from coursekit.boltzmann.chains import NegativePhase, PersistentChains
from coursekit.boltzmann.units import MAX_UNITS, draw_spins, log_2cosh, log_sum_over_states
from coursekit.pixels import check_binary
from coursekit.shapes import check_points, check_start, checked_shape

__all__ = ["RBM", "GaussianRBM", "RestrictedMachine"]


class RestrictedMachine(nn.Module, ABC):
    """What machines with one hidden layer share, whatever their visible units are.

    Args:
        shape: of one x, or the number of visible units D.
        hidden: H, the number of hidden units.
        negative: where the states of the negative phase come from; 128 persistent chains if None.

    Attributes:
        weight: W, (D, H).
        visible_bias, hidden_bias: b, (D,), and c, (H,).

    Raises:
        ValueError: if a size is not positive.
    """

    def __init__(self, shape: int | Sequence[int], hidden: int, negative: NegativePhase | None = None) -> None:
        super().__init__()
        self.shape = checked_shape(shape)
        if hidden < 1:
            raise ValueError(f"hidden must be at least 1, got {hidden}")
        self.dims, self.hidden = math.prod(self.shape), hidden
        self.weight = nn.Parameter(0.1 / math.sqrt(self.dims) * torch.randn(self.dims, hidden))
        self.visible_bias, self.hidden_bias = nn.Parameter(torch.zeros(self.dims)), nn.Parameter(torch.zeros(hidden))
        self.negative = PersistentChains(self.shape) if negative is None else negative

    @abstractmethod
    def visible_energy(self, x: Tensor, bias: Tensor) -> Tensor:
        """What visible units (..., D) cost alone, with the given bias (D,) for b, (...)."""

    @abstractmethod
    def hidden_field(self, x: Tensor) -> Tensor:
        """c + W^T x in units of the hidden side, (..., D) -> (..., H): p(h_j = 1 | x) = sigmoid(2 field_j)."""

    @abstractmethod
    def draw_visible(self, field: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Visible units in the field b + W h, (..., D) -> (..., D)."""

    @abstractmethod
    def visible_log_partition(self, field: Tensor, bias: Tensor) -> Tensor:
        """Log of the sum over x of exp(-visible_energy(x, bias) + x^T W h), given bias + W h, (..., D) -> (...)."""

    @abstractmethod
    def check(self, x: Tensor) -> None:
        """Refuse points of another shape or with impossible values."""

    def energy(self, x: Tensor, h: Tensor) -> Tensor:
        """E(x, h) in nats, (N, *shape) and (N, H) -> (N,).

        Raises:
            ValueError: if a shape or a value is impossible.
        """
        self.check(x)
        check_points(h, (self.hidden,), "h")
        check_binary(h, "h")
        flat = x.flatten(1)
        return self.visible_energy(flat, self.visible_bias) - (self.hidden_field(flat) * h).sum(1)

    def free_energy(self, x: Tensor) -> Tensor:
        """F(x) = -log sum_h exp(-E(x, h)) in nats, (N, *shape) -> (N,).

        Raises:
            ValueError: if the shape or a value is impossible.
        """
        self.check(x)
        return self._free_energy(x.flatten(1))

    def _free_energy(self, flat: Tensor) -> Tensor:
        return self.visible_energy(flat, self.visible_bias) - log_2cosh(self.hidden_field(flat)).sum(-1)

    def hidden_probs(self, x: Tensor) -> Tensor:
        """p(h_j = 1 | x), (N, *shape) -> (N, H)."""
        self.check(x)
        return torch.sigmoid(2 * self.hidden_field(x.flatten(1)))

    def sample_hidden(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw h given x, (N, *shape) -> (N, H)."""
        return draw_spins(self.hidden_field(x.flatten(1)), generator)

    def sample_visible(self, h: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw x given h, (N, H) -> (N, *shape)."""
        return self.draw_visible(self._visible_field(h), generator).view(len(h), *self.shape)

    def _visible_field(self, h: Tensor) -> Tensor:
        return self.visible_bias + h @ self.weight.T

    @torch.no_grad()
    def gibbs(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One block sweep of all chains, h given x and then x given h, (N, *shape) -> (N, *shape)."""
        return self.sample_visible(self.sample_hidden(x, generator), generator)

    def loss(self, x: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Mean F of the data less mean F of the negative phase, a scalar.

        Its gradient is the estimate of that of -log p that `negative` makes (CD-k or persistent CD). Its value is no
        likelihood: it hovers around zero and says nothing about progress.

        Args:
            x: (N, *shape).
            y: not looked at; labelled data may be handed over as they are.
            generator: of the negative phase.

        Raises:
            ValueError: if x has another shape or impossible values.
        """
        return self.free_energy(x).mean() - self.free_energy(self.negative(self, x, generator)).mean()

    def log_partition(self) -> Tensor:
        """log Z in nats, a scalar, by enumeration of the side that has fewer units.

        Raises:
            ValueError: if no side has at most `MAX_UNITS` units; see `annealed_importance_sampling`.
        """
        if self.hidden > MAX_UNITS:
            raise ValueError(self._too_many())
        return log_sum_over_states(self.hidden, self._log_hidden_weight, self.hidden_bias, self.dims)

    def _log_hidden_weight(self, h: Tensor) -> Tensor:
        """Log of the sum over x of exp(-E(x, h)), (N, H) -> (N,)."""
        return h @ self.hidden_bias + self.visible_log_partition(self._visible_field(h), self.visible_bias)

    def _too_many(self) -> str:
        sizes = f"{self.dims} visible and {self.hidden} hidden"
        return f"log Z is enumerated for at most {MAX_UNITS} units on a side that is binary, got {sizes}"

    def log_prob(self, x: Tensor, log_partition: Tensor | float | None = None) -> Tensor:
        """log p(x) = -F(x) - log Z, (N,) in nats: exact, or an estimate if log Z is one.

        Args:
            x: (N, *shape).
            log_partition: log Z if it is known, such as the value of `annealed_importance_sampling`; it is enumerated
                if None.

        Raises:
            ValueError: if x is impossible, or log Z is not given and neither side is small enough.
        """
        log_z = self.log_partition() if log_partition is None else log_partition
        return -self.free_energy(x) - log_z

    @torch.no_grad()
    def sample(
        self,
        n: int,
        y: Tensor | None = None,
        generator: torch.Generator | None = None,
        steps: int = 1000,
        start: Tensor | None = None,
    ) -> Tensor:
        """The states (n, *shape) of n chains after `steps` sweeps from `start`, or from units drawn by the biases.

        Independent draws of the machine only if the chains mix within the steps: see `parallel_tempering`.

        Raises:
            ValueError: if n is not positive or the start has another shape.
        """
        if start is None:
            start = self.draw_visible(self.visible_bias.expand(n, -1), generator).view(n, *self.shape)
        check_start(start, n, self.shape)
        for _ in range(steps):
            start = self.gibbs(start, generator)
        return start


class RBM(RestrictedMachine):
    """A restricted Boltzmann machine of units -1 and 1 on both sides; arguments of `RestrictedMachine`.

    Example:
        >>> from coursekit.boltzmann import every_state
        >>> machine = RBM(3, hidden=2)
        >>> machine.log_prob(every_state(3)).exp().sum()
        tensor(1.0000, grad_fn=<SumBackward0>)
        >>> RBM((1, 28, 28), hidden=8).sample(2, steps=3).shape
        torch.Size([2, 1, 28, 28])
    """

    def check(self, x: Tensor) -> None:
        check_points(x, self.shape)
        check_binary(x)

    def visible_energy(self, x: Tensor, bias: Tensor) -> Tensor:
        return -(x * bias).sum(-1)

    def hidden_field(self, x: Tensor) -> Tensor:
        return self.hidden_bias + x @ self.weight

    def draw_visible(self, field: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return draw_spins(field, generator)

    def visible_log_partition(self, field: Tensor, bias: Tensor) -> Tensor:
        return log_2cosh(field).sum(-1)

    def log_partition(self) -> Tensor:
        if self.dims < self.hidden and self.dims <= MAX_UNITS:
            return log_sum_over_states(self.dims, lambda x: -self._free_energy(x), self.visible_bias, self.hidden)
        return super().log_partition()


class GaussianRBM(RestrictedMachine):
    """A restricted Boltzmann machine whose visible units are real numbers.

    One deviation s for all visible units is given and not learned: learned by contrastive divergence it tends to
    collapse.

    Args:
        shape, hidden, negative: of `RestrictedMachine`.
        std: s, in units of x.

    Raises:
        ValueError: if a size or the deviation is not positive.

    Example:
        >>> machine = GaussianRBM(1, hidden=2, std=0.5)
        >>> x = torch.linspace(-9, 9, 1801)[:, None]
        >>> round(torch.trapezoid(machine.log_prob(x).exp(), x[:, 0]).item(), 4)
        1.0
    """

    std: Tensor

    def __init__(
        self, shape: int | Sequence[int], hidden: int, negative: NegativePhase | None = None, std: float = 1.0
    ) -> None:
        super().__init__(shape, hidden, negative)
        if not std > 0:
            raise ValueError(f"std must be positive, got {std}")
        self.register_buffer("std", torch.tensor(float(std)))

    def check(self, x: Tensor) -> None:
        check_points(x, self.shape)

    def visible_energy(self, x: Tensor, bias: Tensor) -> Tensor:
        return 0.5 * ((x - bias) / self.std).square().sum(-1)

    def hidden_field(self, x: Tensor) -> Tensor:
        return self.hidden_bias + x @ self.weight / self.std**2

    def draw_visible(self, field: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return field + self.std * torch.empty_like(field).normal_(generator=generator)

    def visible_log_partition(self, field: Tensor, bias: Tensor) -> Tensor:
        squares = (field.square() - bias.square()) / (2 * self.std**2)
        return (squares + 0.5 * math.log(2 * math.pi) + self.std.log()).sum(-1)
