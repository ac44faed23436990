"""Densities whose energy, score and moments are known, for the tests of this folder; all in float64."""

import torch
from torch import Tensor

from coursekit.gmm import GaussianMixture


def gaussian(D: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A mean (D,), a covariance and its inverse (D, D), with eigenvalues of 0.3 to 2."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64)).Q
    values = torch.linspace(0.3, 2.0, D, dtype=torch.float64)
    covariance = basis @ torch.diag(values) @ basis.T
    return torch.randn(D, generator=generator, dtype=torch.float64), covariance, torch.linalg.inv(covariance)


def quadratic(mean: Tensor, precision: Tensor):
    """The energy of a Gaussian, its constant dropped."""
    return lambda x: 0.5 * torch.einsum("nd,de,ne->n", x - mean, precision, x - mean)


def mixture() -> GaussianMixture:
    """Two unequal Gaussians in the plane, not far apart."""
    means = torch.tensor([[-1.5, 0.0], [1.0, 0.5]], dtype=torch.float64)
    covariances = torch.tensor([[[0.3, 0.1], [0.1, 0.4]], [[0.5, -0.1], [-0.1, 0.2]]], dtype=torch.float64)
    return GaussianMixture(torch.tensor([0.3, 0.7], dtype=torch.float64), means, covariances)


def moments(mixture: GaussianMixture) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D) of a mixture."""
    w, m = mixture.weights, mixture.means
    mean = w @ m
    second = torch.einsum("k,kde->de", w, mixture.covariances) + torch.einsum("k,kd,ke->de", w, m, m)
    return mean, second - torch.outer(mean, mean)


def check_moments(x: Tensor, mean: Tensor, covariance: Tensor, deviations: float = 4.5) -> None:
    """Mean and covariance of independent draws x (N, D) within so many standard errors, entry by entry."""
    centred = x - mean
    products = centred[:, :, None] * centred[:, None, :]
    for found, truth in ((x, mean), (products, covariance)):
        error = found.std(0) / len(x) ** 0.5
        assert float(((found.mean(0) - truth).abs() / error).max()) < deviations


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
