"""Laws of every schedule, against references in 50 digits that are written from the papers' formulas."""

import math
from collections.abc import Callable

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coursekit.diffusion import (
    EDM,
    SCHEDULES,
    VE,
    Cosine,
    LinearVP,
    Rectified,
    ScaledLinearVP,
    SigmoidAlphaBar,
    SigmoidBetaVP,
    SubVP,
)
from coursekit.diffusion.schedules.preserving import VariancePreserving

mp.mp.dps = 50
NAMES = list(SCHEDULES)
EDGES = [1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 0.9999, 1 - 1e-5]
GRID = sorted({*EDGES, *np.linspace(1e-5, 1 - 1e-5, 41).tolist()})


def logistic(z: mp.mpf) -> mp.mpf:
    return 1 / (1 + mp.exp(-z))


def from_rate(beta: Callable[[mp.mpf], mp.mpf]) -> Callable[[mp.mpf], tuple[mp.mpf, mp.mpf]]:
    def levels(t: mp.mpf) -> tuple[mp.mpf, mp.mpf]:  # quadrature, not the closed integral
        kept = mp.exp(-mp.quad(beta, [0, t / 2, t]))
        return mp.sqrt(kept), mp.sqrt(1 - kept)

    return levels


def linear_rate(t: mp.mpf) -> mp.mpf:
    return mp.mpf("0.1") + t * mp.mpf("19.9")


def cosine(t: mp.mpf) -> tuple[mp.mpf, mp.mpf]:
    s = mp.mpf("0.008")
    kept = (mp.cos((t + s) / (1 + s) * mp.pi / 2) / mp.cos(s / (1 + s) * mp.pi / 2)) ** 2
    return mp.sqrt(kept), mp.sqrt(1 - kept)


def jabri(t: mp.mpf) -> tuple[mp.mpf, mp.mpf]:
    kept = (logistic(mp.mpf(3)) - logistic(-3 + 6 * t)) / (logistic(mp.mpf(3)) - logistic(mp.mpf(-3)))
    return mp.sqrt(kept), mp.sqrt(1 - kept)


def sub_vp(t: mp.mpf) -> tuple[mp.mpf, mp.mpf]:
    integral = mp.quad(linear_rate, [0, t])
    return mp.exp(-integral / 2), 1 - mp.exp(-integral)


def karras(t: mp.mpf) -> tuple[mp.mpf, mp.mpf]:
    low, high = (mp.mpf(s) ** (mp.mpf(1) / 7) for s in ("0.002", "80"))
    return mp.mpf(1), (high + (1 - t) * (low - high)) ** 7


REFERENCES: dict[str, Callable[[mp.mpf], tuple[mp.mpf, mp.mpf]]] = {
    "linear": from_rate(linear_rate),
    "scaled-linear": from_rate(lambda t: (mp.sqrt("0.85") + t * (mp.sqrt(12) - mp.sqrt("0.85"))) ** 2),
    "sigmoid-beta": from_rate(lambda t: mp.mpf("0.1") + mp.mpf("19.9") * logistic(12 * t - 6)),
    "cosine": cosine,
    "sigmoid": jabri,
    "ve": lambda t: (mp.mpf(1), mp.mpf("0.01") * mp.mpf(5000) ** t),
    "sub-vp": sub_vp,
    "edm": karras,
    "rectified": lambda t: (1 - t, t),
}


