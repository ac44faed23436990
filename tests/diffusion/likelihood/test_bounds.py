"""Laws of the variational bounds: closed forms, the exact density below, units, unbiased sums."""

import math
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from scipy import integrate
from torch import Tensor

from coursekit.diffusion import SCHEDULES, Denoiser, ImportanceSampled, Rectified, time_grid
from coursekit.diffusion.likelihood import (
    CapacityTimes,
    Gaussian,
    OptimalVariance,
    ReverseVariance,
    capacity,
    capacity_grid,
    chain_bound,
    continuous_bound,
    lower_variance,
    time_of_capacity,
    upper_variance,
)

sys.path.insert(0, str(Path(__file__).parent))
from truths import exact, generator, mixture, normal, standard_error

V = 0.3  # variance of the normal data


def snr(schedule: str, t: float) -> float:
    s = SCHEDULES[schedule]()
    return (float(s.alpha(t)) / float(s.sigma(t))) ** 2


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_capacity_and_its_inverse(schedule: str) -> None:
    s, t = SCHEDULES[schedule](), torch.tensor([0.01, 0.1, 0.3, 0.6, 0.9, 1.0], dtype=torch.float64)
    torch.testing.assert_close(capacity(s, t), -torch.log(torch.sin(s.angle(t))), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(time_of_capacity(s, capacity(s, t)), t, rtol=1e-6, atol=1e-6)
    grid = capacity_grid(s, 7, 0.01)
    assert (grid[0].item(), grid[-1].item()) == (1.0, 0.01)
    steps = capacity(s, grid).diff()
    torch.testing.assert_close(steps, steps.mean().expand(6), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_integral_for_normal_data(schedule: str) -> None:
    """1/2 int v / (1 + v SNR) dSNR = 1/2 log((1 + v SNR_max) / (1 + v SNR_min)), and a prior of v SNR_min / 2."""
    x = normal(V).sample(4000, generator(100))
    bound = continuous_bound(
        exact(normal(V), schedule), x, decoder=Gaussian(), times=16, t_min=0.01, generator=generator()
    )
    high, low = snr(schedule, 0.01), snr(schedule, 1.0)
    expected = 0.5 * math.log((1 + V * high) / (1 + V * low))
    assert bound.diffusion.mean().item() == pytest.approx(expected, abs=4 * standard_error(bound.diffusion))
    assert standard_error(bound.diffusion) < 0.02 * expected
    assert bound.prior.mean().item() == pytest.approx(0.5 * x.square().mean().item() * low, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "ve", "sub-vp", "rectified"])
@pytest.mark.parametrize("variance", [lower_variance, upper_variance])
def test_the_chain_for_normal_data(schedule: str, variance: ReverseVariance) -> None:
    """Each KL in closed form, from the levels alone: E|x_0 - D(x_k)|^2 = v / (1 + v SNR_k)."""
    s, x, T = SCHEDULES[schedule](), normal(V).sample(4000, generator(100)), 6
    times = capacity_grid(s, T, 0.05)
    bound = chain_bound(
        exact(normal(V), schedule), x, times=times, decoder=Gaussian(), variance=variance, generator=generator()
    )
    levels = [(float(s.alpha(t)) ** 2, float(s.sigma(t)) ** 2) for t in times.flip(0)]  # of x_1 ... x_T
    found = bound.steps[0].mean(1)
    for k in range(1, T):
        (a_before, v_before), (a, v) = levels[k - 1], levels[k]
        beta = v - a / a_before * v_before
        posterior = beta * v_before / v
        chosen = posterior if variance is lower_variance else beta
        error = V / (1 + V * a / v)
        kl = 0.5 * (posterior / chosen - 1 - math.log(posterior / chosen) + a_before * beta**2 / v**2 * error / chosen)
        assert found[k - 1].item() == pytest.approx(kl, abs=4 * standard_error(bound.steps[0, k - 1]) + 1e-6)
    torch.testing.assert_close(bound.log_snr[0].mean(1), s.log_snr(times.flip(0)[1:]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "ve", "rectified"])
def test_the_sum_becomes_the_integral(schedule: str) -> None:
    """At T = 4, 32 and 512 the chain lies above the integral, ever less; what is left is 1/2 dSNR (mse - its mean)."""
    s = SCHEDULES[schedule]()

    def error(level: float) -> float:
        return V / (1 + V * level)

    integral, _ = integrate.quad(lambda c: math.exp(2 * c) * error(math.expm1(2 * c)), *_capacities(schedule))
    x, model, gaps = normal(V).sample(1000, generator(100)), exact(normal(V), schedule), []
    for T in (4, 32, 512):
        times = capacity_grid(s, T, 0.01)
        terms = None if T < 100 else 32
        bound = chain_bound(model, x, times=times, decoder=Gaussian(), terms=terms, generator=generator())
        ratios = [snr(schedule, float(t)) for t in times]
        closed = sum(0.5 * (b - a) * error(a) for a, b in pairwise(ratios))
        assert bound.diffusion.mean().item() == pytest.approx(closed, abs=4 * standard_error(bound.diffusion))
        gaps.append(closed - integral)
    assert gaps[0] > 6 * gaps[1] > 36 * gaps[2] > 0


def _capacities(schedule: str) -> tuple[float, float]:
    return tuple(0.5 * math.log1p(snr(schedule, t)) for t in (1.0, 0.01))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "rectified", "edm"])
