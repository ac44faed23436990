"""Laws of diagonal Gaussians: divergences and products against torch.distributions, draws and quadrature."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from coursekit.vae import DiagonalGaussian

numbers = st.lists(st.floats(-3, 3), min_size=4, max_size=4)


def law(mean: list[float], log_variance: list[float]) -> tuple[DiagonalGaussian, Normal]:
    m, v = (torch.tensor([numbers], dtype=torch.float64) for numbers in (mean, log_variance))
    return DiagonalGaussian(m, v), Normal(m, (v / 2).exp())


@given(numbers, numbers, numbers, numbers)
@settings(max_examples=50, deadline=None)
def test_kl_and_density_are_those_of_torch(a: list, b: list, c: list, d: list) -> None:
    (q, q_torch), (p, p_torch) = law(a, b), law(c, d)
    torch.testing.assert_close(q.kl(p), kl_divergence(q_torch, p_torch))
    torch.testing.assert_close(q.log_prob(p.mean), q_torch.log_prob(p.mean).sum(-1))
    standard = Normal(torch.zeros(4, dtype=torch.float64), 1.0)
    torch.testing.assert_close(q.kl(q.standard()), kl_divergence(q_torch, standard).view(1, 4))


def test_kl_is_the_mean_log_ratio_of_draws(generator: torch.Generator) -> None:
    (q, _), (p, _) = law([0.5, -1, 0, 2], [0.3, -1, -2, 1]), law([0, 0, 0.5, 1], [0, 0.5, -1, 1])
    z = q.sample(generator, samples=200_000)
    ratios = (q.log_prob(z) - p.log_prob(z))[:, 0]
    assert abs(ratios.mean() - q.kl(p).sum()) < 4 * ratios.std() / math.sqrt(len(ratios))


def test_kl_keeps_its_digits_where_both_laws_are_nearly_one() -> None:
    """A collapsed posterior: the textbook form loses everything in float32."""
    q = DiagonalGaussian(torch.tensor([[1e-4]]), torch.tensor([[1e-3]]))
    exact = kl_divergence(Normal(torch.tensor(1e-4).double(), torch.tensor(5e-4).double().exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(q.kl(q.standard()).double().squeeze(), exact, rtol=1e-3, atol=0)


def test_draws_have_the_law_and_pass_gradients(generator: torch.Generator) -> None:
    mean, log_variance = torch.tensor([[2.0]], requires_grad=True), torch.tensor([[-1.0]], requires_grad=True)
    z = DiagonalGaussian(mean, log_variance).sample(generator, samples=100_000)
    assert z.shape == (100_000, 1, 1)
    assert z.mean().item() == pytest.approx(2.0, abs=0.01)
    assert z.var().item() == pytest.approx(math.exp(-1), rel=0.03)
    z.square().mean().backward()  # E z^2 = m^2 + exp(v)
    assert mean.grad.item() == pytest.approx(4.0, abs=0.02)
    assert log_variance.grad.item() == pytest.approx(math.exp(-1), rel=0.03)


@given(numbers, numbers, numbers, numbers)
@settings(max_examples=50, deadline=None)
def test_a_product_of_densities_is_their_normalised_product(a: list, b: list, c: list, d: list) -> None:
    """log q + log p - log (q p) is the same number everywhere."""
    (q, _), (p, _) = law(a, b), law(c, d)
    z = torch.linspace(-2, 2, 7, dtype=torch.float64)[:, None].expand(7, 4)
    excess = q.log_prob(z) + p.log_prob(z) - q.times(p).log_prob(z)
    torch.testing.assert_close(excess, excess[:1].expand(7), rtol=1e-9, atol=1e-9)
