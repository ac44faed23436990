"""Laws of the samplers: identities, the last step, both ends, independence from batch mates, what is kept."""

import math
import re
import sys
import weakref
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path as File

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import solve_ivp
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from coursekit.diffusion import (
    GRIDS,
    SCHEDULES,
    Cosine,
    Denoiser,
    ExactDenoiser,
    LinearVP,
    Recorder,
    Rectified,
    sample,
    time_grid,
)
from coursekit.diffusion.denoiser import PREDICTIONS
from coursekit.diffusion.grids import Path
from coursekit.diffusion.guidance import ClassifierFree
from coursekit.diffusion.samplers import (
    SAMPLERS,
    Sampler,
    adaptive,
    angle,
    ddim,
    deis,
    dpmpp_2m,
    dpmpp_2m_sde,
    edm,
    evenest,
    log_snr,
    pc,
    unipc,
)
from coursekit.diffusion.samplers.interpolation import mean_weights
from coursekit.gmm import GaussianMixture
from coursekit.networks import TimeMLP

sys.path.insert(0, str(File(__file__).parent))
from exact_laws import mixture, mixture_cdf

STEPPING = [name for name in SAMPLERS if name != "adaptive"]  # a given number of steps
CALLS = {"heun": (2, -1), "dpm++2s": (2, -1), "edm": (2, -1), "pc": (2, -1), "deis": (1, 1)}  # a N + b, else N
VARIANTS: dict[str, Sampler] = {
    **SAMPLERS,
    "ddim, eta 0.5": partial(ddim, eta=0.5),
    "dpm++2m in the log-SNR": partial(dpmpp_2m, coordinate=log_snr),
    "dpm++2m-sde in the log-SNR": partial(dpmpp_2m_sde, coordinate=log_snr),
    "deis in the log-SNR": partial(deis, coordinate=log_snr),
    "unipc of order 3 in the angle": partial(unipc, order=3, coordinate=angle),
    "edm, much noise": partial(edm, churn=40, inflation=1.01),
    "pc, two corrections": partial(pc, corrections=2),
}


class Squash(nn.Module):
    """A denoiser of no data in particular: bounded, bent, and other at every time; it remembers what it was asked."""

    def __init__(self, schedule: object) -> None:
        super().__init__()
        self.schedule, self.asked = schedule, []

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self.asked.append((float(t[0]), torch.tanh(x) * torch.cos(t)[:, None]))
        return self.asked[-1][1]


# --- both ends ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", STEPPING)
@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_last_step_returns_the_denoisers_mean(sampler: str, name: str, steps: int) -> None:
    """sigma = 0 at the end brings no log of 0, no 0/0, no point after the last; and the calls are those promised."""
    model = Squash(SCHEDULES[name]())
    x = sample(model, (4, 3), sampler, steps, generator=torch.Generator().manual_seed(0))
    time, answer = model.asked[-1]
    assert torch.equal(x, answer)
    last = float(time_grid(model.schedule, steps)[-1])
    if sampler == "edm":  # which adds noise before the last look too
        assert last <= time
    else:
        assert time == pytest.approx(last)
    slope, offset = CALLS.get(sampler, (1, 0))
    assert len(model.asked) == (slope * steps + offset if steps > 1 else 1)


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_adaptive_ends_with_the_denoisers_mean_near_clean_data(name: str) -> None:
    model = Squash(SCHEDULES[name]())
    x = sample(model, (4, 3), "adaptive", 1, generator=torch.Generator().manual_seed(0))
    time, answer = model.asked[-1]
    assert torch.equal(x, answer)
    assert math.tan(float(model.schedule.angle(time))) == pytest.approx(
        max(0.002, math.tan(float(model.schedule.angle(0.0)))), rel=1e-3
    )


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_nobody_looks_beyond_either_end(name: str) -> None:
    """A denoiser that was trained up to t_max = 0.6 is not asked about more noise, not even by one that adds some."""
    for label, sampler in VARIANTS.items():
        model = Squash(SCHEDULES[name]())
        model.t_max = 0.6
        sample(model, (4, 3), sampler, 5, generator=torch.Generator().manual_seed(0))
        times = [time for time, _ in model.asked]
        assert max(times) <= 0.6 + 1e-6, label
        assert times[0] == pytest.approx(0.6)
        assert min(times) >= min(float(time_grid(model.schedule, 5, t_max=0.6)[-1]), times[-1]) - 1e-6


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("kind", list(GRIDS))
def test_every_sampler_is_finite_on_every_schedule_and_grid(name: str, kind: str) -> None:
    """In float32. Exponential samplers stay where the data are, five points between -1 and 1; slopes overshoot."""
    points = torch.linspace(-1, 1, 5)[:, None].expand(5, 2).contiguous()
    data = GaussianMixture(torch.full((5,), 0.2), points, 1e-3 * torch.eye(2).expand(5, 2, 2).contiguous())
    denoiser = ExactDenoiser(data, SCHEDULES[name]())
    for label, sampler in VARIANTS.items():
        for steps in (1, 2, 3):
            if "adaptive" in label and (steps > 1 or kind != "uniform"):
                continue
            x = sample(denoiser, (6, 2), sampler, steps, grid=kind, generator=torch.Generator().manual_seed(1))
            assert x.dtype == torch.float32
            limit = 100 if label.startswith(("euler", "heun", "edm")) else 3
            assert bool((x.abs() < limit).all()), (label, steps)


