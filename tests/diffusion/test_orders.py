"""Orders of convergence: on the exact mixture for samplers that follow the flow, on exact Gaussians for the others."""

import math
import sys
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path as File

import pytest
import torch
from torch import Tensor

from coursekit.diffusion import SCHEDULES, ExactDenoiser, LinearVP, Rectified, time_grid
from coursekit.diffusion.grids import Path
from coursekit.diffusion.ode import BOGACKI_SHAMPINE
from coursekit.diffusion.samplers import (
    SAMPLERS,
    Recorder,
    Sampler,
    adaptive,
    ddim,
    deis,
    dpmpp_2m,
    dpmpp_2m_sde,
    edm,
    heun,
    log_snr,
    pc,
    sample,
    unipc,
)

sys.path.insert(0, str(File(__file__).parent))
from exact_laws import DEEP, flow_error, gaussian_moments, mixture, quantile_map, slope

FLOW = {
    "ddim": ("ddim", 1),
    "euler": ("euler", 1),
    "heun": ("heun", 2),
    "edm without churn": (partial(edm, churn=0), 2),
    "dpm++2s": ("dpm++2s", 2),
    "dpm++2m": ("dpm++2m", 2),
    "deis of order 1": (partial(deis, order=1), 1),
    "deis of order 2": (partial(deis, order=2), 2),
    "deis": ("deis", 3),
    "unipc of order 1": (partial(unipc, order=1), 2),
    "unipc": ("unipc", 3),
    "unipc of order 3": (partial(unipc, order=3), 3),
}
IN_LOG_SNR = {
    "dpm++2m": (partial(dpmpp_2m, coordinate=log_snr), 2),
    "deis": (partial(deis, coordinate=log_snr), 3),
    "unipc": (partial(unipc, coordinate=log_snr), 3),
}
NOISY = {
    "ddim, eta 0.5": (partial(ddim, eta=0.5), 1),
    "ddpm": (SAMPLERS["ddpm"], 1),
    "dpm++2m-sde": (dpmpp_2m_sde, 2),
    "edm": (edm, 2),
    "edm, much noise on few levels": (partial(edm, churn=9, noise_min=0.05, noise_max=5.0), 2),
}


@pytest.mark.parametrize("name", list(DEEP))
@pytest.mark.parametrize(("sampler", "order"), FLOW.values(), ids=FLOW)
def test_order_on_the_exact_mixture(name: str, sampler: str | Sampler, order: int) -> None:
    """The error against the exact flow falls as steps^-order: at least order - 0.2, whatever the schedule."""
    steps = [32, 64, 128]
    errors = [flow_error(DEEP[name], sampler, n, "angle^2") for n in steps]
    assert errors[-1] < 0.05
    assert slope(steps, errors) > order - 0.2, errors


@pytest.mark.parametrize("name", list(DEEP))
@pytest.mark.parametrize(("sampler", "order"), IN_LOG_SNR.values(), ids=IN_LOG_SNR)
def test_order_of_the_published_samplers_where_the_log_snr_is_finite(name: str, sampler: Sampler, order: int) -> None:
    """Their papers' coordinate gives their papers' order on the grid that is even in it."""
    steps = [24, 48, 96]
    errors = [flow_error(DEEP[name], sampler, n, "log-snr") for n in steps]
    assert slope(steps, errors) > order - 0.2, errors