def test_no_chain_beats_the_exact_density(schedule: str) -> None:
    """A chain of few steps is a model of its own, so single points may gain; the mean over the data cannot."""
    truth, s = mixture(), SCHEDULES[schedule]()
    x, model = truth.sample(2000, generator(100)), exact(truth, schedule)
    optimal = OptimalVariance.measured(model, truth.sample(2000, generator(1)), generator=generator())
    for T in (3, 20):
        times = capacity_grid(s, T, 0.01)
        for variance in (lower_variance, upper_variance, optimal):
            bound = chain_bound(model, x, times=times, decoder=Gaussian(), variance=variance, generator=generator())
            gap = bound.nats + truth.log_prob(x)
            assert gap.mean() > (2 if T == 3 else -2) * standard_error(gap)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "rectified", "edm"])
def test_infinitely_many_exact_steps_lose_the_prior_and_the_decoder_only(schedule: str) -> None:
    """Point by point the bound is tight: what is left above -log p(x) is the prior's KL and a little of the decoder."""
    truth, point = mixture(), mixture().sample(3, generator(2))
    x, model = point.repeat_interleave(1000, 0), exact(truth, schedule)
    bound = continuous_bound(model, x, decoder=Gaussian(), t_min=1e-3, generator=generator())
    nats = (bound.nats - bound.prior).view(3, 1000)
    gap, error = nats.mean(1) + truth.log_prob(point), nats.std(1) / 1000**0.5
    assert bool((gap.abs() < 4 * error + 0.01).all())
    assert error.max() < 0.1


def test_some_terms_stand_for_all() -> None:
    truth, times = mixture(), time_grid(Rectified(), 40)
    x, model = truth.sample(3000, generator(100)), exact(truth, "rectified")
    few, all_terms = (
        chain_bound(model, x, times=times, decoder=Gaussian(), terms=terms, generator=generator())
        for terms in (7, None)
    )
    assert few.steps.shape == (1, 7, 3000)
    assert all_terms.steps.shape == (1, 39, 3000)
    error = math.hypot(standard_error(few.diffusion), standard_error(all_terms.diffusion))
    assert (few.diffusion.mean() - all_terms.diffusion.mean()).abs().item() < 4 * error


def test_importance_sampling_keeps_the_mean_and_shrinks_the_spread() -> None:
    """Two points far apart: all is decided at few noise levels."""
    truth = mixture(1).diffused(1.0, 0.0)
    truth.means.mul_(4)
    x, model, bins = truth.sample(4000, generator(100)), exact(truth, "rectified"), ImportanceSampled(32)

    def run(importance: ImportanceSampled | None) -> Tensor:
        return continuous_bound(
            model, x, decoder=Gaussian(), times=4, t_min=0.001, importance=importance, generator=generator(3)
        ).diffusion

    for _ in range(20):
        run(bins.train())
    plain, weighted = run(None), run(bins.eval())
    assert (plain.mean() - weighted.mean()).abs() < 4 * math.hypot(standard_error(plain), standard_error(weighted))
    assert weighted.std() < plain.std()


