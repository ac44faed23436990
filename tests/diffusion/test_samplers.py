"""Laws of the samplers: grids, orders of convergence on the exact mixture, identities, the last step."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch import Tensor, nn

from coursekit.diffusion import SCHEDULES, VE, Cosine, Denoiser, ExactDenoiser, LinearVP, Rectified, sample, time_grid
from coursekit.diffusion.grids import Path
from coursekit.diffusion.samplers import SAMPLERS, ddim, heun
from coursekit.gmm import GaussianMixture

KINDS = ["uniform", "angle", "karras"]
WEIGHTS, MEANS, DEVIATIONS = np.array([0.3, 0.7]), np.array([-1.0, 0.6]), np.array([0.35, 0.5])


def mixture() -> GaussianMixture:
    columns = (torch.tensor(a, dtype=torch.float64) for a in (WEIGHTS, MEANS[:, None], DEVIATIONS[:, None, None] ** 2))
    return GaussianMixture(*columns)


def quantile_map(x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
    """Where the probability-flow ODE takes x_t: in one dimension it keeps quantiles, so by inverting CDFs."""
    spread = np.sqrt(alpha**2 * DEVIATIONS**2 + sigma**2)
    rank = (WEIGHTS * stats.norm.cdf((x[:, None] - alpha * MEANS) / spread)).sum(1)

    def miss(value: float, target: float) -> float:
        return float((WEIGHTS * stats.norm.cdf((value - MEANS) / DEVIATIONS)).sum() - target)

    return np.array([optimize.brentq(miss, -12, 12, args=(r,), xtol=1e-13) for r in rank])


def slope(steps: list[int], errors: list[float]) -> float:
    """Of log error against log steps, by least squares, sign turned."""
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


# --- grids -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 61, 103, 200])
def test_grid_has_the_length_falls_and_begins_with_most_noise(name: str, kind: str, steps: int) -> None:
    schedule = SCHEDULES[name]()
    times = time_grid(schedule, steps, kind)
    assert times.shape == (steps,)
    assert bool((times.diff() < 0).all())
    assert bool((times > 0).all()) or float(schedule.sigma(0.0)) > 0
    if kind != "karras":
        assert times[0] == 1
    path = Path.along(schedule, times)
    assert len(path) == steps
    assert (path.alpha[-1], path.sigma[-1]) == (1.0, 0.0)  # the last target is clean data
    noise_to_signal = np.array(path.sigma[:-1]) / np.maximum(np.array(path.alpha[:-1]), 1e-300)
    assert bool((np.diff(noise_to_signal) < 0).all())


def test_grid_of_karras_is_the_edm_schedule_in_equal_steps() -> None:
    edm = SCHEDULES["edm"]()
    torch.testing.assert_close(time_grid(edm, 18, "karras"), time_grid(edm, 18, "uniform"))


def test_angle_grid_is_equal_in_the_angle() -> None:
    angles = LinearVP().angle(time_grid(LinearVP(), 20, "angle"))
    torch.testing.assert_close(angles.diff(), angles.diff().mean().expand(19), rtol=1e-6, atol=1e-9)


# --- orders of convergence -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("euler", 1), ("heun", 2)])
def test_order_on_the_exact_mixture(name: str, sampler: str, order: int) -> None:
    """The error against the exact flow falls as steps^-order: at least order - 0.2, whatever the schedule."""
    schedule = VE(sigma_min=1e-4) if name == "ve" else SCHEDULES[name]()  # a sigma_min of 0.01 is a floor of 1e-4
    denoiser, steps = ExactDenoiser(mixture(), schedule), [24, 48, 96, 192]
    x_T = float(schedule.sigma(1.0)) * torch.linspace(-1.8, 1.8, 15, dtype=torch.float64)[:, None]
    exact = quantile_map(x_T[:, 0].numpy(), float(schedule.alpha(1.0)), float(schedule.sigma(1.0)))
    errors = []
    for n in steps:
        x = sample(denoiser, x_T.shape, sampler, n, x_T=x_T, grid="angle")
        errors.append(float(np.sqrt(np.mean((x[:, 0].numpy() - exact) ** 2))))
    assert errors[-1] < 0.05
    assert slope(steps, errors) > order - 0.2, errors


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_weak_order_of_ancestral_sampling(name: str, eta: float) -> None:
    """On a Gaussian every step is linear, so the variance of the result is known exactly: its error is O(1/steps)."""
    schedule, variance = SCHEDULES[name](), 0.4
    steps, errors = [24, 48, 96, 192], []
    for n in steps:
        path = Path.along(schedule, time_grid(schedule, n, "angle"))
        errors.append(abs(_variance_of_ddim(path, variance, eta) - variance))
    assert errors[-1] < 0.05
    assert slope(steps, errors) > 0.8, errors


def _variance_of_ddim(path: Path, data_variance: float, eta: float) -> float:
    """Push basis vectors through `ddim`: x_T and each fresh noise as one column, as the step is linear in them."""

    def denoise(x: Tensor, t: float) -> Tensor:
        alpha, sigma = float(path.schedule.alpha(t)), float(path.schedule.sigma(t))
        return alpha * data_variance / (alpha**2 * data_variance + sigma**2) * x

    start = data_variance * path.alpha[0] ** 2 + path.sigma[0] ** 2
    basis = torch.zeros(len(path) + 1, dtype=torch.float64)
    basis[0] = math.sqrt(start)
    fresh = iter(range(1, len(path) + 1))

    def unit_noise(tensor: Tensor, generator: object = None) -> Tensor:
        tensor.zero_()[next(fresh)] = 1.0
        return tensor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "normal_", unit_noise)
        *_, last = ddim(denoise, basis, path, eta=eta)
    return float((last**2).sum())


def test_order_test_sees_one_wrong_symbol() -> None:
    """A Heun step whose second slope is taken at the old time has order one: the law above would catch it."""

    def lazy(denoise: object, x: Tensor, path: Path, generator: object = None) -> object:
        before = dict(zip(path.times[1:], path.times, strict=False))
        calls = iter(range(10**6))
        return heun(lambda x, t: denoise(x, before[t] if next(calls) % 2 else t), x, path)

    schedule, steps, errors = LinearVP(), [24, 48, 96], []
    x_T = torch.linspace(-1.8, 1.8, 15, dtype=torch.float64)[:, None]
    exact = quantile_map(x_T[:, 0].numpy(), float(schedule.alpha(1.0)), float(schedule.sigma(1.0)))
    for n in steps:
        x = sample(ExactDenoiser(mixture(), schedule), x_T.shape, lazy, n, x_T=x_T, grid="angle")
        errors.append(float(np.abs(x[:, 0].numpy() - exact).mean()))
    assert slope(steps, errors) < 1.8


# --- identities ------------------------------------------------------------------------------------------


def test_ddpm_is_ddim_with_all_the_noise_and_follows_the_posterior() -> None:
    """One step of `ddpm` has the mean and variance of q(x_{k-1} | x_k, x_0 = D(x_k)) of the discrete chain."""
    chain = LinearVP().discretised(50)
    levels = (tuple(table.flip(0).tolist()) for table in (chain.alpha, chain.sigma))
    path = Path(LinearVP(), tuple(k / 50 for k in range(50, 0, -1)), *levels)
    x, estimate = torch.full((200_000, 1), 0.8, dtype=torch.float64), 0.3
    steps = SAMPLERS["ddpm"](lambda x, t: torch.full_like(x, estimate), x, path, torch.Generator().manual_seed(0))
    after = next(steps)
    mean, variance = chain.posterior(torch.tensor([[estimate]]), torch.tensor([[0.8]]), torch.tensor([50]))
    assert after.mean().item() == pytest.approx(mean.item(), abs=5 * math.sqrt(variance.item() / 2e5) + 1e-4)
    assert after.var().item() == pytest.approx(variance.item(), rel=0.02)


@pytest.mark.parametrize("name", ["edm", "rectified"])
def test_ddim_is_eulers_step_where_the_papers_take_it(name: str) -> None:
    """In sigma for Karras' alpha = 1, in t for the straight line: x + (difference) * slope is the DDIM step."""
    schedule = SCHEDULES[name]()
    path = Path.along(schedule, time_grid(schedule, 10))
    x = torch.tensor([[0.7, -0.3]], dtype=torch.float64)
    estimate = torch.tensor([[0.2, 0.1]], dtype=torch.float64)
    after = next(ddim(lambda x, t: estimate, x, path))
    eps = (x - path.alpha[0] * estimate) / path.sigma[0]
    slope_of_x = eps if name == "edm" else eps - estimate
    torch.testing.assert_close(after, x + (path.sigma[1] - path.sigma[0]) * slope_of_x)


