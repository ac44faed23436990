"""Laws of time grids and paths: length, order, ends, and the definitions of their papers."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from coursekit.diffusion import GRIDS, SCHEDULES, Cosine, ExactDenoiser, LinearVP, Rectified, sample, time_grid
from coursekit.diffusion.grids import Path
from coursekit.diffusion.samplers import angle, evenest, log_snr
from coursekit.diffusion.schedules import Schedule
from coursekit.gmm import GaussianMixture

REACHING = [kind for kind in GRIDS if kind not in ("karras", "log-snr", "leading")]  # from t_max itself
EVERY = {name: kind() for name, kind in SCHEDULES.items()}


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("kind", list(GRIDS))
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 61, 103, 999, 1000])
def test_grid_has_the_length_falls_and_begins_with_most_noise(name: str, kind: str, steps: int) -> None:
    schedule = EVERY[name]
    times = time_grid(schedule, steps, kind)
    assert times.shape == (steps,)
    assert times.dtype == torch.float64
    assert bool((times.diff() < 0).all())
    assert bool((times > 0).all()) or float(schedule.sigma(0.0)) > 0
    if kind in REACHING:
        assert times[0] == 1
    path = Path.along(schedule, times)
    assert len(path) == steps
    assert (path.alpha[-1], path.sigma[-1]) == (1.0, 0.0)  # the last target is clean data
    noise_to_signal = np.array(path.sigma[:-1]) / np.maximum(np.array(path.alpha[:-1]), 1e-300)
    assert bool((np.diff(noise_to_signal) < 0).all())


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(list(SCHEDULES)),
    kind=st.sampled_from(list(GRIDS)),
    steps=st.integers(1, 1000),
    t_max=st.floats(0.3, 1.0),
)
@example(name="linear", kind="trailing", steps=1, t_max=0.41313728612432615)  # t_max T / T rounds above t_max
def test_any_number_of_steps_from_any_last_time(name: str, kind: str, steps: int, t_max: float) -> None:
    times = time_grid(EVERY[name], steps, kind, t_max)
    assert len(times) == steps
    assert bool((times.diff() < 0).all())
    assert float(times[0]) <= t_max
    assert kind not in REACHING or float(times[0]) == pytest.approx(t_max, abs=1e-15)
    Path.along(EVERY[name], times)  # noise is left at the last time


@pytest.mark.parametrize("kind", [kind for kind in GRIDS if kind not in ("trailing", "leading")])
def test_more_steps_than_a_chain_has(kind: str) -> None:
    for schedule in EVERY.values():
        assert len(time_grid(schedule, 2500, kind).unique()) == 2500


@pytest.mark.parametrize("kind", ["trailing", "leading"])
def test_a_chain_has_no_more_steps_than_it_has(kind: str) -> None:
    """N > T would repeat steps: refused. N = T visits each once."""
    assert (1000 * time_grid(Rectified(), 1000, kind)).round().long().tolist() == list(range(1000, 0, -1))
    with pytest.raises(ValueError, match="steps must not exceed the 1000 steps of the chain, got 1001"):
        time_grid(Rectified(), 1001, kind)


def test_grid_of_karras_is_the_edm_schedule_in_equal_steps() -> None:
    edm = SCHEDULES["edm"]()
    torch.testing.assert_close(time_grid(edm, 18, "karras"), time_grid(edm, 18, "uniform"))


def test_log_snr_grid_is_the_ve_schedule_in_equal_steps() -> None:
    ve = SCHEDULES["ve"](sigma_min=0.002, sigma_max=80.0)
    torch.testing.assert_close(time_grid(ve, 18, "log-snr"), time_grid(ve, 18, "uniform"))
    steps = LinearVP().log_snr(time_grid(LinearVP(), 20, "log-snr")).diff()
    torch.testing.assert_close(steps, steps.mean().expand(19), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("power", [1, 2])
def test_angle_grids_are_equal_in_a_power_of_the_angle(power: int) -> None:
    kind = {1: "angle", 2: "angle^2"}[power]
    roots = LinearVP().angle(time_grid(LinearVP(), 20, kind)) ** (1 / power)
    torch.testing.assert_close(roots.diff(), roots.diff().mean().expand(19), rtol=1e-6, atol=1e-9)
    shrinks = [float(Cosine().angle(time_grid(Cosine(), n, kind)[-1])) for n in (20, 40)]
    assert shrinks[0] / shrinks[1] == pytest.approx(2**power, rel=1e-6)


def test_trailing_and_leading_are_those_of_the_paper() -> None:
    """Table 2 of arXiv 2305.08891, T = 1000 and N = 10, there and here counted from 1."""
    chain = {kind: (1000 * time_grid(LinearVP(), 10, kind)).round().long().tolist() for kind in ("trailing", "leading")}
    assert chain["trailing"] == [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100]
    assert chain["leading"] == [901, 801, 701, 601, 501, 401, 301, 201, 101, 1]


@pytest.mark.parametrize("steps", [3, 7, 30, 61, 103, 999])
def test_leading_never_looks_at_the_noisiest_level(steps: int) -> None:
    """What lesson 10 shows: signal is left where the sampler believes to stand in pure noise."""
    leading, trailing = (time_grid(LinearVP(), steps, kind) for kind in ("leading", "trailing"))
    assert float(leading[0]) < 1 == float(trailing[0])
    assert float(LinearVP().alpha(leading[0])) > float(LinearVP().alpha(1.0))
    torch.testing.assert_close(trailing, time_grid(LinearVP(), steps, "uniform"), rtol=0, atol=0.5001e-3)


def test_times_can_be_given() -> None:
    times = torch.tensor([0.9, 0.4, 0.1])
    assert torch.equal(time_grid(Rectified(), 3, times), times.double())

    def cubic(schedule: Schedule, steps: int, t_max: float) -> Tensor:
        return t_max * (torch.arange(steps, 0, -1) / steps) ** 3

    assert time_grid(Rectified(), 2, cubic, 0.8).tolist() == pytest.approx([0.8, 0.1])
    mixture = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
    denoiser, x_T = ExactDenoiser(mixture, Rectified()), torch.randn(4, 2)
    by_function, by_times = (
        sample(denoiser, (4, 2), "heun", steps, grid=grid, x_T=x_T)
        for steps, grid in ((5, cubic), (None, time_grid(Rectified(), 5, cubic)))
    )
    assert torch.equal(by_function, by_times)


@pytest.mark.parametrize(
    ("steps", "kind", "message"),
    [
        (0, "uniform", "steps must be a positive integer, got 0"),
        (2.0, "uniform", "steps must be a positive integer"),
        (3, "cubic", "grid must be one of uniform, quadratic, angle, angle^2, karras, log-snr, trailing, leading"),
        (3, torch.tensor([0.9, 0.4]), "3 times up to 0.95 are wanted, got 2 times up to 0.9"),
        (2, torch.tensor([1.0, 0.4]), "2 times up to 0.95 are wanted"),
        (2, torch.tensor([0.4, 0.4]), "times must fall strictly"),
        (2, torch.tensor([0.4, math.nan]), "times must fall strictly"),
    ],
)
def test_bad_grids_are_refused(steps: int, kind: str | Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        time_grid(Rectified(), steps, kind, 0.95)


def test_bad_paths_are_refused() -> None:
    for times, message in (
        ([0.5, 0.5], "fall strictly"),
        ([0.5, 0.0], "end where there is noise"),
        ([1.5], "t must lie"),
    ):
        with pytest.raises(ValueError, match=message):
            Path.along(LinearVP(), torch.tensor(times))
    assert Path.along(SCHEDULES["ve"](), torch.tensor([0.5, 0.0])).sigma[1] == pytest.approx(0.01)


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_levels_between_two_times(name: str) -> None:
    path = Path.along(EVERY[name], time_grid(EVERY[name], 4, "uniform"))
    here, there = path.level(1), path.level(2)
    middle = path.at_angle((here.angle + there.angle) / 2)
    assert there.time < middle.time < here.time
    assert middle.angle == pytest.approx((here.angle + there.angle) / 2, rel=1e-9)
    assert middle.radius == pytest.approx(math.hypot(middle.alpha, middle.sigma))


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_the_coordinate_follows_the_grid(name: str) -> None:
    """Polynomials are followed in the coordinate in which the steps do not grow."""
    chosen = {
        kind: evenest(Path.along(EVERY[name], time_grid(EVERY[name], 8, kind)))
        for kind in ("angle", "karras", "log-snr")
    }
    assert chosen == {"angle": angle, "karras": log_snr, "log-snr": log_snr}
