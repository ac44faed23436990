r"""Vector quantisation: codes that are whole numbers, one for each place of a map.

The encoder returns a vector z_e(x) for each place, and the nearest of K learned vectors takes its part,

    k = argmin_k |z_e - e_k|^2,        z_q = e_k.

Nothing flows back through an argmin, so the gradient of z_q is handed to z_e as it is (straight through), and the
encoder is held near its choice:

    loss = -log p(x | z_q) + beta |z_e - sg[e_k]|^2,       sg: no gradient.

The vectors are no parameters: each is a running average of what chose it, as in k-means by batches.

With z known for sure and a prior p(k) the bound on the evidence is log p(x | z_q) + sum over places of log p(k); with
all codes equally likely a place costs log K. To draw well one needs a prior over the whole map of codes, such as the
autoregressive models of lesson 03; here places are independent, which shows what is missing.

Reference: van den Oord et al., "Neural Discrete Representation Learning", 2017, arXiv 1711.00937, eq. 1 to 3
and, for the running averages, appendix A.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coursekit.labels import check_labels
from coursekit.shapes import check_points
from coursekit.vae.likelihoods import Likelihood

__all__ = ["VQVAE", "VectorQuantiser", "perplexity"]


class VectorQuantiser(nn.Module):
    """A codebook: in training mode it follows what its codes are chosen for, and moves codes that nobody chooses.

    Args:
        codes: K.
        features: of a vector.
        decay: of the running averages, a batch.
        dead_below: a code chosen less often than this share of 1 / K moves onto a random vector of the batch.

    Attributes:
        vectors: e_k, (K, features).
        shares: running average of how often each code is chosen, (K,).
        sums: running average of the sum of the vectors that chose it, over the number of all places, (K, features).
        revived: how many codes have moved so far.

    Raises:
        ValueError: if a size is not positive, or decay or dead_below is not in [0, 1).

    Example:
        >>> quantiser = VectorQuantiser(codes=8, features=2)
        >>> z, k = quantiser(torch.zeros(1, 2, 7, 7))
        >>> z.shape, k.shape
        (torch.Size([1, 2, 7, 7]), torch.Size([1, 7, 7]))
    """

    vectors: Tensor
    shares: Tensor
    sums: Tensor
    revived: Tensor

    def __init__(self, codes: int, features: int, decay: float = 0.97, dead_below: float = 0.1) -> None:
        super().__init__()
        if min(codes, features) < 1:
            raise ValueError(f"codes and features must be at least 1, got {codes} and {features}")
        if not (0 <= decay < 1 and 0 <= dead_below < 1):
            raise ValueError(f"decay and dead_below must lie in [0, 1), got {decay} and {dead_below}")
        self.decay, self.dead_below = decay, dead_below
        self.register_buffer("vectors", torch.randn(codes, features))
        self.register_buffer("shares", torch.full((codes,), 1 / codes))
        self.register_buffer("sums", self.vectors / codes)
        self.register_buffer("revived", torch.zeros((), dtype=torch.long))

    @property
    def codes(self) -> int:
        """K."""
        return len(self.vectors)

    def nearest(self, z: Tensor) -> Tensor:
        """The code of each place, (N, features, *) -> (N, *), whole numbers.

        Raises:
            ValueError: if z has another number of features.
        """
        if z.ndim < 2 or z.shape[1] != self.vectors.shape[1]:
            raise ValueError(f"z must have shape (N, {self.vectors.shape[1]}, *), got {tuple(z.shape)}")
        places = z.detach().movedim(1, -1)  # (N, *, features)
        return (self.vectors.square().sum(1) - 2 * places @ self.vectors.T).argmin(dim=-1)

    def look_up(self, k: Tensor) -> Tensor:
        """The vectors of codes, (N, *) -> (N, features, *)."""
        return F.embedding(k, self.vectors).movedim(-1, 1)

    def forward(self, z: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """The nearest vectors (N, features, *), without gradient, and their codes (N, *).

        In training mode the codebook takes in the batch afterwards.
        """
        k = self.nearest(z)
        found = self.look_up(k)
        if self.training:
            places = z.detach().movedim(1, -1).reshape(-1, z.shape[1]).to(self.vectors)
            self._follow(places, k.flatten())
            self._revive(places, generator)
        return found, k

    @torch.no_grad()
    def _follow(self, places: Tensor, k: Tensor) -> None:
        """Move each code towards the mean of what chose it; a batch that is not finite changes nothing."""
        part = 1 / len(places)
        shares = torch.zeros_like(self.shares).index_add_(0, k, torch.full_like(places[:, 0], part))
        sums = torch.zeros_like(self.sums).index_add_(0, k, places * part)
        rate = (1 - self.decay) * sums.isfinite().all()
        self.shares.lerp_(shares, rate.to(shares))
        self.sums.lerp_(sums.nan_to_num(), rate.to(sums))
        alive = self.shares[:, None] > 1e-6  # long before 0 / 0
        self.vectors.copy_(torch.where(alive, self.sums / self.shares[:, None], self.vectors))

    @torch.no_grad()
    def _revive(self, places: Tensor, generator: torch.Generator | None) -> None:
        """Move codes that are hardly chosen onto random vectors of the batch, without looking at the device."""
        pick = torch.randint(len(places), (self.codes,), generator=generator, device=places.device)
        fresh = places[pick]
        dead = (self.shares < self.dead_below / self.codes) & fresh.isfinite().all(dim=1)
        self.vectors.copy_(torch.where(dead[:, None], fresh, self.vectors))
        self.shares.masked_fill_(dead, 1 / self.codes)
        self.sums.copy_(torch.where(dead[:, None], fresh / self.codes, self.sums))
        self.revived += dead.sum()


class VQVAE(nn.Module):
    """An auto-encoder with a map of whole-number codes and a likelihood of the data.

    Args:
        encoder: (N, ...) -> (N, features, *places).
        decoder: (N, features, *places) -> the parameters of the likelihood.
        likelihood: p(x | z_q): `GaussianLikelihood` or `PixelLikelihood`.
        quantiser: the codebook.
        places: of the map, such as (7, 7).
        commitment: beta, what holds the encoder near its choice.

    Raises:
        ValueError: if the commitment is negative.

    Example:
        >>> from coursekit.vae import GaussianLikelihood
        >>> networks = nn.Unflatten(1, (2, 3)), nn.Flatten()
        >>> model = VQVAE(*networks, GaussianLikelihood(), VectorQuantiser(codes=4, features=2), places=(3,))
        >>> model.encode(torch.zeros(5, 6)).shape, model.sample(2).shape
        (torch.Size([5, 3]), torch.Size([2, 6]))
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: Likelihood,
        quantiser: VectorQuantiser,
        places: Sequence[int],
        commitment: float = 0.25,
    ) -> None:
        super().__init__()
        if not commitment >= 0:
            raise ValueError(f"commitment must not be negative, got {commitment}")
        self.encoder, self.decoder, self.likelihood, self.quantiser = encoder, decoder, likelihood, quantiser
        self.places, self.commitment = tuple(places), commitment

    def loss(self, x: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Both terms, summed over pixels and places, averaged over the batch: a scalar.

        Labels, which data may come with, are not looked at.
        """
        z_e = self.encoder(x)
        z_q, _ = self.quantiser(z_e, generator)
        z = z_e + (z_q - z_e).detach()  # straight through: the value of z_q, the gradient to z_e
        distance = (z_e - z_q).square().flatten(1).sum(1)
        return self.commitment * distance.mean() - self._log_likelihood(z, x).mean()

    def log_prob_bound(self, x: Tensor, y: Tensor | None = None, frequencies: Tensor | None = None) -> Tensor:
        """log p(x | z_q) + sum of log p(k) over places: a bound from below on log p(x), (N,), in nats, without noise.

        Args:
            x: (N, ...).
            y: None; the model has no labels.
            frequencies: p(k) of each place, (*places, K), such as `frequencies` returns; all equal if None.

        Raises:
            ValueError: if labels are given, or the frequencies have the wrong shape.
        """
        check_labels(y, len(x), None)
        k = self.encode(x)
        if frequencies is None:
            log_prior = -math.log(self.quantiser.codes) * k[0].numel()
        else:
            self._check_frequencies(frequencies)
            every = frequencies.log().expand(*k.shape, -1)
            log_prior = every.gather(-1, k[..., None]).flatten(1).sum(1)
        return self._log_likelihood(self.quantiser.look_up(k), x) + log_prior

    def encode(self, x: Tensor) -> Tensor:
        """The codes of x, (N, *places), whole numbers."""
        k = self.quantiser.nearest(self.encoder(x))
        if k.shape[1:] != self.places:
            raise ValueError(f"encoder must return maps of {self.places} places, got {tuple(k.shape[1:])}")
        return k

    def decode(self, k: Tensor) -> Tensor:
        """The mean of p(x | codes), (N, *places) -> (N, ...).

        Raises:
            ValueError: if the codes have the wrong shape.
        """
        check_points(k, self.places, "k")
        return self.likelihood.mean(self.decoder(self.quantiser.look_up(k)))

    def reconstruct(self, x: Tensor) -> Tensor:
        """x through its codes and back, (N, ...)."""
        return self.decode(self.encode(x))

    @torch.no_grad()
    def frequencies(self, x: Tensor, prior_count: float = 1.0) -> Tensor:
        """How often data x (N, ...) choose each code at each place, (*places, K), no code ruled out.

        Args:
            x: the data, of which 500 are encoded at a time.
            prior_count: added to the N counts of a place, shared among all codes.
        """
        codes = self.quantiser.codes
        counts = torch.stack([F.one_hot(self.encode(part), codes).sum(0) for part in x.split(500)]).sum(0)
        return (counts.to(self.quantiser.vectors.dtype) + prior_count / codes) / (len(x) + prior_count)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        y: Tensor | None = None,
        generator: torch.Generator | None = None,
        frequencies: Tensor | None = None,
    ) -> Tensor:
        """n draws of x, (n, ...), the code of each place drawn by itself: no place knows what the others do.

        Args:
            n: how many.
            y: None; the model has no labels.
            generator: of codes and pixels.
            frequencies: as in `log_prob_bound`; all codes equally likely if None.

        Raises:
            ValueError: if n is negative, labels are given, or the frequencies have the wrong shape.
        """
        if n < 0:
            raise ValueError(f"n must be at least 0, got {n}")
        check_labels(y, n, None)
        k = self._draw_codes(n, frequencies, generator)
        return self.likelihood.sample(self.decoder(self.quantiser.look_up(k)), generator)

    def _draw_codes(self, n: int, frequencies: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """n maps of codes, (n, *places), each place by itself."""
        codes, device = self.quantiser.codes, self.quantiser.vectors.device
        if frequencies is None:
            return torch.randint(codes, (n, *self.places), generator=generator, device=device)
        self._check_frequencies(frequencies)
        rows = torch.multinomial(frequencies.reshape(-1, codes), max(n, 1), replacement=True, generator=generator)
        return rows.T[:n].unflatten(1, self.places)

    def _log_likelihood(self, z: Tensor, x: Tensor) -> Tensor:
        return self.likelihood.log_prob(self.decoder(z).to(x.dtype), x)

    def _check_frequencies(self, frequencies: Tensor) -> None:
        wanted = (*self.places, self.quantiser.codes)
        if frequencies.shape != wanted:
            raise ValueError(f"frequencies must have shape {wanted}, got {tuple(frequencies.shape)}")


def perplexity(k: Tensor, codes: int) -> Tensor:
    """exp of the entropy of how often codes occur in k, of any shape: a scalar, 1 if one code does all, at most K.

    Example:
        >>> perplexity(torch.tensor([[0, 1], [2, 3]]), codes=8)
        tensor(4.)
    """
    share = torch.bincount(k.flatten(), minlength=codes) / k.numel()
    return torch.special.entr(share).sum().exp()
