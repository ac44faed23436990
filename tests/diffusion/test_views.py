"""Laws of the views: one function on nine axes and in four papers' words, and back."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch import Tensor, nn

from coursekit.diffusion import EDM, SCHEDULES, Cosine, Denoiser, ExactDenoiser, LinearVP, Rectified, Schedule, sample
from coursekit.diffusion.foreign import from_ddpm, from_edm, from_edm_network, from_eps, from_score, from_velocity
from coursekit.diffusion.guidance import ClassifierFree
from coursekit.diffusion.views import (
    DDPMView,
    EDMView,
    FlowView,
    OnSchedule,
    Preconditioning,
    ScoreSDEView,
    expected_data,
)
from coursekit.gmm import GaussianMixture

NAMES = list(SCHEDULES)
WEIGHTS, MEANS, DEVIATIONS = np.array([0.3, 0.7]), np.array([-1.0, 0.6]), np.array([0.35, 0.5])
TIMES = torch.linspace(0.002, 0.998, 60, dtype=torch.float64)
EXACT = {"rtol": 1e-9, "atol": 1e-9}


def mixture() -> GaussianMixture:
    columns = (torch.tensor(a, dtype=torch.float64) for a in (WEIGHTS, MEANS[:, None], DEVIATIONS[:, None, None] ** 2))
    return GaussianMixture(*columns)


def exact(schedule: Schedule) -> ExactDenoiser:
    return ExactDenoiser(mixture(), schedule)


def noisy(alpha: Tensor, sigma: Tensor) -> Tensor:
    """One point per level, from the mixture and noise, (N, 1)."""
    generator = torch.Generator().manual_seed(0)
    x_0 = mixture().sample(len(alpha), generator)
    return alpha[:, None] * x_0 + sigma[:, None] * torch.randn(x_0.shape, generator=generator).double()


def shared_times(schedule: Schedule, other: Schedule) -> Tensor:
    """Those of `TIMES` at which `other` has the noise level of `schedule` too."""
    log_snr = schedule.log_snr(TIMES)
    inside = (log_snr < other.log_snr(1e-4)) & (log_snr > other.log_snr(1 - 1e-4))
    assert int(inside.sum()) > 10
    return TIMES[inside]


# --- one axis and another --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("own", "new"), itertools.product(NAMES, NAMES))
def test_the_same_function_on_every_axis(own: str, new: str) -> None:
    own, new = SCHEDULES[own](), SCHEDULES[new]()
    t = shared_times(new, own)
    x = noisy(new.alpha(t), new.sigma(t))
    torch.testing.assert_close(OnSchedule(exact(own), new)(x, t), exact(new)(x, t), **EXACT)


@pytest.mark.parametrize(("own", "new"), itertools.product(NAMES, NAMES))
def test_beyond_what_was_trained_the_nearest_level_is_asked(own: str, new: str) -> None:
    """Also at t = 0 and 1, where alpha or sigma may be 0: nothing is infinite, and the input has a trained length."""
    own, new, seen = SCHEDULES[own](), SCHEDULES[new](), {}

    def network(x: Tensor, t: Tensor) -> Tensor:
        seen["x"], seen["t"] = x, t
        return torch.zeros_like(x)

    trained = Denoiser(network, own, "x0", t_min=0.01, t_max=0.9)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    x = torch.full((2, 1), 3.0, dtype=torch.float64) * torch.hypot(new.alpha(ends), new.sigma(ends))[:, None]
    moved = OnSchedule(trained, new)
    moved(x, ends)
    wanted = [min(max(float(own.time(new.log_snr(t))), 0.01), 0.9) for t in (0.0, 1.0)]
    assert seen["t"].tolist() == pytest.approx(wanted, abs=1e-12)
    length = torch.hypot(own.alpha(seen["t"]), own.sigma(seen["t"]))
    unscaled = seen["x"][:, 0] * length  # `Denoiser` divides by it, as sigma_data = 1
    torch.testing.assert_close(unscaled, 3 * length, **EXACT)
    for t, end in ((moved.t_min, 0.01), (moved.t_max, 0.9)):
        assert 0 <= t <= 1
        if 0 < t < 1:
            assert float(new.log_snr(t)) == pytest.approx(float(own.log_snr(end)), rel=1e-6, abs=1e-6)


def quantile_map(x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
    """Where the probability-flow ODE takes x_t: in one dimension it keeps quantiles, so by inverting CDFs."""
    spread = np.sqrt(alpha**2 * DEVIATIONS**2 + sigma**2)
    rank = (WEIGHTS * stats.norm.cdf((x[:, None] - alpha * MEANS) / spread)).sum(1)

    def miss(value: float, target: float) -> float:
        return float((WEIGHTS * stats.norm.cdf((value - MEANS) / DEVIATIONS)).sum() - target)

    return np.array([optimize.brentq(miss, -12, 12, args=(r,), xtol=1e-13) for r in rank])


@pytest.mark.parametrize("new", NAMES)
@pytest.mark.parametrize("own", ["linear", "rectified", "edm"])
def test_samples_are_the_same_on_every_axis(own: str, new: str) -> None:
    """With more steps they tend to the end of the one ODE, from wherever the new axis begins."""
    schedule = SCHEDULES[new]()
    moved = OnSchedule(exact(SCHEDULES[own]()), schedule)
    alpha, sigma = float(schedule.alpha(moved.t_max)), float(schedule.sigma(moved.t_max))
    x_T = sigma * torch.linspace(-1.8, 1.8, 9, dtype=torch.float64)[:, None]
    x = sample(moved, x_T.shape, "heun", 120, x_T=x_T, grid="angle")
    slack = 3 * float(schedule.sigma(0.0)) + 5e-4  # a schedule that keeps noise at t = 0 ends with one denoising step
    np.testing.assert_allclose(x[:, 0].numpy(), quantile_map(x_T[:, 0].numpy(), alpha, sigma), atol=slack)


def test_guidance_and_change_of_axis_commute_and_labels_pass() -> None:
    def network(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return torch.sin(x) * (1 + y[:, None] * t[:, None])

    denoiser = Denoiser(network, LinearVP(), num_classes=3)
    x, t, y = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), torch.full((4,), 0.4), torch.arange(4) % 3
    inside, outside = (
        OnSchedule(ClassifierFree(denoiser, 2.0), Cosine()),
        ClassifierFree(OnSchedule(denoiser, Cosine()), 2.0),
    )
    torch.testing.assert_close(inside(x, t, y), outside(x, t, y))
    assert not torch.allclose(inside(x, t, y), OnSchedule(denoiser, Cosine())(x, t, y), atol=1e-3)


# --- the words of the papers -----------------------------------------------------------------------------------


def log_density(schedule: Schedule, x: Tensor, t: Tensor) -> Tensor:
    return mixture().diffused_log_prob(x, schedule.alpha(t), schedule.sigma(t))


@pytest.mark.parametrize("name", NAMES)
def test_score_is_the_gradient_of_the_exact_log_density(name: str) -> None:
    schedule = SCHEDULES[name]()
    t = TIMES[5:-5]
    x = noisy(schedule.alpha(t), schedule.sigma(t)).requires_grad_()
    (gradient,) = torch.autograd.grad(log_density(schedule, x, t).sum(), x)
    score = ScoreSDEView(exact(schedule)).score(x.detach(), t)
    torch.testing.assert_close(score, gradient, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_flow_and_reversed_sde_carry_the_densities(name: str) -> None:
    """Both continuity equations hold: dp/dt = -(flow p)', and -dp/dt = (reverse_drift p)' + g^2 p'' / 2."""
    schedule, view, h = SCHEDULES[name](), ScoreSDEView(exact(SCHEDULES[name]())), 1e-4
    t = torch.full((41,), 0.4, dtype=torch.float64)
    spread = float(torch.hypot(schedule.alpha(0.4), schedule.sigma(0.4)))
    x = spread * torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]

    def p(x: Tensor, t: Tensor) -> Tensor:
        return log_density(schedule, x, t).exp()[:, None]

    def by_x(function: Callable[[Tensor], Tensor]) -> Tensor:
        step = h * spread
        return (function(x + step) - function(x - step)) / (2 * step)

    rate = (p(x, t + h) - p(x, t - h)) / (2 * h)
    second = (p(x + h * spread, t) - 2 * p(x, t) + p(x - h * spread, t)) / (h * spread) ** 2
    scale = rate.abs().max().item()
    close = {"rtol": 0, "atol": 2e-4 * scale}
    torch.testing.assert_close(rate, -by_x(lambda x: view.flow(x, t) * p(x, t)), **close)
    g = view.diffusion(t)[:, None]
    torch.testing.assert_close(-rate, by_x(lambda x: view.reverse_drift(x, t) * p(x, t)) + g**2 / 2 * second, **close)
    forward = -by_x(lambda x: view.drift(x, t) * p(x, t)) + g**2 / 2 * second
    torch.testing.assert_close(rate, forward, **close)


def test_no_score_of_clean_data() -> None:
    with pytest.raises(ValueError, match="must have noise"):
        ScoreSDEView(exact(LinearVP())).score(torch.zeros(2, 1).double(), torch.tensor([0.0, 0.5]).double())
    ScoreSDEView(exact(EDM())).score(torch.zeros(1, 1).double(), torch.tensor([0.0]).double())  # noise is left there


def posterior_means(x: Tensor, alpha: Tensor, sigma: Tensor, function: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    """E[function(x_0) | alpha x_0 + sigma eps = x] by quadrature over x_0, (N, 1)."""
    points = np.linspace(-6, 6, 40_001)
    prior = (WEIGHTS * stats.norm.pdf(points[:, None], MEANS, DEVIATIONS)).sum(1)
    rows = []
    for value, a, s in zip(x[:, 0].numpy(), alpha.numpy(), sigma.numpy(), strict=True):
        weight = prior * stats.norm.pdf(value, a * points, s)
        rows.append((weight * function(points)).sum() / weight.sum())
    return torch.tensor(rows)[:, None]


@pytest.mark.parametrize("name", NAMES)
def test_ddpm_in_numbers(name: str) -> None:
    """eps and the mean of the step back against quadrature, on another schedule's chain than the denoiser's."""
    chain = SCHEDULES[name]().discretised(1000)
    own = LinearVP() if name in ("ve", "edm") else Rectified()
    view, k = DDPMView(exact(own), chain), torch.tensor([20, 200, 500, 800, 990])
    alpha, sigma = (level.double() for level in chain.level(k))
    inside = torch.log(alpha / sigma) > torch.log(own.alpha(1.0) / own.sigma(1.0)) - 1e-9
    k, alpha, sigma = k[inside], alpha[inside], sigma[inside]
    assert len(k) >= 3
    x_k = noisy(alpha, sigma)
    x_0 = posterior_means(x_k, alpha, sigma, lambda x: x)
    torch.testing.assert_close(view.x0(x_k, k), x_0, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(view.eps(x_k, k), (x_k - alpha[:, None] * x_0) / sigma[:, None], rtol=1e-5, atol=1e-5)

    points = torch.linspace(-1, 1, 20_001, dtype=torch.float64)[None]  # of x_{k-1}, around x_k
    before_alpha, before_sigma = (level.double() for level in chain.level(k - 1))
    keep = (alpha / before_alpha)[:, None]
    step = torch.sqrt(sigma**2 - keep[:, 0] ** 2 * before_sigma**2)[:, None]
    before = (x_k + points * 10 * step) / keep
    log_weight = (
        torch.stack(
            [
                mixture().diffused_log_prob(row[:, None], a, s)
                for row, a, s in zip(before, before_alpha, before_sigma, strict=True)
            ]
        )
        - ((x_k - keep * before) / step).square() / 2
    )
    mean = (torch.softmax(log_weight, 1) * before).sum(1, keepdim=True)
    torch.testing.assert_close(view.mean(x_k, k), mean, rtol=2e-4, atol=2e-4)


def test_ddpm_mean_is_the_papers_formula() -> None:
    """mu = (x_k - beta_k / sqrt(1 - alpha_bar_k) eps) / sqrt(1 - beta_k), arXiv 2006.11239, eq. 11."""
    chain, k = LinearVP().discretised(1000), torch.tensor([1, 2, 100, 600, 1000])
    view, x_k = DDPMView(exact(LinearVP()), chain), noisy(*(level.double() for level in chain.level(k)))
    beta, alpha_bar = chain.beta[k].double()[:, None], chain.alpha_bar[k].double()[:, None]
    paper = (x_k - beta / torch.sqrt(1 - alpha_bar) * view.eps(x_k, k)) / torch.sqrt(1 - beta)
    torch.testing.assert_close(view.mean(x_k, k), paper, rtol=1e-4, atol=1e-4)
    assert view.variance(k).tolist() == chain.posterior_variance[k].tolist()
    with pytest.raises(ValueError, match="k must lie"):
        view.eps(x_k, torch.full((5,), -1))


@pytest.mark.parametrize("name", NAMES)
def test_flow_goes_from_noise_to_data(name: str) -> None:
    """E[data - noise | x] by quadrature, and Euler's method in the paper's time ends where quantiles say."""
    view = FlowView(exact(SCHEDULES[name]()))
    tau = torch.tensor([0.1, 0.3, 0.6, 0.9], dtype=torch.float64)
    x = noisy(tau, 1 - tau)
    data = posterior_means(x, tau, 1 - tau, lambda x: x)
    noise = (x - tau[:, None] * data) / (1 - tau[:, None])
    torch.testing.assert_close(view.velocity(x, tau), data - noise, rtol=1e-6, atol=1e-6)
    x, start, steps = torch.linspace(-1.5, 1.5, 7, dtype=torch.float64)[:, None], 0.05, 400
    wanted = quantile_map(x[:, 0].numpy(), start, 1 - start)
    for i in range(steps):
        tau = torch.tensor(start + (1 - start) * i / steps, dtype=torch.float64)
        x = x + (1 - start) / steps * view.velocity(x, tau)
    np.testing.assert_allclose(x[:, 0].numpy(), wanted, atol=0.02)
    assert bool(torch.isfinite(view.velocity(x, torch.ones((), dtype=torch.float64))).all())


@pytest.mark.parametrize("name", NAMES)
def test_edm_sees_data_plus_noise(name: str) -> None:
    schedule, sigma = SCHEDULES[name](), torch.tensor([0.05, 0.5, 3.0, 10.0], dtype=torch.float64)
    x = noisy(torch.ones_like(sigma), sigma)
    view = EDMView(exact(schedule), Preconditioning(0.8))
    data = posterior_means(x, torch.ones_like(sigma), sigma, lambda x: x)
    torch.testing.assert_close(view.denoise(x, sigma), data, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(view.ode(x, sigma), (x - data) / sigma[:, None], rtol=1e-4, atol=1e-4)


def test_preconditioning_keeps_unit_variances() -> None:
    """Input and target of the raw network have variance 1 at every sigma, and c_out is the smallest that does so."""
    c, sigma, s = Preconditioning(0.7), torch.logspace(-3, 2, 30, dtype=torch.float64), 0.7
    torch.testing.assert_close(c.c_in(sigma) ** 2 * (s**2 + sigma**2), torch.ones_like(sigma))
    skip, out = c.c_skip(sigma), c.c_out(sigma)
    target = ((1 - skip) ** 2 * s**2 + skip**2 * sigma**2) / out**2  # of (x_0 - c_skip (x_0 + sigma eps)) / c_out
    torch.testing.assert_close(target, torch.ones_like(sigma))
    for other in (0.99 * skip, 1.01 * skip):
        assert bool(((1 - other) ** 2 * s**2 + other**2 * sigma**2 >= out**2 - 1e-15).all())
    assert float(c.c_noise(torch.tensor(math.e**4))) == pytest.approx(1.0)


# --- and back --------------------------------------------------------------------------------------------------


def through_score(view: ExactDenoiser, schedule: Schedule) -> nn.Module:
    return from_score(ScoreSDEView(view).score, schedule, t_max=0.999)


def through_eps(view: ExactDenoiser, schedule: Schedule) -> nn.Module:
    def eps(x: Tensor, t: Tensor) -> Tensor:
        return -schedule.sigma(t)[:, None] * ScoreSDEView(view).score(x, t)

    return from_eps(eps, schedule, t_max=0.999)


def through_velocity(view: ExactDenoiser, schedule: Schedule) -> nn.Module:
    return OnSchedule(from_velocity(FlowView(view).velocity, t_min=0.0), schedule)


def through_edm(view: ExactDenoiser, schedule: Schedule) -> nn.Module:
    return OnSchedule(from_edm(EDMView(view).denoise, 1e-4, 1e3), schedule)


def through_raw(view: ExactDenoiser, schedule: Schedule) -> nn.Module:
    c = Preconditioning(0.7)

    def network(x: Tensor, c_noise: Tensor) -> Tensor:
        sigma = torch.exp(4 * c_noise)
        return EDMView(view, c).raw(x * torch.sqrt(sigma**2 + 0.49)[:, None], sigma)

    return OnSchedule(from_edm_network(network, c, 1e-4, 1e3), schedule)


WAYS = (through_score, through_eps, through_velocity, through_edm, through_raw)


@pytest.mark.parametrize("through", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_there_and_back(name: str, through: Callable[[ExactDenoiser, Schedule], nn.Module]) -> None:
    """To 1e-9 in float64 at every level, though eps and score lose sigma / alpha of their digits on the way."""
    schedule = SCHEDULES[name]()
    t = TIMES
    x = noisy(schedule.alpha(t), schedule.sigma(t))
    truth = exact(schedule)
    torch.testing.assert_close(through(truth, schedule)(x, t), truth(x, t), **EXACT)


@pytest.mark.parametrize(
    ("name", "axis"), itertools.product([n for n in NAMES if n not in ("sigmoid", "rectified")], NAMES)
)
def test_a_chain_there_and_back(name: str, axis: str) -> None:
    """At the chain's own levels nothing is lost, whatever axis the denoiser is then put on."""
    chain, schedule = SCHEDULES[name]().discretised(1000), SCHEDULES[axis]()
    truth = exact(schedule)
    back = from_ddpm(DDPMView(truth, chain).eps, chain, schedule)
    alpha, sigma = (level.double() for level in chain.level(torch.arange(1, 1001, 37)))
    log_snr = 2 * torch.log(alpha / sigma)
    inside = (log_snr < schedule.log_snr(1e-4)) & (log_snr > schedule.log_snr(1 - 1e-4))
    t = schedule.time(log_snr[inside])
    assert len(t) > 5
    x = noisy(schedule.alpha(t), schedule.sigma(t))
    torch.testing.assert_close(back(x, t), truth(x, t), **EXACT)


