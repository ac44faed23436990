"""Laws of the reverse variances: extremes, the optimum, and the learned interpolation between them."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from coursekit.diffusion import SCHEDULES, Denoiser, Rectified, fit, time_grid
from coursekit.diffusion.likelihood import (
    Gaussian,
    LearnedVariance,
    OptimalVariance,
    ReverseVariance,
    Step,
    VarianceHead,
    capacity,
    capacity_grid,
    chain_bound,
    chain_through,
    lower_variance,
    upper_variance,
)
from coursekit.diffusion.schedules.preserving import VariancePreserving
from coursekit.networks import TimeMLP

sys.path.insert(0, str(Path(__file__).parent))
from truths import T_MIN, exact, generator, mixture, normal, standard_error

PRESERVING = [name for name, kind in SCHEDULES.items() if issubclass(kind, VariancePreserving)]


def steps(schedule: str, T: int = 8, error: float = 0.1) -> tuple[Step, Tensor]:
    """A step of every k >= 2 at once, from points (T - 1, 3), and their x_0."""
    s = SCHEDULES[schedule]()
    chain, t = chain_through(s, capacity_grid(s, T, 0.01))
    k, x_0 = torch.arange(2, T + 1), torch.randn(T - 1, 3, generator=generator()).double()
    x_k = chain.add_noise(x_0, k, torch.randn(T - 1, 3, generator=generator(1)).double())
    return Step(chain, k, t[k], x_k, x_0 + error, None), x_0


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("variance", [lower_variance, upper_variance])
def test_the_divergence_is_torchs(schedule: str, variance: ReverseVariance) -> None:
    """Between the chain's posterior and the normal law with the estimate in its mean."""
    step, x_0 = steps(schedule)
    log_variance = variance(step) + torch.tensor([0.0, 0.1, -0.2])  # one per pixel, too
    mean, v = step.chain.posterior(x_0, step.x_k, step.k)
    guess, _ = step.chain.posterior(step.estimate, step.x_k, step.k)
    q = torch.distributions.Normal(mean, v.double().sqrt())
    p = torch.distributions.Normal(guess, torch.exp(log_variance.double() / 2))
    expected = torch.distributions.kl_divergence(q, p).sum(1)
    torch.testing.assert_close(step.divergence(x_0, log_variance.double()), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_step_back_and_forth(schedule: str) -> None:
    """Times and levels of a chain belong together, and entry k of the times is that of level k."""
    s = SCHEDULES[schedule]()
    grid = capacity_grid(s, 9, 0.01)
    chain, t = chain_through(s, grid)
    assert chain.T == 9
    torch.testing.assert_close(chain.alpha[1:].double(), s.alpha(t[1:]), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(chain.sigma[1:].double(), s.sigma(t[1:]), rtol=1e-6, atol=1e-7)
    assert (t[1].item(), t[9].item()) == (0.01, 1.0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_lower_one_is_right_for_a_point(schedule: str) -> None:
    """No doubt about x_0: the optimum is v_k."""
    step, _ = steps(schedule)
    optimal = OptimalVariance(torch.tensor([0.0, 10.0]).double(), torch.full((2,), 1e-30).double())
    torch.testing.assert_close(optimal(step), lower_variance(step).double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("schedule", PRESERVING)
def test_the_upper_one_is_right_for_normal_data(schedule: str) -> None:
    """For N(0, I) the error is sigma^2 = exp(-2 c), its logarithm straight in capacity: the optimum is beta_k."""
    step, _ = steps(schedule)
    ends = torch.tensor([0.0, 10.0]).double()
    optimal = OptimalVariance(ends, torch.exp(-2 * ends))
    torch.testing.assert_close(optimal(step), upper_variance(step).double(), rtol=1e-4, atol=1e-4)


def test_the_measured_error_is_the_posterior_covariance() -> None:
    """E|x_0 - D|^2 / D = E tr Cov[x_0 | x_t] / D, and the covariance is sigma^2 / alpha dD/dx_t."""
    truth, s = mixture(3), Rectified()
    x, model = truth.sample(3000, generator(100)), exact(truth, "rectified")
    optimal = OptimalVariance.measured(model, x, levels=30, generator=generator())
    for t in capacity_grid(s, 30, T_MIN)[[1, 4, 9]].tolist():
        x_t = (1 - t) * x + t * torch.randn(x.shape, generator=generator(1), dtype=x.dtype)
        jacobian = torch.func.vmap(torch.func.jacrev(lambda z, t=t: truth.denoise(z[None], 1 - t, t)[0]))(x_t)
        covariance = t**2 / (1 - t) * jacobian.diagonal(dim1=1, dim2=2).mean(1)
        found = optimal.error(capacity(s, torch.tensor([t]).double()))
        assert found.item() == pytest.approx(covariance.mean().item(), rel=0.06)


def test_the_error_is_read_off_along_straight_lines() -> None:
    optimal = OptimalVariance(torch.tensor([0.5, 1.0, 3.0]), torch.tensor([1.0, 0.5, 0.125]))
    found = optimal.error(torch.tensor([0.0, 0.5, 1.0, 2.0, 3.0, 9.0]))
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, 0.5, 0.25, 0.125, 0.125]))
    with pytest.raises(ValueError, match="rise"):
        OptimalVariance(torch.tensor([1.0, 0.5]), torch.ones(2))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "ve", "rectified"])
