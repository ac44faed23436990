"""Laws of the density by the probability-flow ODE: exact mixtures, total probability one, traces, errors."""

import itertools
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from coursekit.diffusion import SCHEDULES, VE, Denoiser, ExactDenoiser, LinearVP, Rectified, Schedule, SubVP
from coursekit.diffusion.likelihood import ode_log_prob
from coursekit.flows import ExactTrace, Hutchinson
from coursekit.gmm import GaussianMixture
from coursekit.networks import TimeMLP

sys.path.insert(0, str(Path(__file__).parent))
from truths import T_MIN, exact, generator, mixture, normal

TIGHT = {"rtol": 1e-6, "atol": 1e-6}


def last(truth: GaussianMixture, schedule: str, x_T: Tensor) -> Tensor:
    """log p_T of the exact noisy mixture."""
    s = SCHEDULES[schedule]()
    return truth.diffused_log_prob(x_T, s.alpha(1.0), s.sigma(1.0))


@pytest.mark.parametrize(
    ("D", "schedule"), [*((2, name) for name in SCHEDULES), *itertools.product((1, 5), ("cosine", "ve", "rectified"))]
)
def test_the_exact_mixture_has_its_own_density(D: int, schedule: str) -> None:
    """At t_min to 1e-4 nats; of the clean data to 1e-3, wherever t_min leaves no more noise than that."""
    truth, s = mixture(D), SCHEDULES[schedule]()
    x = truth.sample(20, generator(1))
    found = ode_log_prob(exact(truth, schedule), x, t_min=T_MIN, base=lambda z: last(truth, schedule, z), **TIGHT)
    noisy = truth.diffused_log_prob(x, s.alpha(T_MIN), s.sigma(T_MIN))
    torch.testing.assert_close(found.log_prob, noisy, rtol=0, atol=1e-4)
    assert bool(((found.log_prob - noisy).abs() < 3 * found.solver_error + 1e-6).all())
    assert bool((found.trace_error == 0).all())
    if float(s.sigma(T_MIN)) < 2e-3:
        torch.testing.assert_close(found.log_prob, truth.log_prob(x), rtol=0, atol=1e-3)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_normal_data_in_closed_form(schedule: str) -> None:
    """The flow of N(0, v I) is a scaling, x_T = x sqrt(V_T / V), V = alpha^2 v + sigma^2, and N(0, sigma^2 I) waits."""
    s, x, v = SCHEDULES[schedule](), torch.randn(10, 3, generator=generator()).double(), 0.3
    found = ode_log_prob(exact(normal(v, 3), schedule), x, t_min=0.01, **TIGHT)
    first, end = (float(s.alpha(t)) ** 2 * v + float(s.sigma(t)) ** 2 for t in (0.01, 1.0))
    x_T = x * math.sqrt(end / first)
    torch.testing.assert_close(found.x_T, x_T, rtol=1e-4, atol=1e-4)
    base = torch.distributions.Normal(0.0, float(s.sigma(1.0)))
    expected = base.log_prob(x_T).sum(1) + 1.5 * math.log(end / first)
    torch.testing.assert_close(found.log_prob, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("schedule", ["linear", "scaled-linear", "ve", "edm"])
def test_the_prior_is_not_quite_the_law_of_noise(schedule: str) -> None:
    """Where alpha(1) > 0 the two bases differ by exactly that much, and on average the wrong one costs."""
    truth = mixture()
    x, model = truth.sample(200, generator(100)), exact(mixture(), schedule)
    plain, right = (ode_log_prob(model, x, base=base) for base in (None, lambda z: last(truth, schedule, z)))
    sigma = SCHEDULES[schedule]().sigma(1.0)  # float64
    wrong = torch.distributions.Normal(torch.zeros_like(sigma), sigma).log_prob(plain.x_T).sum(1)
    difference = wrong - last(truth, schedule, plain.x_T)
    torch.testing.assert_close(plain.log_prob - right.log_prob, difference, rtol=1e-9, atol=1e-9)
    assert difference.abs().max() > 1e-3


@pytest.mark.parametrize(
    ("prediction", "schedule", "reach"),
    [
        *((prediction, Rectified(), 12) for prediction in ("x0", "v", "velocity", "edm")),
        ("v", SubVP(), 12),
        ("eps", LinearVP(), 1000),  # alpha(1) is small: the network's words are multiplied by a hundred
        ("score", VE(sigma_max=2.0), 20),
    ],
)
def test_any_network_has_total_probability_one(prediction: str, schedule: Schedule, reach: float) -> None:
    """Even an untrained one: a wrong scale, sign or Jacobian would show."""
    torch.manual_seed(0)
    network = TimeMLP(1, width=16).double()
    model = Denoiser(network, schedule, prediction).requires_grad_(False)
    x = torch.linspace(-reach, reach, 801, dtype=torch.float64)
    density = ode_log_prob(model, x[:, None], t_min=0.1).log_prob.exp()
    assert torch.trapezoid(density, x).item() == pytest.approx(1, abs=2e-3)


def test_a_denoiser_that_knows_the_noise_agrees_with_one_that_does_not() -> None:
    torch.manual_seed(0)
    model = Denoiser(TimeMLP(2, width=16).double(), Rectified(), "velocity").requires_grad_(False)

    class Plain(nn.Module):
        schedule, t_min, t_max = model.schedule, model.t_min, model.t_max

        def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
            return model(x_t, t, y)

    x = torch.randn(5, 2, generator=generator()).double()
    one, other = (ode_log_prob(m, x, t_min=0.01, **TIGHT).log_prob for m in (model, Plain()))
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_labels_reach_the_denoiser() -> None:
    torch.manual_seed(0)
    model = Denoiser(TimeMLP(1, width=16, num_classes=3).double(), Rectified(), num_classes=3).requires_grad_(False)
    x, y = torch.zeros(3, 1).double(), torch.arange(3)
    together = ode_log_prob(model, x, y, t_min=0.1).log_prob
    apart = torch.cat([ode_log_prob(model, x[:1], y[i : i + 1], t_min=0.1).log_prob for i in range(3)])
    torch.testing.assert_close(together, apart)
    assert together.std() > 1e-3


def test_hutchinsons_trace_is_unbiased_and_knows_its_error() -> None:
    truth = mixture(2)
    x = truth.sample(1, generator(100)).expand(500, 2)
    model = exact(truth, "rectified")
    right = ode_log_prob(model, x[:1], t_min=0.01)
    found = ode_log_prob(model, x, t_min=0.01, trace=Hutchinson(8), generator=generator())
    spread = found.log_prob.std()
    assert spread > 0.05
    assert (found.log_prob.mean() - right.log_prob).abs() < 4 * spread / 500**0.5
    assert found.trace_error.square().mean().sqrt().item() == pytest.approx(spread.item(), rel=0.15)
    lonely = ode_log_prob(model, x[:2], t_min=0.01, trace=Hutchinson(1), generator=generator())
    assert bool(torch.isinf(lonely.trace_error).all())


def test_random_signs_have_no_variance_for_a_diagonal_jacobian() -> None:
    """Independent coordinates: every probe gives the exact trace."""
    means, variances = torch.tensor([[0.5, -1.0, 0.2]]).double(), torch.diag(torch.tensor([0.1, 0.5, 2.0])).double()
    model = ExactDenoiser(GaussianMixture(torch.ones(1).double(), means, variances[None]), LinearVP())
    x = torch.randn(4, 3, generator=generator()).double()
    right = ode_log_prob(model, x, trace=ExactTrace(), **TIGHT)
    found = ode_log_prob(model, x, trace=Hutchinson(3), generator=generator(), **TIGHT)
    torch.testing.assert_close(found.log_prob, right.log_prob, rtol=0, atol=1e-5)
    assert found.trace_error.max() < 1e-6


def test_the_probe_is_drawn_once_and_from_the_generator() -> None:
    """Were it drawn at every call, the solver would see noise: hundreds of evaluations, and no repeatable result."""
    model, x, state = exact(mixture(), "cosine"), mixture().sample(5, generator(100)), torch.get_rng_state()
    found = [ode_log_prob(model, x, trace=Hutchinson(2), generator=generator(seed), **TIGHT) for seed in (1, 1, 2)]
    assert torch.equal(found[0].log_prob, found[1].log_prob)
    assert not torch.equal(found[0].log_prob, found[2].log_prob)
    assert max(each.evaluations for each in found) < 300
    assert torch.equal(state, torch.get_rng_state())


def test_a_sample_does_not_see_its_batch_mates() -> None:
    model, x = exact(mixture(), "rectified"), mixture().sample(1, generator(100))
    alone = ode_log_prob(model, x)
    for scale in (0.0, 1.0, 20.0):
        mates = ode_log_prob(model, torch.cat([x, scale * torch.randn(7, 2, generator=generator()).double()]))
        torch.testing.assert_close(mates.log_prob[:1], alone.log_prob, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(mates.solver_error[:1], alone.solver_error, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_single_precision_is_finite_at_both_ends(schedule: str) -> None:
    truth = normal(0.5, 2).float()
    found = ode_log_prob(exact(truth, schedule), torch.randn(8, 2, generator=generator()), rtol=1e-4, atol=1e-4)
    assert found.log_prob.dtype == torch.float32
    assert bool(torch.isfinite(found.log_prob).all())


def test_clean_data_have_no_density() -> None:
    with pytest.raises(ValueError, match="t_min"):
        ode_log_prob(exact(mixture(), "rectified"), torch.zeros(1, 2).double(), t_min=0.0)
    found = ode_log_prob(exact(mixture(), "ve"), torch.zeros(1, 2).double(), t_min=0.0)  # VE leaves noise at t = 0
    assert bool(torch.isfinite(found.log_prob).all())
