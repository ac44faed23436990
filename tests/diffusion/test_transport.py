"""Laws of couplings: permutations of least cost, what they straighten, and what they take away."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from coursekit.data import GaussianRing
from coursekit.diffusion import SAMPLERS, SCHEDULES, Cosine, Denoiser, LinearVP, Recorder, Rectified, fit, sample
from coursekit.diffusion.guidance import ClassifierFree, ClassifierGuidance
from coursekit.diffusion.inverse import DPS, Mask, MomentMatching, PiGDM
from coursekit.diffusion.samplers import ddim, edm
from coursekit.diffusion.transport import MinibatchTransport, bend, transport_cost
from coursekit.diffusion.views import DDPMView, OnSchedule, ScoreSDEView
from coursekit.networks import TimeMLP


def pairs(n: int, D: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x_0, noise = torch.randn(n, D, generator=generator) * 2 + 1, torch.randn(n, D, generator=generator)
    return x_0, noise, torch.randint(3, (n,), generator=generator)


def order(noise: Tensor, coupled: Tensor) -> list[int]:
    """Which noise stands at each place; fails unless it is a permutation."""
    same = (coupled[:, None] == noise).flatten(2).all(2)
    assert bool((same.sum(0) == 1).all())
    assert bool((same.sum(1) == 1).all())
    return same.int().argmax(1).tolist()


def least_cost(x_0: np.ndarray, noise: np.ndarray) -> float:
    cost = ((x_0[:, None] - noise) ** 2).sum(-1)
    return float(cost[linear_sum_assignment(cost)].sum())


sizes = {"n": st.integers(1, 40), "D": st.integers(1, 6), "seed": st.integers(0, 10_000)}


@given(**sizes)
@settings(max_examples=40, deadline=None)
def test_a_permutation_of_least_cost(n: int, D: int, seed: int) -> None:
    """Both marginals stay as they are, no pairing is cheaper, and scipy's Hungarian method finds none either."""
    x_0, noise, _ = pairs(n, D, seed)
    coupled = MinibatchTransport()(x_0, noise)
    order(noise, coupled)
    cost = transport_cost(x_0, coupled).sum().item()
    assert cost == pytest.approx(least_cost(x_0.numpy(), noise.numpy()), rel=1e-5)
    assert cost <= transport_cost(x_0, noise).sum().item() * (1 + 1e-6)


@given(n=st.integers(1, 60), seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_on_a_line_it_is_the_sorted_matching(n: int, seed: int) -> None:
    x_0, noise, _ = pairs(n, 1, seed)
    coupled = MinibatchTransport()(x_0, noise)
    torch.testing.assert_close(coupled[x_0[:, 0].argsort()], noise.sort(0).values, rtol=0, atol=0)


@given(**sizes)
@settings(max_examples=25, deadline=None)
def test_with_labels_noise_stays_in_its_class(n: int, D: int, seed: int) -> None:
    """Each class is matched by itself, at its own least cost; a model that is told no label may do better."""
    x_0, noise, y = pairs(n, D, seed)
    coupled = MinibatchTransport()(x_0, noise, y)
    assert torch.equal(y[order(noise, coupled)], y)
    for c in y.unique():
        cost = transport_cost(x_0[y == c], coupled[y == c]).sum().item()
        assert cost == pytest.approx(least_cost(x_0[y == c].numpy(), noise[y == c].numpy()), rel=1e-5)
    free = MinibatchTransport(per_class=False)(x_0, noise, y)
    assert torch.equal(free, MinibatchTransport()(x_0, noise))
    assert transport_cost(x_0, free).sum() <= transport_cost(x_0, coupled).sum() * (1 + 1e-6)


def test_labelled_noise_is_normal_within_each_class_and_unlabelled_is_not() -> None:
    """Why the classes are kept apart: else the noise of a class lies where the class lies, and one starts elsewhere."""
    generator = torch.Generator().manual_seed(0)
    apart, together = [], []
    for _ in range(40):
        y = torch.arange(64) % 2
        x_0 = 3 * (2 * y[:, None] - 1) + 0.1 * torch.randn(64, 1, generator=generator)
        noise = torch.randn(64, 1, generator=generator)
        apart.append(MinibatchTransport()(x_0, noise, y)[y == 1])
        together.append(MinibatchTransport(per_class=False)(x_0, noise, y)[y == 1])
    means = [torch.cat(part).mean().item() for part in (apart, together)]
    assert abs(means[0]) < 4 / math.sqrt(40 * 32)
    assert means[1] == pytest.approx(math.sqrt(2 / math.pi), abs=0.05)  # the upper half of a normal law


def test_pictures_are_paired_like_vectors_in_their_dtype() -> None:
    x_0, noise, _ = pairs(6, 12, 0)
    flat = MinibatchTransport()(x_0, noise)
    shaped = MinibatchTransport()(x_0.view(6, 1, 3, 4), noise.view(6, 1, 3, 4).double())
    assert shaped.dtype == torch.float64
    torch.testing.assert_close(shaped.flatten(1).float(), flat)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="noise and y must"):
        MinibatchTransport()(torch.zeros(3, 2), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="noise and y must"):
        MinibatchTransport()(torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(2))


