r"""A multi-scale flow of pictures of 256 grey levels, conditional on the label.

From the data to the base: levels k get noise u, v = (k + u) / 256; a logit spreads [0, 1] over the line, so that black
and white, two spikes of width 1/256, become two clusters of width one; squares of 2 x 2 pixels become 4 channels at
14 x 14; after some steps half of the channels leave, the other half is squeezed again to 8 channels at 7 x 7. A step is
Glow's (actnorm, invertible 1 x 1 convolution, coupling) with spline couplings, which can put two peaks where a scale
and a shift put one. What leaves is made standard normal given what stays by a coupling of its own.

References: Dinh et al., 2017, arXiv 1605.08803; Kingma & Dhariwal, "Glow", 2018, arXiv 1807.03039; Durkan et al., 2019,
arXiv 1906.04032; Ho et al., "Flow++", 2019, arXiv 1902.00275.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coursekit.data import from_pixels
from coursekit.flows.base import Bijection, Compose, Flow
from coursekit.flows.coupling import AffineCoupling, SplineCoupling, halves
from coursekit.flows.dequantise import Sigmoid, UniformDequantisation, VariationalDequantisation, check_levels
from coursekit.flows.images import ActNorm, InvertibleConv1x1, Split, Squeeze, Unsqueeze
from coursekit.pixels import bits_per_dim

__all__ = ["ConvConditioner", "ImageFlow", "image_flow"]


class ConvConditioner(nn.Module):
    """The network of a coupling of pictures: 3 x 3 convolutions beside skips, then a 1 x 1 layer that starts at zero.

    Args:
        inputs: channels that are seen.
        outputs: channels that come out.
        width: channels inside.
        context: features of the context (N, context), which shifts all places alike; 0 without.
        maps: channels of a context (N, maps, H, W) that is seen beside the input; then no other context.
        blocks: convolutions beside skips.
    """

    def __init__(
        self, inputs: int, outputs: int, width: int = 32, context: int = 0, maps: int = 0, blocks: int = 1
    ) -> None:
        super().__init__()
        self.maps = maps
        self.enter = nn.Conv2d(inputs + maps, width, 3, padding=1)
        self.context = nn.Linear(context, width, bias=False) if context else None
        self.blocks = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(blocks)])
        self.leave = nn.Conv2d(width, outputs, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, h: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.enter(torch.cat([h, context], 1) if self.maps else h)
        if self.context is not None:
            h = h + self.context(context)[..., None, None]
        for block in self.blocks:
            h = h + block(F.silu(h))
        return self.leave(F.silu(h))


class ImageFlow(nn.Module):
    """A flow of v in [0, 1]^{C x H x W} with noise between the 256 levels: a model of whole-number pictures.

    Everything it says of the likelihood is a bound from below (or, in bits per dimension, from above), because of the
    noise: see `coursekit.flows.dequantise`.

    Args:
        flow: of (levels + u) / 256.
        dequantisation: makes u of the levels.

    Example:
        >>> flow = image_flow(width=8, fine=1, coarse=1)
        >>> flow.sample(2, torch.tensor([1, 7])).shape
        torch.Size([2, 1, 28, 28])
    """

    def __init__(self, flow: Flow, dequantisation: nn.Module) -> None:
        super().__init__()
        self.flow, self.dequantisation = flow, dequantisation
        self.num_classes = flow.num_classes

    def log_prob_bound(
        self, x: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None, samples: int = 1
    ) -> Tensor:
        """A bound from below on log P(x | y), or log P(x), of whole pictures, (N,) in nats.

        Args:
            x: (N, C, H, W) with the 256 levels, as uint8 or as floats in [-1, 1].
            y: labels (N,).
            generator: of the noise.
            samples: noises a picture; their weights are averaged inside the logarithm, so more of them tighten it.

        Raises:
            ValueError: if a pixel is not one of the levels, a shape is wrong or a label out of range.
        """
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        levels = check_levels(x, "x")
        if self.num_classes is not None and y is None:
            classes = torch.arange(self.num_classes, device=x.device)
            each = [self.log_prob_bound(x, c.expand(len(x)), generator, samples) for c in classes]
            return torch.stack(each).logsumexp(0) - math.log(self.num_classes)
        bounds = [self._one_sample(levels, y, generator) for _ in range(samples)]
        return torch.stack(bounds).logsumexp(0) - math.log(samples)

    def _one_sample(self, levels: Tensor, y: Tensor | None, generator: torch.Generator | None) -> Tensor:
        u, log_q = self.dequantisation(levels, self.flow.context(y, len(levels)), generator)
        log_density = self.flow.log_prob((levels + u) / 256, y, generator)
        return log_density - math.log(256) * levels[0].numel() - log_q

    def loss(self, x: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Mean of minus the bound with one noise a picture, in nats."""
        return -self.log_prob_bound(x, y, generator).mean()

    def bits_per_dim(
        self, x: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None, samples: int = 1
    ) -> Tensor:
        """A bound from above on the bits per pixel of the 256 levels, (N,)."""
        return bits_per_dim(self.log_prob_bound(x, y, generator, samples), x[0].numel())

    @torch.no_grad()
    def sample(
        self,
        n: int,
        y: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """n pictures (n, C, H, W) of the 256 levels in [-1, 1].

        Args:
            n: how many.
            y: labels (n,); drawn at random if there are none.
            generator: of the latent points, and of the labels.
            temperature: factor of the latent points. Below 1 pictures are tidier and less varied than the model's law.
        """
        if self.num_classes is not None and y is None:
            y = torch.randint(self.num_classes, (n,), generator=generator, device=self.flow.label.weight.device)
        v = self.flow.decode(temperature * self.flow.base.sample(n, generator), y)
        return from_pixels((256 * v).floor().clamp(0, 255).to(torch.uint8), v.dtype)


def image_flow(
    num_classes: int | None = 10,
    width: int = 32,
    fine: int = 6,
    coarse: int = 6,
    bins: int = 8,
    context: int = 32,
    variational: bool = True,
    seed: int = 0,
) -> ImageFlow:
    """The course's flow of 28 x 28 pictures.

    Args:
        num_classes: labels are 0..num_classes - 1; None without labels.
        width: channels of the couplings' networks, a multiple of 8.
        fine: steps at 14 x 14.
        coarse: steps at 7 x 7.
        bins: of the splines.
        context: features of the label's embedding.
        variational: whether the noise between levels is learned, or uniform.
        seed: of the 1 x 1 convolutions' first rotations.
    """
    features = 0 if num_classes is None else context
    generator = torch.Generator().manual_seed(seed)

    def step(channels: int, wide: int, blocks: int) -> list[Bijection]:
        kept, moved = (channels + 1) // 2, channels // 2
        network = ConvConditioner(kept, moved * (3 * bins - 1), wide, features, blocks=blocks)
        coupling = SplineCoupling(halves(channels), network=network, bins=bins)
        return [coupling, InvertibleConv1x1(channels, generator), ActNorm(channels)]

    inner = Compose([Squeeze(), *(layer for _ in range(coarse) for layer in step(8, 2 * width, 1)), Unsqueeze()])
    leaving = AffineCoupling(halves(4), network=ConvConditioner(2, 4, width, features))
    outer = [Squeeze(), Split(inner, kept=2), leaving, *(layer for _ in range(fine) for layer in step(4, width, 1))]
    flow = Flow([*outer, Unsqueeze(), Sigmoid(margin=1e-5)], (1, 28, 28), num_classes, context)
    noise = _variational(width // 2, features) if variational else UniformDequantisation()
    return ImageFlow(flow, noise)


class _Encoder(nn.Module):
    """Pictures (N, 1, H, W) and a label's context -> maps (N, width, H/2, W/2)."""

    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.network = ConvConditioner(4, width, width, context)
        nn.init.kaiming_uniform_(self.network.leave.weight)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.network(F.pixel_unshuffle(x, 2), context)


def _variational(width: int, context: int) -> VariationalDequantisation:
    couplings = [
        AffineCoupling(halves(4, k % 2 == 0), network=ConvConditioner(2, 4, width, maps=width)) for k in range(2)
    ]
    layers = [Squeeze(), *couplings, Unsqueeze(), Sigmoid()]
    return VariationalDequantisation(layers, _Encoder(width, context))
