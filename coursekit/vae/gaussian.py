r"""Diagonal Gaussians, the laws that encoders speak in: reparameterised draws and divergences in closed form.

    q(z) = prod_j N(z_j; m_j, s_j^2),        z = m + s eps,   eps ~ N(0, I),

so that a draw is a differentiable function of m and s. For two of them, q and p, per dimension and in nats,

    KL(q_j || p_j) = 1/2 (exp(d_j) - 1 - d_j + (m_j - m'_j)^2 / s'_j^2),        d_j = log s_j^2 - log s'_j^2.

Reference: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014, arXiv 1312.6114, section 2.4 and appendix B.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

__all__ = ["DiagonalGaussian"]


@dataclass(frozen=True)
class DiagonalGaussian:
    """Independent normal numbers, one law for each row.

    Attributes:
        mean: (..., D).
        log_variance: logarithms of the variances, of the same shape.

    Example:
        >>> q = DiagonalGaussian(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2))
        >>> q.kl(q.standard())  # half a squared distance, and nothing
        tensor([[0.5000, 0.0000]])
    """

    mean: Tensor
    log_variance: Tensor

    @classmethod
    def from_outputs(cls, outputs: Tensor) -> Self:
        """Means and log-variances, side by side in what a network returns: (N, 2 D)."""
        return cls(*outputs.chunk(2, dim=-1))

    def standard(self) -> Self:
        """N(0, I) of the same shape: the usual prior."""
        return type(self)(torch.zeros_like(self.mean), torch.zeros_like(self.mean))

    def sample(self, generator: torch.Generator | None = None, samples: int | None = None) -> Tensor:
        """A draw m + s eps for each row, (..., D), or (samples, ..., D); gradients flow to m and s."""
        shape = self.mean.shape if samples is None else (samples, *self.mean.shape)
        eps = torch.empty_like(self.mean.expand(shape)).normal_(generator=generator)
        return self.mean + (0.5 * self.log_variance).exp() * eps

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z) in nats, summed over the dimensions: (..., D) -> (...)."""
        squares = (z - self.mean).square() * (-self.log_variance).exp()
        return -0.5 * (squares + self.log_variance + math.log(2 * math.pi)).sum(dim=-1)

    def kl(self, other: DiagonalGaussian) -> Tensor:
        """KL(self || other) of each dimension, (..., D), in nats; never negative."""
        d = self.log_variance - other.log_variance
        squares = (self.mean - other.mean).square() * (-other.log_variance).exp()
        return 0.5 * (torch.expm1(d) - d + squares)

    def times(self, other: DiagonalGaussian) -> Self:
        """The product of both densities, normalised: precisions add up, means are averaged with them as weights."""
        log_precision = torch.logaddexp(-self.log_variance, -other.log_variance)
        share = torch.sigmoid(other.log_variance - self.log_variance)  # of this one's precision in the sum
        return type(self)(torch.lerp(other.mean, self.mean, share), -log_precision)
