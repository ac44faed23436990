r"""Dequantisation: how a density on real numbers can score pictures of 256 grey levels.

A density p_X(v) of v in [0, 256)^D gives every picture k of whole levels a probability, the integral of p_X over the
cube k + [0, 1)^D. By Jensen's inequality, for any density q(u | k) on that cube,

    log P(k) = log int p_X(k + u) du >= E_{u ~ q} [log p_X(k + u) - log q(u | k)],

so the right side is a bound from below: bits per dimension computed from it can only be too large. `Uniform` takes
q = 1; `Variational` learns q as a conditional flow, which is tighter. References: Theis et al., "A note on the
evaluation of generative models", 2016, arXiv 1511.01844, section 3.1; Ho et al., "Flow++", 2019, arXiv 1902.00275,
eq. 11 and 12.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coursekit.flows.base import Bijection, Compose, standard_normal_log_prob

__all__ = ["Sigmoid", "UniformDequantisation", "VariationalDequantisation", "check_levels"]


def check_levels(images: Tensor, name: str = "images") -> Tensor:
    """The whole levels 0..255, as floats, of pictures that hold them: uint8, or floats in [-1, 1].

    On an accelerator values are not looked at, which would hold up the device.

    Raises:
        ValueError: naming the argument, if a value is not one of the 256 levels.
    """
    if images.dtype == torch.uint8:
        return images.to(torch.get_default_dtype())
    if not images.is_floating_point():
        raise TypeError(f"{name} must be uint8 or floats in [-1, 1], got {images.dtype}")
    levels = (images + 1) * 127.5
    whole = levels.round()
    if images.device.type == "cpu":
        wrong = ~((levels - whole).abs() < 1e-2) | (whole < 0) | (whole > 255)
        if bool(wrong.any()):
            raise ValueError(
                f"{name} must hold the 256 levels k / 127.5 - 1, k = 0..255, got {images[wrong][0].item():g}"
            )
    return whole


class Sigmoid(Bijection):
    """x = (sigmoid(z) - margin) / (1 - 2 margin), elementwise, onto an interval that reaches just beyond [0, 1].

    Example:
        >>> Sigmoid().inverse(torch.tensor([[0.5]]))[0]
        tensor([[0.]])
    """

    def __init__(self, margin: float = 0.0) -> None:
        super().__init__()
        if not 0 <= margin < 0.5:
            raise ValueError(f"margin must lie in [0, 0.5), got {margin}")
        self.margin = margin

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return (z.sigmoid() - self.margin) / (1 - 2 * self.margin), self._log_det(z)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z = (self.margin + (1 - 2 * self.margin) * x).logit()
        return z, -self._log_det(z)

    def _log_det(self, z: Tensor) -> Tensor:
        log_slope = F.logsigmoid(z) + F.logsigmoid(-z) - math.log(1 - 2 * self.margin)
        return log_slope.flatten(1).sum(1)


class UniformDequantisation(nn.Module):
    """u uniform on [0, 1), log q(u | k) = 0.

    Example:
        >>> u, log_q = UniformDequantisation()(torch.zeros(2, 1, 4, 4))
        >>> bool((u < 1).all()), log_q.tolist()
        (True, [0.0, 0.0])
    """

    def forward(
        self, levels: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Levels (N, ...) -> noise u in [0, 1) of the same shape and log q(u | levels), (N,)."""
        return torch.empty_like(levels).uniform_(generator=generator), levels.new_zeros(len(levels))


class VariationalDequantisation(nn.Module):
    """u = f(e; levels, context), e standard normal: a flow onto the unit cube that knows the picture.

    Args:
        layers: f, whose last layer is `Sigmoid()`.
        encoder: makes f's context of the levels, scaled to [-1, 1], and the label's context.
    """

    def __init__(self, layers: Sequence[Bijection], encoder: nn.Module) -> None:
        super().__init__()
        self.layers, self.encoder = Compose(layers), encoder

    def forward(
        self, levels: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Levels (N, ...) -> noise u in (0, 1) of the same shape and log q(u | levels), (N,)."""
        e = torch.empty_like(levels).normal_(generator=generator)
        u, log_det = self.layers(e, self.encoder(levels / 127.5 - 1, context))
        return u, standard_normal_log_prob(e) - log_det

    def log_prob(self, u: Tensor, levels: Tensor, context: Tensor | None = None) -> Tensor:
        """log q(u | levels) in nats, (N,), for u in (0, 1)."""
        e, log_det = self.layers.inverse(u, self.encoder(levels / 127.5 - 1, context))
        return standard_normal_log_prob(e) + log_det
