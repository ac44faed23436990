"""Laws of what is known exactly: against scipy, against each other, and against trained discriminators."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats
from scipy.spatial.distance import cdist, jensenshannon
from torch import Tensor, nn

from coursekit import gan
from coursekit.diffusion import Cosine, fit
from coursekit.gmm import GaussianMixture
from coursekit.networks import MLP

numbers = st.lists(st.floats(-50, 50), min_size=1, max_size=12)


def normal(mean: float, std: float, x: Tensor) -> Tensor:
    return torch.distributions.Normal(x.new_tensor(mean), x.new_tensor(std)).log_prob(x)


def grid(low: float = -12.0, high: float = 12.0, n: int = 4001) -> tuple[Tensor, float]:
    return torch.linspace(low, high, n, dtype=torch.float64), (high - low) / (n - 1)


@settings(max_examples=60, deadline=None)
@given(a=numbers, b=numbers)
def test_w1_equals_scipys(a: list[float], b: list[float]) -> None:
    found = gan.wasserstein_1d(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64))
    assert found.item() == pytest.approx(stats.wasserstein_distance(a, b), rel=1e-9, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(a=numbers, shift=st.floats(-9, 9), repeats=st.integers(1, 3))
def test_w1_of_a_shift_is_its_length_however_often_points_are_repeated(
    a: list[float], shift: float, repeats: int
) -> None:
    x = torch.tensor(a, dtype=torch.float64)
    assert gan.wasserstein_1d(x.repeat(repeats), x + shift).item() == pytest.approx(abs(shift), abs=1e-9)


def test_w1_passes_a_gradient() -> None:
    a, b = torch.randn(5, dtype=torch.float64, requires_grad=True), torch.randn(8, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a: gan.wasserstein_1d(a, b), a)


@settings(max_examples=40, deadline=None)
@given(weights=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=8))
def test_js_equals_scipys_on_probabilities_with_zeros(weights: list[tuple[int, int]]) -> None:
    p, q = torch.tensor(weights, dtype=torch.float64).T
    p, q = (column if column.any() else column + 1 for column in (p, q))
    p, q = p / p.sum(), q / q.sum()
    found = gan.jensen_shannon(p.log(), q.log()).item()
    assert found == pytest.approx(jensenshannon(p.numpy(), q.numpy()) ** 2, abs=1e-12)
    assert -1e-12 <= found <= math.log(2) + 1e-12


def test_js_of_laws_that_do_not_touch_is_log_two_at_any_distance_and_w1_is_the_distance() -> None:
    x, dx = grid(-30, 30)
    for theta in (5.0, 10.0, 20.0):
        found = gan.jensen_shannon(normal(0, 0.3, x), normal(theta, 0.3, x), dx).item()
        assert found == pytest.approx(math.log(2), abs=1e-6)
        assert gan.parallel_lines_distances(theta) == (pytest.approx(found), theta)
    near = [gan.jensen_shannon(normal(0, 1, x), normal(theta, 1, x), dx).item() for theta in (0.0, 0.5, 1.0)]
    assert near[0] == pytest.approx(0, abs=1e-12)
    assert near[0] < near[1] < near[2] < math.log(2)
    assert gan.parallel_lines_distances(0.0) == (0.0, 0.0)


def test_w1_of_two_lines_is_their_distance() -> None:
    """The cheapest pairing of samples, found by linear programming in the plane."""
    height = gan.sample_line(200, 0.0, torch.Generator().manual_seed(0))
    for theta in (-1.0, 0.4):
        other = gan.sample_line(200, theta, torch.Generator().manual_seed(0))
        cost = cdist(height.numpy(), other.numpy())
        rows, columns = optimize.linear_sum_assignment(cost)
        assert cost[rows, columns].mean() == pytest.approx(gan.parallel_lines_distances(theta)[1], rel=1e-6)
        assert bool((other[:, 1] >= 0).all() & (other[:, 1] <= 1).all())


def test_no_discriminator_beats_the_best_one_whose_value_is_that_of_the_divergence() -> None:
    x, dx = grid()
    log_p, log_q = normal(-1, 0.8, x), torch.logaddexp(normal(0, 1, x), normal(3, 0.5, x)) - math.log(2)
    best = gan.optimal_logit(log_p, log_q)
    value = gan.game_value(best, log_p, log_q, dx).item()
    assert value == pytest.approx(-math.log(4) + 2 * gan.jensen_shannon(log_p, log_q, dx).item(), abs=1e-9)
    p, q = (lambda u: stats.norm.pdf(u, -1, 0.8)), (lambda u: (stats.norm.pdf(u) + stats.norm.pdf(u, 3, 0.5)) / 2)
    written = integrate.quad(
        lambda u: p(u) * np.log(p(u) / (p(u) + q(u))) + q(u) * np.log(q(u) / (p(u) + q(u))), -8, 9, limit=200
    )[0]
    assert value == pytest.approx(written, abs=1e-6)
    for change in (0.1 * torch.sin(x), -0.3 * torch.ones_like(x), 0.05 * x):
        assert gan.game_value(best + change, log_p, log_q, dx).item() < value - 1e-4
    logits = best.clone().requires_grad_()
    (slope,) = torch.autograd.grad(gan.game_value(logits, log_p, log_q, dx), logits)
    assert slope.abs().max().item() < 1e-15
    torch.testing.assert_close(gan.optimal_discriminator(log_p, log_q), log_p.exp() / (log_p.exp() + log_q.exp()))


def test_where_nothing_is_the_best_discriminator_does_not_know() -> None:
    log_p, log_q = torch.tensor([0.0, -math.inf, -math.inf]), torch.tensor([-math.inf, 0.0, -math.inf])
    assert gan.optimal_discriminator(log_p, log_q).tolist() == [1, 0, 0.5]
    assert gan.jensen_shannon(log_p, log_q).item() == pytest.approx(math.log(2))


def test_a_trained_discriminator_is_the_best_one() -> None:
    """Against p / (p + q) on a grid, where there are samples; its loss is the value of the game."""
    torch.manual_seed(0)
    critic = gan.Critic(MLP([1, 64, 1]), gan.Minimax(), lambda n, g: 1.5 + torch.randn(n, 1, generator=g))
    points = -0.5 + 0.7 * torch.randn(20_000, 1, generator=torch.Generator().manual_seed(1))
    fit(critic, points, steps=600, batch_size=512, lr=1e-2, progress=False)
    x, dx = grid(-10, 10, 2001)
    log_p, log_q = normal(-0.5, 0.7, x), normal(1.5, 1.0, x)
    inside = (x > -2.0) & (x < 3.5)
    with torch.no_grad():
        logits = critic.logits(x.float()[:, None]).double()
    difference = (logits.sigmoid() - gan.optimal_discriminator(log_p, log_q))[inside].abs().max().item()
    assert difference < 0.05
    value, best = (gan.game_value(s, log_p, log_q, dx).item() for s in (logits, gan.optimal_logit(log_p, log_q)))
    assert best - 5e-3 < value <= best


def test_a_trained_critic_measures_w1_of_two_lines_and_a_discriminator_finds_log_two() -> None:
    """Theta moves W_1 and not JS: example 1 of the Wasserstein GAN."""
    for theta in (0.5, 1.0):
        estimates = []
        for objective, rules in ((gan.Wasserstein(), [gan.GradientPenalty(10.0)]), (gan.Minimax(), [])):
            torch.manual_seed(0)
            critic = gan.Critic(
                MLP([2, 32, 1]), objective, lambda n, g, theta=theta: gan.sample_line(n, theta, g), rules
            )
            x = gan.sample_line(2000, 0.0, torch.Generator().manual_seed(0))
            fit(critic, x, steps=200, batch_size=64, lr=2e-2, progress=False)
            with torch.no_grad():
                real, fake = (
                    critic.logits(x),
                    critic.logits(gan.sample_line(2000, theta, torch.Generator().manual_seed(1))),
                )
                estimates.append(-objective.discriminator_loss(real, fake).item())
        assert estimates[0] == pytest.approx(theta, rel=0.1)
        assert (estimates[1] + math.log(4)) / 2 == pytest.approx(math.log(2), abs=0.02)


def test_an_empty_or_broken_input_is_refused() -> None:
    x = torch.zeros(3)
    for make, message in (
        (lambda: gan.wasserstein_1d(x, torch.zeros(0)), "b must be finite numbers"),
        (lambda: gan.wasserstein_1d(x / 0, x), "a must be finite numbers"),
        (lambda: gan.wasserstein_1d(x[None], x), "a must be finite numbers"),
        (lambda: gan.jensen_shannon(x, x[:2]), "log_q must have the shape of log_p"),
        (lambda: gan.jensen_shannon(x, x / 0), "log_q must hold logarithms of densities, got NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


class Bent(nn.Module):
    """The exact logit of two noised mixtures, plus a small multiple of a test function."""

    def __init__(self, log_p: GaussianMixture, log_q: GaussianMixture) -> None:
        super().__init__()
        self.p, self.q = log_p, log_q
        self.amount = nn.Parameter(torch.zeros(4, dtype=torch.float64))

    def forward(self, x: Tensor, *time: Tensor) -> Tensor:
        features = torch.stack([torch.ones_like(x[:, 0]), x[:, 0], x[:, 1], x.square().sum(1)], dim=1)
        return self.p.log_prob(x) - self.q.log_prob(x) + features @ self.amount


def mixture(seed: int) -> GaussianMixture:
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(3, 2, generator=g, dtype=torch.float64)
    return GaussianMixture(
        torch.rand(3, generator=g, dtype=torch.float64) + 0.2, means, 0.1 * torch.eye(2).double().expand(3, 2, 2)
    )


@pytest.mark.parametrize("t", [0.2, 0.6])
def test_the_best_discriminator_of_noised_samples_is_that_of_the_diffused_densities(t: float) -> None:
    """In every direction of change the slope of its loss is zero, which it is for no other noise level."""
    p, q, schedule, n = mixture(0), mixture(1), Cosine(), 40_000
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    deviations = []
    for a, s in ((alpha, sigma), (1.0, 0.0)):
        bent = Bent(p.diffused(a, s), q.diffused(a, s))
        critic = gan.Critic(bent, gan.Minimax(), q.sample, corrupt=gan.InstanceNoise(schedule, t))
        slopes = []
        for seed in range(20):
            g = torch.Generator().manual_seed(seed)
            loss = critic.loss(p.sample(n // 20, g), generator=g)
            slopes.append(torch.autograd.grad(loss, bent.amount)[0])
        slopes = torch.stack(slopes)
        deviations.append((slopes.mean(0) / (slopes.std(0) / 20**0.5)).abs().max().item())
    assert deviations[0] < 4
    assert deviations[1] > 8