def test_the_log_snr_costs_an_order_where_it_is_infinite() -> None:
    """Why the angle: from pure noise, two steps of DPM-Solver++(2M) in the log-SNR are of first order."""
    steps = [32, 64, 128]
    in_angle, in_log_snr = (
        [flow_error(Rectified(), sampler, n, "angle^2") for n in steps]
        for sampler in ("dpm++2m", partial(dpmpp_2m, coordinate=log_snr))
    )
    assert slope(steps, in_log_snr) < 1.75 < 1.9 < slope(steps, in_angle)
    assert in_angle[-1] < in_log_snr[-1] / 3


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize(("sampler", "order"), NOISY.values(), ids=NOISY)
def test_order_in_law_on_an_exact_gaussian(name: str, sampler: Sampler, order: int) -> None:
    """Mean and variance of the result are known without drawing: their errors fall as steps^-order.

    Noise that is added after the network was asked, or of a wrong size, leaves an error that does not fall.
    """
    steps, mean, variance = [24, 48, 96], 1.0, 0.4
    paths = [Path.along(DEEP[name], time_grid(DEEP[name], n, "angle^2")) for n in steps]
    found = [gaussian_moments(sampler, path, mean, variance) for path in paths]
    assert max(abs(found[-1][0] - mean), abs(found[-1][1] - variance)) < 0.03
    assert slope(steps, [abs(v - variance) for _, v in found]) > order - 0.2, found
    if max(abs(m - mean) for m, _ in found) > 1e-12:  # posterior steps keep the mean exactly
        assert slope(steps, [abs(m - mean) for m, _ in found]) > order - 0.2, found


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("corrections", [1, 2])
def test_predictor_corrector_is_of_first_order_if_its_walk_is(name: str, corrections: int) -> None:
    """A Langevin step of fixed snr leaves a bias of the order of its square; with snr^2 ~ 1 / steps it dies out."""
    steps, variance, errors = [24, 48, 96, 192], 0.4, []
    for n in steps:
        path = Path.along(DEEP[name], time_grid(DEEP[name], n, "angle"))
        walk = partial(pc, snr=0.16 * math.sqrt(24 / n), corrections=corrections)
        errors.append(abs(gaussian_moments(walk, path, 1.0, variance)[1] - variance))
    assert errors[-1] < 0.01
    assert slope(steps, errors) > 0.8, errors


def test_a_corrector_repairs_what_the_predictor_spoils() -> None:
    """At few steps `ddpm` draws too narrow a Gaussian; Langevin steps at each level widen it again."""
    path = Path.along(LinearVP(), time_grid(LinearVP(), 24, "angle"))
    errors = [abs(gaussian_moments(partial(pc, snr=0.3, corrections=m), path, 0.0, 0.4)[1] - 0.4) for m in (0, 1, 2)]
    assert errors[0] > 3 * errors[1] > 3 * errors[2]


@pytest.mark.parametrize("name", list(DEEP))
def test_adaptive_error_follows_the_tolerance(name: str) -> None:
    """Each time that the tolerance falls by 100 the error falls by at least 10, down to the last level's square."""
    errors, calls = [], []
    for tolerance in (1e-2, 1e-4, 1e-6):
        solver = partial(adaptive, rtol=tolerance, atol=tolerance, last=1e-5)
        errors.append(flow_error(DEEP[name], solver, 1, "uniform"))
        recorder = Recorder(ExactDenoiser(mixture(), DEEP[name]))
        sample(recorder, (9, 1), solver, 1, generator=torch.Generator().manual_seed(0))
        calls.append(recorder.calls)
        assert errors[-1] < 30 * tolerance
    assert all(a > 10 * b for a, b in pairwise(errors)), errors
    assert calls[1] < 3 * calls[0] < 9 * calls[1]  # of fifth order: 100^(1/5) = 2.5


def test_adaptive_takes_any_pair() -> None:
    cheap = partial(adaptive, rtol=1e-3, atol=1e-3, pair=BOGACKI_SHAMPINE)
    assert flow_error(Rectified(), cheap, 1, "uniform") < 5e-3


def test_order_test_sees_one_wrong_symbol() -> None:
    """A Heun step whose second slope is taken at the old time has order one: the law above would catch it."""

    def lazy(denoise: object, x: Tensor, path: Path, generator: object = None) -> Iterator[Tensor]:
        before = dict(zip(path.times[1:], path.times, strict=False))
        calls = iter(range(10**6))
        return heun(lambda x, t: denoise(x, before[t] if next(calls) % 2 else t), x, path)

    steps = [24, 48, 96]
    assert slope(steps, [flow_error(LinearVP(), lazy, n, "angle^2") for n in steps]) < 1.8


def test_quantile_map_is_the_flow_of_a_gaussian_where_that_is_known() -> None:
    """The truth itself, checked once: under pure noise the map sends quantiles of N(0, 1) to those of the mixture."""
    x = torch.linspace(-2, 2, 5).double().numpy()
    images = quantile_map(x, 0.0, 1.0)
    samples = mixture().sample(400_000, torch.Generator().manual_seed(0))[:, 0]
    shares = [(samples < v).double().mean().item() for v in images]
    expected = torch.special.ndtr(torch.as_tensor(x)).tolist()
    assert shares == pytest.approx(expected, abs=0.004)
