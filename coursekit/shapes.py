"""Shapes of one point, and the points (N, *shape) that a model takes: the same checks for every model that has them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

__all__ = ["check_points", "check_start", "checked_shape"]


def checked_shape(shape: int | Sequence[int]) -> tuple[int, ...]:
    """The shape of one x as a tuple.

    Raises:
        ValueError: if a size is not positive.
    """
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    if not sizes or min(sizes) < 1:
        raise ValueError(f"shape must hold positive numbers, got {shape}")
    return sizes


def check_points(x: Tensor, shape: tuple[int, ...], name: str = "x") -> None:
    """Refuse anything but points (N, *shape).

    Raises:
        ValueError: naming what was met and what is wanted.

    Example:
        >>> import torch
        >>> check_points(torch.zeros(5, 2), (2,))
        >>> check_points(torch.zeros(2), (2,))
        Traceback (most recent call last):
        ValueError: x must have shape (N, 2), got (2,)
    """
    if tuple(x.shape[1:]) != shape or x.ndim != len(shape) + 1:
        raise ValueError(f"{name} must have shape (N, {', '.join(map(str, shape))}), got {tuple(x.shape)}")


def check_start(start: Tensor, n: int, shape: tuple[int, ...]) -> None:
    """Refuse a number of chains below one, or starts for another number of chains.

    Raises:
        ValueError: naming n or start.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if start.shape != (n, *shape):
        raise ValueError(f"start must have shape {(n, *shape)}, got {tuple(start.shape)}")
