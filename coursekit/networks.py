"""The networks that lessons share: perceptrons (plain, masked, aware of the time), and networks of pictures.

Pictures of 28 x 28 pixels enter as 14 x 14 places of 4 channels (2 x 2 pixels each) and leave the same way, so that no
convolution runs on more places than that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "MLP",
    "ConvDecoder",
    "ConvEncoder",
    "MaskedLinear",
    "MaskedMLP",
    "TimeEmbedding",
    "TimeMLP",
    "UNet",
    "autoregressive_masks",
]


class MLP(nn.Sequential):
    """Linear layers with an activation between them.

    Args:
        sizes: features from input to output, at least two numbers.
        activation: makes the layer that stands between two linear ones.

    Raises:
        ValueError: if fewer than two sizes are given, or one is not positive.

    Example:
        >>> MLP([2, 64, 64, 1])(torch.zeros(5, 2)).shape
        torch.Size([5, 1])
    """

    def __init__(self, sizes: Sequence[int], activation: Callable[[], nn.Module] = nn.SiLU) -> None:
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"sizes must be two or more positive numbers, got {list(sizes)}")
        layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), activation())]
        super().__init__(*layers[:-1])


class MaskedLinear(nn.Linear):
    """A linear layer in which output j sees input i only where the mask says so: x -> (W * M) x + b.

    The weights start uniformly within 1 / sqrt(inputs that the output sees). The mask belongs to the
    architecture, so it is a buffer that is not saved.

    Args:
        mask: M, (outputs, inputs), true or 1 where a weight is kept.
        bias: whether b is learned, or absent.

    Raises:
        ValueError: if the mask is not a matrix.

    Example:
        >>> layer = MaskedLinear(torch.tensor([[1, 0], [1, 1]]))
        >>> torch.autograd.functional.jacobian(layer, torch.zeros(2)).ne(0).tolist()
        [[True, False], [True, True]]
    """

    mask: Tensor

    def __init__(self, mask: Tensor, bias: bool = True) -> None:
        if mask.ndim != 2:
            raise ValueError(f"mask must be a matrix (outputs, inputs), got shape {tuple(mask.shape)}")
        super().__init__(mask.shape[1], mask.shape[0], bias=bias)
        self.register_buffer("mask", mask.bool(), persistent=False)
        with torch.no_grad():
            self.weight.mul_((mask.shape[1] / mask.sum(1, keepdim=True).clamp(min=1)).sqrt())

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        return F.linear(x, self.weight * self.mask, self.bias)


def autoregressive_masks(
    order: Sequence[int] | Tensor, hidden: Sequence[int], outputs: int = 1, context: int = 0
) -> list[Tensor]:
    """Masks of a perceptron whose outputs for a variable see only the variables that come before it in an order.

    Each unit has a degree: how many variables, in the order given, it may see. Input i has the place of variable i
    (1 for the first), a context input has 0, and the hidden units' degrees are spread evenly up to D - 1. A unit
    sees those of the layer before whose degree is no greater than its own, and an output for variable i sees
    hidden units whose degree is below the place of i. Hidden layers of one width have equal degrees, so skips
    between them keep the property. Germain et al., "MADE: Masked Autoencoder for Distribution Estimation", 2015,
    arXiv 1502.03509, equations 8 to 13.

    Args:
        order: a permutation of 0..D-1, the variables as they come: `order[0]` sees nothing but the context.
        hidden: the widths of the hidden layers.
        outputs: numbers per variable; the last layer's units are ordered (D, outputs), the variable first.
        context: inputs behind the D variables that every unit may see.

    Returns:
        One mask (units, inputs), bool, for each layer: len(hidden) + 1 of them.

    Raises:
        ValueError: if the order is no permutation, or a size is not positive.

    Example:
        >>> [mask.int().tolist() for mask in autoregressive_masks([1, 0], hidden=[2])]
        [[[0, 1], [0, 1]], [[1, 1], [0, 0]]]
    """
    order = torch.as_tensor(order)
    D = len(order)
    if order.ndim != 1 or D < 1 or not torch.equal(order.sort().values, torch.arange(D)):
        raise ValueError(f"order must be a permutation of 0..{max(D - 1, 0)}, got {order.tolist()}")
    if min([*hidden, outputs]) < 1 or context < 0:
        raise ValueError(f"hidden, outputs >= 1 and context >= 0 are wanted, got {list(hidden)}, {outputs}, {context}")
    place = order.argsort() + 1
    lowest = 0 if context else min(1, D - 1)
    degrees = [torch.cat([place, place.new_zeros(context)])]
    degrees += [torch.linspace(lowest, D - 1, width).round().long() for width in hidden]
    inner = [after[:, None] >= before for before, after in pairwise(degrees)]
    return [*inner, place.repeat_interleave(outputs)[:, None] > degrees[-1]]


class MaskedMLP(nn.Sequential):
    """A perceptron with the masks of `autoregressive_masks`, whose arguments it has.

    Example:
        >>> network = MaskedMLP([2, 0, 1], hidden=[16, 16], outputs=2, context=4)
        >>> network(torch.zeros(5, 3 + 4)).view(5, 3, 2).shape
        torch.Size([5, 3, 2])
    """

    def __init__(
        self,
        order: Sequence[int] | Tensor,
        hidden: Sequence[int],
        outputs: int = 1,
        context: int = 0,
        activation: Callable[[], nn.Module] = nn.SiLU,
    ) -> None:
        masks = autoregressive_masks(order, hidden, outputs, context)
        layers = [layer for mask in masks for layer in (MaskedLinear(mask), activation())]
        super().__init__(*layers[:-1])


class TimeEmbedding(nn.Module):
    """Cosines and sines of t at geometrically spaced frequencies, so that a network can tell near times apart.

    Args:
        features: even number of outputs.
        max_frequency: the fastest, in radians per unit of t; the slowest is 1.

    Raises:
        ValueError: if the number of features is odd or below 2.

    Example:
        >>> TimeEmbedding(8)(torch.zeros(3))[0].tolist()
        [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    """

    frequencies: Tensor

    def __init__(self, features: int, max_frequency: float = 1000.0) -> None:
        super().__init__()
        if features < 2 or features % 2:
            raise ValueError(f"features must be even and at least 2, got {features}")
        frequencies = torch.exp(torch.linspace(0, math.log(max_frequency), features // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """(N,) times -> (N, features)."""
        phase = t[:, None] * self.frequencies
        return torch.cat([phase.cos(), phase.sin()], dim=1)


class TimeMLP(nn.Module):
    """A perceptron of points and times, with labels if wanted: the denoising network of two-dimensional lessons.

    Args:
        features: D of the points.
        width: of the `depth` hidden layers.
        num_classes: labels are 0..num_classes - 1, and num_classes says "no label"; None without labels.
        outputs: numbers a point; D if None.

    Example:
        >>> TimeMLP(2)(torch.zeros(5, 2), torch.linspace(0, 1, 5)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        features: int,
        width: int = 128,
        depth: int = 3,
        num_classes: int | None = None,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        self.time = nn.Sequential(TimeEmbedding(32, max_frequency=100.0), nn.Linear(32, width))
        self.label = None if num_classes is None else nn.Embedding(num_classes + 1, width)
        self.point = nn.Linear(features, width)  # a layer of its own: beside 32 features two coordinates would drown
        self.body = nn.Sequential(nn.SiLU(), MLP([*[width] * depth, outputs or features]))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """(N, D) points at times (N,) with labels (N,) -> (N, outputs)."""
        context = self.time(t) if self.label is None else self.time(t) + self.label(y)
        return self.body(self.point(x) + context)


class ConvEncoder(nn.Module):
    """Pictures to a few numbers: 14 x 14 -> 7 x 7 -> a vector, without normalisation, so that no picture sees another.

    Args:
        outputs: numbers a picture.
        width: channels at 14 x 14; twice as many at 7 x 7.
        context: features of a context, such as the embedding of a label, added to the first layer; 0 for none.
        activation: makes the layer between two others.

    Example:
        >>> ConvEncoder(outputs=5, width=8, context=3)(torch.zeros(2, 1, 28, 28), torch.zeros(2, 3)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self, outputs: int, width: int = 32, context: int = 0, activation: Callable[[], nn.Module] = nn.SiLU
    ) -> None:
        super().__init__()
        self.enter = nn.Conv2d(4, width, 3, padding=1)
        self.context = nn.Linear(context, width, bias=False) if context else None
        self.body = nn.Sequential(
            activation(),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            activation(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            activation(),
            nn.Flatten(),
            nn.Linear(2 * width * 49, outputs),
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(N, 1, 28, 28) pictures and, if the network was built for it, a context (N, C) -> (N, outputs)."""
        h = self.enter(F.pixel_unshuffle(x, 2))
        return self.body(h if self.context is None else h + self.context(context)[..., None, None])


class ConvDecoder(nn.Module):
    """A few numbers to pictures: a vector -> 7 x 7 -> 14 x 14 -> 28 x 28; the last layer is linear.

    Args:
        inputs: numbers a picture.
        outputs: channels of the result, 1 for a picture, more for the parameters of a distribution over pixels.
        width: channels at 14 x 14; twice as many at 7 x 7.
        activation: makes the layer between two others.

    Example:
        >>> ConvDecoder(inputs=5, width=8)(torch.zeros(2, 5)).shape
        torch.Size([2, 1, 28, 28])
    """

    def __init__(
        self, inputs: int, outputs: int = 1, width: int = 32, activation: Callable[[], nn.Module] = nn.SiLU
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(inputs, 2 * width * 49),
            nn.Unflatten(1, (2 * width, 7, 7)),
            nn.GroupNorm(8, 2 * width),
            activation(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.GroupNorm(8, 2 * width),
            activation(),
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(2 * width, width, 3, padding=1),
            nn.GroupNorm(8, width),
            activation(),
            nn.Conv2d(width, 4 * outputs, 3, padding=1),
        )

    def forward(self, z: Tensor) -> Tensor:
        """(N, inputs) -> (N, outputs, 28, 28)."""
        return F.pixel_shuffle(self.body(z), 2)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a skip; the context scales and shifts what lies between them.

    The last convolution starts at zero, so that the block starts as its skip. Feature-wise modulation after
    Perez et al., "FiLM", 2018, arXiv 1709.07871, as used by arXiv 2105.05233.
    """

    def __init__(self, channels_in: int, channels: int, context: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, channels_in), nn.Conv2d(channels_in, channels, 3, padding=1)
        self.modulation = nn.Linear(context, 2 * channels)
        self.norm2, self.conv2 = nn.GroupNorm(8, channels), _zero(nn.Conv2d(channels, channels, 3, padding=1))
        self.skip = nn.Conv2d(channels_in, channels, 1) if channels_in != channels else nn.Identity()

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(N, C_in, H, W) and (N, context) -> (N, C, H, W)."""
        scale, shift = self.modulation(context)[..., None, None].chunk(2, dim=1)
        h = self.norm2(self.conv1(F.silu(self.norm1(x)))) * (1 + scale) + shift
        return self.skip(x) + self.conv2(F.silu(h))


class Attention(nn.Module):
    """Every place of the map looks at every other one; starts as the identity."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.norm, self.heads = nn.GroupNorm(8, channels), heads
        self.qkv, self.out = nn.Conv2d(channels, 3 * channels, 1), _zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        N, C, H, W = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(N, 3, self.heads, C // self.heads, H * W).mT.unbind(1)
        return x + self.out(F.scaled_dot_product_attention(q, k, v).mT.reshape(N, C, H, W))


class UNet(nn.Module):
    """The course's denoising network for 28 x 28 pictures.

    Squares of 2 x 2 pixels become 4 channels, so that no convolution runs on more than 14 x 14 places; from
    there the network goes down to 7 x 7, where attention mixes all places, and back up, and each step up
    also sees what a step down saw. Time and label modulate every block. After Ronneberger et al., "U-Net",
    2015, arXiv 1505.04597, and Ho et al., 2020, arXiv 2006.11239.

    Args:
        fine, coarse: channels at 14 x 14 and at 7 x 7, multiples of 8.
        context: features of the embedding of time and label.
        num_classes: labels are 0..num_classes - 1, and num_classes says "no label".

    Example:
        >>> network = UNet()
        >>> network(torch.zeros(2, 1, 28, 28), torch.zeros(2), torch.tensor([3, 10])).shape
        torch.Size([2, 1, 28, 28])
        >>> sum(p.numel() for p in network.parameters())
        683172
    """

    def __init__(self, fine: int = 32, coarse: int = 64, context: int = 128, num_classes: int = 10) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.time = nn.Sequential(TimeEmbedding(64), MLP([64, context, context]), nn.SiLU())
        self.label = nn.Embedding(num_classes + 1, context)
        self.enter = nn.Conv2d(4, fine, 3, padding=1)
        self.down1, self.shrink = ResidualBlock(fine, fine, context), nn.Conv2d(fine, fine, 3, stride=2, padding=1)
        self.down2 = ResidualBlock(fine, coarse, context)
        self.middle1, self.attention = ResidualBlock(coarse, coarse, context), Attention(coarse)
        self.middle2 = ResidualBlock(coarse, coarse, context)
        self.up1 = ResidualBlock(coarse + coarse, coarse, context)
        self.up2, self.grow = ResidualBlock(coarse + fine, coarse, context), nn.Conv2d(coarse, fine, 3, padding=1)
        self.up3 = ResidualBlock(fine + fine, fine, context)
        self.up4 = ResidualBlock(fine + fine, fine, context)
        self.norm, self.leave = nn.GroupNorm(8, fine), _zero(nn.Conv2d(fine, 4, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """(N, 1, 28, 28) pictures at times (N,) with labels (N,), or without -> (N, 1, 28, 28)."""
        y = torch.full((len(x),), self.num_classes, device=x.device) if y is None else y
        context = self.time(t) + self.label(y)
        a = self.enter(F.pixel_unshuffle(x, 2))  # (N, fine, 14, 14)
        b = self.down1(a, context)
        c = self.shrink(b)  # (N, fine, 7, 7)
        d = self.down2(c, context)  # (N, coarse, 7, 7)
        h = self.middle2(self.attention(self.middle1(d, context)), context)
        h = self.up1(torch.cat([h, d], dim=1), context)
        h = self.up2(torch.cat([h, c], dim=1), context)
        h = self.grow(F.interpolate(h, scale_factor=2.0, mode="nearest"))  # (N, fine, 14, 14)
        h = self.up3(torch.cat([h, b], dim=1), context)
        h = self.up4(torch.cat([h, a], dim=1), context)
        return F.pixel_shuffle(self.leave(F.silu(self.norm(h))), 2)


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
