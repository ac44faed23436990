"""Conjugate gradients, one system a sample, side by side."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from coursekit.diffusion.chain import expand

__all__ = ["conjugate_gradients"]


def conjugate_gradients(apply: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """v with M v = b for each sample, by so many products with M; exact after as many as M has distinct eigenvalues.

    M must be symmetric and positive. The Jacobian of a trained network is so only nearly: a sample that meets a
    direction of no positive curvature stops where it is, and each gets the iterate with its smallest residual. No sample
    sees another one. Hestenes and Stiefel, "Methods of Conjugate Gradients for Solving Linear Systems", 1952.

    Args:
        apply: M, from (N, ...) to (N, ...).
        b: (N, ...).
        iterations: products with M.

    Raises:
        ValueError: for fewer than one iteration.

    Example:
        >>> conjugate_gradients(lambda v: 4.0 * v, torch.tensor([[2.0, 8.0]]), iterations=1)
        tensor([[0.5000, 2.0000]])
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    v, r, p = torch.zeros_like(b), b, b
    rr = _dot(r, r)
    best, smallest, going = v, rr, rr > 0
    for _ in range(iterations):
        Mp = apply(p)
        curvature = _dot(p, Mp)
        going = going & (curvature > 0)
        step = expand(torch.where(going, rr / torch.where(going, curvature, 1.0), 0.0), b)
        v, r = v + step * p, r - step * Mp
        rr, before = _dot(r, r), rr
        better = going & (rr < smallest)
        best, smallest = torch.where(expand(better, b), v, best), torch.where(better, rr, smallest)
        going = going & (rr > 0)
        p = r + expand(torch.where(going, rr / torch.where(going, before, 1.0), 0.0), b) * p
    return best


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)
