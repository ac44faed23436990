r"""Planar and radial layers: the first flows, which push points along one direction or around one centre.

    planar:  x = z + u tanh(w . z + b),              log |det| = log(1 + w . u (1 - tanh^2(w . z + b)))
    radial:  x = z + beta (z - c) / (alpha + r),     r = |z - c|,  alpha > 0,
             log |det| = (D - 1) log(1 + beta h) + log(1 + beta h - beta h^2 r),    h = 1 / (alpha + r)

Both are invertible if w . u > -1 and beta > -alpha, which the parameters are made to obey with a margin, so that the
inverse keeps its digits. Reference: Rezende & Mohamed, "Variational Inference with Normalizing Flows", 2015, arXiv
1505.05770, eq. 10 to 14 and appendix A.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coursekit.flows.base import Bijection, check_context, check_features

__all__ = ["Planar", "Radial"]

MARGIN = 0.05  # the smallest slope of a layer along the direction in which it pushes


class Parameters(nn.Module):
    """P learned numbers, moved by a linear map of the context if there is one: () or (N, C) -> (1 or N, P)."""

    def __init__(self, start: Tensor, context: int = 0) -> None:
        super().__init__()
        self.start, self.context = nn.Parameter(start), context
        self.shift = nn.Linear(context, len(start), bias=False) if context else None
        if self.shift is not None:
            nn.init.normal_(self.shift.weight, std=0.1 / math.sqrt(context))

    def forward(self, context: Tensor | None = None) -> Tensor:
        check_context(context, self.context)
        return self.start[None] if self.shift is None else self.start + self.shift(context)


class Planar(Bijection):
    """x = z + u tanh(w . z + b).

    The inverse solves one scalar equation, s + w.u tanh(s + b) = w . x for s = w . z, by Newton's method.

    Args:
        D: dimension of the points.
        context: C, features of the context.

    Example:
        >>> layer, z = Planar(2), torch.randn(5, 2)
        >>> torch.testing.assert_close(layer.inverse(layer(z)[0])[0], z, rtol=1e-4, atol=1e-5)
    """

    def __init__(self, D: int, context: int = 0) -> None:
        super().__init__()
        self.features = D
        self.numbers = Parameters(torch.randn(2 * D + 1) / math.sqrt(D), context)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        check_features(z, self.features, "z")
        u, w, b, wu = self._vectors(context)
        t = torch.tanh((z * w).sum(1, keepdim=True) + b)
        return z + u * t, torch.log1p(wu * (1 - t.square()))[:, 0]

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        check_features(x, self.features, "x")
        u, w, b, wu = self._vectors(context)
        t = torch.tanh(_solve((x * w).sum(1, keepdim=True) + b, wu))
        return x - u * t, -torch.log1p(wu * (1 - t.square()))[:, 0]

    def _vectors(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """u, w, b and w . u, where u has been moved along w so that w . u > MARGIN - 1."""
        u, w, b = self.numbers(context).split([self.features, self.features, 1], 1)
        raw = (u * w).sum(1, keepdim=True)
        wu = F.softplus(raw + math.log(math.expm1(1 - MARGIN))) - (1 - MARGIN)
        return u + (wu - raw) * w / w.square().sum(1, keepdim=True), w, b, wu


def _solve(target: Tensor, c: Tensor, steps: int = 40) -> Tensor:
    """The a with a + c tanh(a) = target, elementwise, for c > -1; gradients by the implicit function theorem.

    The left side bends at a = 0 only, so Newton's method from there reaches the root from one side.
    """
    with torch.no_grad():
        a = torch.zeros_like(target)
        for _ in range(steps):
            t = a.tanh()
            a = a - (a + c * t - target) / (1 + c * (1 - t.square()))
        t = a.tanh()
        slope = 1 + c * (1 - t.square())
    return a - (a + c * t - target) / slope


class Radial(Bijection):
    """x = z + beta (z - centre) / (alpha + |z - centre|), inverted in closed form.

    Args:
        D: dimension of the points.
        context: C, features of the context.

    Example:
        >>> layer, z = Radial(2), torch.randn(5, 2)
        >>> torch.testing.assert_close(layer.inverse(layer(z)[0])[0], z, rtol=1e-4, atol=1e-5)
    """

    def __init__(self, D: int, context: int = 0) -> None:
        super().__init__()
        self.features = D
        self.numbers = Parameters(torch.randn(D + 2) / math.sqrt(D), context)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        check_features(z, self.features, "z")
        centre, alpha, beta = self._numbers(context)
        r = _norm(z - centre)
        return z + beta * (z - centre) / (alpha + r), self._log_det(r, alpha, beta)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        check_features(x, self.features, "x")
        centre, alpha, beta = self._numbers(context)
        q = _norm(x - centre)
        half = (alpha + beta - q) / 2  # r solves r^2 + 2 half r - alpha q = 0
        root = torch.sqrt(half.square() + alpha * q)
        r = torch.where(half > 0, alpha * q / (half.abs() + root), root - half)
        return centre + (x - centre) / (1 + beta / (alpha + r)), -self._log_det(r, alpha, beta)

    def _numbers(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Centre, alpha > 0 and beta > (MARGIN - 1) alpha."""
        centre, a, b = self.numbers(context).split([self.features, 1, 1], 1)
        alpha = F.softplus(a) + MARGIN
        shift = math.log(math.expm1(1 - MARGIN))
        return centre, alpha, alpha * (F.softplus(b + shift) - (1 - MARGIN))

    def _log_det(self, r: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        h = 1 / (alpha + r)
        across, along = beta * h, beta * alpha * h.square()  # beta h - beta h^2 r = beta alpha h^2
        return ((self.features - 1) * torch.log1p(across) + torch.log1p(along))[:, 0]


def _norm(difference: Tensor) -> Tensor:
    """Euclidean norm (N, 1), with a finite gradient at the centre itself."""
    tiny = torch.finfo(difference.dtype).tiny
    return difference.square().sum(1, keepdim=True).clamp(min=tiny).sqrt()
