r"""Monotone maps of single numbers, x_i = g(z_i; theta_i): what coupling and autoregressive layers do to a variable.

Each map is a frozen dataclass with no tensors inside; the parameters come from a network. `Affine` is

    x = z exp(s) + t,    |s| < limit.

`RationalQuadratic` is the inverse of a monotone spline on [-B, B], the identity outside: since training goes from data
to base, that direction is the explicit one. Between the knots (x_k, z_k), where the spline's slope is d_k, with
w = x_{k+1} - x_k, h = z_{k+1} - z_k, r = h / w and u = (x - x_k) / w,

    z = z_k + h (r u^2 + d_k u (1 - u)) / (r + (d_k + d_{k+1} - 2 r) u (1 - u)).

References: Dinh et al., "Density estimation using Real NVP", 2017, arXiv 1605.08803, eq. 7; Durkan et al., "Neural
Spline Flows", 2019, arXiv 1906.04032, eq. 4 to 8 and appendix A.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Affine", "Monotone", "RationalQuadratic"]


class Monotone(Protocol):
    """An increasing map of single numbers and its inverse."""

    @property
    def parameters(self) -> int:
        """Numbers P that a variable's map is made of; all zero makes it the identity."""
        ...

    def forward(self, z: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """(N, *) and (N, P, *) -> x and log dx/dz, each (N, *)."""
        ...

    def inverse(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """(N, *) and (N, P, *) -> z and log dz/dx, each (N, *)."""
        ...


@dataclass(frozen=True)
class Affine:
    """x = z exp(s) + t with the parameters (s', t), where s = limit tanh(s' / limit) keeps numbers of float32 apart.

    Example:
        >>> Affine().forward(torch.tensor([[3.0]]), torch.tensor([[[0.0], [1.0]]]))
        (tensor([[4.]]), tensor([[0.]]))
    """

    limit: float = 3.0

    @property
    def parameters(self) -> int:
        """Two: the logarithm of the scale, and the shift."""
        return 2

    def forward(self, z: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._split(theta)
        return torch.addcmul(shift, z, log_scale.exp()), log_scale

    def inverse(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._split(theta)
        return (x - shift) * torch.exp(-log_scale), -log_scale

    def _split(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = theta.unbind(1)
        return self.limit * torch.tanh(raw / self.limit), shift


@dataclass(frozen=True)
class RationalQuadratic:
    """The rational-quadratic spline z = s(x) with `bins` bins on [-bound, bound], the identity outside.

    `inverse`, the direction of training, evaluates the spline; `forward` solves a quadratic equation. The parameters
    are, in this order, logits of the bins' widths and of their heights, and the inner knots' slopes before a softplus,
    shifted so that zero means slope one. Going there and back in float32 costs about 1e-7 times the largest slope met
    (or its inverse): under 1e-5 for parameters of moderate size, not for a spline that is nearly flat somewhere.

    Args:
        bins: K; there are 3 K - 1 parameters.
        bound: B.
        least: the smallest slope at a knot, and K times the smallest share of the square's side that a bin takes.

    Raises:
        ValueError: if a number is out of its range.

    Example:
        >>> theta, x = torch.zeros(1, 11, 3), torch.tensor([[-1.0, 0.5, 7.0]])
        >>> RationalQuadratic(bins=4).inverse(x, theta)[0].round(decimals=4)
        tensor([[-1.0000,  0.5000,  7.0000]])
    """

    bins: int = 8
    bound: float = 5.0
    least: float = 0.01

    def __post_init__(self) -> None:
        if self.bins < 1 or not self.bound > 0 or not 0 < self.least < 1:
            found = f"{self.bins}, {self.bound}, {self.least}"
            raise ValueError(f"bins >= 1, bound > 0 and 0 < least < 1 are wanted, got {found}")

    @property
    def parameters(self) -> int:
        """K widths, K heights, K - 1 slopes."""
        return 3 * self.bins - 1

    def forward(self, z: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        inner = z.clamp(-self.bound, self.bound)
        x_k, w, z_k, h, d, e = self._bin(inner, theta, side=1)
        r, rise = h / w, (inner - z_k) / w
        s, c = d + e - 2 * r, r * rise
        b = r * d - s * rise
        root = torch.addcmul(b.square(), r.square() - b, c, value=4).clamp(min=1e-30).sqrt()
        u = (2 * c / (b + root)).clamp(0, 1)  # solves (r^2 - b) u^2 + b u - c = 0
        return torch.addcmul(x_k, w, u) + (z - inner), -_log_slope(u, r, d, s)

    def inverse(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        inner = x.clamp(-self.bound, self.bound)
        x_k, w, z_k, h, d, e = self._bin(inner, theta, side=0)
        r, u = h / w, (inner - x_k) / w
        s = d + e - 2 * r
        z = torch.addcmul(z_k, h * u / torch.addcmul(r, s, u * (1 - u)), torch.addcmul(d, r - d, u))
        return z + (x - inner), _log_slope(u, r, d, s)

    def _bin(self, value: Tensor, theta: Tensor, side: int) -> tuple[Tensor, ...]:
        """The bin that a value (N, *) lies in, by its x (side 0) or its z (side 1).

        Returns:
            Left end, width, lower end, height, and the slopes at both ends, each (N, *).
        """
        K, rest, full = self.bins, value.shape[1:], 2 * self.bound
        shares = theta[:, : 2 * K].reshape(len(value), 2, K, *rest).softmax(2)
        shares = shares.lerp(torch.full_like(shares[:1, :, :1], 1 / K), self.least)
        ends = shares.cumsum(2)  # right or upper ends, in (0, 1]
        k = (((value + self.bound) / full)[:, None] >= ends[:, side, :-1]).sum(1, keepdim=True)  # (N, 1, *)
        both = k[:, None].expand(-1, 2, -1, *rest)
        sizes, starts = (part.gather(2, both)[:, :, 0] for part in (shares, ends))
        (x_k, z_k), (w, h) = ((starts - sizes) * full - self.bound).unbind(1), (sizes * full).unbind(1)
        raw = F.pad(theta[:, 2 * K :], [0, 0] * len(rest) + [1, 1])  # slope one at the ends
        raw = raw.gather(1, torch.cat([k, k + 1], 1))
        d, e = (F.softplus(raw + math.log(math.expm1(1 - self.least))) + self.least).unbind(1)
        return x_k, w, z_k, h, d, e


def _log_slope(u: Tensor, r: Tensor, d: Tensor, s: Tensor) -> Tensor:
    """log dz/dx at the place u in [0, 1] of a bin."""
    top = torch.addcmul(d, u, torch.addcmul(2 * (r - d), s, u))
    return (top * (r / torch.addcmul(r, s, u * (1 - u))).square()).log()