def test_between_the_levels_of_a_chain_the_error_is_of_order_one_in_T() -> None:
    errors, T = [], [50, 100, 200, 400]
    x = noisy(LinearVP().alpha(TIMES[6:-6]), LinearVP().sigma(TIMES[6:-6]))
    for number in T:
        chain = LinearVP().discretised(number)
        back = from_ddpm(DDPMView(exact(LinearVP()), chain).eps, chain, LinearVP())
        difference = back(x, TIMES[6:-6]) - exact(LinearVP())(x, TIMES[6:-6])
        errors.append(difference.abs().mean().item())
    slope = -np.polyfit(np.log(T), np.log(errors), 1)[0]
    assert 0.7 < slope < 1.5
    assert errors[-1] < 0.01


def test_eps_loses_digits_at_low_signal_and_velocity_does_not() -> None:
    """In float32, at sigma / alpha = 152, an eps known to all its digits gives an x_0 with two fewer."""
    schedule, t = LinearVP(), torch.full((500,), 1.0)
    x = noisy(schedule.alpha(t.double()), schedule.sigma(t.double()))
    truth, single = exact(schedule)(x, t.double()), exact(schedule).float()
    by_eps, by_velocity = through_eps(single, schedule), through_velocity(single, schedule)
    by_eps.t_max = 1.0
    errors = [(way(x.float(), t).double() - truth).abs().max().item() for way in (by_eps, by_velocity)]
    assert 1e-6 < errors[0] < 1e-4
    assert errors[1] < errors[0] / 5


