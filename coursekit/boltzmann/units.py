r"""Units of -1 and 1: one of them in a field a, alone, and all states of a few of them.

    P(s) = exp(a s) / (2 cosh a),    P(s = 1) = 1 / (1 + exp(-2 a)),    E[s] = tanh a,    s in {-1, 1}.

Units of 0 and 1, as in most of the literature, are (1 + s) / 2: the same machines with other weights and biases.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["MAX_UNITS", "draw_spins", "every_state", "log_2cosh", "log_sum_over_states"]

MAX_UNITS = 20
"""The most units whose states are enumerated: a million states."""

CHUNK = 2**22  # numbers of a layer that are in memory together


def log_2cosh(a: Tensor) -> Tensor:
    """log(exp(a) + exp(-a)), elementwise and without overflow; its derivative is tanh.

    Example:
        >>> log_2cosh(torch.tensor([0.0, -1000.0]))
        tensor([6.9315e-01, 1.0000e+03])
    """
    return torch.logaddexp(a, -a)


def draw_spins(field: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Units of -1 and 1, each drawn by itself with P(s = 1) = sigmoid(2 field); the field's shape and type.

    Example:
        >>> draw_spins(torch.tensor([-50.0, 50.0]))
        tensor([-1.,  1.])
    """
    uniform = torch.empty_like(field).uniform_(generator=generator)
    return torch.where(uniform < torch.sigmoid(2 * field), 1.0, -1.0).to(field.dtype)


def every_state(units: int, like: Tensor | None = None) -> Tensor:
    """The 2^units states of a few units, (2^units, units), in the order of counting.

    Args:
        units: how many there are, at most `MAX_UNITS`.
        like: whose dtype and device the states have; float32 on the CPU if None.

    Raises:
        ValueError: for more than `MAX_UNITS` units, or none.

    Example:
        >>> every_state(2).tolist()
        [[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]
    """
    if not 1 <= units <= MAX_UNITS:
        raise ValueError(f"units must lie in 1..{MAX_UNITS} for an enumeration, got {units}")
    like = torch.empty(0) if like is None else like
    return _states(torch.arange(2**units, device=like.device), units).to(like.dtype)


def _states(number: Tensor, units: int) -> Tensor:
    """The digits of numbers (n,) in base 2, each -1 or 1, the highest first, (n, units)."""
    place = torch.arange(units - 1, -1, -1, device=number.device)
    return 2 * ((number[:, None] >> place) & 1) - 1


def log_sum_over_states(units: int, log_weight: Callable[[Tensor], Tensor], like: Tensor, width: int) -> Tensor:
    """Log of the sum of exp(log_weight(s)) over all states s (n, units), a scalar; `width` numbers a state at once."""
    numbers = torch.arange(2**units, device=like.device).split(max(1, CHUNK // max(width, units)))
    sums = [log_weight(_states(number, units).to(like.dtype)).logsumexp(0) for number in numbers]
    return torch.stack(sums).logsumexp(0)
