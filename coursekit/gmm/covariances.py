r"""The covariances C_k of a mixture, k = 1..K: what may differ between components, and what they share.

    Full    C_k any positive definite matrix        Diagonal     C_k = diag(v_k)
    Tied    C_k = C, one matrix for all             Spherical    C_k = v_k I

and, in `coursekit.gmm.low_rank`, C_k = W_k W_k^T + diag(psi_k). Only Full and Tied hold D x D matrices.

A structure knows the coordinates in which a residual x - m_k is white, what EM sums there and which covariances of
its kind are the most probable given these sums. In eigenvectors noise only changes eigenvalues: one decomposition
serves every noise level. Inside EM points lie side by side in memory, (K, D, n), and come in chunks.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor, nn

from coursekit.gmm.moments import Moments

__all__ = ["Covariance", "OneTensor", "Residuals"]

Residuals = tuple[Tensor, ...]
"""x - m_k in the coordinates that a structure likes, each (K, ..., n)."""


class Covariance(nn.Module, ABC):
    """The covariance matrices of K components in D dimensions, in one structure."""

    # A mixture asks for:

    def decompose(self) -> None:
        """Find the eigenvectors that `noisy` needs; a mixture asks once, EM does without."""

    @abstractmethod
    def check(self, K: int, D: int) -> None:
        """Raise ValueError unless these are K positive definite covariances in D dimensions."""

    @abstractmethod
    def dense(self, K: int, D: int) -> Tensor:
        """The matrices, (K, D, D)."""

    @abstractmethod
    def count_parameters(self, K: int, D: int) -> int:
        """How many numbers are free."""

    @abstractmethod
    def residuals(self, x: Tensor, means: Tensor) -> tuple[Tensor, Residuals]:
        """(x - m_k)^T C_k^-1 (x - m_k), (K, n), and the residuals that `moments` sums."""

    @abstractmethod
    def half_log_det(self, D: int) -> Tensor:
        """log det C_k / 2, (K,) or (1,)."""

    @abstractmethod
    def sample(self, k: Tensor, D: int, generator: torch.Generator | None) -> Tensor:
        """A draw from N(0, C_k) for each entry of k (n,), (n, D)."""

    @abstractmethod
    def marginal(self, dims: Tensor) -> Self:
        """The covariances of some dimensions (d,)."""

    @abstractmethod
    def conditional(self, seen: Tensor, hidden: Tensor) -> Self:
        """The covariances of the hidden dimensions once the seen ones are known."""

    @abstractmethod
    def regress(self, seen: Tensor, hidden: Tensor, difference: Tensor) -> Tensor:
        """Cov_k(hidden, seen) Cov_k(seen, seen)^-1 difference, (K, h, n), for differences (K, s, n)."""

    # Under noise, C_k becomes alpha^2 C_k + sigma^2 I, with alpha and sigma (1, 1) or (N, 1):

    @abstractmethod
    def diffused(self, alpha: float, sigma: float) -> Self:
        """The covariances at one noise level."""

    @abstractmethod
    def noisy(self, x_t: Tensor, means: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Residuals]:
        """log N(x_t; alpha m_k, alpha^2 C_k + sigma^2 I), (N, K), and what the next two need."""

    @abstractmethod
    def precise(self, r: Tensor, noisy: Residuals) -> Tensor:
        """sum_k r_k (alpha^2 C_k + sigma^2 I)^-1 (x_t - alpha m_k), (N, D), for r (N, K)."""

    @abstractmethod
    def shrunk(self, r: Tensor, noisy: Residuals, alpha: Tensor) -> Tensor:
        """sum_k r_k alpha C_k (alpha^2 C_k + sigma^2 I)^-1 (x_t - alpha m_k), (N, D)."""

    # EM asks for:

    @classmethod
    @abstractmethod
    def start(cls, residuals: Tensor, K: int) -> Self:
        """A first guess from the residuals (n, D) of points from their nearest means."""

    @abstractmethod
    def sums(self, residuals: Residuals, r: Tensor) -> tuple[Tensor, ...]:
        """What is summed over points with weights r (K, n), in the structure's own coordinates."""

    @abstractmethod
    def moments(self, count: Tensor, sums: tuple[Tensor, ...]) -> Moments:
        """All chunks' sums in the coordinates of the data."""

    @abstractmethod
    def moved(self, moments: Moments, shift: Tensor) -> Moments:
        """The moments around means that lie `shift` (K, D) further."""

    @abstractmethod
    def maximise(self, moments: Moments, strength: float, scale: Tensor, floor: float) -> tuple[Tensor, Self]:
        """The M-step: a shift of the means (K, D) and the most probable covariances.

        Args:
            moments: around the present means.
            strength: of the prior, in points.
            scale: its variances, (D,).
            floor: a variance added to every diagonal.
        """

    @abstractmethod
    def energy(self, scale: Tensor) -> Tensor:
        """sum log det C + tr(C^-1 diag(scale)) over the distinct matrices: what a `Prior` weighs."""

    @abstractmethod
    def smallest(self) -> Tensor:
        """The smallest variance of each component in any direction (or a lower bound), (K,) or (1,)."""

    def mended(self, floor: float) -> Self:
        """The covariances with variances raised to what the dtype can tell from zero, where rounding lost them."""
        return self

    # Gradient descent asks for:

    @abstractmethod
    def free(self) -> dict[str, Tensor]:
        """Unconstrained numbers that say the same."""

    @classmethod
    @abstractmethod
    def from_free(cls, free: dict[str, Tensor]) -> Self:
        """The covariances from unconstrained numbers, differentiable."""

    def log_normal(self, squared: Tensor, D: int) -> Tensor:
        """log N(x; m_k, C_k), (K, n), from the first result of `residuals`."""
        constant = -self.half_log_det(D) - 0.5 * D * math.log(2 * math.pi)
        return torch.add(constant[:, None], squared, alpha=-0.5)


