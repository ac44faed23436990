r"""A machine between its base-rate model and itself, and parallel tempering along that line.

At the inverse temperature beta in [0, 1] the machine's energy is

    E_beta(x, h) = (1 - beta) E_b0(x) + beta E(x, h),

E_b0 the energy of visible units with biases b0 alone: independent units, which cost nothing to draw, at beta = 0, the
machine itself at beta = 1. Parallel tempering runs a chain at each beta and lets neighbours exchange their states with
the probability that leaves the joint law of all chains as it is,

    min(1, exp(F_i(x_i) + F_j(x_j) - F_i(x_j) - F_j(x_i))),

so that what the hot chains find reaches the cold one. References: Swendsen and Wang, "Replica Monte Carlo Simulation of
Spin-Glasses", 1986; Desjardins et al., "Parallel Tempering for Training of Restricted Boltzmann Machines", 2010.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from coursekit.boltzmann.restricted import RestrictedMachine
from coursekit.boltzmann.units import draw_spins, log_2cosh

__all__ = ["Tempered", "checked_betas", "parallel_tempering"]


class Tempered:
    """A machine at inverse temperatures beta, numbers or tensors that broadcast against points (..., D).

    Args:
        machine: at beta = 1.
        base: biases (D,) of the independent units at beta = 0; the machine's own visible biases if None.

    Raises:
        ValueError: if the base has another shape.
    """

    def __init__(self, machine: RestrictedMachine, base: Tensor | None = None) -> None:
        own = machine.visible_bias.detach()
        self.machine, self.base = machine, own if base is None else base.to(own)
        if self.base.shape != own.shape:
            raise ValueError(f"base must hold {machine.dims} biases, got shape {tuple(base.shape)}")

    def free_energy(self, x: Tensor, field: Tensor, beta: Tensor | float) -> Tensor:
        """F_beta(x), (..., D) -> (...), given the machine's hidden field of x (..., H)."""
        machine, beta_of_point = self.machine, beta[..., 0] if isinstance(beta, Tensor) else beta
        alone = (1 - beta_of_point) * machine.visible_energy(x, self.base)
        return alone + beta_of_point * machine.visible_energy(x, machine.visible_bias) - log_2cosh(beta * field).sum(-1)

    def gibbs(self, field: Tensor, beta: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
        """x after a sweep at beta: h is drawn in the hidden field (..., H) of the x before, then x, (..., D)."""
        h = draw_spins(beta * field, generator)
        visible = (1 - beta) * self.base + beta * (self.machine.visible_bias + h @ self.machine.weight.T)
        return self.machine.draw_visible(visible, generator)

    def start(self, *sizes: int, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws at beta = 0, (*sizes, D)."""
        return self.machine.draw_visible(self.base.expand(*sizes, -1), generator)

    def log_partition_of_base(self) -> Tensor:
        """log Z at beta = 0: of the independent visible units, and of hidden ones that feel nothing."""
        return self.machine.visible_log_partition(self.base, self.base) + self.machine.hidden * math.log(2)


@torch.no_grad()
def parallel_tempering(
    machine: RestrictedMachine,
    n: int,
    steps: int = 200,
    betas: Sequence[float] | Tensor | None = None,
    base: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw from a machine whose own Gibbs chain mixes slowly; all temperatures and chains move in one tensor.

    Every step is a sweep of every chain and then an exchange, of the pairs (0, 1), (2, 3), ... and of the pairs
    (1, 2), (3, 4), ... in turn.

    Args:
        machine: an RBM of either kind.
        n: chains at each temperature.
        steps: of them all.
        betas: rising from 0 to 1; ten at equal distances if None.
        base: of `Tempered`.
        generator: source of all randomness.

    Returns:
        The states at beta = 1, (n, *shape), and the share of exchanges between neighbours that took place, (K - 1,):
        where a share is near zero, more temperatures are wanted.

    Raises:
        ValueError: for fewer than one chain, fewer than two steps, or betas that do not rise from 0 to 1.

    Example:
        >>> from coursekit.boltzmann import RBM
        >>> x, rates = parallel_tempering(RBM(6, hidden=4), n=100, steps=10)
        >>> x.shape, rates.shape
        (torch.Size([100, 6]), torch.Size([9]))
    """
    if n < 1 or steps < 2:
        raise ValueError(f"n >= 1 and steps >= 2 are wanted, got {n} and {steps}")
    path = Tempered(machine, base)
    beta = checked_betas(torch.linspace(0, 1, 10) if betas is None else betas, path.base)[:, None, None]  # (K, 1, 1)
    x, swaps = path.start(len(beta), n, generator=generator), beta.new_zeros(len(beta) - 1)
    field = machine.hidden_field(x)  # (K, n, H)
    for step in range(steps):
        x = path.gibbs(field, beta, generator)
        x, field, rate = _exchange(path, x, machine.hidden_field(x), beta, step % 2, generator)
        swaps[step % 2 :: 2] += rate
    turns = torch.tensor([(steps + 1) // 2, steps // 2], device=beta.device)
    return x[-1].view(n, *machine.shape), swaps / turns[torch.arange(len(swaps), device=beta.device) % 2]


def _exchange(
    path: Tempered, x: Tensor, field: Tensor, beta: Tensor, first: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Exchange the states of the pairs (first, first + 1), (first + 2, first + 3), ...; also each pair's share."""
    pairs = (len(x) - first) // 2
    low, high = (slice(first + i, first + 2 * pairs, 2) for i in (0, 1))
    here = path.free_energy(x, field, beta)  # (K, n)
    to_high = path.free_energy(x[low], field[low], beta[high])
    to_low = path.free_energy(x[high], field[high], beta[low])
    log_ratio = here[low] + here[high] - to_high - to_low
    accepted = -torch.empty_like(log_ratio).exponential_(generator=generator) < log_ratio  # log u < log ratio
    order = torch.arange(len(x), device=x.device)[:, None].repeat(1, x.shape[1])  # (K, n): whose state comes here
    order[low] += accepted.long()
    order[high] -= accepted.long()
    chain = torch.arange(x.shape[1], device=x.device)
    return x[order, chain], field[order, chain], accepted.to(beta.dtype).mean(1)


def checked_betas(betas: Sequence[float] | Tensor, like: Tensor) -> Tensor:
    """Inverse temperatures in the dtype and on the device of a tensor, (K,).

    Raises:
        ValueError: if they do not rise from 0 to 1.
    """
    found = torch.as_tensor(betas, dtype=torch.float64, device="cpu").detach()
    rises = found.ndim == 1 and len(found) >= 2 and bool((found.diff() > 0).all())
    if not rises or float(found[0]) != 0 or float(found[-1]) != 1:
        raise ValueError(f"betas must rise from 0 to 1, got {found.tolist()[:8]}")
    return found.to(like)
