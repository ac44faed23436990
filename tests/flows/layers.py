"""Every layer of `coursekit.flows`, in a state in which it does something."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from coursekit import flows
from coursekit.flows.image_flow import ConvConditioner

CONTEXT = 3


def shaken(module: nn.Module, scale: float = 0.3, seed: int = 0) -> nn.Module:
    """With noise on every parameter, so that layers that start as the identity do something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator).to(parameter))
    return module


def conv(inputs: int, outputs: int) -> ConvConditioner:
    return ConvConditioner(inputs, outputs, width=8)


VECTOR_LAYERS: dict[str, Callable[[int, int], flows.Bijection]] = {
    "planar": lambda D, C: flows.Planar(D, C),
    "radial": lambda D, C: flows.Radial(D, C),
    "affine coupling": lambda D, C: flows.AffineCoupling(flows.alternating(D), (16,), C),
    "affine coupling, other half": lambda D, C: flows.AffineCoupling(flows.halves(D, first=False), (16,), C),
    "spline coupling": lambda D, C: flows.SplineCoupling(flows.alternating(D, first=False), (16,), C, bins=6),
    "masked affine": lambda D, C: flows.MaskedAffine(list(range(D))[::-1], (16,), C),
    "masked spline": lambda D, C: flows.MaskedSpline(D, (16,), C, bins=5),
    "inverse autoregressive": lambda D, C: flows.Inverted(flows.MaskedAffine(D, (16,), C)),
    "actnorm": lambda D, C: flows.ActNorm(D, started=True),
    "linear": lambda D, C: flows.InvertibleConv1x1(D),
    "permutation": lambda D, C: flows.Permutation(torch.arange(D).roll(1)),
    "reverse": lambda D, C: flows.Reverse(D),
    "split": lambda D, C: flows.Split(flows.ActNorm((D + 1) // 2, started=True)),
    "continuous": lambda D, C: flows.ContinuousFlow(
        flows.VelocityMLP(D, 6, depth=1, context=C), solver="dopri8", rtol=1e-11, atol=1e-11
    ),
    "composition": lambda D, C: flows.Compose(
        [flows.AffineCoupling(flows.halves(D), (8,), C), flows.Reverse(D), flows.Planar(D, C)]
    ),
}
"""Layers of points (N, D), D >= 2, with C features of context, by name: (D, C) -> layer."""

PICTURE_LAYERS: dict[str, Callable[[], flows.Bijection]] = {
    "actnorm": lambda: flows.ActNorm(4, started=True),
    "1 x 1 convolution": lambda: flows.InvertibleConv1x1(4),
    "squeeze": flows.Squeeze,
    "unsqueeze": flows.Unsqueeze,
    "split": lambda: flows.Split(flows.Compose([flows.Squeeze(), flows.InvertibleConv1x1(8), flows.Unsqueeze()])),
    "affine coupling": lambda: flows.AffineCoupling(flows.halves(4), network=conv(2, 4)),
    "spline coupling": lambda: flows.SplineCoupling(flows.alternating(4), network=conv(2, 2 * 11), bins=4),
    "sigmoid": lambda: flows.Sigmoid(margin=0.1),
}
"""Layers of pictures (N, 4, 4, 4), by name."""


def make(name: str, D: int = 2, context: int = 0, seed: int = 0, scale: float = 0.3) -> flows.Bijection:
    """A layer of points, shaken, in float64."""
    torch.manual_seed(seed)
    return shaken(VECTOR_LAYERS[name](D, context).double(), scale, seed)


def make_quick(name: str, D: int, context: int) -> flows.Bijection:
    """The same; a continuous flow takes two steps of fixed size, exact enough for laws that hold of any solver."""
    layer = make(name, D, context)
    if isinstance(layer, flows.ContinuousFlow):
        layer.solver, layer.steps = "rk4", 2
    return layer


def make_picture(name: str, scale: float = 0.3) -> flows.Bijection:
    """A layer of pictures, shaken, in float64."""
    torch.manual_seed(0)
    return shaken(PICTURE_LAYERS[name]().double(), scale)


def points(*shape: int, seed: int = 1) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def log_det_by_autograd(layer: flows.Bijection, z: Tensor, context: Tensor | None = None) -> Tensor:
    """log |det dx/dz| of each point, from the whole Jacobian."""

    def one(i: int) -> Tensor:
        c = None if context is None else context[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(lambda p: layer(p, c)[0], z[i : i + 1])
        return jacobian.reshape(z[0].numel(), z[0].numel()).slogdet().logabsdet

    return torch.stack([one(i) for i in range(len(z))])
