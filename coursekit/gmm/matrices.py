"""Covariances that are matrices: one for each component (`Full`), or one that all components share (`Tied`)."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from coursekit.gmm.covariances import OneTensor, Residuals
from coursekit.gmm.moments import Moments

__all__ = ["Full", "Tied"]


class Full(OneTensor):
    """A matrix for each component: K D (D + 1) / 2 numbers.

    Args:
        value: (K, D, D), symmetric and positive definite.

    Example:
        >>> Full(4 * torch.eye(2)[None]).half_log_det(2).exp()  # the square root of the determinant
        tensor([4.])
    """

    cholesky: Tensor  # lower triangular, L L^T = C
    white: Tensor  # its inverse
    eigenvectors: Tensor  # in columns

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        cholesky, failed = torch.linalg.cholesky_ex(value)
        identity = torch.eye(value.shape[-1], dtype=value.dtype, device=value.device)
        self.register_buffer("value", value)
        self.register_buffer("cholesky", cholesky)
        self.register_buffer("white", torch.linalg.solve_triangular(cholesky, identity.expand_as(value), upper=False))
        self.register_buffer("failed", failed)

    def decompose(self) -> None:
        eigenvalues, eigenvectors = torch.linalg.eigh(self.value)
        self.register_buffer("eigenvalues", eigenvalues)
        self.register_buffer("eigenvectors", eigenvectors)

    def check(self, K: int, D: int) -> None:
        if self.value.shape != (K, D, D):
            raise ValueError(f"covariances must have shape (K, D, D) = {(K, D, D)}, got {tuple(self.value.shape)}")
        self._check_matrices()

    def _check_matrices(self) -> None:
        if not bool(torch.isfinite(self.value).all()):
            raise ValueError("covariances must be finite, got NaN or infinity")
        if not torch.allclose(self.value, self.value.mT, rtol=1e-4, atol=1e-8):
            raise ValueError("covariances must be symmetric")
        if int(self.failed.max()):
            raise ValueError(f"covariances must be positive definite, component {int(self.failed.argmax())} is not")

    def dense(self, K: int, D: int) -> Tensor:
        return self.value.expand(K, D, D)

    def count_parameters(self, K: int, D: int) -> int:
        return K * D * (D + 1) // 2

    def residuals(self, x: Tensor, means: Tensor) -> tuple[Tensor, Residuals]:
        centre = means.mean(0)  # near the origin differences of products lose no digits
        offsets = self.white @ (means - centre)[..., None]  # (K, D, 1)
        points = torch.cat([(x - centre).T, x.new_full((1, len(x)), -1.0)])  # (D + 1, n)
        white = (torch.cat([self.white, offsets], dim=2).flatten(0, 1) @ points).view(*means.shape, -1)
        return white.square().sum(1), (white,)

    def half_log_det(self, D: int) -> Tensor:
        return self.cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1).reshape(-1)

    def sample(self, k: Tensor, D: int, generator: torch.Generator | None) -> Tensor:
        noise = torch.empty(len(k), D, dtype=self.value.dtype, device=self.value.device).normal_(generator=generator)
        return torch.einsum("nij,nj->ni", self.cholesky[k], noise)

    def marginal(self, dims: Tensor) -> Self:
        return self.like(self.value[..., dims[:, None], dims])

    def conditional(self, seen: Tensor, hidden: Tensor) -> Self:
        cross = self.value[..., seen[:, None], hidden]
        white = torch.linalg.solve_triangular(self.marginal(seen).cholesky, cross, upper=False)
        return self.like(self.value[..., hidden[:, None], hidden] - white.mT @ white)

    def regress(self, seen: Tensor, hidden: Tensor, difference: Tensor) -> Tensor:
        cross = self.value[..., hidden[:, None], seen]
        return cross @ torch.cholesky_solve(difference, self.marginal(seen).cholesky.expand(len(difference), -1, -1))

    def diffused(self, alpha: float, sigma: float) -> Self:
        return self.like(alpha**2 * self.value + sigma**2 * torch.eye(self.value.shape[-1]).to(self.value))

    def rotate(self, x: Tensor) -> Tensor:
        return torch.einsum("nki,kij->nkj", x, self.eigenvectors)

    def rotate_back(self, r: Tensor, x: Tensor) -> Tensor:
        return torch.einsum("nk,nkj,kij->ni", r, x, self.eigenvectors)

    @classmethod
    def start(cls, residuals: Tensor, K: int) -> Self:
        return cls((residuals.T @ residuals / len(residuals)).repeat(K, 1, 1))

    @staticmethod
    def outer(a: Tensor, b: Tensor) -> Tensor:
        return a[:, :, None] * b[:, None]

    @staticmethod
    def spread(variances: Tensor) -> Tensor:
        return torch.diag(variances)

    @staticmethod
    def sharing(count: Tensor) -> Tensor:
        return count[:, None, None]

    def like(self, value: Tensor) -> Self:
        return type(self)((value + value.mT) / 2)  # symmetric to the last bit

    def sums(self, residuals: Residuals, r: Tensor) -> tuple[Tensor, ...]:
        (white,) = residuals
        weighted = white * r[:, None]
        return weighted.sum(2), torch.bmm(weighted, white.mT)

    def moments(self, count: Tensor, sums: tuple[Tensor, ...]) -> Moments:
        first, second = sums
        first = (self.cholesky @ first[..., None])[..., 0]
        return Moments(count, first, (self.cholesky @ second @ self.cholesky.mT,))

    def energy(self, scale: Tensor) -> Tensor:
        return 2 * self.half_log_det(len(scale)).sum() + (self.white.square() * scale).sum()

    def smallest(self) -> Tensor:
        return torch.linalg.eigvalsh(self.value)[..., 0].reshape(-1)

    def mended(self, floor: float) -> Self:
        if not bool((self.failed > 0).any()):
            return self
        eigenvalues, vectors = torch.linalg.eigh(self.value)
        rounding = 10 * torch.finfo(self.value.dtype).eps * self.value.shape[-1]
        lowest = (rounding * eigenvalues[..., -1:]).clamp(min=max(floor, torch.finfo(self.value.dtype).tiny))
        return self.like(vectors * torch.maximum(eigenvalues, lowest)[..., None, :] @ vectors.mT)

    def free(self) -> dict[str, Tensor]:
        return {"lower": self.cholesky.tril(-1), "log_diagonal": self.cholesky.diagonal(dim1=-2, dim2=-1).log()}

    @classmethod
    def from_free(cls, free: dict[str, Tensor]) -> Self:
        root = free["lower"].tril(-1) + torch.diag_embed(free["log_diagonal"].exp())
        return cls(root @ root.mT)


class Tied(Full):
    """One matrix (D, D) for all components: D (D + 1) / 2 numbers."""

    def decompose(self) -> None:
        super().decompose()
        self.eigenvalues = self.eigenvalues[None]

    def check(self, K: int, D: int) -> None:
        if self.value.shape != (D, D):
            raise ValueError(f"a tied covariance must have shape (D, D) = {(D, D)}, got {tuple(self.value.shape)}")
        self._check_matrices()

    def count_parameters(self, K: int, D: int) -> int:
        return D * (D + 1) // 2

    def sample(self, k: Tensor, D: int, generator: torch.Generator | None) -> Tensor:
        noise = torch.empty(len(k), D, dtype=self.value.dtype, device=self.value.device).normal_(generator=generator)
        return noise @ self.cholesky.T

    def rotate(self, x: Tensor) -> Tensor:
        return x @ self.eigenvectors

    def rotate_back(self, r: Tensor, x: Tensor) -> Tensor:
        return torch.einsum("nk,nkj->nj", r, x) @ self.eigenvectors.T

    def residuals(self, x: Tensor, means: Tensor) -> tuple[Tensor, Residuals]:
        centre = means.mean(0)
        points, offsets = self.white @ (x - centre).T, (means - centre) @ self.white.T
        white = points - offsets[..., None]  # (K, D, n)
        return white.square().sum(1), (white,)

    @classmethod
    def start(cls, residuals: Tensor, K: int) -> Self:
        return cls(residuals.T @ residuals / len(residuals))

    @staticmethod
    def outer(a: Tensor, b: Tensor) -> Tensor:
        return a.T @ b

    @staticmethod
    def sharing(count: Tensor) -> Tensor:
        return count.sum()

    def sums(self, residuals: Residuals, r: Tensor) -> tuple[Tensor, ...]:
        first, second = super().sums(residuals, r)
        return first, second.sum(0)
