"""What the samplers of energies share: their noise, the Metropolis decision, and what they give back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

__all__ = ["Chains", "accept", "check_settings", "choose", "noise_like", "run", "squares"]


@dataclass(frozen=True)
class Chains:
    """Where the chains of an adjusted sampler are, and how willingly they moved.

    Attributes:
        x: (N, ...), or (steps + 1, N, ...) if the trajectory was asked for.
        acceptance: the share of proposals that each chain took, (N,).
    """

    x: Tensor
    acceptance: Tensor


def accept(log_ratio: Tensor, generator: torch.Generator | None) -> Tensor:
    """True with probability min(1, exp(log_ratio)), elementwise."""
    return -torch.empty_like(log_ratio).exponential_(generator=generator) < log_ratio  # log u < log ratio


def choose(taken: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Where a chain took the new state, that one; else the old, (N,) and twice (N, ...) -> (N, ...)."""
    return torch.where(taken.view(-1, *[1] * (new.ndim - 1)), new, old)


def squares(x: Tensor) -> Tensor:
    """The squared length of each point, (N, ...) -> (N,)."""
    return x.square().flatten(1).sum(1)


def noise_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise of the shape, type and device of x."""
    return torch.empty_like(x).normal_(generator=generator)


def run(walk: Iterator[Tensor], x: Tensor, steps: int, trajectory: bool) -> Tensor:
    """The state after so many steps of a walk from x, or all of them, (steps + 1, N, ...)."""
    states = [x]
    for state in islice(walk, steps):
        if not trajectory:
            states.clear()
        states.append(state)
    return torch.stack(states) if trajectory else states[0]


def check_settings(step: float, steps: int) -> None:
    """Refuse a step that is not positive, and fewer than no steps.

    Raises:
        ValueError: naming both.
    """
    if not step > 0 or steps < 0:
        raise ValueError(f"step > 0 and steps >= 0 are wanted, got {step} and {steps}")