@pytest.mark.parametrize("prediction", list(PREDICTIONS))
def test_every_sampler_takes_every_prediction(prediction: str) -> None:
    schedule = LinearVP() if prediction in ("eps", "score") else Cosine()
    denoiser = Denoiser(TimeMLP(2, width=8), schedule, prediction)
    for sampler in SAMPLERS.values():
        x = sample(denoiser, (3, 2), sampler, 3, generator=torch.Generator().manual_seed(0))
        assert bool(torch.isfinite(x).all())


# --- identities -----------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("kind", ["uniform", "karras"])
def test_samplers_that_are_each_other(name: str, kind: str) -> None:
    """Exponential samplers of order one are DDIM; EDM without churn is Heun; no corrections leave the predictor."""
    x_T = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)

    def run(sampler: str | Sampler) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return sample(
            Squash(SCHEDULES[name]()), (4, 3), sampler, 6, x_T=x_T, grid=kind, generator=generator, trajectory=True
        )

    close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
    close(run(partial(deis, order=1)), run("ddim"))
    close(run(partial(edm, churn=0)), run("heun"))
    close(run(partial(edm, noise_min=1e5)), run("heun"))
    close(run(partial(pc, corrections=0)), run("ddpm"))
    close(run(partial(ddim, eta=0.0)), run("ddim"))


