"""Conjugate residuals: M v = b by a few products with M, one system a sample, side by side.

The k-th iterate is the v in the span of b, M b, ..., M^{k-1} b with the smallest residual |b - M v|. So the residual
never grows, whatever M: the Jacobian of a trained network is no exact covariance, neither symmetric nor positive, and a
method that counts on both (conjugate residuals) can throw its first iterates far off. Stopped early, it has solved
for the directions in which M is large. Eisenstat, Elman and Schultz, "Variational Iterative Methods for
Nonsymmetric Systems of Linear Equations", 1983, section 2 (there GCR).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from coursekit.diffusion.chain import expand

__all__ = ["conjugate_residuals"]


def conjugate_residuals(apply: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """v with M v = b for each sample; exact after as many iterations as a symmetric M has distinct eigenvalues.

    A sample whose residual cannot be made smaller stays where it is, without division by zero; no sample sees another.

    Args:
        apply: M, from (N, ...) to (N, ...).
        b: (N, ...).
        iterations: products with M.

    Raises:
        ValueError: for fewer than one iteration.

    Example:
        >>> conjugate_residuals(lambda v: 4.0 * v, torch.tensor([[2.0, 8.0]]), iterations=1)
        tensor([[0.5000, 2.0000]])
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    v, r = torch.zeros_like(b), b
    tried: list[tuple[Tensor, Tensor, Tensor]] = []  # directions p, q = M p, and |q|^2
    for _ in range(iterations):
        p, q = r, apply(r)
        size = _dot(q, q)
        for earlier, product, square in tried:
            share = expand(_ratio(_dot(q, product), square), b)
            p, q = p - share * earlier, q - share * product
        square = _dot(q, q)
        square = torch.where(square > torch.finfo(b.dtype).eps * size, square, 0.0)  # else q is rounding
        step = expand(_ratio(_dot(r, q), square), b)
        v, r = v + step * p, r - step * q
        tried.append((p, q, square))
    return v


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is 0."""
    return torch.where(b > 0, a / torch.where(b > 0, b, 1.0), 0.0)