@pytest.mark.parametrize("sampler", list(SAMPLERS))
@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_last_step_returns_the_denoisers_mean(sampler: str, name: str, steps: int) -> None:
    """sigma = 0 at the end brings no log of 0, no 0/0, no point after the last."""
    schedule, seen = SCHEDULES[name](), []

    class Model(nn.Module):
        def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
            seen.append((t[0].item(), torch.tanh(x)))
            return seen[-1][1]

    model = Model()
    model.schedule = schedule
    x = sample(model, (4, 3), sampler, steps, generator=torch.Generator().manual_seed(0))
    assert torch.equal(x, seen[-1][1])
    assert bool(torch.isfinite(x).all())
    assert seen[-1][0] == pytest.approx(float(time_grid(schedule, steps)[-1]))
    assert len(seen) == (2 * steps - 1 if sampler == "heun" else steps)  # network calls


@pytest.mark.parametrize("sampler", [*SAMPLERS, partial(ddim, eta=0.5)])
def test_samples_follow_the_mixture(sampler: str) -> None:
    """4,000 draws of 60 steps pass a Kolmogorov-Smirnov test against the exact law."""
    x = sample(
        ExactDenoiser(mixture(), Cosine()),
        (4000, 1),
        sampler,
        60,
        grid="angle",
        generator=torch.Generator().manual_seed(0),
    )

    def cdf(value: np.ndarray) -> np.ndarray:
        return (WEIGHTS * stats.norm.cdf((np.asarray(value)[..., None] - MEANS) / DEVIATIONS)).sum(-1)

    assert stats.kstest(x[:, 0].numpy(), cdf).pvalue > 0.01


