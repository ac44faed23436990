r"""Decoders: the last step, from x_t with a little noise left to the data, p(x | x_t).

A picture of 8 bits holds levels x = k / 127.5 - 1, k = 0..255, in bins of width 2/255, so that its probability is a
number below one and log P(x) is at most zero; points of R^D have a density, whose logarithm can have any sign. Three
ways to decode, all independent from dimension to dimension:

    Levels                P(x | x_t) = pi(x) N(x_t; alpha x, sigma^2) / sum_k pi(x_k) N(x_t; alpha x_k, sigma^2)
    DiscretisedGaussian   P(x | x_t) = int over the bin of x of N(u; D(x_t), s^2) du, outer bins reaching to infinity
    Gaussian              p(x | x_t) = N(x; D(x_t), s^2)

with D the denoiser. The first asks no network: it is Kingma et al., "Variational Diffusion Models", 2021, arXiv
2107.00630, section 3.3, where pi is uniform. The second is Ho et al., 2020, arXiv 2006.11239, eq. 13.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from coursekit.data import from_pixels
from coursekit.diffusion.chain import expand
from coursekit.flows.dequantise import check_levels
from coursekit.pixels import HALF_BIN, LEVELS

__all__ = ["Decoder", "DiscretisedGaussian", "Gaussian", "Levels", "log_normal_bin"]


class Decoder(Protocol):
    """log p(x | x_t) in nats, (N,).

    Called with data x (N, ...), the noisy x_t of that shape, the denoiser's estimate of x_0, and alpha and sigma (N,).
    """

    def __call__(self, x: Tensor, x_t: Tensor, estimate: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor: ...


class Levels(nn.Module):
    """The posterior of each pixel by itself, given prior probabilities of the 256 levels.

    Bayes' rule inverts the noise exactly if pixels are independent: this class is that source, too, with its entropy,
    its samples and its best denoiser, so that `ExactDenoiser(Levels(prior), schedule)` is an optimal diffusion model of
    known entropy.

    Args:
        prior: (256,) probabilities, or positive numbers in their proportion; uniform if None.

    Raises:
        ValueError: if the prior is not 256 positive numbers.

    Example:
        >>> black = Levels(torch.tensor([0.75] + [0.25 / 255] * 255))
        >>> round(black.entropy().item() / math.log(2), 3)  # bits a pixel
        2.81
    """

    log_prior: Tensor
    values: Tensor

    def __init__(self, prior: Tensor | None = None) -> None:
        super().__init__()
        prior = torch.ones(LEVELS) if prior is None else prior
        if prior.shape != (LEVELS,) or not bool((prior > 0).all() & torch.isfinite(prior).all()):
            raise ValueError(f"prior must hold {LEVELS} positive numbers, got shape {tuple(prior.shape)}")
        levels = torch.arange(LEVELS, dtype=torch.uint8, device=prior.device)
        self.register_buffer("log_prior", torch.log(prior / prior.sum()))
        self.register_buffer("values", from_pixels(levels, prior.dtype))

    @classmethod
    def counted(cls, images: Tensor, pseudo_count: float = 1.0) -> Self:
        """The prior that pictures show, every level counted `pseudo_count` times more than it occurs."""
        counts = torch.bincount(check_levels(images).long().flatten(), minlength=LEVELS)
        return cls(counts.float() + pseudo_count)

    def forward(self, x: Tensor, x_t: Tensor, estimate: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        k = check_levels(x, "x").long()
        parts = zip(*(each.split(32) for each in (k, x_t, *self._columns(x_t, alpha, sigma))), strict=True)
        return torch.cat([self._log_posterior(k, *rest) for k, *rest in parts])

    def denoise(self, x_t: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """E[x | x_t] of independent pixels, (N, ...)."""
        return torch.softmax(self._logits(x_t, *self._columns(x_t, alpha, sigma)), -1) @ self.values

    def sample(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Independent pixels in [-1, 1]."""
        k = torch.multinomial(self.log_prior.exp(), math.prod(shape), replacement=True, generator=generator)
        return self.values[k].view(shape)

    def log_prob(self, x: Tensor) -> Tensor:
        """log P(x) of independent pixels in nats, (N,)."""
        return self.log_prior[check_levels(x, "x").long()].flatten(1).sum(1)

    def entropy(self) -> Tensor:
        """Of one pixel, in nats."""
        return -(self.log_prior.exp() * self.log_prior).sum()

    def _columns(self, x_t: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> list[Tensor]:
        levels = (torch.as_tensor(c, dtype=x_t.dtype, device=x_t.device) for c in (alpha, sigma))
        return [expand(c.expand(len(x_t)), x_t) for c in levels]

    def _logits(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        alpha, sigma = alpha[..., None], sigma[..., None]
        return self.log_prior - 0.5 * ((x_t[..., None] - alpha * self.values) / sigma).square()  # (N, ..., 256)

    def _log_posterior(self, k: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        logits = self._logits(x_t, alpha, sigma)
        return (logits.gather(-1, k[..., None])[..., 0] - logits.logsumexp(-1)).flatten(1).sum(1)


def log_normal_bin(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """log of the probability that N(mean, std^2) gives the bin of the level x, elementwise, in nats.

    Both ends are taken to the left tail, where a logarithm keeps its digits: at any distance the result is finite.

    Example:
        >>> x = from_pixels(torch.arange(256, dtype=torch.uint8))
        >>> log_normal_bin(x, torch.tensor(0.1), torch.tensor(0.3)).exp().sum()
        tensor(1.0000)
    """
    low, high = (x - HALF_BIN - mean) / std, (x + HALF_BIN - mean) / std
    far = low + high > 0  # on the right: look from there
    low, high = torch.where(far, -high, low), torch.where(far, -low, high)
    log_low, log_high = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
    inside = log_high + torch.log(-torch.expm1(log_low - log_high))
    below, above = (
        torch.special.log_ndtr((x + HALF_BIN - mean) / std),
        torch.special.log_ndtr(-(x - HALF_BIN - mean) / std),
    )
    return torch.where(x < -1 + HALF_BIN, below, torch.where(x > 1 - HALF_BIN, above, inside))


@dataclass(frozen=True)
class DiscretisedGaussian:
    """A normal law around the denoiser's estimate, cut into the bins of the levels.

    Attributes:
        variance: s^2; sigma^2 / alpha^2, what is known of x from x_t alone, if None.
    """

    variance: float | None = None

    def __call__(self, x: Tensor, x_t: Tensor, estimate: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        check_levels(x, "x")
        return log_normal_bin(x, estimate, _std(self.variance, x, alpha, sigma)).flatten(1).sum(1)


@dataclass(frozen=True)
class Gaussian:
    """A normal density around the denoiser's estimate, for data that are real numbers.

    Attributes:
        variance: s^2; sigma^2 / alpha^2 if None.
    """

    variance: float | None = None

    def __call__(self, x: Tensor, x_t: Tensor, estimate: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        std = _std(self.variance, x, alpha, sigma)
        squares = ((x - estimate) / std).square() + 2 * torch.log(std) + math.log(2 * math.pi)
        return -0.5 * squares.flatten(1).sum(1)


def _std(variance: float | None, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    ratio = sigma / alpha if variance is None else torch.full_like(sigma, math.sqrt(variance))
    return expand(ratio, x)
