r"""Gaussian mixtures, exactly: the truth that every other model of the course can be compared with.

    p(x) = sum_k w_k N(x; m_k, C_k),    x in R^D,  k = 1..K.

A mixture under noise, x_t = alpha x_0 + sigma eps, is a mixture again, with means alpha m_k and
covariances alpha^2 C_k + sigma^2 I, so its density, its score and its best denoiser

    E[x_0 | x_t] = sum_k r_k(x_t) (m_k + alpha C_k (alpha^2 C_k + sigma^2 I)^{-1} (x_t - alpha m_k)),

r_k(x_t) the responsibilities, are known in closed form (Bishop, "Pattern Recognition and Machine
Learning", 2006, eq. 2.113-2.117 and 9.13). Written in the eigenvectors of C_k, a noise level only changes
eigenvalues: one decomposition serves every alpha and sigma, one per sample if wanted.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["GaussianMixture"]


class GaussianMixture(nn.Module):
    """A mixture of K Gaussians in D dimensions; log-densities are in nats.

    Args:
        weights: (K,) positive; they are divided by their sum.
        means: (K, D).
        covariances: (K, D, D), symmetric and positive definite.

    Raises:
        ValueError: if shapes disagree, a weight is not positive or a covariance is not positive definite.

    Example:
        >>> mixture = GaussianMixture(torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.ones(2, 1, 1))
        >>> round(mixture.log_prob(torch.zeros(1, 1)).item(), 4)  # log N(1; 0, 1)
        -1.4189
    """

    log_weights: Tensor
    means: Tensor
    covariances: Tensor
    cholesky: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        super().__init__()
        _check(weights, means, covariances)
        cholesky, failed = torch.linalg.cholesky_ex(covariances)
        if int(failed.max()):
            raise ValueError(f"covariances must be positive definite, component {int(failed.argmax())} is not")
        eigenvalues, eigenvectors = torch.linalg.eigh(covariances)
        self.register_buffer("log_weights", torch.log(weights / weights.sum()))
        self.register_buffer("means", means)
        self.register_buffer("covariances", covariances)
        self.register_buffer("cholesky", cholesky)
        self.register_buffer("eigenvalues", eigenvalues)  # (K, D)
        self.register_buffer("eigenvectors", eigenvectors)  # (K, D, D), in columns

    @property
    def weights(self) -> Tensor:
        """The mixing proportions (K,), summing to one."""
        return self.log_weights.exp()

    def component_log_prob(self, x: Tensor) -> Tensor:
        """log w_k + log N(x_n; m_k, C_k), (N, K), by triangular solves with the Cholesky factors."""
        self._check_points(x)
        difference = (x[:, None] - self.means).permute(1, 2, 0)  # (K, D, N)
        white = torch.linalg.solve_triangular(self.cholesky, difference, upper=False)
        log_det = self.cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)  # half of log det C_k
        log_normal = -0.5 * white.square().sum(1).T - log_det - 0.5 * x.shape[1] * math.log(2 * math.pi)
        return self.log_weights + log_normal

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), (N,) in nats, for x (N, D)."""
        return torch.logsumexp(self.component_log_prob(x), dim=1)

    def responsibilities(self, x: Tensor) -> Tensor:
        """p(k | x), (N, K), rows summing to one."""
        return torch.softmax(self.component_log_prob(x), dim=1)

    def score(self, x: Tensor) -> Tensor:
        """The gradient of log p by x, (N, D)."""
        return self.diffused_score(x, 1.0, 0.0)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n independent points, (n, D)."""
        return self.sample_labelled(n, generator)[0]

    def sample_labelled(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """n points (n, D) and the components (n,) that they came from."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.empty(n, self.means.shape[1], dtype=self.means.dtype, device=self.means.device)
        noise.normal_(generator=generator)
        return self.means[k] + torch.einsum("nij,nj->ni", self.cholesky[k], noise), k

    def diffused(self, alpha: float, sigma: float) -> GaussianMixture:
        """The mixture of alpha x + sigma eps, for one noise level.

        Raises:
            ValueError: if alpha and sigma leave no variance.
        """
        alpha, sigma = float(alpha), float(sigma)
        noise = sigma**2 * torch.eye(self.means.shape[1], dtype=self.means.dtype, device=self.means.device)
        return GaussianMixture(self.weights, alpha * self.means, alpha**2 * self.covariances + noise)

    def diffused_log_prob(self, x_t: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """log p_t(x_t), (N,) in nats; alpha and sigma are numbers or (N,), one noise level a sample."""
        return torch.logsumexp(self._at_level(x_t, alpha, sigma)[0], dim=1)

    def diffused_score(self, x_t: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """The gradient of log p_t by x_t, (N, D)."""
        log_joint, rotated, variance = self._at_level(x_t, alpha, sigma)
        return self._average(torch.softmax(log_joint, dim=1), -rotated / variance)

    def denoise(self, x_t: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """E[x_0 | x_t], (N, D): the best denoiser in mean square, finite for alpha = 0 and for sigma = 0."""
        log_joint, rotated, variance = self._at_level(x_t, alpha, sigma)
        r = torch.softmax(log_joint, dim=1)
        alpha = _column(alpha, x_t)[..., None]  # (N or 1, 1, 1)
        return r @ self.means + self._average(r, alpha * self.eigenvalues * rotated / variance)

    def _at_level(self, x_t: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """Log-joint (N, K), x_t - alpha m_k in eigenvectors (N, K, D), eigenvalues under noise (N or 1, K, D)."""
        self._check_points(x_t)
        alpha, sigma = _column(alpha, x_t), _column(sigma, x_t)  # (N or 1, 1)
        rotated = torch.einsum("ni,kij->nkj", x_t, self.eigenvectors)
        rotated = rotated - alpha[..., None] * torch.einsum("ki,kij->kj", self.means, self.eigenvectors)
        variance = alpha[..., None] ** 2 * self.eigenvalues + sigma[..., None] ** 2
        log_normal = -0.5 * (rotated.square() / variance + torch.log(2 * math.pi * variance)).sum(-1)
        return self.log_weights + log_normal, rotated, variance

    def _average(self, r: Tensor, rotated: Tensor) -> Tensor:
        """sum_k r_k U_k (rotated)_k: back from eigenvectors, averaged over components, (N, D)."""
        return torch.einsum("nk,nkj,kij->ni", r, rotated, self.eigenvectors)

    def _check_points(self, x: Tensor) -> None:
        if x.ndim != 2 or x.shape[1] != self.means.shape[1]:
            raise ValueError(f"x must have shape (N, {self.means.shape[1]}), got {tuple(x.shape)}")


def _column(value: Tensor | float, x: Tensor) -> Tensor:
    value = torch.as_tensor(value, dtype=x.dtype, device=x.device).reshape(-1, 1)
    if len(value) not in (1, len(x)):
        raise ValueError(f"one noise level, or one for each of {len(x)} samples, is wanted, got {len(value)}")
    return value


def _check(weights: Tensor, means: Tensor, covariances: Tensor) -> None:
    if means.ndim != 2 or weights.shape != means.shape[:1] or covariances.shape != (*means.shape, means.shape[1]):
        raise ValueError(
            "weights (K,), means (K, D), covariances (K, D, D) are wanted, "
            f"got {tuple(weights.shape)}, {tuple(means.shape)}, {tuple(covariances.shape)}"
        )
    if not bool((weights > 0).all() & torch.isfinite(weights).all()):
        raise ValueError(f"weights must be positive and finite, got {weights.tolist()}")
    if not bool(torch.isfinite(means).all() & torch.isfinite(covariances).all()):
        raise ValueError("means and covariances must be finite, got NaN or infinity")
    if not torch.allclose(covariances, covariances.mT, rtol=1e-4, atol=1e-8):
        raise ValueError("covariances must be symmetric")
