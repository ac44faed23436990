"""Steering the animals: every kind of guidance under one name, and how varied what it draws still is.

Guidance trades variety for recognisability. Both are measured on the features of the course classifier, so that the
kinds can be compared scale by scale: `benchmarks/guidance.py` does it and keeps the table in
data/guidance-sweep.json.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from coursekit.diffusion.guidance import (
    AutoGuidance,
    ClassifierFree,
    ClassifierGuidance,
    DynamicThreshold,
    IntervalLimited,
    Rescaled,
    Unlabelled,
)

__all__ = ["GUIDES", "Guide", "diversity"]

Guide = Callable[[nn.Module, nn.Module, nn.Module, float], nn.Module]
"""(denoiser, noise-aware classifier, worse denoiser, scale) -> the guided denoiser."""

GUIDES: dict[str, Guide] = {
    "classifier": lambda denoiser, classifier, worse, w: ClassifierGuidance(Unlabelled(denoiser), classifier, w),
    "classifier and label": lambda denoiser, classifier, worse, w: ClassifierGuidance(denoiser, classifier, w - 1),
    "classifier-free": lambda denoiser, classifier, worse, w: ClassifierFree(denoiser, w),
    "interval": lambda denoiser, classifier, worse, w: IntervalLimited(ClassifierFree(denoiser, w), 0.25, 4.0),
    "rescaled": lambda denoiser, classifier, worse, w: Rescaled(ClassifierFree(denoiser, w), 0.7),
    "threshold": lambda denoiser, classifier, worse, w: DynamicThreshold(ClassifierFree(denoiser, w), 0.995),
    "auto": lambda denoiser, classifier, worse, w: AutoGuidance(denoiser, worse, w),
}
"""Every kind by name; scale 1 is the conditional law for all, exactly or, with "classifier", as far as it knows it."""


def diversity(features: Tensor, labels: Tensor, real: Tensor, real_labels: Tensor) -> float:
    """How far two samples of one class lie apart, relative to two real pictures of that class: 1 is as varied.

    The mean Euclidean distance between the features of different samples of a class, averaged over classes, divided by
    the same of the real pictures.

    Args:
        features: (N, F), of samples.
        labels: (N,), what was asked for.
        real: (M, F).
        real_labels: (M,).

    Raises:
        ValueError: if a class of the samples has fewer than two samples, or fewer than two real pictures.

    Example:
        >>> x, y = torch.tensor([[0.0], [1.0], [5.0], [7.0]]), torch.tensor([0, 0, 1, 1])
        >>> diversity(x / 2, y, x, y)
        0.5
    """
    classes = labels.unique().tolist()
    found, wanted = ([_apart(x[y == c]) for c in classes] for x, y in ((features, labels), (real, real_labels)))
    return sum(found) / sum(wanted)


def _apart(x: Tensor) -> float:
    if len(x) < 2:
        raise ValueError(f"two samples of a class are wanted at least, got {len(x)}")
    return float(torch.pdist(x).mean())
