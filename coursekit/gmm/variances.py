"""Covariances without correlations: a variance for each pixel and component (`Diagonal`), or each component."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from coursekit.gmm.covariances import OneTensor, Residuals
from coursekit.gmm.moments import Moments

__all__ = ["Diagonal", "Spherical"]


class Diagonal(OneTensor):
    """Variances (K, D), one for each component and dimension: K D numbers.

    Args:
        value: (K, D), positive.

    Example:
        >>> Diagonal(torch.tensor([[1.0, 4.0]])).half_log_det(2).exp()  # the square root of the determinant
        tensor([2.])
    """

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)

    @property
    def eigenvalues(self) -> Tensor:
        """The variances (K, D)."""
        return self.value

    def check(self, K: int, D: int) -> None:
        if self.value.shape != (K, D):
            raise ValueError(f"variances must have shape (K, D) = {(K, D)}, got {tuple(self.value.shape)}")
        self._check_positive()

    def _check_positive(self) -> None:
        if not bool(((self.value > 0) & torch.isfinite(self.value)).all()):
            raise ValueError("variances must be positive and finite")

    def dense(self, K: int, D: int) -> Tensor:
        return torch.diag_embed(self.eigenvalues.expand(K, D))

    def count_parameters(self, K: int, D: int) -> int:
        return self.value.numel()

    def residuals(self, x: Tensor, means: Tensor) -> tuple[Tensor, Residuals]:
        white = (x.T - means[..., None]) * self.eigenvalues.rsqrt()[..., None]  # (K, D, n)
        squares = white.square()
        return squares.sum(1), (white, squares)

    def half_log_det(self, D: int) -> Tensor:
        return 0.5 * self.value.log().sum(1)

    def sample(self, k: Tensor, D: int, generator: torch.Generator | None) -> Tensor:
        noise = torch.empty(len(k), D, dtype=self.value.dtype, device=self.value.device).normal_(generator=generator)
        return self.eigenvalues.sqrt()[k] * noise

    def marginal(self, dims: Tensor) -> Self:
        return self.like(self.value[:, dims])

    def conditional(self, seen: Tensor, hidden: Tensor) -> Self:
        return self.marginal(hidden)

    def regress(self, seen: Tensor, hidden: Tensor, difference: Tensor) -> Tensor:
        return difference.new_zeros(len(difference), len(hidden), difference.shape[2])

    def diffused(self, alpha: float, sigma: float) -> Self:
        return self.like(alpha**2 * self.value + sigma**2)

    def rotate(self, x: Tensor) -> Tensor:
        return x

    def rotate_back(self, r: Tensor, x: Tensor) -> Tensor:
        return torch.einsum("nk,nkj->nj", r, x)

    @classmethod
    def start(cls, residuals: Tensor, K: int) -> Self:
        return cls(residuals.square().mean(0).repeat(K, 1))

    @staticmethod
    def outer(a: Tensor, b: Tensor) -> Tensor:
        return a * b

    @staticmethod
    def spread(variances: Tensor) -> Tensor:
        return variances

    @staticmethod
    def sharing(count: Tensor) -> Tensor:
        return count[:, None]

    def sums(self, residuals: Residuals, r: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.bmm(part, r[..., None])[..., 0] for part in residuals)

    def moments(self, count: Tensor, sums: tuple[Tensor, ...]) -> Moments:
        return Moments(count, sums[0] * self.eigenvalues.sqrt(), (sums[1] * self.eigenvalues,))

    def energy(self, scale: Tensor) -> Tensor:
        return 2 * self.half_log_det(len(scale)).sum() + (scale / self.eigenvalues).sum()

    def smallest(self) -> Tensor:
        return self.eigenvalues.amin(1)

    def mended(self, floor: float) -> Self:
        rounding = torch.finfo(self.value.dtype).eps ** 2 * self.value.max()
        return self.like(self.value.clamp(min=floor).maximum(rounding))

    def free(self) -> dict[str, Tensor]:
        return {"log_variance": self.value.log()}

    @classmethod
    def from_free(cls, free: dict[str, Tensor]) -> Self:
        return cls(free["log_variance"].exp())


class Spherical(Diagonal):
    """One variance (K,) for each component, in every direction: K numbers.

    Args:
        value: (K,), positive.

    Example:
        >>> Spherical(torch.tensor([4.0])).dense(1, 2)
        tensor([[[4., 0.],
                 [0., 4.]]])
    """

    @property
    def eigenvalues(self) -> Tensor:
        """The variances (K, 1)."""
        return self.value[:, None]

    def check(self, K: int, D: int) -> None:
        if self.value.shape != (K,):
            raise ValueError(f"variances must have shape (K,) = ({K},), got {tuple(self.value.shape)}")
        self._check_positive()

    def half_log_det(self, D: int) -> Tensor:
        return 0.5 * D * self.value.log()

    def marginal(self, dims: Tensor) -> Self:
        return self

    @classmethod
    def start(cls, residuals: Tensor, K: int) -> Self:
        return cls(residuals.square().mean().repeat(K))

    @staticmethod
    def outer(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).mean(1)

    @staticmethod
    def spread(variances: Tensor) -> Tensor:
        return variances.mean()

    @staticmethod
    def sharing(count: Tensor) -> Tensor:
        return count

    def moments(self, count: Tensor, sums: tuple[Tensor, ...]) -> Moments:
        diagonal = super().moments(count, sums)
        return Moments(count, diagonal.first, (diagonal.second[0].mean(1),))
