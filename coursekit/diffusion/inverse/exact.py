r"""The truth beside the approximations: the posterior of a Gaussian mixture given a linear observation.

For b = A x + s n each component k gives a Gaussian, and by Bayes' rule (Bishop, 2006, eq. 2.113-2.117)

    S_k = A C_k A^T + s^2 I,   K_k = C_k A^T S_k^{-1},
    mean m_k + K_k (b - A m_k),   covariance C_k - K_k A C_k,   weight ~ w_k N(b; A m_k, S_k).

It is a mixture again, so `ExactDenoiser` of it is E[x_0 | x_t, b].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from coursekit.gmm import GaussianMixture

__all__ = ["exact_posterior"]


def exact_posterior(mixture: GaussianMixture, matrix: Tensor, observation: Tensor, deviation: float) -> GaussianMixture:
    """p(x | b) for b = A x + deviation n.

    Args:
        mixture: the prior p(x), of K components in D dimensions.
        matrix: A, (M, D).
        observation: b, (M,).
        deviation: s, positive: without noise the posterior has no density.

    Raises:
        ValueError: if shapes disagree or the deviation is not positive.

    Example:
        >>> prior = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
        >>> posterior = exact_posterior(prior, torch.tensor([[1.0, 0.0]]), torch.tensor([2.0]), deviation=1.0)
        >>> posterior.means.tolist(), posterior.covariances[0].diagonal().tolist()
        ([[1.0, 0.0]], [0.5, 1.0])
    """
    M, D = len(observation), mixture.means.shape[1]
    if matrix.shape != (M, D) or observation.ndim != 1:
        shapes = f"{tuple(matrix.shape)} and {tuple(observation.shape)}"
        raise ValueError(f"matrix (M, {D}) and observation (M,) are wanted, got {shapes}")
    if not deviation > 0:
        raise ValueError(f"deviation must be positive, got {deviation}")
    C, noise = mixture.covariances, deviation**2 * torch.eye(M, dtype=matrix.dtype, device=matrix.device)
    S = matrix @ C @ matrix.T + noise  # (K, M, M)
    gain = torch.linalg.solve(S, matrix @ C).mT  # (K, D, M)
    expected = mixture.means @ matrix.T  # (K, M)
    log_weights = mixture.log_weights + MultivariateNormal(expected, S).log_prob(observation)
    reduce = torch.eye(D, dtype=C.dtype, device=C.device) - gain @ matrix
    covariances = reduce @ C @ reduce.mT + deviation**2 * gain @ gain.mT  # Joseph's form, positive under rounding
    means = mixture.means + (gain @ (observation - expected)[..., None])[..., 0]
    tiny = torch.finfo(log_weights.dtype).tiny  # a component that is ruled out keeps a weight that has a logarithm
    return GaussianMixture(log_weights.softmax(0).clamp(min=tiny), means, (covariances + covariances.mT) / 2)