def test_somebody_elses_network_is_saved_gets_labels_and_draws() -> None:
    class Velocity(nn.Module):
        """Straight to the class's point, in the paper's time."""

        def __init__(self) -> None:
            super().__init__()
            self.points = nn.Parameter(torch.tensor([[-2.0], [3.0], [0.0]]))

        def forward(self, x: Tensor, tau: Tensor, y: Tensor) -> Tensor:
            return (self.points[y] - x) / (1 - tau)[:, None]

    denoiser = from_velocity(Velocity(), num_classes=2)
    assert [name for name, _ in denoiser.named_parameters()] == ["network.velocity.points"]
    y = torch.tensor([0, 1, 0])
    for schedule in (LinearVP(), EDM(), Cosine()):
        x = sample(OnSchedule(denoiser, schedule), (3, 1), "euler", 5, y=y, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(x, torch.tensor([[-2.0], [3.0], [-2.0]]), rtol=0, atol=1e-4)
    unlabelled = denoiser(torch.zeros(1, 1), torch.tensor(0.5))
    torch.testing.assert_close(unlabelled, torch.zeros(1, 1))


def test_noise_predictors_of_pure_noise_are_refused() -> None:
    for build in (from_eps, from_score):
        with pytest.raises(ValueError, match="leaves no signal"):
            build(lambda x, t: x, Rectified())
    with pytest.raises(ValueError, match="must keep some signal"):
        from_ddpm(lambda x, k: x, Rectified().discretised(100), LinearVP())


def test_levels_need_not_lie_on_any_axis() -> None:
    alpha, sigma = torch.tensor([0.2, 5.0, 1.0]).double(), torch.tensor([0.1, 2.0, 0.7]).double()
    x = noisy(alpha, sigma)
    for name in NAMES:
        got = expected_data(exact(SCHEDULES[name]()), x, alpha, sigma)
        torch.testing.assert_close(got, mixture().denoise(x, alpha, sigma), **EXACT)
