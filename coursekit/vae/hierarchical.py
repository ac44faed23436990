r"""A VAE of two levels: a few numbers for the whole, more numbers for the rest.

    p(z_2) = N(0, I),   p(z_1 | z_2) = N(m_p(z_2), s_p^2(z_2)),   p(x | z_1) given by a decoder.

Inference is top-down, in the order in which the model draws: q(z_2 | x), then q(z_1 | z_2, x), the product of what x
says of z_1, N(m(x), s^2(x)), and of what z_2 says, p(z_1 | z_2): precisions add up. So what the upper level already
knows costs nothing below, and each level has a reason to exist. The bound is

    log p(x) >= E_q[log p(x | z_1) - KL(q(z_1 | z_2, x) || p(z_1 | z_2))] - KL(q(z_2 | x) || p(z_2)).

Reference: Sonderby et al., "Ladder Variational Autoencoders", 2016, arXiv 1602.02282, eq. 11 to 13. With many levels,
latents as large as the data, and q fixed to the adding of noise, this becomes a diffusion model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from coursekit.networks import MLP
from coursekit.vae.bound import Elbo, VariationalModel
from coursekit.vae.codes import Beside
from coursekit.vae.gaussian import DiagonalGaussian
from coursekit.vae.likelihoods import Likelihood

__all__ = ["HierarchicalVAE"]


class HierarchicalVAE(VariationalModel):
    """Two levels of Gaussian latents, z_2 above z_1 above x.

    `encode`, `decode`, `interpolate` and `traverse` speak of the upper code z_2; `reconstruct` uses both levels.

    Args:
        encoder: (N, ...) -> (N, features), given the labels' context as a second argument if there are labels; the
            decoder and the networks between the levels, too.
        decoder: z_1 (N, latents[0]) -> the parameters of the likelihood.
        likelihood: p(x | z_1).
        features: what the encoder returns.
        latents: dimensions of z_1 and of z_2.
        hidden: width of the perceptrons between the levels.
        **objective: `beta`, `free_nats`, `warmup`, `num_classes` and `context` of `VariationalModel`.

    Raises:
        ValueError: if there are not two sizes of latents.

    Example:
        >>> from coursekit.vae import GaussianLikelihood
        >>> model = HierarchicalVAE(nn.Linear(5, 8), nn.Linear(4, 5), GaussianLikelihood(), features=8, latents=(4, 2))
        >>> model.elbo(torch.zeros(3, 5)).rates.shape  # of z_1, then of z_2
        torch.Size([3, 6])
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: Likelihood,
        features: int,
        latents: Sequence[int],
        hidden: int = 64,
        **objective: Any,
    ) -> None:
        if len(latents) != 2 or min(latents) < 1:
            raise ValueError(f"latents must be two positive numbers, of z_1 and z_2, got {list(latents)}")
        super().__init__(latents[1], **objective)
        self.encoder, self.decoder, self.likelihood, self.latents = encoder, decoder, likelihood, tuple(latents)
        extra = 0 if self.label is None else self.label.embedding_dim
        self.lower = nn.Linear(features, 2 * latents[0])
        self.upper = MLP([features, hidden, 2 * latents[1]])
        self.between = Beside(MLP([latents[1] + extra, hidden, hidden, 2 * latents[0]]))

    def posterior(self, x: Tensor, y: Tensor | None = None) -> tuple[DiagonalGaussian, DiagonalGaussian]:
        """What x alone says: of z_1, one factor of q(z_1 | z_2, x), and q(z_2 | x)."""
        context = self.context(y, len(x))
        h = self.encoder(x) if context is None else self.encoder(x, context)
        lower, upper = (DiagonalGaussian.from_outputs(net(h).to(x.dtype)) for net in (self.lower, self.upper))
        return lower, upper

    def prior(self, z_2: Tensor, context: Tensor | None = None) -> DiagonalGaussian:
        """p(z_1 | z_2), for z_2 (N, latents[1])."""
        return DiagonalGaussian.from_outputs(self.between(z_2, context).to(z_2.dtype))

    def parameters_of(self, z_1: Tensor, context: Tensor | None = None) -> Tensor:
        """What the decoder tells the likelihood of the lower codes (N, latents[0])."""
        outputs = self.decoder(z_1) if context is None else self.decoder(z_1, context)
        return outputs.to(z_1.dtype)

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The mean of q(z_2 | x), (N, latents[1])."""
        return self.posterior(x, y)[1].mean

    def _decode(self, z: Tensor, context: Tensor | None) -> Tensor:
        return self.likelihood.mean(self.parameters_of(self.prior(z, context).mean, context))

    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x through the means of both codes and back, (N, ...)."""
        (lower, upper), context = self.posterior(x, y), self.context(y, len(x))
        z_1 = lower.times(self.prior(upper.mean, context)).mean
        return self.likelihood.mean(self.parameters_of(z_1, context))

    def elbo(self, x: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None) -> Elbo:
        """The bound on log p(x | y) of each x with one draw of both codes; first the rates of z_1, then of z_2."""
        (lower, upper), context = self.posterior(x, y), self.context(y, len(x))
        prior = self.prior(upper.sample(generator), context)
        q_1 = lower.times(prior)
        parameters = self.parameters_of(q_1.sample(generator), context)
        rates = torch.cat([q_1.kl(prior), upper.kl(upper.standard())], dim=1)
        return Elbo(self.likelihood.log_prob(parameters, x), rates)

    def log_weights(
        self, x: Tensor, y: Tensor | None = None, samples: int = 1, generator: torch.Generator | None = None
    ) -> Tensor:
        """log p(x, z_1, z_2 | y) - log q(z_1, z_2 | x, y) for independent draws from q, (samples, N), in nats."""
        (lower, upper), context = self.posterior(x, y), self.context(y, len(x))
        lower, upper = _repeated(lower, samples), _repeated(upper, samples)
        context = None if context is None else context.repeat(samples, 1)
        z_2 = upper.sample(generator)
        prior = self.prior(z_2, context)
        q_1 = lower.times(prior)
        z_1 = q_1.sample(generator)
        every = x.repeat(samples, *[1] * (x.ndim - 1))
        log_joint = self.likelihood.log_prob(self.parameters_of(z_1, context), every) + prior.log_prob(z_1)
        log_joint = log_joint + upper.standard().log_prob(z_2)
        return (log_joint - q_1.log_prob(z_1) - upper.log_prob(z_2)).view(samples, -1)

    def _sample_given(self, n: int, context: Tensor | None, generator: torch.Generator | None) -> Tensor:
        z_2 = torch.empty_like(self.origin.expand(n, -1)).normal_(generator=generator)
        z_1 = self.prior(z_2, context).sample(generator)
        return self.likelihood.sample(self.parameters_of(z_1, context), generator)


def _repeated(q: DiagonalGaussian, samples: int) -> DiagonalGaussian:
    return DiagonalGaussian(q.mean.repeat(samples, 1), q.log_variance.repeat(samples, 1))
