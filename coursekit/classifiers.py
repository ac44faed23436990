"""Classifiers: discriminative models P(y | x), and the instruments by which samples are judged.

Each maps pictures x (N, ...) to logits (N, C) with P(y | x) = softmax(logits)_y and learns by the mean
negative log-likelihood -log P(y | x), in nats. The noise-aware classifier also takes the diffusion time t of
a noisy picture

    x_t = alpha_t x + sigma_t eps,    eps ~ N(0, I),

and learns P(y | x_t, t) at all noise levels at once; the gradient of its log-probability can guide a sampler.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ConvClassifier", "LogisticRegression", "NoiseAwareClassifier", "evaluating", "random_affine"]


class NoiseSchedule(Protocol):
    """What a schedule must offer here: coefficients for times in [0, 1] of any shape."""

    def alpha(self, t: Tensor) -> Tensor: ...

    def sigma(self, t: Tensor) -> Tensor: ...


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a block without gradients and in evaluation mode, and give the model its mode back.

    Example:
        >>> model = nn.Dropout()
        >>> with evaluating(model):
        ...     model.training
        False
        >>> model.training
        True
    """
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


class Classifier(nn.Module):
    """What all classifiers share; a subclass maps x to logits (N, C) in `forward`."""

    def loss(self, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Mean cross-entropy of pictures (N, ...) with labels (N,): a scalar in nats."""
        return F.cross_entropy(self(x), y)

    def probabilities(self, x: Tensor) -> Tensor:
        """P(y | x), (N, C), in evaluation mode and without gradients."""
        with evaluating(self):
            return self(x).softmax(dim=1)

    def predict(self, x: Tensor) -> Tensor:
        """Most probable class, (N,), in evaluation mode and without gradients."""
        with evaluating(self):
            return self(x).argmax(dim=1)


class LogisticRegression(Classifier):
    """Linear logits, W x + b; the loss is convex.

    Args:
        num_classes: Number of classes C.
        shape: Shape of one x, such as (1, 28, 28), or the number of features.
        penalty: Weight of |W|^2 / 2 in the loss; scikit-learn's C is 1 / (penalty N).

    Example:
        >>> model = LogisticRegression(2, 3)
        >>> round(model.loss(torch.ones(4, 3), torch.tensor([0, 1, 0, 1])).item(), 4)  # log 2
        0.6931
    """

    def __init__(self, num_classes: int, shape: int | Sequence[int], penalty: float = 0.0) -> None:
        super().__init__()
        features = shape if isinstance(shape, int) else math.prod(shape)
        self.linear = nn.Linear(features, num_classes)
        self.penalty = penalty
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map points (N, ...) to logits (N, C)."""
        return self.linear(x.flatten(1))

    def loss(self, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Mean cross-entropy plus the penalty: a scalar."""
        return super().loss(x, y, generator) + 0.5 * self.penalty * self.linear.weight.square().sum()


class ConvBlock(nn.Module):
    """Convolution, batch normalisation, scale and shift by a context if there is one, ReLU.

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output.
        stride: Step of the convolution; 2 halves height and width.
        context: Size of the context vector; 0 for none.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1, context: int = 0) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.normalisation = nn.BatchNorm2d(channels_out)
        self.modulation = nn.Linear(context, 2 * channels_out) if context else None

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(N, C_in, H, W) and, if the block has one, a context (N, context) -> (N, C_out, H', W')."""
        x = self.normalisation(self.convolution(x))
        if self.modulation is not None:
            scale, shift = self.modulation(context)[:, :, None, None].chunk(2, dim=1)
            x = x * (1 + scale) + shift
        return x.relu()


def conv_blocks(widths: Sequence[int], context: int = 0) -> nn.ModuleList:
    """Two blocks at each width on (N, 4, H, W) inputs; each width after the first halves height and width."""
    sizes = [(4, widths[0], 1), *((before, after, 2) for before, after in pairwise(widths))]
    pairs = ((ConvBlock(a, b, stride, context), ConvBlock(b, b, 1, context)) for a, b, stride in sizes)
    return nn.ModuleList(block for pair in pairs for block in pair)


class ConvClassifier(Classifier):
    """Convolutional network on 28 x 28 pictures: 14 x 14 -> 7 x 7 -> 4 x 4 -> mean over positions -> logits.

    Its features are those of the course's Frechet distance.

    Args:
        num_classes: Number of classes C.
        widths: Channels at each size; the last is the number of features.
        dropout: Share of features set to zero while training.
        label_smoothing: Share of the target spread over all classes while training.

    Example:
        >>> model = ConvClassifier(10)
        >>> x = torch.zeros(2, 1, 28, 28)
        >>> model(x).shape, model.features(x).shape
        (torch.Size([2, 10]), torch.Size([2, 128]))
    """

    def __init__(
        self,
        num_classes: int = 10,
        widths: Sequence[int] = (32, 64, 128),
        dropout: float = 0.2,
        label_smoothing: float = 0.05,
    ) -> None:
        super().__init__()
        self.blocks = conv_blocks(widths)
        self.head = nn.Linear(widths[-1], num_classes)
        self.dropout = dropout
        self.label_smoothing = label_smoothing

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features of pictures (N, 1, 28, 28), (N, F)."""
        x = F.pixel_unshuffle(x, 2)  # (N, 4, 14, 14)
        for block in self.blocks:
            x = block(x)
        return x.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures (N, 1, 28, 28) to logits (N, C)."""
        return self.head(self.features(x))

    def loss(self, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Mean cross-entropy with smoothed labels and, in training mode, dropout: a scalar in nats."""
        features = self.features(x)
        if self.training:
            kept = torch.rand(features.shape, generator=generator, device=x.device) >= self.dropout
            features = features * kept / (1 - self.dropout)
        return F.cross_entropy(self.head(features), y, label_smoothing=self.label_smoothing)


class NoiseAwareClassifier(nn.Module):
    """P(y | x_t, t) for pictures under any amount of noise.

    The input is divided by sqrt(alpha_t^2 + sigma_t^2), so that the network sees one scale under every
    schedule, and is told the angle atan2(sigma_t, alpha_t), 0 for data and pi / 2 for noise.

    Args:
        schedule: Anything with `alpha(t)` and `sigma(t)`, such as one of `coursekit.diffusion.schedules`.
        num_classes: Number of classes C.
        widths: Channels at each size.
        context: Size of the time's embedding.

    Source: Dhariwal and Nichol, Diffusion models beat GANs on image synthesis, arXiv 2105.05233, section 4.

    Example:
        >>> from types import SimpleNamespace
        >>> schedule = SimpleNamespace(alpha=lambda t: 1 - t, sigma=lambda t: t)
        >>> model = NoiseAwareClassifier(schedule, num_classes=2)
        >>> model(torch.zeros(3, 1, 28, 28), torch.tensor([0.0, 0.5, 1.0])).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        num_classes: int = 10,
        widths: Sequence[int] = (32, 64, 128),
        context: int = 64,
    ) -> None:
        super().__init__()
        self.schedule = schedule
        hidden = nn.Linear(8, context), nn.SiLU(), nn.Linear(context, context), nn.SiLU()
        self.embedding = nn.Sequential(*hidden)
        self.blocks = conv_blocks(widths, context)
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Map noisy pictures (N, 1, 28, 28) and times (N,) in [0, 1] to logits (N, C)."""
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        angle = torch.atan2(sigma, alpha)[:, None] * torch.arange(1, 5, device=t.device)  # (N, 4)
        context = self.embedding(torch.cat([angle.cos(), angle.sin()], dim=1).to(x_t.dtype))
        scale = torch.rsqrt(alpha**2 + sigma**2).to(x_t.dtype)
        x = F.pixel_unshuffle(x_t * scale[:, None, None, None], 2)
        for block in self.blocks:
            x = block(x, context)
        return self.head(x.mean(dim=(2, 3)))

    def add_noise(self, x: Tensor, t: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw x_t given clean pictures (N, ...) and times (N,)."""
        shape = (-1, *[1] * (x.ndim - 1))
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        alpha, sigma = self.schedule.alpha(t).view(shape), self.schedule.sigma(t).view(shape)
        return (alpha * x + sigma * noise).to(x.dtype)

    def loss(self, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Mean cross-entropy of labels (N,) at times spread evenly over [0, 1]: a scalar in nats.

        The times are stratified: one in each of N equal parts of [0, 1], in random order.
        """
        n = len(x)
        offsets = torch.rand(n, generator=generator, device=x.device)
        order = torch.randperm(n, generator=generator, device=x.device)
        t = (order + offsets) / n
        return F.cross_entropy(self(self.add_noise(x, t, generator), t), y)

    def probabilities(self, x_t: Tensor, t: Tensor | float = 0.0) -> Tensor:
        """P(y | x_t, t), (N, C), in evaluation mode and without gradients; t is (N,) or one number for all."""
        t = torch.as_tensor(t, dtype=torch.float32, device=x_t.device).expand(len(x_t))
        with evaluating(self):
            return self(x_t, t).softmax(dim=1)

    def predict(self, x_t: Tensor, t: Tensor | float = 0.0) -> Tensor:
        """Most probable class, (N,), in evaluation mode and without gradients; t as in `probabilities`."""
        return self.probabilities(x_t, t).argmax(dim=1)


def random_affine(
    x: Tensor,
    generator: torch.Generator | None = None,
    degrees: float = 15.0,
    stretch: float = 0.15,
    shift: float = 2.0,
    mirror: bool = True,
) -> Tensor:
    """Mirror, turn, scale and shift each picture at random: the augmentation behind the course classifier.

    Args:
        x: Pictures in [-1, 1], (N, 1, H, W); what comes in at the border is empty, -1.
        generator: Source of randomness, on the device of x.
        degrees: Largest rotation either way.
        stretch: The scale is drawn between exp(-stretch) and exp(stretch), log-uniformly.
        shift: Largest shift in pixels, in either direction.
        mirror: Whether half of the pictures are mirrored.

    Example:
        >>> x = torch.arange(4.0).view(1, 1, 2, 2) / 3
        >>> torch.allclose(random_affine(x, degrees=0, stretch=0, shift=0, mirror=False), x, atol=1e-6)
        True
    """
    u = 2 * torch.rand(5, len(x), generator=generator, device=x.device) - 1  # (5, N), uniform on [-1, 1]
    angle, scale = u[0] * math.radians(degrees), torch.exp(u[1] * stretch)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    sign = torch.where(u[4] < 0, -1.0, 1.0) if mirror else torch.ones_like(u[4])
    across, down = 2 * shift * u[2] / x.shape[3], 2 * shift * u[3] / x.shape[2]
    rows = [torch.stack([sign * cos, -sin, across], dim=1), torch.stack([sign * sin, cos, down], dim=1)]
    grid = F.affine_grid(torch.stack(rows, dim=1).to(x.dtype), list(x.shape), align_corners=False)
    return F.grid_sample(x + 1, grid, align_corners=False) - 1