# --- in a denoiser ---------------------------------------------------------------------------------------------


def test_without_a_coupling_not_a_bit_changes() -> None:
    """The identity draws what None draws; with labels too, whose hiding comes after the noise."""
    x_0, _, y = pairs(16, 2, 0)
    losses = []
    for coupling in (None, lambda x_0, noise, y: noise):
        torch.manual_seed(0)
        denoiser = Denoiser(TimeMLP(2, 16, num_classes=3), Rectified(), num_classes=3, coupling=coupling)
        losses.append(denoiser.loss(x_0, y, torch.Generator().manual_seed(1)).item())
    assert losses[0] == losses[1]


def test_the_loss_is_taken_of_the_coupled_noise() -> None:
    seen = {}

    def network(x: Tensor, t: Tensor) -> Tensor:
        seen["x"], seen["t"] = x, t
        return torch.zeros_like(x)

    x_0, _, _ = pairs(32, 2, 0)
    denoiser = Denoiser(network, Rectified(), "velocity", coupling=lambda x_0, noise, y: -x_0)
    loss = denoiser.loss(x_0, generator=torch.Generator().manual_seed(0))
    t = seen["t"][:, None]
    torch.testing.assert_close(seen["x"] * torch.hypot(1 - t, t), (1 - t) * x_0 - t * x_0)
    torch.testing.assert_close(loss, (2 * x_0).square().mean())  # the velocity is eps - x_0 = -2 x_0


class Correlated(Denoiser):
    """The best denoiser of x_0 ~ N(0, s^2) and eps ~ N(0, 1) with correlation r, in closed form by regression."""

    def __init__(self, schedule: object, s: float, r: float) -> None:
        def network(x: Tensor, t: Tensor) -> Tensor:
            alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
            x_t = x * torch.hypot(alpha, sigma)
            return (alpha * s**2 + sigma * r * s) / self.variance(alpha, sigma) * x_t

        super().__init__(network, schedule, "x0", coupling=(lambda x_0, noise, y: noise) if r else None)
        self.s, self.r = s, r

    def variance(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha**2 * self.s**2 + sigma**2 + 2 * alpha * sigma * self.r * self.s


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("r", [0.0, 0.6, 1.0])
def test_a_coupled_velocity_still_carries_noise_to_data_on_every_axis(name: str, r: float) -> None:
    """The map of the ODE is x / sqrt(Var x_t) times s, whatever the correlation; the axis is changed afterwards."""
    moved = OnSchedule(Correlated(Rectified(), 0.5, r), SCHEDULES[name]())
    alpha, sigma = (level(torch.tensor(moved.t_max).double()) for level in (moved.schedule.alpha, moved.schedule.sigma))
    x_T = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None] * torch.hypot(alpha, sigma)
    x = sample(moved, (5, 1), "heun", 200, x_T=x_T, grid="angle")
    wanted = 0.5 * x_T / moved.denoiser.variance(alpha, sigma).sqrt()
    torch.testing.assert_close(x, wanted, rtol=0.02 if name in ("ve", "edm") else 2e-3, atol=1e-4)


def test_under_a_coupling_the_expected_noise_is_no_score_and_chains_go_wrong() -> None:
    s, t = 0.5, torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    x, alpha, sigma = torch.ones(3, 1, dtype=torch.float64), Cosine().alpha(t)[:, None], Cosine().sigma(t)[:, None]
    deviations = {}
    for r in (0.0, 0.9):
        model = Correlated(Cosine(), s, r)
        true_score = -x / model.variance(alpha, sigma)
        wrong = (-model.eps(x, t) / sigma - true_score).abs().max().item()
        assert wrong < 1e-9 if r == 0 else wrong > 0.2
        model.coupling = None  # or `sample` would refuse to go wrong
        drawn = {
            kind: sample(model, (20_000, 1), kind, 100, generator=torch.Generator().manual_seed(0))
            for kind in ("ddpm", "ddim")
        }
        deviations[r] = {kind: x.std().item() / s for kind, x in drawn.items()}
    assert deviations[0.0]["ddpm"] == pytest.approx(1, abs=0.05)
    assert deviations[0.9]["ddim"] == pytest.approx(1, abs=0.05)
    assert abs(deviations[0.9]["ddpm"] - 1) > 0.15


