r"""Coupling layers: some variables stay and say how the others move.

    x_a = z_a,    x_b = g(z_b; theta(z_a, context)),    log |det dx/dz| = sum_b log g'(z_b).

The Jacobian is triangular whatever the network theta does, and both directions cost one pass through it. A permutation
between two layers lets every variable move. References: Dinh et al., "Density estimation using Real NVP", 2017, arXiv
1605.08803, eq. 4 to 8; Durkan et al., "Neural Spline Flows", 2019, arXiv 1906.04032.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from coursekit.flows.base import Bijection, check_context, check_features
from coursekit.flows.elementwise import Affine, Monotone, RationalQuadratic
from coursekit.networks import MLP

__all__ = ["AffineCoupling", "Coupling", "Permutation", "Reverse", "SplineCoupling", "alternating", "halves"]

Move = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def alternating(D: int, first: bool = True) -> Tensor:
    """The mask true, false, true, ... of D variables, or false, true, ...

    Example:
        >>> alternating(3).tolist()
        [True, False, True]
    """
    return (torch.arange(D) % 2 == 0) == first


def halves(D: int, first: bool = True) -> Tensor:
    """The mask that keeps the first half of D variables (the larger one if D is odd), or the second.

    Example:
        >>> halves(3).tolist(), halves(3, first=False).tolist()
        ([True, True, False], [False, False, True])
    """
    return (torch.arange(D) < (D + 1) // 2) == first


class Permutation(Bijection):
    """The variables in another order, x_i = z_order[i]; no volume changes.

    Args:
        order: a permutation of 0..D-1, of dimension 1.

    Raises:
        ValueError: if it is none.

    Example:
        >>> Permutation([2, 0, 1])(torch.tensor([[0.0, 1.0, 2.0]]))[0]
        tensor([[2., 0., 1.]])
    """

    order: Tensor

    def __init__(self, order: Sequence[int] | Tensor) -> None:
        super().__init__()
        order = torch.as_tensor(order)
        if not torch.equal(order.sort().values, torch.arange(len(order))):
            raise ValueError(f"order must be a permutation of 0..{len(order) - 1}, got {order.tolist()}")
        self.register_buffer("order", order)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        check_features(z, len(self.order), "z")
        return z[:, self.order], z.new_zeros(len(z))

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        check_features(x, len(self.order), "x")
        return x[:, self.order.argsort()], x.new_zeros(len(x))


class Reverse(Permutation):
    """The D variables in reverse order."""

    def __init__(self, D: int) -> None:
        super().__init__(torch.arange(D).flip(0))


class Conditioner(nn.Module):
    """A perceptron of the kept variables (N, D) and the context (N, C); its last layer starts at zero."""

    def __init__(
        self, inputs: int, outputs: int, hidden: Sequence[int], context: int, activation: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        self.context = context
        self.body = MLP([inputs + context, *hidden, outputs], activation)
        nn.init.zeros_(self.body[-1].weight)
        nn.init.zeros_(self.body[-1].bias)

    def forward(self, h: Tensor, context: Tensor | None = None) -> Tensor:
        check_context(context, self.context)
        return self.body(h if context is None else torch.cat([h, context], 1))


class Coupling(Bijection):
    """The coupling layer of any monotone map; starts as the identity.

    Args:
        mask: (D,), true for the variables of dimension 1 that stay and are seen by the network.
        monotone: what moves the others.
        hidden: widths of the network's hidden layers.
        context: C, features of the context.
        network: in the place of the perceptron, a module (h (N, kept, *), context) -> (N, P * moved, *).
        activation: of the perceptron.

    Raises:
        ValueError: if the mask keeps all variables or none.
    """

    order: Tensor
    back: Tensor

    def __init__(
        self,
        mask: Tensor,
        monotone: Monotone,
        hidden: Sequence[int] = (64, 64),
        context: int = 0,
        network: nn.Module | None = None,
        activation: Callable[[], nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__()
        mask = mask.bool()
        if mask.ndim != 1 or bool(mask.all()) or not bool(mask.any()):
            raise ValueError(f"mask must be a vector that is true somewhere and false somewhere, got {mask.tolist()}")
        self.monotone = monotone
        self.kept, self.moved, self.features = int(mask.sum()), int((~mask).sum()), len(mask)
        order = mask.int().argsort(descending=True, stable=True)  # the variables that stay, then the others
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", order.argsort(), persistent=False)
        self.blocks = int(mask.int().diff().ne(0).sum()) == 1  # two halves in one piece need no index
        self.kept_first = bool(mask[0])
        outputs = monotone.parameters * self.moved
        self.network = network or Conditioner(self.kept, outputs, hidden, context, activation)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        check_features(z, self.features, "z")
        return self._both_ways(z, context, self.monotone.forward)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        check_features(x, self.features, "x")
        return self._both_ways(x, context, self.monotone.inverse)

    def _both_ways(self, points: Tensor, context: Tensor | None, move: Move) -> tuple[Tensor, Tensor]:
        a, b = self._parts(points)
        theta = self.network(a, context).view(len(b), self.monotone.parameters, *b.shape[1:])
        b, log_slope = move(b, theta)
        return self._whole(a, b), log_slope.flatten(1).sum(1)

    def _parts(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The variables that stay, and those that move."""
        if self.blocks and not self.kept_first:
            return points[:, self.moved :], points[:, : self.moved]
        points = points if self.blocks else points.index_select(1, self.order)
        return points[:, : self.kept], points[:, self.kept :]

    def _whole(self, a: Tensor, b: Tensor) -> Tensor:
        """Both parts, each variable in its place."""
        points = torch.cat([b, a] if self.blocks and not self.kept_first else [a, b], 1)
        return points if self.blocks else points.index_select(1, self.back)


class AffineCoupling(Coupling):
    """x_b = z_b exp(s(z_a)) + t(z_a): the layer of RealNVP; arguments as for `Coupling`, and the limit of s.

    Example:
        >>> layer = AffineCoupling(halves(4))
        >>> x, log_det = layer(torch.randn(5, 4))
        >>> x.shape, log_det.tolist()
        (torch.Size([5, 4]), [0.0, 0.0, 0.0, 0.0, 0.0])
    """

    def __init__(self, mask: Tensor, hidden: Sequence[int] = (64, 64), context: int = 0,
                 network: nn.Module | None = None, activation: Callable[[], nn.Module] = nn.SiLU,
                 limit: float = 3.0) -> None:  # fmt: skip
        super().__init__(mask, Affine(limit), hidden, context, network, activation)


class SplineCoupling(Coupling):
    """x_b = spline(z_b; theta(z_a)); arguments as for `Coupling` and `RationalQuadratic`.

    Example:
        >>> layer = SplineCoupling(halves(4), bins=5)
        >>> layer.inverse(torch.randn(5, 4))[0].shape
        torch.Size([5, 4])
    """

    def __init__(self, mask: Tensor, hidden: Sequence[int] = (64, 64), context: int = 0,
                 network: nn.Module | None = None, activation: Callable[[], nn.Module] = nn.SiLU,
                 bins: int = 8, bound: float = 5.0) -> None:  # fmt: skip
        super().__init__(mask, RationalQuadratic(bins, bound), hidden, context, network, activation)
