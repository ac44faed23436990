"""Perceptrons: plain, masked so that outputs see only what they may, and aware of the time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["MLP", "MaskedLinear", "MaskedMLP", "TimeEmbedding", "TimeMLP", "autoregressive_masks"]


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
