"""Stationary laws of the samplers, their invariances, and what they refuse; in float64."""

import math
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coursekit.diffusion import VE, Cosine, LinearVP, Rectified, time_grid
from coursekit.energy import (
    annealed_langevin,
    energy_and_score,
    hmc,
    langevin,
    langevin_by_score,
    leapfrog,
    mala,
    score_of,
)

sys.path.insert(0, str(Path(__file__).parent))
from laws import check_moments, gaussian, mixture, moments, quadratic, seeded

ADJUSTED = {"mala": partial(mala, step=0.3), "hmc": partial(hmc, step=0.45, leaps=2)}
adjusted = pytest.mark.parametrize("name", ADJUSTED)


@pytest.mark.parametrize("D", [1, 2, 4])
@pytest.mark.parametrize("step", [0.05, 0.3])
def test_langevin_has_the_biased_covariance_of_its_step(D, step):
    """S = (P - eps P^2 / 2)^-1, as the solution of S = A S A + 2 eps I; the mean has no bias."""
    mean, covariance, precision = gaussian(D)
    x = langevin(quadratic(mean, precision), mean.expand(20_000, D), step, int(6 / step), generator=seeded())
    steps, A = int(6 / step), torch.eye(D, dtype=torch.float64) - step * precision
    expected = torch.zeros(D, D, dtype=torch.float64)
    for _ in range(steps):
        expected = A @ expected @ A + 2 * step * torch.eye(D, dtype=torch.float64)
    check_moments(x, mean, expected)
    stationary = torch.linalg.inv(precision - step / 2 * precision @ precision)
    torch.testing.assert_close(expected, stationary, rtol=0.02, atol=0.02)
    assert float((torch.linalg.eigvalsh(stationary - covariance)).min()) > 0  # too wide in every direction


@pytest.mark.parametrize("temperature", [0.25, 1.0])
def test_temperature_scales_the_covariance(temperature):
    mean, _, precision = gaussian(2)
    x = langevin(
        quadratic(mean, precision), mean.expand(20_000, 2), 0.2, 60, temperature=temperature, generator=seeded()
    )
    check_moments(x, mean, temperature * torch.linalg.inv(precision - 0.1 * precision @ precision))


def test_no_temperature_is_gradient_descent_and_a_large_step_diverges():
    mean, _, precision = gaussian(2)
    energy, start = quadratic(mean, precision), torch.ones(3, 2, dtype=torch.float64)
    torch.testing.assert_close(langevin(energy, start, 0.3, 400, temperature=0.0), mean.expand(3, 2))
    with pytest.raises(ValueError, match=r"(energy|score) must be finite, got (inf|-inf|nan) in \d+ of \d+ points"):
        langevin(energy, start, 2.5 * 0.3, 4000, temperature=0.0)  # beyond twice the smallest variance


@adjusted
@pytest.mark.parametrize("D", [1, 3])
def test_adjusted_samplers_have_no_bias(name, D):
    """From exact draws they stay there, and from one point they get there, at steps where Langevin is far off."""
    mean, covariance, precision = gaussian(D)
    energy = quadratic(mean, precision)
    root = torch.linalg.cholesky(covariance)
    exact = mean + torch.randn(20_000, D, generator=seeded(1), dtype=torch.float64) @ root.T
    for start, steps in ((exact, 3), (mean.expand(20_000, D), 40)):
        chains = ADJUSTED[name](energy, start, steps=steps, generator=seeded())
        check_moments(chains.x, mean, covariance)
        assert chains.acceptance.shape == (20_000,)
        assert 0.3 < chains.acceptance.mean() < 0.999


@adjusted
def test_adjusted_samplers_draw_a_mixture(name):
    target = mixture()
    energy = lambda x: -target.log_prob(x) + 7.0  # noqa: E731 (a constant changes nothing)
    chains = ADJUSTED[name](energy, torch.zeros(10_000, 2, dtype=torch.float64), steps=60, generator=seeded())
    check_moments(chains.x, *moments(target))


