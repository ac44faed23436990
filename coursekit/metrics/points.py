"""Two sets of points as matrices that can be compared."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["pair_of_matrices"]


def _matrix(x: Tensor, name: str) -> Tensor:
    """Points (N, ...) as float64 on the CPU, (N, D)."""
    if x.ndim < 2 or len(x) < 2:
        raise ValueError(f"{name} must have shape (N, D) with N >= 2, got {tuple(x.shape)}")
    matrix = x.detach().cpu().double().flatten(1)
    if not torch.isfinite(matrix).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return matrix


def pair_of_matrices(a: Tensor, b: Tensor, names: tuple[str, str]) -> tuple[Tensor, Tensor]:
    """Both sets as float64 on the CPU, (N, D) and (M, D).

    Raises:
        ValueError: for fewer than two points, NaN or infinity, or different numbers of features.
    """
    first, second = _matrix(a, names[0]), _matrix(b, names[1])
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"{names[1]} must have {first.shape[1]} features like {names[0]}, got {second.shape[1]}")
    return first, second
