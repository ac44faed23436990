r"""The variational auto-encoder: a latent variable model and, learned with it, its approximate posterior.

    p(z) = N(0, I),   p(x | z, y) given by a decoder,   q(z | x, y) = N(z; m(x, y), diag s^2(x, y)) given by an encoder.

Both are trained on the evidence lower bound of `coursekit.vae.bound`, through draws z = m + s eps.

Reference: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014, arXiv 1312.6114; with labels, Sohn et al.,
"Learning Structured Output Representation using Deep Conditional Generative Models", NeurIPS 2015.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from coursekit.vae.bound import Elbo, VariationalModel
from coursekit.vae.gaussian import DiagonalGaussian
from coursekit.vae.likelihoods import Likelihood

__all__ = ["VAE"]


class VAE(VariationalModel):
    """One level of Gaussian latents.

    Args:
        encoder: (N, ...) -> (N, 2 latent), means and log-variances of q(z | x). In a model with labels it is given
            their context (N, C) as a second argument, and so is the decoder (see `Beside`).
        decoder: (N, latent) -> the parameters of the likelihood.
        likelihood: p(x | z): `GaussianLikelihood` or `PixelLikelihood`.
        latent: numbers of a code.
        **objective: `beta`, `free_nats`, `warmup`, `num_classes` and `context` of `VariationalModel`.

    Example:
        >>> from coursekit.vae import GaussianLikelihood
        >>> model = VAE(nn.Linear(5, 2 * 2), nn.Linear(2, 5), GaussianLikelihood(), latent=2)
        >>> x = torch.zeros(3, 5)
        >>> model.elbo(x).total.shape, model.posterior(x).mean.shape, model.sample(4).shape
        (torch.Size([3]), torch.Size([3, 2]), torch.Size([4, 5]))
    """

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, likelihood: Likelihood, latent: int, **objective: Any
    ) -> None:
        super().__init__(latent, **objective)
        self.encoder, self.decoder, self.likelihood = encoder, decoder, likelihood

    def posterior(self, x: Tensor, y: Tensor | None = None) -> DiagonalGaussian:
        """q(z | x, y), means and log-variances (N, D).

        Raises:
            ValueError: if labels do not fit, or the encoder returns another number of features than 2 D.
        """
        context = self.context(y, len(x))
        outputs = self.encoder(x) if context is None else self.encoder(x, context)
        if outputs.shape != (len(x), 2 * self.latent):
            raise ValueError(f"encoder must return ({len(x)}, {2 * self.latent}) numbers, got {tuple(outputs.shape)}")
        return DiagonalGaussian.from_outputs(outputs.to(x.dtype))  # a density wants more digits than bf16 has

    def parameters_of(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """What the decoder tells the likelihood of codes (N, D)."""
        outputs = self.decoder(z) if context is None else self.decoder(z, context)
        return outputs.to(z.dtype)

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The mean of q(z | x, y), (N, D)."""
        return self.posterior(x, y).mean

    def _decode(self, z: Tensor, context: Tensor | None) -> Tensor:
        return self.likelihood.mean(self.parameters_of(z, context))

    def elbo(self, x: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None) -> Elbo:
        """The bound on log p(x | y) of each x with one draw of z, unbiased, in its parts."""
        q = self.posterior(x, y)
        parameters = self.parameters_of(q.sample(generator), self.context(y, len(x)))
        return Elbo(self.likelihood.log_prob(parameters, x), q.kl(q.standard()))

    def log_weights(
        self, x: Tensor, y: Tensor | None = None, samples: int = 1, generator: torch.Generator | None = None
    ) -> Tensor:
        """log p(x, z_k | y) - log q(z_k | x, y) for independent z_k ~ q, (samples, N), in nats."""
        q, context = self.posterior(x, y), self.context(y, len(x))
        z = q.sample(generator, samples)  # (samples, N, D)
        given = None if context is None else context.repeat(samples, 1)
        parameters = self.parameters_of(z.flatten(0, 1), given)
        log_likelihood = self.likelihood.log_prob(parameters, x.repeat(samples, *[1] * (x.ndim - 1)))
        return log_likelihood.view(samples, -1) + q.standard().log_prob(z) - q.log_prob(z)

    def _sample_given(self, n: int, context: Tensor | None, generator: torch.Generator | None) -> Tensor:
        z = torch.empty_like(self.origin.expand(n, -1)).normal_(generator=generator)
        return self.likelihood.sample(self.parameters_of(z, context), generator)