@pytest.mark.parametrize("T", [5, 20])
def test_no_other_single_variance_is_better(schedule: str, T: int) -> None:
    """Same noise for all: the optimum below both extremes, and below itself made larger or smaller."""
    truth, s = mixture(), SCHEDULES[schedule]()
    x, model = truth.sample(4000, generator(100)), exact(truth, schedule)
    optimal = OptimalVariance.measured(model, x, levels=100, generator=generator(1))
    times = capacity_grid(s, T, 0.01)

    def nats(variance: ReverseVariance) -> Tensor:
        return chain_bound(
            model, x, times=times, decoder=Gaussian(), variance=variance, generator=generator(2)
        ).diffusion

    best = nats(optimal)
    for other in (lower_variance, upper_variance, lambda k: optimal(k) + 0.3, lambda k: optimal(k) - 0.3):
        gain = nats(other) - best
        assert gain.mean() > 2 * standard_error(gain)


def test_ten_steps_with_the_optimum_beat_fifty_without() -> None:
    truth = mixture()
    x, model = truth.sample(2000, generator(100)), exact(truth, "rectified")
    optimal = OptimalVariance.measured(model, x, generator=generator(1))
    few, many = (
        chain_bound(
            model, x, times=capacity_grid(Rectified(), T, 0.01), decoder=Gaussian(), variance=v, generator=generator()
        ).nats
        for T, v in ((10, optimal), (50, lower_variance))
    )
    assert (many - few).mean() > 4 * standard_error(many - few)


