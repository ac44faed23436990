r"""Likelihoods p(x | z): how what a decoder returns becomes a law of the data.

Given the decoder's numbers a = f(z), the parts of x are independent, so that

    log p(x | z) = sum_i log p(x_i | a_i),

a sum over all pixels and never their mean: the rate of the latents is weighed against it. For real numbers,
p(x_i | a_i) = N(x_i; a_i, sigma^2) with one sigma; its best value, given the decoder, is the root of the mean squared
error (Rybkin et al., "Simple and Effective VAE Training with Calibrated Decoders", 2021, arXiv 2006.13202). For black
and white or 256 levels it is a law of `coursekit.pixels`.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from coursekit.pixels import PixelDistribution

__all__ = ["GaussianLikelihood", "Likelihood", "PixelLikelihood"]


class Likelihood(Protocol):
    """What a VAE asks of p(x | z)."""

    @property
    def channels(self) -> int:
        """Numbers that the decoder returns for each number of x."""
        ...

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """log p(x | z) in nats, summed over x: (N, channels, ...) and (N, 1, ...) -> (N,)."""
        ...

    def sample(self, parameters: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A draw of x, (N, 1, ...)."""
        ...

    def mean(self, parameters: Tensor) -> Tensor:
        """E[x | z], (N, 1, ...)."""
        ...


class GaussianLikelihood(nn.Module):
    """N(x; a, sigma^2 I) around the decoder's a, which has the shape of x, whatever that is.

    Args:
        sigma: the standard deviation of every number of x, or where it starts.
        learned: whether training moves sigma.

    Raises:
        ValueError: if sigma is not positive.

    Example:
        >>> GaussianLikelihood().log_prob(torch.zeros(1, 2), torch.zeros(1, 2))  # -log(2 pi)
        tensor([-1.8379])
    """

    channels = 1

    def __init__(self, sigma: float = 1.0, learned: bool = False) -> None:
        super().__init__()
        if not sigma > 0:
            raise ValueError(f"sigma must be positive, got {sigma}")
        self.log_sigma = nn.Parameter(torch.tensor(math.log(sigma)), requires_grad=learned)

    @property
    def sigma(self) -> Tensor:
        """The standard deviation, a scalar."""
        return self.log_sigma.exp()

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """log N(x; parameters, sigma^2 I) in nats, summed over x: (N, ...) and (N, ...) -> (N,).

        Raises:
            ValueError: if the shapes differ.
        """
        if parameters.shape != x.shape:
            raise ValueError(f"parameters must have the shape of x, {tuple(x.shape)}, got {tuple(parameters.shape)}")
        squares = ((x - parameters) / self.sigma).square().flatten(1).sum(1)
        return -0.5 * squares - math.prod(x.shape[1:]) * (self.log_sigma + 0.5 * math.log(2 * math.pi))

    def sample(self, parameters: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """parameters + sigma eps."""
        return parameters + self.sigma * torch.empty_like(parameters).normal_(generator=generator)

    def mean(self, parameters: Tensor) -> Tensor:
        """The parameters themselves."""
        return parameters


class PixelLikelihood(nn.Module):
    """Independent pixels of a law of `coursekit.pixels`, added up over the picture.

    Args:
        pixel: `Bernoulli()` for pictures of -1 and 1, `DiscretisedLogistics()` for the 256 levels in [-1, 1].

    Example:
        >>> from coursekit.pixels import Bernoulli
        >>> likelihood = PixelLikelihood(Bernoulli())
        >>> likelihood.log_prob(torch.zeros(1, 1, 28, 28), torch.ones(1, 1, 28, 28))  # 784 tosses: -784 log 2
        tensor([-543.4274])
    """

    def __init__(self, pixel: PixelDistribution) -> None:
        super().__init__()
        self.pixel = pixel

    @property
    def channels(self) -> int:
        """Numbers a pixel."""
        return self.pixel.channels

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """log P(x | z) in nats, summed over the pixels: (N, channels, *) and (N, 1, *) -> (N,).

        Raises:
            ValueError: if the shapes do not fit, or x holds impossible values.
        """
        wanted = (len(x), self.channels, *x.shape[2:])
        if x.ndim < 2 or x.shape[1] != 1 or parameters.shape != wanted:
            shapes = f"{tuple(parameters.shape)} and {tuple(x.shape)}"
            raise ValueError(f"parameters (N, {self.channels}, *) and x (N, 1, *) are wanted, got {shapes}")
        return self.pixel.log_prob(parameters, x).flatten(1).sum(1)

    def sample(self, parameters: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Each pixel drawn by itself, (N, channels, *) -> (N, 1, *)."""
        return self.pixel.sample(parameters, generator)

    def mean(self, parameters: Tensor) -> Tensor:
        """The mean grey value of each pixel, (N, channels, *) -> (N, 1, *)."""
        return self.pixel.mean(parameters)
