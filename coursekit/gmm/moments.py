r"""What EM knows while it maximises: the data's weighted moments, and what was believed before the data.

With responsibilities r_nk = p(k | x_n) and d_nk = x_n - m_k, m_k the present means, EM needs of the data only

    sum_n r_nk,    sum_n r_nk d_nk,    sum_n r_nk d_nk d_nk^T    (or what a structure keeps of it),

so that chunks of data, and batches of a stream, add up. Sums around the present means stay exact where sums around
the origin would cancel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Moments", "Prior"]


@dataclass(frozen=True)
class Moments:
    """Weighted sums over points, around the means (K, D) of the mixture that gave the weights.

    Attributes:
        count: sum_n r_nk, (K,).
        first: sum_n r_nk d_nk, (K, D).
        second: what a structure of covariances sums besides, for `Full` one tensor (K, D, D).
    """

    count: Tensor
    first: Tensor
    second: tuple[Tensor, ...]

    def blend(self, other: Moments, share: float) -> Moments:
        """(1 - share) of these and `share` of the others, both around the same means."""
        second = tuple(torch.lerp(a, b, share) for a, b in zip(self.second, other.second, strict=True))
        return Moments(torch.lerp(self.count, other.count, share), torch.lerp(self.first, other.first, share), second)

    def scaled(self, factor: float) -> Moments:
        """Every sum times a factor."""
        return Moments(self.count * factor, self.first * factor, tuple(part * factor for part in self.second))


@dataclass(frozen=True)
class Prior:
    """A law of the parameters: with it EM finds the most probable mixture (MAP), not the most likely one.

    log p = (concentration - 1) sum_k log w_k - strength / 2 sum_k [log det C_k + tr(C_k^-1 diag(scale))] + constant.

    The weights have a Dirichlet law; each covariance matrix has an inverse-Wishart law with strength - D - 1 degrees
    of freedom (an inverse-gamma law for variances), as if `strength` points of covariance diag(scale) had been seen
    around each mean, wherever it lies. Fraley and Raftery, "Bayesian regularization for normal mixture estimation
    and model-based clustering", 2007, section 3, with a flat law of the means.

    Attributes:
        concentration: at least 1, which is flat.
        strength: in points, at least 0, which is flat.
        scale: a variance, or one for each dimension, (D,).

    Raises:
        ValueError: for a number outside these ranges.

    Example:
        >>> Prior(strength=4.0, scale=0.1)
        Prior(concentration=1.0, strength=4.0, scale=0.1)
    """

    concentration: float = 1.0
    strength: float = 0.0
    scale: float | Tensor = 1.0

    def __post_init__(self) -> None:
        if not self.concentration >= 1:
            raise ValueError(f"concentration must be at least 1, got {self.concentration}")
        if not self.strength >= 0:
            raise ValueError(f"strength must be at least 0, got {self.strength}")
        if not bool((torch.as_tensor(self.scale) > 0).all()):
            raise ValueError(f"scale must be positive, got {self.scale}")

    def variances(self, means: Tensor) -> Tensor:
        """`scale` for each dimension, (D,), on the device and of the dtype of means (K, D)."""
        return torch.as_tensor(self.scale, dtype=means.dtype, device=means.device).expand(means.shape[1])
