"""Laws whose densities, entropies and best denoisers are known, for the tests of likelihoods."""

import torch
from torch import Tensor

from coursekit.diffusion import SCHEDULES, ExactDenoiser
from coursekit.diffusion.likelihood import Levels
from coursekit.gmm import GaussianMixture

T_MIN = 1e-5


def mixture(D: int = 2) -> GaussianMixture:
    """Three components of different shapes, in float64."""
    g = torch.Generator().manual_seed(0)
    root = 0.4 * torch.randn(3, D, D, generator=g, dtype=torch.float64)
    means = torch.randn(3, D, generator=g, dtype=torch.float64)
    covariances = root @ root.mT + 0.05 * torch.eye(D, dtype=torch.float64)
    return GaussianMixture(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), means, covariances)


def normal(variance: float, D: int = 1) -> GaussianMixture:
    """N(0, variance I)."""
    one = torch.ones(1, dtype=torch.float64)
    return GaussianMixture(one, torch.zeros(1, D).double(), variance * torch.eye(D, dtype=torch.float64)[None])


def exact(truth: GaussianMixture | Levels, schedule: str) -> ExactDenoiser:
    """The best denoiser on a schedule."""
    return ExactDenoiser(truth, SCHEDULES[schedule]())


def levels(kind: str) -> Levels:
    """Independent pixels: nearly black and white, any level alike, or a bumpy law; in float64."""
    prior = torch.full((256,), 1e-4, dtype=torch.float64)
    if kind == "black and white":
        prior[0], prior[255] = 0.7, 0.3
    if kind == "bumpy":
        prior += torch.rand(256, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 8
    return Levels(prior)


def generator(seed: int = 0) -> torch.Generator:
    """A CPU generator."""
    return torch.Generator().manual_seed(seed)


def standard_error(values: Tensor) -> float:
    """Of the mean of independent values."""
    return (values.std() / len(values) ** 0.5).item()