@pytest.mark.parametrize("sampler", [s for s in STEPPING if s not in ("euler", "heun", "edm", "pc")])
@pytest.mark.parametrize("name", list(SCHEDULES))
def test_exponential_samplers_are_exact_for_a_denoiser_that_does_not_change(sampler: str, name: str) -> None:
    """If D is one picture, x at every level is alpha D + sigma times what noise there is, however long the steps."""
    schedule, picture = SCHEDULES[name](), torch.tensor([[0.7, -0.4]], dtype=torch.float64)
    path = Path.along(schedule, time_grid(schedule, 4))
    x = path.alpha[0] * picture + path.sigma[0] * torch.ones(1, 2, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for i, state in enumerate(SAMPLERS[sampler](lambda x, t: picture.clone(), x, path, generator), 1):
        if sampler in ("ddpm", "dpm++2m-sde"):  # fresh noise: of the right size at least
            assert bool(((state - path.alpha[i] * picture).abs() <= 5 * path.sigma[i]).all())
        else:
            torch.testing.assert_close(state, path.alpha[i] * picture + path.sigma[i])


def test_weights_are_the_means_of_polynomials() -> None:
    """On three nodes, 1, u and u^2 have the means that another quadrature finds; on two, 1 and u those of half-way."""
    path = Path.along(Rectified(), torch.tensor([1.0, 0.7, 0.45, 0.3]))
    r = np.divide(path.alpha[:-1], path.sigma[:-1])
    fine = np.linspace(r[2], r[3], 200_001)
    for coordinate in (angle, log_snr):
        nodes = [2, 1, 0] if coordinate is angle else [3, 2, 1]  # with the node ahead, as UniPC corrects
        weights = mean_weights(path, 2, nodes, coordinate)
        for power in range(3):
            mean = np.trapezoid(coordinate(fine) ** power, fine) / (r[3] - r[2])
            assert weights @ coordinate(r[nodes]) ** power == pytest.approx(mean, rel=1e-8)
        pair = mean_weights(path, 2, [2, 1], coordinate)
        assert sum(pair) == pytest.approx(1)
        assert pair @ coordinate(r[[2, 1]]) == pytest.approx(coordinate(r[[2, 3]]).mean())
    assert mean_weights(path, 1, [1, 0], log_snr) == [1.0, 0.0]  # pure noise says nothing in the log-SNR
    assert mean_weights(path, 0, [1, 0], log_snr) == [0.0, 1.0]


@pytest.mark.parametrize("kind", list(GRIDS))
@pytest.mark.parametrize("name", list(SCHEDULES))
def test_three_estimates_are_never_magnified_much(name: str, kind: str) -> None:
    """On coarse grids a parabola would be followed too far: weights add up to 1, and to 5.5 at most without signs."""
    for steps in (4, 9, 20):
        path = Path.along(SCHEDULES[name](), time_grid(SCHEDULES[name](), steps, kind))
        for i in range(2, steps - 1):
            weights = mean_weights(path, i, range(i, i - 3, -1), evenest(path))
            assert sum(weights) == pytest.approx(1)
            assert sum(map(abs, weights)) <= 5.5
            assert weights[0] > 0


def test_adaptive_agrees_with_scipy() -> None:
    """Another library, another variable: dx/dt of the straight line, followed in t."""
    x_T = torch.tensor([[0.9], [-0.4]], dtype=torch.float64)
    denoiser = ExactDenoiser(mixture(), Rectified())
    ours = sample(denoiser, (2, 1), partial(adaptive, rtol=1e-8, atol=1e-8), 1, x_T=x_T)

    def velocity(t: float, x: np.ndarray) -> np.ndarray:
        estimate = denoiser(torch.from_numpy(x)[:, None], torch.tensor(t, dtype=torch.float64))[:, 0].numpy()
        return (x - estimate) / t

    found = solve_ivp(velocity, (1.0, 1e-4), x_T[:, 0].numpy(), method="LSODA", rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(ours[:, 0].numpy(), found.y[:, -1], atol=1e-4)


# --- laws of the draws ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", [*(s for s in SAMPLERS if s != "pc"), "ddim, eta 0.5", "edm, much noise"])
def test_samples_follow_the_mixture(sampler: str) -> None:
    """4,000 draws of 60 steps pass a Kolmogorov-Smirnov test against the exact law."""
    denoiser, generator = ExactDenoiser(mixture(), Cosine()), torch.Generator().manual_seed(0)
    x = sample(denoiser, (4000, 1), VARIANTS[sampler], 60, grid="angle", generator=generator)
    assert stats.kstest(x[:, 0].numpy(), mixture_cdf).pvalue > 0.01


def test_predictor_corrector_draws_wide_pictures() -> None:
    """In 256 dimensions, where norms tell something, the moments are right."""
    data = GaussianMixture(torch.ones(1), torch.full((1, 256), 0.5), 0.3 * torch.eye(256)[None])
    generator = torch.Generator().manual_seed(0)
    x = sample(ExactDenoiser(data, Cosine()), (200, 256), "pc", 60, grid="angle", generator=generator)
    assert x.mean().item() == pytest.approx(0.5, abs=0.01)
    assert x.var().item() == pytest.approx(0.3, rel=0.04)


@pytest.mark.parametrize("sampler", list(VARIANTS))
def test_nobodys_result_depends_on_batch_mates(sampler: str) -> None:
    """Other mates of the same shapes, wild ones among them: the same bits."""
    denoiser = ExactDenoiser(mixture(), Cosine())
    x_T = torch.randn(6, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    others = torch.cat([x_T[:2], 30 * x_T[2:].flip(0) + 5])

    def run(x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return sample(denoiser, (6, 1), VARIANTS[sampler], 5, x_T=x, generator=generator, trajectory=True)[:, :2]

    assert torch.equal(run(x_T), run(others))


def test_a_mean_over_the_batch_would_be_seen() -> None:
    """The law above can fail: Langevin steps measured over the batch, as in the paper's code."""

    def together(denoise: object, x: Tensor, path: Path, generator: torch.Generator) -> Iterator[Tensor]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("coursekit.diffusion.samplers.stochastic._norms", lambda x: x.norm().expand(len(x)))
            yield from pc(denoise, x, path, generator)

    VARIANTS["together"] = together
    try:
        with pytest.raises(AssertionError):
            test_nobodys_result_depends_on_batch_mates("together")
    finally:
        del VARIANTS["together"]


def test_generator_decides_everything() -> None:
    denoiser = ExactDenoiser(mixture(), LinearVP())
    state = torch.get_rng_state()
    for sampler in ("ddpm", "dpm++2m-sde", "edm", "pc"):
        draws = [sample(denoiser, (5, 1), sampler, 6, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
        assert torch.equal(draws[0], draws[1])
        assert not torch.equal(draws[0], draws[2])
    x_T = torch.zeros(5, 1).double()
    for sampler in set(SAMPLERS) - {"ddpm", "dpm++2m-sde", "edm", "pc"}:  # no noise on the way
        draws = [
            sample(denoiser, (5, 1), sampler, 6, x_T=x_T, generator=torch.Generator().manual_seed(s)) for s in (0, 1)
        ]
        assert torch.equal(*draws)
    assert torch.equal(torch.get_rng_state(), state)


# --- what is kept, and what it costs ----------------------------------------------------------------------


@pytest.mark.parametrize("sampler", STEPPING)
def test_trajectory_ends_with_the_sample(sampler: str) -> None:
    denoiser, x_T = ExactDenoiser(mixture(), LinearVP()), torch.randn(3, 1)
    kept = x_T.clone()
    settings = {"sampler": sampler, "steps": 7, "x_T": x_T}
    states, x = (
        sample(denoiser, (3, 1), generator=torch.Generator().manual_seed(0), trajectory=trajectory, **settings)
        for trajectory in (True, False)
    )
    assert states.shape == (8, 3, 1)
    assert torch.equal(states[0], x_T)
    assert torch.equal(x_T, kept)  # steps in place leave the start alone
    assert torch.equal(states[-1], x)
    assert len({tuple(state.flatten().tolist()) for state in states}) == 8  # nor did a later step overwrite one


def test_trajectory_of_the_adaptive_sampler_has_two_ends() -> None:
    states = sample(ExactDenoiser(mixture(), LinearVP()), (3, 1), "adaptive", 7, trajectory=True)
    assert states.shape == (2, 3, 1)


@pytest.mark.parametrize("sampler", STEPPING)
def test_no_state_is_kept_on_the_way(sampler: str) -> None:
    """Of all that a denoiser ever saw or said, a few tensors live at any time: at most two steps' worth."""
    seen: list[weakref.ref] = []

    class Model(nn.Module):
        schedule = Rectified()

        def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
            estimate = torch.tanh(x)
            seen.extend((weakref.ref(x), weakref.ref(estimate)))
            alive = len({id(ref()) for ref in seen if ref() is not None})
            assert alive <= 7, alive
            return estimate

    x = sample(Model(), (3, 2), sampler, 20)
    assert [ref() for ref in seen if ref() is not None] == [x] or all(ref() is None or ref() is x for ref in seen)


class Counting(TorchDispatchMode):
    """Counts tensor operations of more than one element."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: object, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.ndim == 4:  # pictures: neither coefficients nor views of times
            self.calls[func.overloadpacket.__name__] += 1
        return out


OPERATIONS = {
    "ddpm": 4,  # scale, add; make room for noise, add it
    "ddim": 2,
    "euler": 2,
    "heun": 10,
    "dpm++2s": 4,
    "dpm++2m": 3,
    "dpm++2m-sde": 5,
    "deis": 5,
    "unipc": 7,
    "edm": 14,
    "pc": 14,
}


@pytest.mark.parametrize("sampler", STEPPING)
def test_a_step_is_a_few_tensor_operations(sampler: str) -> None:
    """Around the network, and none more on account of trajectories; counted per step over the steps 5 to 14."""
    x, estimate = torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    counts = []
    for steps in (5, 15):
        path = Path.along(Rectified(), time_grid(Rectified(), steps))
        with Counting() as counting:
            for _ in SAMPLERS[sampler](lambda x, t: estimate, x, path, None):
                pass
        counts.append(sum(counting.calls.values()) - counting.calls["normal_"])
    assert (counts[1] - counts[0]) / 10 <= OPERATIONS[sampler]


def test_recorder_counts_calls_and_keeps_estimates() -> None:
    denoiser = ExactDenoiser(mixture(), LinearVP())
    recorder = Recorder(denoiser, keep=True)
    x = sample(recorder, (3, 1), "unipc", 6)
    assert recorder.calls == len(recorder.times) == len(recorder.estimates) == 6
    torch.testing.assert_close(torch.stack(recorder.times)[:, 0].double(), time_grid(LinearVP(), 6), rtol=1e-6, atol=0)
    assert torch.equal(recorder.estimates[-1], x)
    silent = Recorder(denoiser)
    sample(silent, (3, 1), "adaptive", 1)
    assert silent.calls > 6
    assert not silent.estimates
    labelled = Denoiser(lambda x, t, y: torch.zeros_like(x), Rectified(), "velocity", num_classes=3)
    for counted, guidance in (
        (Recorder(labelled), 2.0),  # a pair on a doubled batch is one call
        (Recorder(ClassifierFree(labelled, 2.0)), 1.0),
    ):
        sample(counted, (2, 1), "heun", 3, torch.tensor([0, 1]), guidance=guidance)
        assert counted.calls == 5


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
        ({"sampler": "magic"}, "sampler must be one of ddpm, ddim, euler, heun, dpm++2s"),
        ({"steps": 0}, "steps must be a positive integer"),
        ({"grid": "cubic"}, "grid must be one of uniform"),
        ({"grid": torch.tensor([0.9, 0.5]), "steps": 3}, "3 times up to 1.0 are wanted, got 2"),
        ({"grid": torch.tensor([0.9, 0.0])}, "times must end where there is noise"),
        ({"y": torch.zeros(5, dtype=torch.long)}, "one label for each of 3"),
        ({"x_T": torch.zeros(2, 1)}, "x_T must have shape"),
        ({"sampler": partial(ddim, eta=1.5)}, "eta must lie"),
        ({"sampler": partial(deis, order=4)}, "order must be 1, 2 or 3, got 4"),
        ({"sampler": partial(unipc, order=0)}, "order must be 1, 2 or 3, got 0"),
        ({"sampler": partial(edm, churn=-1)}, "settings must not be negative, got -1"),
        ({"sampler": partial(pc, snr=0)}, "snr > 0 and corrections >= 0 are wanted, got 0"),
        ({"sampler": partial(pc, corrections=-1)}, "snr > 0 and corrections >= 0 are wanted"),
    ],
)
def test_bad_input_is_refused(keywords: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        sample(ExactDenoiser(mixture(), LinearVP()), (3, 1), **keywords)


def test_evenest_of_short_paths() -> None:
    """One or two levels have no steps to compare: the angle, which needs none."""
    for steps in (1, 2):
        assert evenest(Path.along(Rectified(), time_grid(Rectified(), steps))) is angle