@adjusted
def test_detailed_balance(name):
    """At rest the pair (before, after) has one law in both directions: E[f(x) g(x')] = E[g(x) f(x')]."""
    target = mixture()
    x = target.sample(100_000, seeded(1))
    after = ADJUSTED[name](lambda x: -target.log_prob(x), x, steps=1, generator=seeded()).x
    for f, g in ((lambda x: x[:, 0], lambda x: x[:, 0] ** 2), (lambda x: x[:, 1].exp(), lambda x: x[:, 0].tanh())):
        flow = f(x) * g(after) - g(x) * f(after)
        assert abs(flow.mean().item()) < 4.5 * flow.std().item() / math.sqrt(len(x))
    assert not torch.equal(x, after)


def test_one_leap_is_the_adjusted_langevin_proposal():
    """x + step p + step^2 / 2 score: Langevin dynamics of step^2 / 2, p being its noise."""
    mean, _, precision = gaussian(2)
    score = score_of(quadratic(mean, precision))
    x, p = torch.randn(2, 5, 2, dtype=torch.float64, generator=seeded())
    new, _ = leapfrog(score, x, p, 0.4, 1)
    torch.testing.assert_close(new, x + 0.08 * score(x) + math.sqrt(2 * 0.08) * p)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 12), st.floats(0.01, 0.3))
def test_leapfrog_is_reversible_and_keeps_volume(seed, leaps, step):
    score = lambda x: -(x**3) + 0.5 * x.flip(-1)  # noqa: E731 (of no Gaussian)
    start = torch.randn(2, 1, 2, generator=seeded(seed), dtype=torch.float64)
    x, p = leapfrog(score, *start, step, leaps)
    back_x, back_p = leapfrog(score, x, -p, step, leaps)
    torch.testing.assert_close(torch.stack([back_x, -back_p]), start, rtol=1e-6, atol=1e-8)

    def flat(state):
        return torch.cat(leapfrog(score, state[None, :2], state[None, 2:], step, leaps), dim=1)[0]

    jacobian = torch.autograd.functional.jacobian(flat, start.reshape(4))
    assert torch.linalg.det(jacobian).item() == pytest.approx(1, abs=1e-8)


def test_leapfrog_is_of_second_order():
    """The error of the total energy at a fixed time falls fourfold with half the step."""
    x, p = torch.tensor([[1.0]], dtype=torch.float64), torch.tensor([[0.5]], dtype=torch.float64)
    errors = []
    for leaps in (10, 20, 40):
        x_end, p_end = leapfrog(lambda x: -(x**3), x, p, 1.0 / leaps, leaps)
        total = x_end**4 / 4 + p_end**2 / 2 - x**4 / 4 - p**2 / 2
        errors.append(abs(total.item()))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize("sampler", [langevin, mala, hmc])
def test_trajectories_generators_and_shapes(sampler):
    """Pictures as well as vectors; the same seed, the same chains; no gradient is left behind."""
    energy = lambda x: x.square().flatten(1).sum(1)  # noqa: E731
    start = torch.ones(3, 1, 4, 4, requires_grad=True)
    runs = [sampler(energy, start, 0.1, 5, generator=seeded(), trajectory=True) for _ in range(2)]
    states = [run if isinstance(run, torch.Tensor) else run.x for run in runs]
    assert states[0].shape == (6, 3, 1, 4, 4)
    assert torch.equal(*states)
    assert torch.equal(states[0][0], start)
    last = sampler(energy, start, 0.1, 5, generator=seeded())
    last = last if isinstance(last, torch.Tensor) else last.x
    assert torch.equal(last, states[0][-1])
    assert not last.requires_grad
    assert torch.equal(start, torch.ones_like(start))


def test_clip_bounds_the_steps():
    steep = lambda x: 1e6 * x.square().flatten(1).sum(1)  # noqa: E731
    start = torch.ones(4, 2, dtype=torch.float64)
    x = langevin(steep, start, 0.1, 1, clip=2.0, temperature=0.0)
    torch.testing.assert_close((x - start).norm(dim=1), torch.full((4,), 0.2, dtype=torch.float64))
    gentle = lambda x: 0.01 * x.sum(1)  # noqa: E731
    assert torch.equal(langevin(gentle, start, 0.1, 3, clip=2.0, generator=seeded()),
                       langevin(gentle, start, 0.1, 3, generator=seeded()))  # fmt: skip


