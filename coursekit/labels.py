"""Labels y, (N,): whole numbers 0..num_classes - 1, the same for every model that takes them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["check_labels", "check_num_classes"]


def check_num_classes(num_classes: int | None) -> None:
    """Refuse a number of classes below 1; None stands for a model without labels.

    Raises:
        ValueError: naming num_classes and the value met.
    """
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"num_classes must be at least 1 or None, got {num_classes}")


def check_labels(y: Tensor | None, n: int, num_classes: int | None) -> None:
    """Refuse labels that do not fit n samples of a model, or that are missing where the model needs them.

    On an accelerator the values are not looked at, which would hold up the device.

    Raises:
        ValueError: naming y and what was met.
        TypeError: if the labels are no whole numbers.

    Example:
        >>> check_labels(torch.tensor([0, 9]), n=2, num_classes=10)
        >>> check_labels(torch.tensor([0, 10]), n=2, num_classes=10)
        Traceback (most recent call last):
        ValueError: y must lie in 0..9, got 0..10
    """
    if num_classes is None:
        if y is not None:
            raise ValueError(f"y must be None for a model without labels (num_classes=None), got {tuple(y.shape)}")
        return
    if y is None or y.shape != (n,):
        found = "None" if y is None else f"shape {tuple(y.shape)}"
        raise ValueError(f"y must hold n = {n} labels, got {found}")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise TypeError(f"y must hold whole numbers, got {y.dtype}")
    if y.device.type == "cpu" and n and (int(y.min()) < 0 or int(y.max()) >= num_classes):
        raise ValueError(f"y must lie in 0..{num_classes - 1}, got {int(y.min())}..{int(y.max())}")
