r"""What all models with latents share: codes z of data x, decoded again, and the bound that trains the probabilistic ones.

For a prior p(z), a decoder p(x | z) and an encoder q(z | x), Jensen's inequality gives the evidence lower bound

    log p(x) = log E_q[p(x, z) / q(z | x)] >= E_q[log p(x | z)] - KL(q(z | x) || p(z)) = reconstruction - rate,

short by KL(q(z | x) || p(z | x)). The mean of K weights w_k = p(x, z_k) / q(z_k | x) inside the logarithm,

    log p(x) >= E[log 1/K sum_k w_k],

is tighter the larger K is. All are sums over dimensions, in nats.

References: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014, arXiv 1312.6114, eq. 3; Burda et al., "Importance
Weighted Autoencoders", 2016, arXiv 1509.00519, eq. 8 and theorem 1; for the weight beta on the rate, Higgins et al.,
"beta-VAE", ICLR 2017; for free bits, Kingma et al., "Improving Variational Inference with Inverse Autoregressive Flow",
2016, arXiv 1606.04934, eq. 15; for the rising beta, Bowman et al., 2016, arXiv 1511.06349.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from coursekit.labels import check_labels, check_num_classes

__all__ = ["Beside", "Elbo", "LatentModel", "VariationalModel"]

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


class Beside(nn.Module):
    """A network of vectors that gets its context as further inputs.

    Args:
        network: of D + C features.

    Example:
        >>> Beside(nn.Linear(2 + 3, 4))(torch.zeros(5, 2), torch.zeros(5, 3)).shape
        torch.Size([5, 4])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(N, D) and (N, C) -> what the network makes of (N, D + C); without context, of (N, D)."""
        return self.network(x if context is None else torch.cat([x, context], dim=1))


class LatentModel(nn.Module, ABC):
    """Codes of data and back, with labels if wanted: `encode` and `decode`, and what one does with them.

    Args:
        latent: D, numbers of a code.
        num_classes: labels are 0..num_classes - 1; None without labels.
        context: features of the label's embedding, which encoder and decoder are then given as a second argument.

    Raises:
        ValueError: if a size is not positive.
    """

    origin: Tensor

    def __init__(self, latent: int, num_classes: int | None = None, context: int = 16) -> None:
        super().__init__()
        check_num_classes(num_classes)
        if latent < 1 or context < 1:
            raise ValueError(f"latent and context must be at least 1, got {latent} and {context}")
        self.latent, self.num_classes = latent, num_classes
        self.label = None if num_classes is None else nn.Embedding(num_classes, context)
        self.register_buffer("origin", torch.zeros(latent), persistent=False)  # says device and floating type

    @abstractmethod
    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The code of each x, (N, ...) -> (N, D): of a random code, its mean."""

    @abstractmethod
    def _decode(self, z: Tensor, context: Tensor | None) -> Tensor:
        """What a code stands for, (N, D) and (N, C) -> (N, ...)."""

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """What each code stands for, (N, D) -> (N, ...): of a random x, its mean.

        Raises:
            ValueError: if z has the wrong shape, or labels do not fit.
        """
        self._check_codes(z)
        return self._decode(z, self.context(y, len(z)))

    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x through the code and back, (N, ...)."""
        return self.decode(self.encode(x, y), y)

    def interpolate(
        self, x_a: Tensor, x_b: Tensor, steps: int = 8, y_a: Tensor | None = None, y_b: Tensor | None = None
    ) -> Tensor:
        """From each x_a to its x_b along the straight line between their codes (and between their labels' contexts).

        Args:
            x_a: where the paths start, (N, ...).
            x_b: where they end, (N, ...).
            steps: points of a path, both ends included.
            y_a: labels of x_a (N,), for a model with labels.
            y_b: labels of x_b.

        Returns:
            (N, steps, ...).

        Raises:
            ValueError: if steps is below 2, or x_a and x_b differ in shape.
        """
        if steps < 2:
            raise ValueError(f"steps must be at least 2, got {steps}")
        if x_a.shape != x_b.shape:
            raise ValueError(f"x_b must have the shape of x_a, {tuple(x_a.shape)}, got {tuple(x_b.shape)}")
        z = _lines(self.encode(x_a, y_a), self.encode(x_b, y_b), steps)
        context = None
        if self.label is not None:
            context = _lines(self.context(y_a, len(x_a)), self.context(y_b, len(x_b)), steps)
        return self._decode(z, context).unflatten(0, (len(x_a), steps))

    def traverse(self, z: Tensor, dim: int, values: Tensor, y: Tensor | None = None) -> Tensor:
        """Codes with one coordinate moved through values and all others held, decoded.

        Args:
            z: codes, (N, D).
            dim: the coordinate.
            values: what it is set to, (V,).
            y: labels (N,), for a model with labels.

        Returns:
            (N, V, ...).

        Raises:
            ValueError: if there is no such coordinate, or z has the wrong shape.
        """
        self._check_codes(z)
        if not 0 <= dim < self.latent:
            raise ValueError(f"dim must lie in 0..{self.latent - 1}, got {dim}")
        moved = z.repeat_interleave(len(values), dim=0)
        moved[:, dim] = values.to(z).repeat(len(z))
        y = None if y is None else y.repeat_interleave(len(values))
        return self.decode(moved, y).unflatten(0, (len(z), len(values)))

    def context(self, y: Tensor | None, n: int) -> Tensor | None:
        """What the networks are told of n labels, (n, C): their embedding, or None in a model without labels.

        Raises:
            ValueError: if labels are missing, not wanted, of another number, or out of range.
        """
        check_labels(y, n, self.num_classes)
        return None if self.label is None else self.label(y)

    def _check_codes(self, z: Tensor) -> None:
        if z.ndim != 2 or z.shape[1] != self.latent:
            raise ValueError(f"z must have shape (N, {self.latent}), got {tuple(z.shape)}")


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
        of p(x), so that by Jensen's inequality the logarithm is on average too small, never too large. With one sample it
        is the ELBO. Data and samples are taken in parts, so that without gradients memory does not grow with either.

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


def _lines(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Points on the straight lines from a to b, (N, C) and (N, C) -> (N steps, C), line by line."""
    t = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device)[:, None]
    return torch.lerp(a[:, None], b[:, None], t).flatten(0, 1)
