r"""The linear VAE: the one whose evidence is known exactly.

    z ~ N(0, I_L),   x | z ~ N(W z + b, sigma^2 I_D),   so that   x ~ N(b, W W^T + sigma^2 I).

This is probabilistic principal component analysis. With the covariance of the data decomposed into eigenvalues
l_1 >= l_2 >= ... and eigenvectors u_j, its likelihood is largest for b the mean, sigma^2 = mean of l_j over j > L and
W = (u_j sqrt(l_j - sigma^2))_j. The columns of this W are orthogonal, so the posterior,

    z | x ~ N(M^{-1} W^T (x - b), sigma^2 M^{-1}),   M = W^T W + sigma^2 I,

has a diagonal covariance that does not depend on x: an encoder of one linear layer and one vector of log-variances
contains it, and the bound touches the evidence.

References: Tipping and Bishop, "Probabilistic Principal Component Analysis", J. R. Statist. Soc. B 61, 1999, eq. 5 to
9; Lucas et al., "Don't Blame the ELBO!", 2019, arXiv 1911.02469, section 4.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import LowRankMultivariateNormal

from coursekit.vae.likelihoods import GaussianLikelihood
from coursekit.vae.vae import VAE

__all__ = ["LinearEncoder", "fit_linear_vae", "linear_log_prob", "linear_vae"]


class LinearEncoder(nn.Module):
    """Means linear in x, log-variances the same for every x.

    Example:
        >>> LinearEncoder(5, 2)(torch.zeros(3, 5)).shape
        torch.Size([3, 4])
    """

    def __init__(self, D: int, latent: int) -> None:
        super().__init__()
        self.mean, self.log_variance = nn.Linear(D, latent), nn.Parameter(torch.zeros(latent))

    def forward(self, x: Tensor) -> Tensor:
        """(N, D) -> (N, 2 latent), means and log-variances."""
        return torch.cat([self.mean(x), self.log_variance.expand(len(x), -1)], dim=1)


def linear_vae(D: int, latent: int, **objective: Any) -> VAE:
    """A linear VAE of points (N, D) with one learned sigma, untrained.

    Args:
        D: numbers of x.
        latent: L, numbers of a code.
        **objective: `beta`, `free_nats` and `warmup` of `VariationalModel`.
    """
    return VAE(LinearEncoder(D, latent), nn.Linear(latent, D), GaussianLikelihood(learned=True), latent, **objective)


@torch.no_grad()
def fit_linear_vae(x: Tensor, latent: int) -> VAE:
    """The linear VAE of largest evidence for points x (N, D), in closed form; its bound is the evidence.

    Raises:
        ValueError: if x is no matrix, or latent does not lie in 1..D-1, or nothing is left for sigma.

    Example:
        >>> x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> model = fit_linear_vae(x, latent=1)
        >>> torch.testing.assert_close(model.log_prob_bound(x, samples=1), linear_log_prob(model, x))
    """
    if x.ndim != 2 or not 1 <= latent < x.shape[1]:
        raise ValueError(f"x (N, D) and latent in 1..D-1 are wanted, got {tuple(x.shape)} and {latent}")
    model, b = linear_vae(x.shape[1], latent).to(x), x.mean(0)
    values, vectors = torch.linalg.eigh((x - b).T @ (x - b) / len(x))
    variance = values[:-latent].mean()
    if not variance > 1e-10 * values[-1]:
        raise ValueError(f"latent must leave variance for sigma, got latent = {latent}, which leaves {variance:g}")
    W = vectors[:, -latent:] * (values[-latent:] - variance).sqrt()
    model.decoder.weight.copy_(W)
    model.decoder.bias.copy_(b)
    model.encoder.mean.weight.copy_(W.T / values[-latent:, None])  # M = diag(l_1, ..., l_L)
    model.encoder.mean.bias.copy_(-model.encoder.mean.weight @ b)
    model.encoder.log_variance.copy_((variance / values[-latent:]).log())
    model.likelihood.log_sigma.copy_(0.5 * variance.log())
    return model


def linear_log_prob(model: VAE, x: Tensor) -> Tensor:
    """The exact evidence log p(x) = log N(x; b, W W^T + sigma^2 I) of a linear VAE, trained or not: (N,), in nats.

    Raises:
        TypeError: if the model is no `linear_vae`.
    """
    if not (isinstance(model.decoder, nn.Linear) and isinstance(model.likelihood, GaussianLikelihood)):
        raise TypeError(
            f"model must have a linear decoder and a Gaussian likelihood, got {type(model.decoder).__name__}"
        )
    noise = model.likelihood.sigma.square().expand(x.shape[1])
    return LowRankMultivariateNormal(model.decoder.bias, model.decoder.weight, noise).log_prob(x)
