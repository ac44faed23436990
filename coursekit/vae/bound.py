r"""The bound on log p(x) by which models with latents and a density are trained and scored.

For a prior p(z), a decoder p(x | z) and an encoder q(z | x), Jensen's inequality gives the evidence lower bound

    log p(x) = log E_q[p(x, z) / q(z | x)] >= E_q[log p(x | z)] - KL(q(z | x) || p(z)) = reconstruction - rate,

short by KL(q(z | x) || p(z | x)). The mean of K weights w_k = p(x, z_k) / q(z_k | x) inside the logarithm,

    log p(x) >= E[log 1/K sum_k w_k],

is tighter the larger K is. All are sums over dimensions, in nats.

References: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014, arXiv 1312.6114, eq. 3; Burda et al.,
"Importance Weighted Autoencoders", 2016, arXiv 1509.00519, eq. 8 and theorem 1. For the weight beta on the rate:
Higgins et al., "beta-VAE", ICLR 2017; for its rise: Bowman et al., "Generating Sentences from a Continuous Space",
2016, arXiv 1511.06349; for free bits: Kingma et al., "Improving Variational Inference with Inverse Autoregressive
Flow", 2016, arXiv 1606.04934, eq. 15.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from coursekit.labels import check_labels
from coursekit.vae.codes import LatentModel

__all__ = ["Elbo", "VariationalModel"]

PART = 64  # data whose latents are drawn together while a bound is computed
DECODED = 1024  # latents that are decoded together


@dataclass(frozen=True)
class Elbo:
    """The evidence lower bound of each x, in its parts, in nats.

    Attributes:
        reconstruction: log p(x | z) at one z drawn from q(z | x), (N,).
        rates: KL(q(z_j | x) || p(z_j)) of each latent dimension, (N, D), in closed form.
    """

    reconstruction: Tensor
    rates: Tensor

    @property
    def rate(self) -> Tensor:
        """KL(q(z | x) || p(z)), (N,)."""
        return self.rates.sum(dim=1)

    @property
    def total(self) -> Tensor:
        """The bound, reconstruction - rate, (N,)."""
        return self.reconstruction - self.rate


class VariationalModel(LatentModel):
    """A model p(x) = int p(z) p(x | z) dz with an encoder q(z | x), trained and scored by bounds.

    Labels, if there are any, are equally likely: without y, p(x) is the mean of p(x | y) over y.

    Args:
        latent: D, numbers of a code.
        beta: weight of the rate in the loss; 1 is the bound.
        free_nats: free bits: what every latent dimension may cost, averaged over a batch, before the loss counts it.
        warmup: losses in training mode over which beta rises from 0 in a straight line; 0 for none.
        num_classes: labels are 0..num_classes - 1; None without labels.
        context: features of the label's embedding.

    Attributes:
        updates: how many losses were taken in training mode, as far as a warm-up counts them.

    Raises:
        ValueError: if a size is not positive, or a weight negative.
    """

    updates: Tensor

    def __init__(
        self,
        latent: int,
        beta: float = 1.0,
        free_nats: float = 0.0,
        warmup: int = 0,
        num_classes: int | None = None,
        context: int = 16,
    ) -> None:
        super().__init__(latent, num_classes, context)
        if not (beta >= 0 and free_nats >= 0 and warmup >= 0):
            raise ValueError(f"beta, free_nats and warmup must not be negative, got {beta}, {free_nats} and {warmup}")
        self.beta, self.free_nats, self.warmup = beta, free_nats, warmup
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    @abstractmethod
    def elbo(self, x: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None) -> Elbo:
        """The bound on log p(x | y) of each x with one draw of z, unbiased, in its parts."""

    @abstractmethod
    def log_weights(
        self, x: Tensor, y: Tensor | None = None, samples: int = 1, generator: torch.Generator | None = None
    ) -> Tensor:
        """log w_k = log p(x, z_k | y) - log q(z_k | x, y) for independent z_k ~ q, (samples, N), in nats."""

    @abstractmethod
    def _sample_given(self, n: int, context: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """n draws of x from p(x | y), (n, ...)."""

    def loss(self, x: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Minus the bound, averaged over the batch, with beta and free bits: a scalar in nats.

        -E[reconstruction] + beta sum_j max(free_nats, E[rate_j]), the means E over the batch.
        """
        elbo = self.elbo(x, y, generator)
        rates = elbo.rates.mean(dim=0).clamp(min=self.free_nats)
        return self._current_beta() * rates.sum() - elbo.reconstruction.mean()

    def _current_beta(self) -> float | Tensor:
        if not self.warmup:
            return self.beta
        if self.training:
            self.updates += 1
        return self.beta * (self.updates / self.warmup).clamp(max=1)

    def log_prob_bound(
        self, x: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None, samples: int = 64
    ) -> Tensor:
        """A bound from below, in expectation, on log p(x | y), or on log p(x) without y: (N,), in nats.

        The mean of `samples` importance weights is an unbiased estimate of p(x | y), and their mean over all labels one
        of p(x), so that by Jensen's inequality the logarithm is on average too small, never too large. With one sample
        it is the ELBO. Data and samples are taken in parts, so that without gradients memory does not grow with either.

        Args:
            x: (N, ...).
            y: labels (N,); without them a model with C labels does C times the work.
            generator: of the latents.
            samples: K, weights that are averaged inside the logarithm.

        Raises:
            ValueError: if there is no sample, or labels do not fit.
        """
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        if self.num_classes is not None and y is None:
            classes = torch.arange(self.num_classes, device=x.device)
            each = [self.log_prob_bound(x, c.expand(len(x)), generator, samples) for c in classes]
            return torch.stack(each).logsumexp(0) - math.log(self.num_classes)
        check_labels(y, len(x), self.num_classes)
        parts = x.split(PART)
        labels = [None] * len(parts) if y is None else y.split(PART)
        return torch.cat([self._bound(part, y, samples, generator) for part, y in zip(parts, labels, strict=True)])

    def _bound(self, x: Tensor, y: Tensor | None, samples: int, generator: torch.Generator | None) -> Tensor:
        together = max(1, DECODED // max(1, len(x)))
        sizes = [min(together, samples - done) for done in range(0, samples, together)]
        sums = [self.log_weights(x, y, size, generator).logsumexp(0) for size in sizes]
        return torch.stack(sums).logsumexp(0) - math.log(samples)

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """n independent draws of x, (n, ...), noise of p(x | z) included; of labels y (n,), or of labels drawn first.

        For the means of p(x | z), which are smoother than what the model believes in, `decode` draws of the prior.

        Raises:
            ValueError: if n is negative, or labels do not fit.
        """
        if n < 0:
            raise ValueError(f"n must be at least 0, got {n}")
        if self.num_classes is not None and y is None:
            y = torch.randint(self.num_classes, (n,), generator=generator, device=self.origin.device)
        return self._sample_given(n, self.context(y, n), generator)
