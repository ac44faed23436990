r"""Pixels as random variables: black and white, or one of 256 grey levels.

A picture is x in [-1, 1]^{1 x H x W}. In black and white each pixel is -1 or 1 and a network's output a gives

    P(x_i = 1) = 1 / (1 + exp(-a_i)),    log P(x_i) = -log(1 + exp(-x_i a_i)).

Of 8 bits, each pixel is one of 256 levels 2/255 apart. A mixture of logistic densities with weights w_m, means mu_m and
scales s_m puts on a level the area of its bin; the outermost bins reach to infinity, so that the levels' probabilities
sum to one:

    P(x_i) = sum_m w_m (S((x_i + h - mu_m) / s_m) - S((x_i - h - mu_m) / s_m)),    S the sigmoid, h = 1 / 255.

References: Salimans et al., "PixelCNN++", 2017, arXiv 1701.05517, eq. 2. Its difference of sigmoids is taken here as a
product, S(b) - S(a) = S(b) S(-a) (1 - exp(a - b)), which keeps its digits however far the level lies in a tail.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from coursekit.data import from_pixels, to_pixels

__all__ = ["Bernoulli", "DiscretisedLogistics", "PixelDistribution", "binarise", "bits_per_dim", "check_binary"]

LEVELS = 256
HALF_BIN = 1 / (LEVELS - 1)


def binarise(images: Tensor, threshold: float = 0.0) -> Tensor:
    """Black and white: 1 where a picture is above the threshold, -1 elsewhere; the same shape and floating type.

    Raises:
        TypeError: if the pictures are not floats (uint8 pictures go through `coursekit.data.from_pixels` first).

    Example:
        >>> binarise(torch.tensor([-0.2, 0.0, 0.7]))
        tensor([-1., -1.,  1.])
    """
    if not images.is_floating_point():
        raise TypeError(f"images must be floats in [-1, 1], got {images.dtype}")
    return torch.where(images > threshold, 1.0, -1.0).to(images.dtype)


def check_binary(x: Tensor, name: str = "x") -> None:
    """Refuse pictures with anything but -1 and 1 in them.

    On an accelerator nothing is checked: looking would hold up the device in every training step.

    Raises:
        ValueError: naming the argument and the first value that is neither.

    Example:
        >>> check_binary(torch.tensor([1.0, 0.5]), "images")
        Traceback (most recent call last):
        ValueError: images must hold only -1 and 1 (see coursekit.pixels.binarise), got 0.5
    """
    if x.device.type != "cpu":
        return
    wrong = x[x.abs() != 1]  # NaN is unequal to 1, too
    if wrong.numel():
        raise ValueError(f"{name} must hold only -1 and 1 (see coursekit.pixels.binarise), got {wrong[0].item():g}")


def bits_per_dim(log_prob: Tensor, dims: int) -> Tensor:
    """Bits per dimension, -log_prob / (dims log 2), of log-probabilities in nats of pictures with `dims` pixels.

    Example:
        >>> bits_per_dim(torch.tensor(-784 * math.log(256)), 784)  # every level equally probable: 8 bits
        tensor(8.)
    """
    return -log_prob / (dims * math.log(2))


class PixelDistribution(Protocol):
    """How `channels` numbers from a network become the probabilities of one pixel's values."""

    @property
    def channels(self) -> int:
        """Numbers a pixel."""
        ...

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Log-probability in nats of each pixel, (N, channels, *) and (N, 1, *) -> (N, *)."""
        ...

    def sample(self, parameters: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw each pixel by itself, (N, channels, *) -> (N, 1, *)."""
        ...

    def mean(self, parameters: Tensor) -> Tensor:
        """Mean grey value of each pixel, (N, channels, *) -> (N, 1, *)."""
        ...


