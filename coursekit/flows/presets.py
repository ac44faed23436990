"""Flows of vectors (N, D), ready to train: layers of one kind, with permutations between where they are needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from coursekit.flows.autoregressive import MaskedAffine
from coursekit.flows.base import Bijection, Flow
from coursekit.flows.continuous import ContinuousFlow, ExactTrace, Hutchinson, VelocityMLP
from coursekit.flows.coupling import AffineCoupling, SplineCoupling, halves
from coursekit.flows.planar import Planar, Radial

__all__ = ["continuous_flow", "masked_autoregressive_flow", "planar_flow", "radial_flow", "real_nvp", "spline_flow"]


def planar_flow(D: int, layers: int = 16, num_classes: int | None = None, context: int = 16) -> Flow:
    """Planar layers in a row; a flow of many small steps. Arguments as for `real_nvp`."""
    features = _features(num_classes, context)
    return Flow([Planar(D, features) for _ in range(layers)], [D], num_classes, context)


def radial_flow(D: int, layers: int = 16, num_classes: int | None = None, context: int = 16) -> Flow:
    """Radial layers in a row. Arguments as for `real_nvp`."""
    features = _features(num_classes, context)
    return Flow([Radial(D, features) for _ in range(layers)], [D], num_classes, context)


def real_nvp(
    D: int,
    layers: int = 8,
    hidden: Sequence[int] = (64, 64),
    num_classes: int | None = None,
    context: int = 16,
    activation: Callable[[], nn.Module] = nn.SiLU,
) -> Flow:
    """Affine couplings of the two halves of the variables in turn: RealNVP without the pictures.

    Args:
        D: dimension of the points, at least 2.
        layers: couplings.
        hidden: widths of each coupling's network.
        num_classes: labels are 0..num_classes - 1; None without labels.
        context: features of their embedding.
        activation: of the networks.

    Example:
        >>> real_nvp(2, num_classes=3).sample(5).shape
        torch.Size([5, 2])
    """
    features = _features(num_classes, context)
    couplings = [AffineCoupling(halves(D, k % 2 == 0), hidden, features, activation=activation) for k in range(layers)]
    return Flow(couplings, [D], num_classes, context)


def spline_flow(
    D: int,
    layers: int = 4,
    hidden: Sequence[int] = (64, 64),
    num_classes: int | None = None,
    context: int = 16,
    bins: int = 8,
    bound: float = 5.0,
    activation: Callable[[], nn.Module] = nn.SiLU,
) -> Flow:
    """Rational-quadratic spline couplings of two halves in turn. Arguments as for `real_nvp`, `RationalQuadratic`.

    Example:
        >>> spline_flow(2).sample(5).shape
        torch.Size([5, 2])
    """
    features = _features(num_classes, context)
    couplings: list[Bijection] = [
        SplineCoupling(halves(D, k % 2 == 0), hidden, features, activation=activation, bins=bins, bound=bound)
        for k in range(layers)
    ]
    return Flow(couplings, [D], num_classes, context)


def masked_autoregressive_flow(
    D: int,
    layers: int = 5,
    hidden: Sequence[int] = (64, 64),
    num_classes: int | None = None,
    context: int = 16,
    activation: Callable[[], nn.Module] = nn.SiLU,
) -> Flow:
    """Masked affine layers, every other one in reverse order: MAF. Arguments as for `real_nvp`."""
    features = _features(num_classes, context)
    orders = [list(range(D)), list(range(D))[::-1]]
    return Flow(
        [MaskedAffine(orders[k % 2], hidden, features, activation) for k in range(layers)], [D], num_classes, context
    )


def continuous_flow(
    D: int,
    width: int = 64,
    num_classes: int | None = None,
    context: int = 16,
    trace: ExactTrace | Hutchinson | None = None,
    solver: str = "rk4",
    steps: int = 8,
) -> Flow:
    """A continuous flow with a perceptron for its velocity, solved in a few fixed steps while it learns."""
    velocity = VelocityMLP(D, width, context=_features(num_classes, context))
    return Flow([ContinuousFlow(velocity, trace, solver=solver, steps=steps)], [D], num_classes, context)


def _features(num_classes: int | None, context: int) -> int:
    return 0 if num_classes is None else context