def test_generator_decides_everything() -> None:
    denoiser = ExactDenoiser(mixture(), LinearVP())
    state = torch.get_rng_state()
    draws = [sample(denoiser, (5, 1), "ddpm", 10, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_trajectory_ends_with_the_sample() -> None:
    denoiser, x_T = ExactDenoiser(mixture(), LinearVP()), torch.randn(3, 1)
    states = sample(denoiser, (3, 1), "heun", 7, x_T=x_T, trajectory=True)
    assert states.shape == (8, 3, 1)
    assert torch.equal(states[0], x_T)
    assert torch.equal(states[-1], sample(denoiser, (3, 1), "heun", 7, x_T=x_T))


def test_labels_and_guidance_reach_the_network() -> None:
    seen: list[Tensor] = []

    def network(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        seen.append(y)
        return torch.zeros_like(x)

    denoiser = Denoiser(network, Rectified(), "velocity", num_classes=4)
    y = torch.tensor([0, 1, 2])
    sample(denoiser, (3, 2), "euler", 2, y=y, guidance=2.0)
    assert seen[0].tolist() == [0, 1, 2, 4, 4, 4]
    sample(denoiser, (3, 2), "euler", 2, y=y)
    assert seen[-1].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"sampler": "magic"}, "sampler must be one of ddpm, ddim, euler, heun"),
        ({"steps": 0}, "steps must be a positive integer"),
        ({"grid": "quadratic"}, "grid must be"),
        ({"y": torch.zeros(5, dtype=torch.long)}, "one label for each of 3"),
        ({"x_T": torch.zeros(2, 1)}, "x_T must have shape"),
        ({"sampler": partial(ddim, eta=1.5)}, "eta must lie"),
    ],
)
def test_bad_input_is_refused(keywords: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample(ExactDenoiser(mixture(), LinearVP()), (3, 1), **keywords)
    with pytest.raises(ValueError, match="fall strictly"):
        Path.along(LinearVP(), torch.tensor([0.5, 0.5]))
