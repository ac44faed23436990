r"""The codes of all data together: what the encoder makes of a data set, against the prior that one draws from.

The aggregated posterior of data x_1..x_M is the mixture of their codes' laws,

    q(z) = 1/M sum_i q(z | x_i),

and the mean rate has two parts, how much a code tells of which x it came from, and how far q(z) is from the prior:

    1/M sum_i KL(q(z | x_i) || p(z)) = I_q(i; z) + KL(q(z) || p(z)),    0 <= I_q(i; z) <= log M.

Drawing needs the second to be small, reconstruction the first to be large; when the first is zero as well, the latents
are not used: the posterior has collapsed. References: Hoffman and Johnson, "ELBO surgery", NIPS 2016 workshop on
approximate Bayesian inference; for active units, Burda et al., 2016, arXiv 1509.00519, section 5.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from coursekit.estimates import Estimate, mean_interval
from coursekit.vae.gaussian import DiagonalGaussian
from coursekit.vae.vae import VAE

__all__ = [
    "AggregatedPosterior",
    "RateParts",
    "active_units",
    "aggregated_posterior",
    "kl_to_prior",
    "rate_parts",
    "rate_per_dimension",
]

NUMBERS = 2**22  # of the differences z - m_i that are in memory together
DATA = 500  # pictures that are encoded together


@dataclass(frozen=True)
class AggregatedPosterior:
    """q(z) = 1/M sum_i q(z | x_i), exactly.

    Attributes:
        components: the laws q(z | x_i), means and log-variances (M, D).

    Example:
        >>> q = AggregatedPosterior(DiagonalGaussian(torch.tensor([[-1.0], [1.0]]), torch.zeros(2, 1)))
        >>> q.log_prob(torch.zeros(1, 1))  # log N(1; 0, 1)
        tensor([-1.4189])
    """

    components: DiagonalGaussian

    def __len__(self) -> int:
        return len(self.components.mean)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z) in nats, (N, D) -> (N,), a part of the points at a time.

        Raises:
            ValueError: if z has the wrong shape.
        """
        M, D = self.components.mean.shape
        if z.ndim != 2 or z.shape[1] != D:
            raise ValueError(f"z must have shape (N, {D}), got {tuple(z.shape)}")
        parts = z.split(max(1, NUMBERS // (M * D)))
        each = [self.components.log_prob(part[:, None]).logsumexp(dim=1) for part in parts]  # of (n, M)
        return torch.cat(each) - math.log(M)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n independent codes (n, D): of a random x each."""
        i = torch.randint(len(self), (n,), generator=generator, device=self.components.mean.device)
        return DiagonalGaussian(self.components.mean[i], self.components.log_variance[i]).sample(generator)


@torch.no_grad()
def aggregated_posterior(model: VAE, x: Tensor, y: Tensor | None = None) -> AggregatedPosterior:
    """q(z) of the data x (M, ...), with labels (M,) if the model has them."""
    labels = [None] * math.ceil(len(x) / DATA) if y is None else y.split(DATA)
    laws = [model.posterior(part, label) for part, label in zip(x.split(DATA), labels, strict=True)]
    means, log_variances = (torch.cat(parts) for parts in zip(*((q.mean, q.log_variance) for q in laws), strict=True))
    return AggregatedPosterior(DiagonalGaussian(means, log_variances))


def kl_to_prior(q: AggregatedPosterior, samples: int = 2000, generator: torch.Generator | None = None) -> Estimate:
    """KL(q(z) || N(0, I)) in nats, by draws from q, with its 95 % interval.

    Raises:
        ValueError: if there are fewer than two samples.
    """
    z = q.sample(samples, generator)
    return mean_interval(q.log_prob(z) - _prior(z))


@dataclass(frozen=True)
class RateParts:
    """The parts of the mean rate, in nats: rate = information + to_prior.

    Attributes:
        rate: 1/M sum_i KL(q(z | x_i) || p(z)), in closed form.
        information: I_q(i; z), how much a code tells of its x; an estimate, at most log M.
        to_prior: KL(q(z) || p(z)), how far the codes of all data are from the prior; an estimate.
    """

    rate: float
    information: Estimate
    to_prior: Estimate


def rate_parts(q: AggregatedPosterior, samples: int = 2000, generator: torch.Generator | None = None) -> RateParts:
    """The rate of the data behind q, taken apart; the estimates' intervals are 95 %.

    Both estimates come from the same draws (i, z), so that their errors partly cancel in the sum.

    Raises:
        ValueError: if there are fewer than two samples.
    """
    i = torch.randint(len(q), (samples,), generator=generator, device=q.components.mean.device)
    own = DiagonalGaussian(q.components.mean[i], q.components.log_variance[i])
    z = own.sample(generator)
    log_q = q.log_prob(z)
    rate = float(q.components.kl(q.components.standard()).sum(1).mean())
    information = mean_interval(own.log_prob(z) - log_q)
    return RateParts(rate, information, mean_interval(log_q - _prior(z)))


def rate_per_dimension(q: AggregatedPosterior) -> Tensor:
    """Mean of KL(q(z_j | x_i) || p(z_j)) over the data, (D,), in nats: what each dimension of the code costs."""
    return q.components.kl(q.components.standard()).mean(dim=0)


def active_units(q: AggregatedPosterior, threshold: float = 0.01) -> Tensor:
    """Which dimensions of the code follow the data, (D,), bool: Var_x(E[z_j | x]) > threshold."""
    return q.components.mean.var(dim=0) > threshold


def _prior(z: Tensor) -> Tensor:
    return DiagonalGaussian(z, z).standard().log_prob(z)
