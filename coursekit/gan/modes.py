"""Mode coverage: which components of a mixture a generator draws, and how evenly.

A sample counts as good if it lies within three standard deviations of the nearest centre, and then belongs to that
mode; 98.9 % of the samples of round Gaussians in the plane do. A mode is covered if at least `least` good samples
belong to it. After Srivastava et al., "VEEGAN", 2017, arXiv 1705.07761, section 5, and Metz et al., "Unrolled
Generative Adversarial Networks", 2017, arXiv 1611.02163, section 3.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ModeCoverage", "mode_coverage"]


@dataclass(frozen=True)
class ModeCoverage:
    """What was found.

    Attributes:
        covered: modes with enough good samples.
        good: the share of samples that are good.
        kl: of the modes' shares of the good samples to equal shares, in nats: 0 if even, log K if all are of one
            mode; infinite if no sample is good.
        counts: good samples of each mode, (K,).
    """

    covered: int
    good: float
    kl: float
    counts: Tensor


def mode_coverage(x: Tensor, centres: Tensor, std: float, least: int = 20) -> ModeCoverage:
    """Which modes the samples x cover.

    Args:
        x: samples (N, D).
        centres: of the K modes, (K, D), all equally likely.
        std: of each mode, in every direction.
        least: good samples that a covered mode has. 20 suit 1,000 samples or more of eight modes.

    Raises:
        ValueError: if shapes do not fit, a sample is not finite, or a number is not positive.

    Example:
        >>> from coursekit.toys import GaussianRing
        >>> ring = GaussianRing()
        >>> x = ring.sample(2000, torch.Generator().manual_seed(0))
        >>> mode_coverage(x, ring.centres(), ring.std).covered
        8
        >>> mode_coverage(x[x[:, 0] > 1], ring.centres(), ring.std).covered
        3
    """
    if x.ndim != 2 or centres.ndim != 2 or x.shape[1] != centres.shape[1] or not len(x):
        raise ValueError(f"x (N, D) and centres (K, D) are wanted, got {tuple(x.shape)} and {tuple(centres.shape)}")
    if not bool(torch.isfinite(x).all()):
        raise ValueError("x must be finite, got NaN or infinity")
    if not std > 0 or least < 1:
        raise ValueError(f"std > 0 and least >= 1 are wanted, got {std} and {least}")
    distance, mode = torch.cdist(x, centres.to(x)).min(dim=1)
    good = distance <= 3 * std
    counts = mode[good].bincount(minlength=len(centres))
    shares = counts.double() / counts.sum().clamp(min=1)
    kl = float(torch.special.xlogy(shares, shares * len(centres)).sum()) if good.any() else math.inf
    return ModeCoverage(int((counts >= least).sum()), float(good.double().mean()), kl, counts)