class OneTensor(Covariance):
    """Covariances that one tensor describes, the structures of scikit-learn; in their eigenvectors noise is simple."""

    value: Tensor
    eigenvalues: Tensor  # (K or 1, D or 1)

    @staticmethod
    @abstractmethod
    def outer(a: Tensor, b: Tensor) -> Tensor:
        """What the structure keeps of a_k b_k^T, for a and b (K, D); it has the shape of `value`."""

    @staticmethod
    @abstractmethod
    def spread(variances: Tensor) -> Tensor:
        """The covariance diag(variances), (D,), in a shape that broadcasts with `value`."""

    @staticmethod
    @abstractmethod
    def sharing(count: Tensor) -> Tensor:
        """The points (K,) that each entry of `value` describes, in a shape that broadcasts with it."""

    @abstractmethod
    def rotate(self, x: Tensor) -> Tensor:
        """Vectors (N, K or 1, D) in the eigenvectors of each C_k, (N, K or 1, D)."""

    @abstractmethod
    def rotate_back(self, r: Tensor, x: Tensor) -> Tensor:
        """sum_k r_k U_k x_k: (N, D) from weights (N, K) and vectors (N, K, D) in eigenvectors."""

    def noisy(self, x_t: Tensor, means: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Residuals]:
        alpha, sigma = alpha[..., None], sigma[..., None]
        rotated = self.rotate(x_t[:, None]) - alpha * self.rotate(means[None])  # (N, K, D)
        variance = (alpha**2 * self.eigenvalues + sigma**2).expand(-1, -1, x_t.shape[1])
        log_normal = -0.5 * (rotated.square() / variance + torch.log(2 * math.pi * variance)).sum(-1)
        return log_normal, (rotated, variance)

    def precise(self, r: Tensor, noisy: Residuals) -> Tensor:
        rotated, variance = noisy
        return self.rotate_back(r, rotated / variance)

    def shrunk(self, r: Tensor, noisy: Residuals, alpha: Tensor) -> Tensor:
        rotated, variance = noisy
        return self.rotate_back(r, alpha[..., None] * self.eigenvalues * rotated / variance)

    def moved(self, moments: Moments, shift: Tensor) -> Moments:
        first = moments.first - moments.count[:, None] * shift
        second = moments.second[0] - self.outer(moments.first, shift) - self.outer(shift, first)
        return Moments(moments.count, first, (second,))

    def maximise(self, moments: Moments, strength: float, scale: Tensor, floor: float) -> tuple[Tensor, Self]:
        tiny = 10 * torch.finfo(scale.dtype).eps  # points: a component that has lost all its own stays as it is
        shift = moments.first / (moments.count + tiny)[:, None]
        scatter = moments.second[0] - self.outer(shift, moments.first) + tiny * self.value
        mode = (scatter + strength * self.spread(scale)) / (self.sharing(moments.count) + strength + tiny)
        return shift, self.like(mode + self.spread(torch.full_like(scale, floor)))

    def like(self, value: Tensor) -> Self:
        """Covariances of this structure with another value."""
        return type(self)(value)
