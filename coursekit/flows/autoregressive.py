r"""Masked autoregressive layers: every variable moves, told how by those that come before it.

    x_i = g(z_i; theta_i(x_<i, context)),    log |det dx/dz| = sum_i log g'(z_i).

Given x all parameters come from one pass through a masked network: `inverse` and with it the likelihood is fast.
`forward` fills in one variable after another, D passes; `Inverted` exchanges the two. Reference: Papamakarios et al.,
"Masked Autoregressive Flow for Density Estimation", 2017, arXiv 1705.07057, eq. 3 to 5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from coursekit.flows.base import Bijection, check_context, check_features
from coursekit.flows.elementwise import Affine, Monotone, RationalQuadratic
from coursekit.networks import MaskedMLP

__all__ = ["MaskedAffine", "MaskedAutoregressive", "MaskedSpline"]


class MaskedAutoregressive(Bijection):
    """The masked autoregressive layer of any monotone map; starts as the identity.

    Args:
        order: the variables as they come, a permutation of 0..D-1; or D, for 0, 1, ..., D-1.
        monotone: what moves each variable.
        hidden: widths of the network's hidden layers.
        context: C, features of the context.
        activation: of the network.
    """

    def __init__(
        self,
        order: Sequence[int] | Tensor | int,
        monotone: Monotone,
        hidden: Sequence[int] = (64, 64),
        context: int = 0,
        activation: Callable[[], nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__()
        self.order = list(range(order)) if isinstance(order, int) else torch.as_tensor(order).tolist()
        self.features, self.context, self.monotone = len(self.order), context, monotone
        self.network = MaskedMLP(self.order, hidden, monotone.parameters, context, activation)
        nn.init.zeros_(self.network[-1].weight)
        nn.init.zeros_(self.network[-1].bias)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        check_features(z, self.features, "z")
        x = list(torch.zeros_like(z).unbind(1))
        log_det = z.new_zeros(len(z))
        for i in self.order:
            theta = self._theta(torch.stack(x, 1), context)[:, :, i]
            x[i], log_slope = self.monotone.forward(z[:, i], theta)
            log_det = log_det + log_slope
        return torch.stack(x, 1), log_det

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        check_features(x, self.features, "x")
        z, log_slope = self.monotone.inverse(x, self._theta(x, context))
        return z, log_slope.sum(1)

    def _theta(self, x: Tensor, context: Tensor | None) -> Tensor:
        """(N, P, D); the ones of variable i depend on the variables before it only."""
        check_context(context, self.context)
        h = x if context is None else torch.cat([x, context], 1)
        return self.network(h).view(len(x), self.features, self.monotone.parameters).mT


class MaskedAffine(MaskedAutoregressive):
    """x_i = z_i exp(s_i(x_<i)) + t_i(x_<i): the layer of MAF; arguments as for `MaskedAutoregressive`.

    Example:
        >>> layer, z = MaskedAffine(3), torch.randn(5, 3)
        >>> torch.testing.assert_close(layer.inverse(layer(z)[0])[0], z)
    """

    def __init__(self, order: Sequence[int] | Tensor | int, hidden: Sequence[int] = (64, 64), context: int = 0,
                 activation: Callable[[], nn.Module] = nn.SiLU, limit: float = 3.0) -> None:  # fmt: skip
        super().__init__(order, Affine(limit), hidden, context, activation)


class MaskedSpline(MaskedAutoregressive):
    """x_i = spline(z_i; theta_i(x_<i)); arguments as for `MaskedAutoregressive` and `RationalQuadratic`."""

    def __init__(self, order: Sequence[int] | Tensor | int, hidden: Sequence[int] = (64, 64), context: int = 0,
                 activation: Callable[[], nn.Module] = nn.SiLU, bins: int = 8, bound: float = 5.0) -> None:  # fmt: skip
        super().__init__(order, RationalQuadratic(bins, bound), hidden, context, activation)