def test_every_schedule_has_a_reference() -> None:
    assert REFERENCES.keys() == SCHEDULES.keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_levels_against_the_reference(name: str, dtype: torch.dtype) -> None:
    """alpha, sigma and log-SNR to 1e-6 over [1e-5, 1 - 1e-5], also where t and the result are float32."""
    schedule, t = SCHEDULES[name](), torch.tensor(GRID, dtype=dtype)
    exact = [REFERENCES[name](mp.mpf(float(value))) for value in t.double()]  # at the rounded times
    alpha = torch.tensor([float(a) for a, _ in exact], dtype=torch.float64)
    sigma = torch.tensor([float(s) for _, s in exact], dtype=torch.float64)
    log_snr = torch.tensor([float(2 * mp.log(a / s)) for a, s in exact], dtype=torch.float64)
    rtol = 1e-6 if dtype == torch.float32 else 1e-12
    assert schedule.alpha(t).dtype == dtype
    torch.testing.assert_close(schedule.alpha(t).double(), alpha, rtol=rtol, atol=0)
    torch.testing.assert_close(schedule.sigma(t).double(), sigma, rtol=rtol, atol=0)
    torch.testing.assert_close(schedule.log_snr(t).double(), log_snr, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("name", NAMES)
def test_time_inverts_log_snr(name: str) -> None:
    schedule = SCHEDULES[name]()
    t = torch.tensor(GRID, dtype=torch.float64)
    torch.testing.assert_close(schedule.time(schedule.log_snr(t)), t, rtol=1e-9, atol=1e-11)
    single = t.float()
    slack = 4e-6 / schedule.d_log_snr(t).abs().float()  # log-SNR itself carries an error of a few 1e-7 of its size
    assert bool(((schedule.time(schedule.log_snr(single)) - single).abs() <= slack + 1e-6).all())


@pytest.mark.parametrize("name", NAMES)
def test_time_stays_inside_for_any_log_snr(name: str) -> None:
    schedule = SCHEDULES[name]()
    t = schedule.time(torch.tensor([-math.inf, -100.0, -20.0, 0.0, 20.0, 100.0, math.inf], dtype=torch.float64))
    assert bool(((t >= 0) & (t <= 1)).all())
    assert bool((t.diff() <= 0).all())


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_equal_autograd(name: str) -> None:
    schedule = SCHEDULES[name]()
    t = torch.tensor(GRID[:-1], dtype=torch.float64, requires_grad=True)
    for value, derivative in (
        (schedule.alpha, schedule.d_alpha),
        (schedule.sigma, schedule.d_sigma),
        (schedule.log_snr, schedule.d_log_snr),
    ):
        (gradient,) = torch.autograd.grad(value(t).sum() + 0 * t.sum(), t)
        torch.testing.assert_close(derivative(t).detach(), gradient, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_sde_coefficients_move_the_moments(name: str) -> None:
    """The SDE's moment equations, d alpha/dt = f alpha and d sigma^2/dt = 2 f sigma^2 + g^2, by central differences."""
    schedule, t, h = SCHEDULES[name](), torch.linspace(0.05, 0.95, 19, dtype=torch.float64), 1e-6
    f, g = schedule.drift(t), schedule.diffusion(t)
    slope = (schedule.alpha(t + h) - schedule.alpha(t - h)) / (2 * h)
    torch.testing.assert_close(f * schedule.alpha(t), slope, rtol=1e-6, atol=1e-6)
    slope = (schedule.sigma(t + h) ** 2 - schedule.sigma(t - h) ** 2) / (2 * h)
    torch.testing.assert_close(2 * f * schedule.sigma(t) ** 2 + g**2, slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_noise_only_grows(name: str) -> None:
    schedule, t = SCHEDULES[name](), torch.linspace(0, 1, 2001, dtype=torch.float64)
    assert bool((schedule.alpha(t).diff() <= 0).all())
    assert bool((schedule.log_snr(t).diff() < 0).all())
    assert float(schedule.alpha(0.0)) == pytest.approx(1, abs=1e-15)
    assert 0 <= float(schedule.angle(0.0)) <= 0.0101
    if isinstance(schedule, VariancePreserving):
        torch.testing.assert_close(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, torch.ones_like(t))


@pytest.mark.parametrize("name", NAMES)
def test_any_shape_and_half_precision(name: str) -> None:
    """Half precision would let 493 of 1,000 times coincide: it is raised to float32."""
    schedule = SCHEDULES[name]()
    t = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0)) * 0.98 + 0.01
    for method in (
        schedule.alpha,
        schedule.sigma,
        schedule.log_snr,
        schedule.drift,
        schedule.diffusion,
        schedule.angle,
    ):
        assert method(t).shape == t.shape
        torch.testing.assert_close(method(t)[1, 2, 3], method(t[1, 2, 3]))
        assert method(t.bfloat16()).dtype == torch.float32
        assert method(t.half()).dtype == torch.float32
    assert schedule.alpha(0).dtype == torch.float64  # a Python number


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("t", [-0.001, 1.3, math.nan, torch.tensor([0.5, 1.5])])
def test_times_outside_are_refused(name: str, t: float | torch.Tensor) -> None:
    schedule = SCHEDULES[name]()
    for method in (schedule.alpha, schedule.sigma, schedule.log_snr, schedule.d_alpha, schedule.d_sigma):
        with pytest.raises(ValueError, match=r"t must lie in \[0, 1\], got"):
            method(t)


@pytest.mark.parametrize("name", ["cosine", "sigmoid", "rectified"])
def test_terminal_snr_is_exactly_zero(name: str) -> None:
    schedule = SCHEDULES[name]()
    for one in (1.0, torch.ones(3)):
        assert bool((schedule.alpha(one) == 0).all())
        assert bool((schedule.log_snr(one) == -math.inf).all())


def test_karras_grid() -> None:
    """Equal steps of t are the grid of arXiv 2206.00364, eq. 5, here for N = 18 as they print it."""
    i = np.arange(18)
    wanted = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    got = EDM().sigma(torch.linspace(1, 0, 18, dtype=torch.float64))
    np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-12)