def test_training_on_capacity_minimises_the_bound() -> None:
    """Weighting `edm` at these times is the diffusion part itself, per dimension and nat of capacity."""
    truth, t_min = mixture(), 0.01
    times = CapacityTimes(Rectified(), t_min)

    def network(x: Tensor, t: Tensor) -> Tensor:  # the exact velocity, a little spoilt
        t = t[:, None]
        x_t = x * torch.hypot(1 - t, t)
        return (x_t - truth.denoise(x_t, 1 - t, t)) / t + 0.2

    model = Denoiser(network, Rectified(), "velocity", "edm", times, t_min=t_min)
    x = truth.sample(20000, generator(100))
    losses = torch.stack([model.loss(part, generator=generator(i)) for i, part in enumerate(x.split(500))])
    bound = continuous_bound(model, x, decoder=Gaussian(), times=4, generator=generator()).diffusion / 2
    scale = times.high - times.low
    error = math.hypot(scale * standard_error(losses), standard_error(bound))
    assert scale * losses.mean().item() == pytest.approx(bound.mean().item(), abs=4 * error)
    assert error < 0.03 * bound.mean()


def test_the_standard_error_is_that_of_repetitions() -> None:
    truth = mixture()
    x, model = truth.sample(1, generator(100)).expand(2000, 2), exact(truth, "cosine")
    bound = continuous_bound(model, x, decoder=Gaussian(), times=4, t_min=0.01, draws=5, generator=generator())
    assert bound.error.square().mean().sqrt().item() == pytest.approx(bound.nats.std().item(), rel=0.1)
    with pytest.raises(ValueError, match="at least 2 draws"):
        _ = continuous_bound(model, x[:2], decoder=Gaussian(), times=1, t_min=0.01).error


def test_summary_is_in_bits_per_dimension_and_adds_up() -> None:
    x = normal(V, 5).sample(50, generator(100))
    bound = continuous_bound(exact(normal(V, 5), "linear"), x, decoder=Gaussian(), times=4, generator=generator())
    summary = bound.summary()
    assert summary["total"].value == pytest.approx(bound.nats.mean().item() / (5 * math.log(2)))
    assert sum(summary[part].value for part in ("prior", "diffusion", "reconstruction")) == pytest.approx(
        summary["total"].value
    )
    torch.testing.assert_close(bound.log_prob, -bound.nats)
    log_snr, bits = bound.profile()
    assert bits.sum().item() == pytest.approx(summary["diffusion"].value)
    assert bool((log_snr.diff() > 0).all())  # from noise to data


def test_same_seed_same_bound_and_no_other_randomness() -> None:
    model, x, state = exact(mixture(), "cosine"), mixture().sample(10, generator(100)), torch.get_rng_state()
    for run in (
        lambda: continuous_bound(model, x, decoder=Gaussian(), times=3, generator=generator()),
        lambda: chain_bound(model, x, times=time_grid(model.schedule, 9), decoder=Gaussian(), generator=generator()),
    ):
        assert torch.equal(run().nats, run().nats)
    assert torch.equal(state, torch.get_rng_state())


def test_one_step_is_prior_and_decoder() -> None:
    bound = chain_bound(
        exact(normal(1.0), "rectified"), torch.zeros(4, 1).double(), times=torch.tensor([1.0]), decoder=Gaussian(1.0)
    )
    assert bound.steps.shape == (1, 0, 4)
    torch.testing.assert_close(bound.nats, torch.full((4,), 0.5 * math.log(2 * math.pi)).double())


@pytest.mark.parametrize(
    ("keywords", "message"),
    [({"terms": 0}, "terms"), ({"terms": 5}, "terms"), ({"draws": 0}, "draws"), ({"times": torch.ones(2)}, "fall")],
)
def test_impossible_chains_are_refused(keywords: dict, message: str) -> None:
    settings = {"times": time_grid(Rectified(), 5), "decoder": Gaussian()} | keywords
    with pytest.raises(ValueError, match=message):
        chain_bound(exact(normal(V), "rectified"), torch.zeros(2, 1).double(), **settings)


@pytest.mark.parametrize(("keywords", "message"), [({"times": 0}, "times"), ({"t_min": 0.0}, "noise")])
def test_impossible_integrals_are_refused(keywords: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        continuous_bound(exact(normal(V), "rectified"), torch.zeros(2, 1).double(), decoder=Gaussian(), **keywords)
