"""Networks of pictures: encoder, decoder and U-Net."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coursekit.networks.perceptrons import MLP, TimeEmbedding

__all__ = ["Attention", "ConvDecoder", "ConvEncoder", "ResidualBlock", "UNet"]


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
