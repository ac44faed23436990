r"""PixelCNN: each pixel is a child of all that come before it, row by row from the top, each row from the left.

    p(x | y) = prod_i p(x_i | x_1, ..., x_{i-1}, y)

One convolutional network computes all factors at once. Two stacks share the work, so that no direction is blind: the
vertical stack v sees the rows above, the horizontal one h the row itself up to the left neighbour, and what v knows
flows into h, never back. How far they see is a matter of depth: with dilations that sum to s, 3 + s rows up, as many
columns to either side of them, and 4 + s pixels to the left. In each layer, with a gate g(a, b) = tanh(a) sigmoid(b),

    v <- v + g(W_v * v),        h <- h + W_o g(W_h * h + W_l v),

and the label's embedding is added to both stacks where they begin; the skips carry it to every layer.

To draw a picture the stacks need not start again for every pixel: a row of v is computed once for its row, a column of
h once for its pixel, and each is kept. All the drawing costs little more than one pass of the network.

References: van den Oord et al., "Conditional Image Generation with PixelCNN Decoders", 2016, arXiv 1606.05328, eq. 2
to 4 and section 2.2; the reuse is described by Ramachandran et al., "Fast Generation for Convolutional Autoregressive
Models", 2017, arXiv 1704.06001. Skips around the vertical layers, dilation, and a learned map of places
are added here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coursekit.bayesnet.autoregressive import Autoregressive
from coursekit.pixels import PixelDistribution

__all__ = ["PixelCNN"]

ABOVE, ASIDE, LEFT = 3, 3, 4
"""What the first layer sees: rows above, columns to either side of them, pixels to the left."""


class GatedLayer(nn.Module):
    """One layer of both stacks; it looks one step of `dilation` pixels up, to either side, and to the left."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.vertical = nn.Conv2d(channels, 2 * channels, (2, 3), dilation=dilation)
        self.link = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.horizontal = nn.Conv2d(channels, 2 * channels, (1, 2), dilation=dilation)
        self.leave = nn.Conv2d(channels, channels, 1)

    def forward(self, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Both stacks, (N, F, H, W) each -> the same shapes."""
        d = self.dilation
        v = v + gate(self.vertical(F.pad(v, (d, d, d, 0))))
        return v, h + self.leave(gate(self.horizontal(F.pad(h, (d, 0))) + self.link(v)))


def gate(x: Tensor) -> Tensor:
    """tanh(a) sigmoid(b) of the two halves of the channels, (N, 2F, *) -> (N, F, *)."""
    a, b = x.chunk(2, dim=1)
    return a.tanh() * b.sigmoid()


class PixelCNN(Autoregressive):
    """A gated PixelCNN without blind spot, for black-and-white or 8-bit pictures, with labels or without.

    Args:
        head: the law of one pixel: `Bernoulli()` for pixels -1 and 1, `DiscretisedLogistics()` for 256 levels.
        channels: F of each stack.
        dilations: one layer for each number; it looks that many pixels away, beside what is near.
        num_classes: C; None without labels.
        shape: of one picture, (1, H, W).

    Raises:
        ValueError: if a size is not positive, or the pictures have more than one channel.

    Example:
        >>> model = PixelCNN(channels=4, dilations=(1, 2), num_classes=2, shape=(1, 5, 6))
        >>> x = model.sample(3, y=torch.tensor([0, 1, 1]), generator=torch.Generator().manual_seed(0))
        >>> x.shape, model.log_prob(x).shape
        (torch.Size([3, 1, 5, 6]), torch.Size([3]))
    """

    def __init__(
        self,
        head: PixelDistribution | None = None,
        channels: int = 24,
        dilations: Sequence[int] = (1, 2, 4, 1, 2, 4),
        num_classes: int | None = None,
        shape: Sequence[int] = (1, 28, 28),
    ) -> None:
        if len(shape) != 3 or shape[0] != 1:
            raise ValueError(f"shape must be (1, H, W), got {tuple(shape)}")
        super().__init__(shape, torch.arange(shape[1] * shape[2]), head, num_classes)
        if min([channels, *dilations]) < 1:
            raise ValueError(f"channels and dilations must be positive, got {channels} and {tuple(dilations)}")
        self.channels = channels
        self.place = nn.Parameter(torch.zeros(channels, *self.shape[1:]))
        self.enter_vertical = nn.Conv2d(1, channels, (ABOVE, 2 * ASIDE + 1))
        self.enter_horizontal = nn.Conv2d(1, channels, (1, LEFT))
        self.layers = nn.ModuleList(GatedLayer(channels, d) for d in dilations)
        self.label = nn.Embedding(num_classes or 1, 2 * channels)
        self.out = nn.Sequential(nn.SiLU(), nn.Conv2d(channels, 2 * channels, 1), nn.SiLU(),
                                 nn.Conv2d(2 * channels, self.head.channels, 1))  # fmt: skip

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """What the head is given for each pixel, from the label and the pixels before it: (N, head.channels, H, W)."""
        self._check_given(y)
        label_v, label_h = self._labels(y, len(x))
        above = F.pad(x, (ASIDE, ASIDE, ABOVE, 0))[:, :, :-1]  # row i of the output sees rows i - ABOVE .. i - 1
        v = self.enter_vertical(above) + self.place + label_v
        h = self.enter_horizontal(F.pad(x, (LEFT, 0))[..., :-1]) + label_h
        v, h = (stack.contiguous(memory_format=torch.channels_last) for stack in (v, h))  # the fastest for few channels
        for layer in self.layers:
            v, h = layer(v, h)
        return self.out(h)

    def _labels(self, y: Tensor | None, n: int) -> tuple[Tensor, Tensor]:
        """What the labels add to the vertical and to the horizontal stack, each (N, F, 1, 1)."""
        y = torch.zeros(n, dtype=torch.long, device=self.place.device) if y is None else y
        label_v, label_h = self.label(y)[..., None, None].chunk(2, dim=1)
        return label_v, label_h

    def _complete(self, x: Tensor, observed: Tensor, y: Tensor | None, generator: torch.Generator | None) -> Tensor:
        label_v, label_h = self._labels(y, len(x))
        x, vertical = x.clone(), _VerticalRows(self, label_v)
        for i in range(x.shape[2]):
            columns = _HorizontalColumns(self, label_h[..., 0, 0], vertical.row(i, x))
            for j in range(x.shape[3]):
                drawn = self.head.sample(columns.parameters(j, x[:, 0, i]), generator)[:, 0, 0]
                x[:, 0, i, j] = torch.where(observed[:, 0, i, j], x[:, 0, i, j], drawn)
        return x


class _VerticalRows:
    """The vertical stack, row by row: each layer's rows so far, with zeros around them as in the whole network."""

    def __init__(self, model: PixelCNN, label: Tensor) -> None:
        self.model, self.label = model, label
        _, H, W = model.shape
        self.seen = [
            model.place.new_zeros(len(label), model.channels, H + d, W + 2 * d)
            for d in (layer.dilation for layer in model.layers)
        ]

    def row(self, i: int, x: Tensor) -> list[Tensor]:
        """What row i gives to each layer of the horizontal stack, (W, N, 2F); looks at the rows of x above i."""
        model, gifts = self.model, []
        above = F.pad(x[:, :, max(0, i - ABOVE) : i], (ASIDE, ASIDE, max(0, ABOVE - i), 0))
        v = model.enter_vertical(above) + model.place[:, i : i + 1] + self.label  # (N, F, 1, W)
        for layer, seen in zip(model.layers, self.seen, strict=True):
            d = layer.dilation
            seen[:, :, i + d, d:-d] = v[:, :, 0]
            v = v + gate(layer.vertical(seen[:, :, i : i + d + 1]))
            gifts.append(layer.link(v)[:, :, 0].permute(2, 0, 1).contiguous())
        return gifts


class _HorizontalColumns:
    """The horizontal stack within one row, pixel by pixel: convolutions of one place are products of matrices."""

    def __init__(self, model: PixelCNN, label: Tensor, gifts: list[Tensor]) -> None:
        self.model, self.label, self.gifts = model, label, gifts
        self.seen = [label.new_zeros(model.shape[2] + layer.dilation, *label.shape) for layer in model.layers]

    def parameters(self, j: int, row: Tensor) -> Tensor:
        """What the head is given for pixel j; looks at the pixels left of it in the row (N, W): (N, channels, 1)."""
        enter = self.model.enter_horizontal
        left = F.pad(row[:, max(0, j - LEFT) : j], (max(0, LEFT - j), 0))
        h = F.linear(left, enter.weight[:, 0, 0], enter.bias) + self.label  # (N, F)
        for layer, gift, seen in zip(self.model.layers, self.gifts, self.seen, strict=True):
            far, near = layer.horizontal.weight[:, :, 0].unbind(dim=2)  # (2F, F) each
            seen[j + layer.dilation] = h
            pre = torch.addmm(gift[j] + layer.horizontal.bias, seen[j], far.T).addmm_(h, near.T)
            h = h + F.linear(gate(pre), layer.leave.weight[:, :, 0, 0], layer.leave.bias)
        return self.model.out(h[:, :, None, None])[..., 0]
