"""Laws of the monotone maps, and the spline against its formula written down once more."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coursekit.flows import Affine, RationalQuadratic

MAPS = [Affine(), RationalQuadratic(bins=1), RationalQuadratic(bins=7, bound=2.0)]


def parameters(monotone: Affine | RationalQuadratic, n: int, D: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, monotone.parameters, D, generator=generator, dtype=torch.float64)


def spline_by_hand(x: float, theta: list[float], K: int, B: float, least: float) -> tuple[float, float]:
    """z and dz/dx of one number, equation by equation after Durkan et al. (arXiv 1906.04032, eq. 4 and 5)."""
    if abs(x) >= B:
        return x, 1.0

    def shares(logits: list[float]) -> list[float]:
        total = sum(math.exp(a) for a in logits)
        return [2 * B * ((1 - least) * math.exp(a) / total + least / K) for a in logits]

    widths, heights = shares(theta[:K]), shares(theta[K : 2 * K])
    slopes = [1.0, *(least + math.log1p(math.exp(a) * math.expm1(1 - least)) for a in theta[2 * K :]), 1.0]
    k = max(j for j in range(K) if x >= -B + sum(widths[:j]))
    x_k, z_k, w, h = -B + sum(widths[:k]), -B + sum(heights[:k]), widths[k], heights[k]
    s, xi, d, e = h / w, (x - x_k) / w, slopes[k], slopes[k + 1]
    below = s + (d + e - 2 * s) * xi * (1 - xi)
    z = z_k + h * (s * xi**2 + d * xi * (1 - xi)) / below
    return z, s**2 * (e * xi**2 + 2 * s * xi * (1 - xi) + d * (1 - xi) ** 2) / below**2


@given(x=st.floats(-3, 3), seed=st.integers(0, 500), K=st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_spline_is_the_formula(x: float, seed: int, K: int) -> None:
    spline = RationalQuadratic(bins=K, bound=2.0)
    theta = parameters(spline, 1, 1, seed, scale=1.5)
    z, slope = spline_by_hand(x, theta.flatten().tolist(), K, 2.0, spline.least)
    found, log_slope = spline.inverse(torch.full((1, 1), x, dtype=torch.float64), theta)
    assert found.item() == pytest.approx(z, abs=1e-9)
    assert log_slope.exp().item() == pytest.approx(slope, rel=1e-8)


@pytest.mark.parametrize("monotone", MAPS, ids=str)
@given(seed=st.integers(0, 1000), scale=st.floats(0, 2), spread=st.floats(0.01, 20))
@settings(max_examples=25, deadline=None)
def test_maps_increase_and_their_inverses_undo_them(
    monotone: Affine | RationalQuadratic, seed: int, scale: float, spread: float
) -> None:
    theta = parameters(monotone, 1, 3, seed, scale).expand(200, -1, -1)
    z = torch.linspace(-spread, spread, 200, dtype=torch.float64)[:, None].expand(-1, 3)
    x, log_slope = monotone.forward(z, theta)
    assert bool((x.diff(dim=0) > 0).all())
    back, log_slope_back = monotone.inverse(x, theta)
    torch.testing.assert_close(back, z, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(log_slope_back, -log_slope, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("monotone", MAPS, ids=str)
def test_zero_parameters_are_the_identity_and_slopes_are_derivatives(monotone: Affine | RationalQuadratic) -> None:
    z = torch.linspace(-6, 6, 101, dtype=torch.float64)[:, None].requires_grad_()
    for direction in (monotone.forward, monotone.inverse):
        x, log_slope = direction(z, parameters(monotone, 101, 1, 0, scale=0))
        torch.testing.assert_close(x, z)
        torch.testing.assert_close(log_slope, torch.zeros_like(z))
        x, log_slope = direction(z, parameters(monotone, 101, 1, 0))
        (slope,) = torch.autograd.grad(x.sum(), z)
        torch.testing.assert_close(log_slope.exp(), slope, rtol=1e-8, atol=1e-8)


def test_spline_is_smooth_at_its_knots_and_the_identity_outside() -> None:
    """Slopes agree from both sides of each knot, and are one at the ends."""
    spline = RationalQuadratic(bins=5, bound=3.0)
    theta = parameters(spline, 1, 1, seed=4)
    shares = theta[0, :5, 0].softmax(0) * (1 - spline.least) + spline.least / 5
    knots = torch.cat([torch.zeros(1).double(), shares.cumsum(0)]) * 6 - 3
    sides = [spline.inverse((knots + step)[:, None], theta.expand(6, -1, -1)) for step in (-1e-9, 1e-9)]
    torch.testing.assert_close(sides[0][0], sides[1][0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(sides[0][1], sides[1][1], rtol=1e-5, atol=1e-5)
    far = torch.tensor([[-3.0], [3.0], [50.0], [-1e6]], dtype=torch.float64)
    z, log_slope = spline.inverse(far, theta.expand(4, -1, -1))
    torch.testing.assert_close(z, far)
    torch.testing.assert_close(log_slope, torch.zeros_like(far), rtol=0, atol=1e-8)


@pytest.mark.parametrize("bad", [{"bins": 0}, {"bound": 0.0}, {"least": 0.0}, {"least": 1.0}])
def test_impossible_splines_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        RationalQuadratic(**bad)