@pytest.mark.parametrize("sampler", [langevin, mala, hmc])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_non_finite_energy_is_refused(sampler, bad):
    def energy(x):
        return torch.where(x[:, 0] > 5, bad, x.square().sum(1))

    start = torch.tensor([[0.0, 0.0], [9.0, 0.0]])
    with pytest.raises(ValueError, match=r"energy must be finite, got -?(nan|inf) in 1 of 2 points"):
        sampler(energy, start, 0.01, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e, x: langevin(e, x, 0.0, 3), "step > 0 and steps >= 0 are wanted, got 0.0 and 3"),
        (lambda e, x: langevin(e, x, math.nan, 3), "step > 0 and steps >= 0 are wanted, got nan"),
        (lambda e, x: mala(e, x, 0.1, -1), "got 0.1 and -1"),
        (lambda e, x: hmc(e, x, 0.1, 3, leaps=0), "leaps must be at least 1, got 0"),
        (lambda e, x: langevin(e, x, 0.1, 3, temperature=-1.0), "temperature >= 0 and clip > 0 are wanted, got -1.0"),
        (lambda e, x: langevin(e, x, 0.1, 3, clip=0.0), "and 0.0"),
        (lambda e, x: mala(lambda x: x, x, 0.1, 3), r"energy must return shape \(2,\), got \(2, 3\)"),
        (lambda e, x: langevin_by_score(lambda x: x / 0, x, 0.1, 3), "score must be finite, got nan in 6 of 6"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(lambda x: x.sum(1), torch.zeros(2, 3))


def test_energy_and_score_against_differences():
    target = mixture()
    x = torch.randn(6, 2, dtype=torch.float64, generator=seeded())
    E, s = energy_and_score(lambda x: -target.log_prob(x), x)
    assert not s.isnan().any()
    torch.testing.assert_close(s, target.score(x))
    torch.testing.assert_close(E, -target.log_prob(x))
    with torch.no_grad():
        assert not energy_and_score(lambda x: -target.log_prob(x), x)[1].requires_grad


# --- annealed Langevin dynamics -----------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [VE(), LinearVP(), Rectified()], ids=["ve", "linear", "rectified"])
def test_annealed_langevin_draws_the_mixture(schedule):
    """With the exact diffused score: moments of the data within the bias of its step, and both modes."""
    target = mixture()
    times = time_grid(schedule, 30, "karras")[:-1]

    def score(x, t):
        return target.diffused_score(x, schedule.alpha(t[:1]).double(), schedule.sigma(t[:1]).double())

    level = [float(part(times[0])) for part in (schedule.alpha, schedule.sigma)]
    start = math.hypot(*level) * torch.randn(3000, 2, dtype=torch.float64, generator=seeded(1))
    states = annealed_langevin(score, start, schedule, times, 15, 0.3, generator=seeded(), trajectory=True)
    assert states.shape == (len(times) + 2, 3000, 2)
    mean, covariance = moments(target)
    x = states[-1]
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=0.08)
    torch.testing.assert_close(x.T.cov(), covariance, rtol=0, atol=0.12)
    left = (target.component_log_prob(x).argmax(1) == 0).double().mean().item()
    assert left == pytest.approx(0.3, abs=0.04)


def test_annealed_steps_are_those_of_the_noise():
    """One step at one level against its formula."""
    schedule = VE()
    t = torch.tensor([0.5], dtype=torch.float64)
    sigma = float(schedule.sigma(t))
    x = torch.randn(4, 2, dtype=torch.float64, generator=seeded())
    states = annealed_langevin(lambda x, t: -x, x, schedule, t, 1, 0.2, seeded(3), trajectory=True)
    noise = torch.empty_like(x).normal_(generator=seeded(3))
    expected = x - 0.2 * sigma**2 * x + math.sqrt(0.4) * sigma * noise
    torch.testing.assert_close(states[1], expected)
    torch.testing.assert_close(states[2], (expected - sigma**2 * expected) / float(schedule.alpha(t)))


@pytest.mark.parametrize(
    ("times", "message"),
    [([0.2, 0.5], "times must fall strictly"), ([], "times must fall strictly"), ([1.0], "alpha and sigma")],
)
def test_annealed_langevin_refuses_impossible_times(times, message):
    with pytest.raises(ValueError, match=message):
        annealed_langevin(lambda x, t: -x, torch.zeros(2, 2), Cosine(), torch.tensor(times))