def test_what_needs_a_score_refuses_a_coupled_model() -> None:
    labelled = Denoiser(TimeMLP(2, 8, num_classes=3), LinearVP(), num_classes=3, coupling=MinibatchTransport())
    x, t = torch.zeros(1, 2), torch.tensor([0.5])
    with pytest.raises(ValueError, match="independent of the data for a score"):
        labelled.score(x, t)
    for wrapped in (labelled, OnSchedule(labelled, Cosine()), ClassifierFree(labelled, 2.0)):
        with pytest.raises(ValueError, match="with a coupling"):
            ScoreSDEView(wrapped)
        with pytest.raises(ValueError, match="with a coupling"):
            DDPMView(wrapped, LinearVP().discretised(100))
    with pytest.raises(ValueError, match="with a coupling"):
        Denoiser(TimeMLP(2, 8), LinearVP(), "score", coupling=MinibatchTransport())
    labelled.velocity(x, t)


class Guesser(nn.Module):
    schedule = Cosine()

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return x_t


@pytest.mark.parametrize(
    "sampler",
    ["ddpm", "dpm++2m-sde", "edm", "pc", partial(ddim, eta=0.5), partial(edm, churn=1.0)],
    ids=["ddpm", "dpm++2m-sde", "edm", "pc", "ddim with noise", "edm with less churn"],
)
def test_samplers_that_add_noise_refuse_a_coupled_model(sampler: object) -> None:
    model = Correlated(Cosine(), 0.5, 0.9)
    for wrapped in (model, OnSchedule(model, Rectified()), Recorder(model)):
        with pytest.raises(ValueError, match="sampler that adds noise, got one with a coupling"):
            sample(wrapped, (2, 1), sampler, 5)
    assert sample(Correlated(Cosine(), 0.5, 0.0), (2, 1), sampler, 5).isfinite().all()


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name not in ("ddpm", "dpm++2m-sde", "edm", "pc")])
def test_samplers_without_noise_take_it(sampler: str) -> None:
    model = Correlated(Cosine(), 0.5, 0.9)
    assert sample(model, (2, 1), sampler, 5).isfinite().all()
    assert sample(model, (2, 1), partial(edm, churn=0.0), 5).isfinite().all()


def test_guidance_by_gradients_refuses_it() -> None:
    model, seen = Correlated(Cosine(), 0.5, 0.9), Mask(torch.tensor([True]))
    with pytest.raises(ValueError, match="classifier guidance, got one with a coupling"):
        ClassifierGuidance(model, Guesser(), 1.0)
    for kind in (DPS, PiGDM, MomentMatching):
        with pytest.raises(ValueError, match="covariance of x_0 given x_t, got one with a coupling"):
            kind(model, seen, torch.zeros(1, 1))


# --- straighter paths ------------------------------------------------------------------------------------------


def test_bend_of_known_paths() -> None:
    """Zero on a chord run at even speed; of half a circle's height by hand; of uneven speed too."""
    s = torch.linspace(0, 1, 1001, dtype=torch.float64)
    straight = torch.stack([3 * s, -2 * s], 1)[:, None]
    assert bend(straight).item() == pytest.approx(0, abs=1e-24)
    parabola = torch.stack([s, 4 * s * (1 - s)], 1)[:, None]
    assert bend(parabola).item() == pytest.approx(16 / 30, rel=2e-3)  # the integral of (4 s (1 - s))^2
    assert bend((s**2)[:, None]).item() == pytest.approx(1 / 30, rel=2e-3)
    pictures = torch.zeros(5, 7, 1, 2, 2)
    assert bend(pictures).shape == (7,)


def wasserstein(x: Tensor, real: Tensor) -> float:
    """Squared, per point, between two samples of one size: scipy's assignment."""
    return least_cost(x.numpy(), real.numpy()) / len(x)


def trained_on_the_ring(coupling: object) -> Denoiser:
    torch.manual_seed(0)
    denoiser = Denoiser(TimeMLP(2, 64), Rectified(), "velocity", coupling=coupling)
    data = GaussianRing().sample(4000, torch.Generator().manual_seed(0))
    fit(denoiser, data, steps=500, batch_size=128, lr=3e-3, ema_half_life=50.0, progress=False)
    return denoiser.eval()


def test_coupled_training_straightens_paths_and_needs_fewer_steps() -> None:
    real = GaussianRing().sample(400, torch.Generator().manual_seed(7))
    bends, errors = [], []
    for coupling in (None, MinibatchTransport()):
        denoiser = trained_on_the_ring(coupling)
        start = {"x_T": torch.randn(400, 2, generator=torch.Generator().manual_seed(8))}
        path = sample(denoiser, (400, 2), "heun", 40, trajectory=True, **start)
        bends.append(bend(path).mean().item())
        errors.append([wasserstein(sample(denoiser, (400, 2), "ddim", n, **start), real) for n in (1, 2, 4)])
    assert bends[1] < 0.3 * bends[0]
    plain, coupled = errors
    assert coupled[0] < plain[1]  # one step beats two
    assert all(a < share * b for a, b, share in zip(coupled, plain, (0.2, 0.6, 1.0), strict=True)), errors