@dataclass(frozen=True)
class Bernoulli:
    """A pixel is 1 with probability sigmoid(parameter), else -1.

    Example:
        >>> Bernoulli().log_prob(torch.zeros(1, 1, 2), torch.tensor([[[1.0, -1.0]]])).exp()
        tensor([[0.5000, 0.5000]])
    """

    channels: ClassVar[int] = 1

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Log-probability in nats of each pixel, (N, 1, *) and (N, 1, *) -> (N, *).

        Raises:
            ValueError: if x holds anything but -1 and 1.
        """
        check_binary(x)
        return F.logsigmoid(x * parameters)[:, 0]

    def sample(self, parameters: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw each pixel by itself, (N, 1, *) -> (N, 1, *), of -1 and 1."""
        uniform = torch.empty_like(parameters).uniform_(generator=generator)
        return torch.where(uniform < parameters.sigmoid(), 1.0, -1.0).to(parameters.dtype)

    def mean(self, parameters: Tensor) -> Tensor:
        """Mean grey value P(1) - P(-1) = tanh(parameter / 2) of each pixel, (N, 1, *) -> (N, 1, *)."""
        return torch.tanh(parameters / 2)


@dataclass(frozen=True)
class DiscretisedLogistics:
    """A pixel of 256 levels: the bins of a mixture of logistic densities.

    The parameters are, in this order, `components` logits of the weights, means, and logarithms of the scales.

    Args:
        components: of the mixture.
        min_log_scale: logarithms of scales below it are raised to it; at -7 a bin is eight scales wide.

    Raises:
        ValueError: if there is no component.

    Example:
        >>> levels = from_pixels(torch.arange(256, dtype=torch.uint8)).view(256, 1, 1)
        >>> parameters = torch.tensor([0.0, 1.0, -0.3, 0.9, -1.0, -3.0]).view(1, 6, 1).expand(256, 6, 1)
        >>> DiscretisedLogistics(components=2).log_prob(parameters, levels).exp().sum()
        tensor(1.0000)
    """

    components: int = 5
    min_log_scale: float = -7.0

    def __post_init__(self) -> None:
        if self.components < 1:
            raise ValueError(f"components must be at least 1, got {self.components}")

    @property
    def channels(self) -> int:
        """Numbers a pixel: three for each component."""
        return 3 * self.components

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Log-probability in nats of each pixel, (N, 3 components, *) and (N, 1, *) -> (N, *).

        x is taken as the middle of its bin, so it should be one of the 256 levels in [-1, 1].
        """
        logits, means, log_scales = self._split(parameters)
        upper = (x + HALF_BIN - means) / log_scales.exp()
        lower = (x - HALF_BIN - means) / log_scales.exp()
        inside = (-torch.expm1(-2 * HALF_BIN / log_scales.exp())).log()  # log(1 - exp(lower - upper))
        below, above = F.logsigmoid(upper), F.logsigmoid(-lower)
        bins = torch.where(x < -1 + HALF_BIN, below, torch.where(x > 1 - HALF_BIN, above, below + above + inside))
        return torch.logsumexp(logits.log_softmax(dim=1) + bins, dim=1)

    def sample(self, parameters: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw each pixel by itself, (N, 3 components, *) -> (N, 1, *), of the 256 levels in [-1, 1]."""
        logits, means, log_scales = self._split(parameters)
        gumbel = -torch.empty_like(logits).exponential_(generator=generator).log()
        component = (logits + gumbel).argmax(dim=1, keepdim=True)  # a draw from the weights
        uniform = torch.empty_like(means[:, :1]).uniform_(1e-5, 1 - 1e-5, generator=generator)
        x = means.gather(1, component) + log_scales.gather(1, component).exp() * uniform.logit()
        return from_pixels(to_pixels(x)).to(parameters.dtype)

    def mean(self, parameters: Tensor) -> Tensor:
        """Mean grey value of each pixel to within half a level, (N, 3 components, *) -> (N, 1, *).

        It is the mean of the logistic mixture clipped to [-1, 1], -1 + int_{-1}^{1} P(X > t) dt, of which the levels'
        own mean is the midpoint rule with one point a bin.
        """
        logits, means, log_scales = self._split(parameters)
        scales = log_scales.exp()
        area = F.softplus((means + 1) / scales) - F.softplus((means - 1) / scales)  # of P(X > t) over scale
        return (logits.softmax(dim=1) * (scales * area - 1)).sum(dim=1, keepdim=True)

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, means and logarithms of scales, each (N, components, *)."""
        if parameters.shape[1] != self.channels:
            raise ValueError(f"parameters must have {self.channels} channels, got {parameters.shape[1]}")
        logits, means, log_scales = parameters.chunk(3, dim=1)
        return logits, means, log_scales.clamp(min=self.min_log_scale)
