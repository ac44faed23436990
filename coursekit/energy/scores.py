r"""Energies and scores: the score of a density does not contain its normaliser.

    p(x) = exp(-E(x)) / Z,    s(x) = grad_x log p(x) = -grad_x E(x).

An *energy* is any function from points (N, ...) to numbers (N,) in which no point looks at another;
a *score* is any function from points to vectors of the same shape.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Energy", "Score", "check_finite", "energy_and_score", "score_of"]

Energy = Callable[[Tensor], Tensor]
"""x (N, ...) -> E(x), (N,) in nats."""

Score = Callable[[Tensor], Tensor]
"""x (N, ...) -> the gradient of log p(x), (N, ...)."""


def energy_and_score(energy: Energy, x: Tensor) -> tuple[Tensor, Tensor]:
    """E(x), (N,), and -grad E(x), (N, ...), in one pass through the energy.

    Where gradients are recorded the score keeps its graph, so that it can be differentiated again, by x and by
    parameters; under `torch.no_grad()` it has none.

    Raises:
        ValueError: if an energy is not finite (looked at on the CPU only), or there is not one for each point.

    Example:
        >>> E, s = energy_and_score(lambda x: 0.5 * x.square().sum(1), torch.tensor([[1.0, 2.0]]))
        >>> E.item(), s.tolist()
        (2.5, [[-1.0, -2.0]])
    """
    recorded = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if recorded and x.requires_grad else x.detach().requires_grad_()
        value = energy(x)
        if value.shape != (len(x),):
            raise ValueError(f"energy must return shape ({len(x)},), got {tuple(value.shape)}")
        check_finite(value, "energy")
        (slope,) = torch.autograd.grad(value.sum(), x, create_graph=recorded)
    return (value, -slope) if recorded else (value.detach(), -slope)


def score_of(energy: Energy) -> Score:
    """The score of an energy, by autograd.

    Example:
        >>> score_of(lambda x: 0.5 * x.square().sum(1))(torch.tensor([[1.0, 2.0]])).tolist()
        [[-1.0, -2.0]]
    """
    return lambda x: energy_and_score(energy, x)[1]


def check_finite(value: Tensor, name: str) -> None:
    """Refuse NaN and infinity. On an accelerator nothing is looked at, which would hold up the device in every step.

    Raises:
        ValueError: naming what is not finite, and the first value that is not.

    Example:
        >>> check_finite(torch.tensor([0.0, float("inf")]), "energy")
        Traceback (most recent call last):
        ValueError: energy must be finite, got inf in 1 of 2 points: take smaller steps, or look at the start
    """
    if value.device.type != "cpu":
        return
    wrong = value.detach()[~torch.isfinite(value.detach())]
    if wrong.numel():
        found = f"{wrong[0].item():g} in {len(wrong)} of {value.numel()} points"
        raise ValueError(f"{name} must be finite, got {found}: take smaller steps, or look at the start")
