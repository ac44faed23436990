r"""Noise-contrastive estimation: the normaliser is one more parameter, learned by telling data from noise.

With nu noise points from a known density p_n for each point of data, the model log p(x) = -E(x) - c answers how likely
x is to be data with the logit

    G(x) = log p(x) - log p_n(x) - log nu,

and logistic regression on it,

    J = -E_data log sigmoid(G(x)) - nu E_noise log sigmoid(-G(x)),

is smallest for p the density of the data, c = log Z included. The noise should be where the data are: where one of the
two is missing, the answer is easy and nothing is learned. Reference: Gutmann and Hyvarinen, "Noise-Contrastive
Estimation of Unnormalized Statistical Models", 2012, eq. 8 and theorem 1.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from coursekit.energy.model import EnergyModel

__all__ = ["NoiseContrastive"]


class _Noise(Protocol):
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor: ...

    def log_prob(self, x: Tensor) -> Tensor: ...


class NoiseContrastive(nn.Module):
    """An objective of `EnergyModel` that learns log Z beside the energy.

    Args:
        noise: p_n, with `sample(n, generator=)` and `log_prob(x)`, such as a Gaussian mixture fitted to the data.
        ratio: nu, noise points for each point of data.

    Attributes:
        log_partition: c, a parameter that starts at 0.

    Raises:
        ValueError: if the ratio is not positive.

    Example:
        >>> from coursekit.energy import EnergyModel
        >>> from coursekit.gmm import GaussianMixture
        >>> from coursekit.networks import MLP
        >>> noise = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
        >>> model = EnergyModel(MLP([2, 32, 1]), 2, NoiseContrastive(noise))
        >>> model.loss(torch.zeros(16, 2)).shape, model.objective.log_prob(model, torch.zeros(3, 2)).shape
        (torch.Size([]), torch.Size([3]))
    """

    def __init__(self, noise: _Noise, ratio: int = 1) -> None:
        super().__init__()
        if ratio < 1:
            raise ValueError(f"ratio must be at least 1, got {ratio}")
        self.noise, self.ratio = noise, ratio
        self.log_partition = nn.Parameter(torch.zeros(()))

    def log_prob(self, model: EnergyModel, x: Tensor) -> Tensor:
        """-E(x) - c, (N,) in nats: as near to a density as c is to log Z."""
        return -model(x) - self.log_partition

    def forward(self, model: EnergyModel, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """J of a batch (N, ...), a scalar."""
        with torch.no_grad():
            noise = self.noise.sample(self.ratio * len(x), generator).to(x)
        return F.softplus(-self._logit(model, x)).mean() + self.ratio * F.softplus(self._logit(model, noise)).mean()

    def _logit(self, model: EnergyModel, x: Tensor) -> Tensor:
        return self.log_prob(model, x) - self.noise.log_prob(x) - math.log(self.ratio)
