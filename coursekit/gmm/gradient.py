r"""The same likelihood by gradient: a mixture whose parameters `coursekit.diffusion.fit` can train.

    loss = -mean_n log sum_k w_k N(x_n; m_k, C_k),    w = softmax(logits),

with covariances from unconstrained numbers: a Cholesky factor with the logarithm of its diagonal, logarithms of
variances, or free factors. EM and gradient ascent have the same optima; this shows what EM buys.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from coursekit.gmm.covariances import Covariance
from coursekit.gmm.mixture import GaussianMixture

__all__ = ["TrainableMixture"]


class TrainableMixture(nn.Module):
    """A Gaussian mixture with unconstrained parameters, all of the structure of the mixture that it starts from.

    Args:
        start: where training begins.

    Example:
        >>> start = GaussianMixture(torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.ones(2, 1, 1))
        >>> x = torch.linspace(-2, 2, 5)[:, None]
        >>> bool(torch.isclose(TrainableMixture(start).loss(x), start.loss(x)))
        True
    """

    def __init__(self, start: GaussianMixture) -> None:
        super().__init__()
        self.logits = nn.Parameter(start.log_weights.clone())
        self.means = nn.Parameter(start.means.clone())
        self.free = nn.ParameterDict({name: value.clone() for name, value in start.structure.free().items()})
        self._structure = type(start.structure)

    def covariance(self) -> Covariance:
        """The covariances that the parameters stand for, differentiable."""
        return self._structure.from_free(self.free)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), (N,) in nats, for x (N, D)."""
        covariance = self.covariance()
        log_normal = covariance.log_normal(covariance.residuals(x, self.means)[0], x.shape[1])  # (K, N)
        return torch.logsumexp(log_normal + torch.log_softmax(self.logits, 0)[:, None], dim=0)

    def loss(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Minus the mean log-likelihood, in nats, a scalar."""
        return -self.log_prob(x).mean()

    @torch.no_grad()
    def mixture(self) -> GaussianMixture:
        """The mixture that was learned."""
        return GaussianMixture(self.logits.softmax(0), self.means.clone(), self.covariance())