class Constant(nn.Module):
    """h = value, whatever the input."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value, dtype=torch.float64))

    def forward(self, pair: Tensor, t: Tensor) -> Tensor:
        return self.value.expand(pair.shape[0], pair.shape[1] // 2)


@pytest.mark.parametrize("schedule", ["linear", "rectified"])
def test_the_learned_one_lies_between_the_extremes(schedule: str) -> None:
    step, _ = steps(schedule)
    s = SCHEDULES[schedule]()
    for h, expected in ((-1.0, lower_variance), (1.0, upper_variance)):
        learned = LearnedVariance(exact(normal(1.0, 3), schedule), Constant(h), capacity_grid(s, 8, 0.01))
        torch.testing.assert_close(learned(step), expected(step).double().expand(-1, 3), rtol=1e-6, atol=1e-6)
    middle = LearnedVariance(exact(normal(1.0, 3), schedule), Constant(0.0), capacity_grid(s, 8, 0.01))(step)
    torch.testing.assert_close(middle, ((lower_variance(step) + upper_variance(step)) / 2).expand(-1, 3).double())


def test_its_loss_is_the_bound_per_dimension() -> None:
    """One random step a sample, and the mean is right."""
    truth, times = mixture(), capacity_grid(Rectified(), 6, 0.01)
    x, model = truth.sample(20000, generator(100)), exact(truth, "rectified")
    learned = LearnedVariance(model, Constant(0.3), times).double()
    losses = torch.stack([learned.loss(part, generator=generator(i)) for i, part in enumerate(x.split(500))]).detach()
    bound = chain_bound(
        model, x[:5000], times=times, decoder=Gaussian(), variance=learned, generator=generator()
    ).diffusion.div(2)
    error = math.hypot(standard_error(losses), standard_error(bound))
    assert losses.mean().item() == pytest.approx(bound.mean().item(), abs=4 * error)
    assert error < 0.05 * bound.mean()


def test_the_bound_does_not_move_the_mean() -> None:
    """Hybrid: the denoiser's gradient is that of its own loss alone; frozen: the loss is the bound alone."""
    torch.manual_seed(0)
    denoiser = Denoiser(TimeMLP(2, width=8), Rectified(), "velocity")
    learned = LearnedVariance(denoiser, TimeMLP(4, width=8, outputs=2), time_grid(Rectified(), 10), weight=0.5)
    x = torch.randn(16, 2, generator=generator())
    hybrid = learned.loss(x, generator=generator())
    hybrid.backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in learned.network.body.parameters())
    found = [p.grad.clone() for p in denoiser.parameters()]
    denoiser.zero_grad()
    source = generator()
    denoiser.requires_grad_(False)
    bound = learned.loss(x, generator=source)
    denoiser.requires_grad_(True)
    simple = denoiser.loss(x, generator=source)
    simple.backward()
    assert hybrid.item() == pytest.approx((simple + 0.5 * bound).item(), rel=1e-6)
    for before, parameter in zip(found, denoiser.parameters(), strict=True):
        torch.testing.assert_close(before, parameter.grad)


def test_a_head_learns_what_the_optimum_knows() -> None:
    """After a short training of the head alone, the bound of ten steps is far below both extremes."""
    truth, times = mixture(), capacity_grid(Rectified(), 10, 0.01)
    model = exact(truth.float(), "rectified")
    torch.manual_seed(0)
    learned = LearnedVariance(model, TimeMLP(4, width=32, outputs=2), times)
    x = mixture().sample(4000, generator(100)).float()
    fit(learned, x, steps=300, batch_size=256, lr=5e-3, progress=False, device="cpu")
    held_out = mixture().sample(2000, generator(5)).float()
    settings = {"times": times, "decoder": Gaussian()}
    optimal = OptimalVariance.measured(model, x, generator=generator())
    bounds = [
        chain_bound(model, held_out, variance=v, generator=generator(6), **settings).nats
        for v in (learned.eval(), optimal, lower_variance, upper_variance)
    ]
    assert bounds[0].mean() < min(bounds[2].mean(), bounds[3].mean()) - 0.1
    assert bounds[0].mean() < bounds[1].mean() + 0.05


def test_head_for_pictures_starts_half_way() -> None:
    head = VarianceHead(channels=2, width=8)
    assert not head(torch.randn(3, 4, 8, 8), torch.rand(3)).any()


@pytest.mark.parametrize(
    ("keywords", "message"), [({"weight": 0.0}, "weight"), ({"times": torch.tensor([1.0])}, "2 steps")]
)
def test_impossible_settings_are_refused(keywords: dict, message: str) -> None:
    settings = {"times": time_grid(Rectified(), 5)} | keywords
    with pytest.raises(ValueError, match=message):
        LearnedVariance(exact(normal(1.0), "rectified"), Constant(0.0), **settings)