@given(
    beta_min=st.floats(0.01, 2.0),
    span=st.floats(0.01, 30.0),
    t=st.floats(1e-5, 1 - 1e-5),
    kind=st.sampled_from([LinearVP, ScaledLinearVP, SigmoidBetaVP, SubVP]),
)
def test_inverse_for_any_rate(beta_min: float, span: float, t: float, kind: type) -> None:
    schedule = kind(beta_min, beta_min + span)
    assert float(schedule.time(schedule.log_snr(t))) == pytest.approx(t, rel=1e-7, abs=1e-10)


@given(s=st.floats(0.0, 0.2), tau=st.floats(0.3, 3.0), t=st.floats(1e-4, 1 - 1e-4))
def test_inverse_for_any_shape(s: float, tau: float, t: float) -> None:
    for schedule in (
        Cosine(s),
        SigmoidAlphaBar(-3, 3, tau),
        SigmoidAlphaBar(0, 3, tau),
        VE(0.01 + s, 10),
        EDM(rho=1 + 3 * tau),
    ):
        assert float(schedule.time(schedule.log_snr(t))) == pytest.approx(t, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearVP(0.0, 20.0), "beta_min"),
        (lambda: ScaledLinearVP(2.0, 1.0), "beta_min"),
        (lambda: SigmoidBetaVP(-1.0, 1.0), "beta_min"),
        (lambda: SubVP(3.0, 2.0), "beta_min"),
        (lambda: Cosine(-0.1), "s must not be negative"),
        (lambda: SigmoidAlphaBar(3.0, -3.0), "start must lie below end"),
        (lambda: SigmoidAlphaBar(tau=0.0), "tau must be positive"),
        (lambda: VE(0.0, 1.0), "sigma_min"),
        (lambda: EDM(2.0, 1.0), "sigma_min"),
        (lambda: EDM(rho=0.0), "rho"),
        (lambda: Rectified().discretised(0), "T must be a positive integer"),
        (lambda: LinearVP().discretised(2.5), "T must be a positive integer"),
        (lambda: LinearVP().discretised(10), "T must be larger than the largest rate 20"),
    ],
)
def test_impossible_settings_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
