"""Laws of the solver with a step per sample: known solutions, orders, other solvers, independence of batch mates."""

import math

import numpy as np
import pytest
import torch
import torchdiffeq
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import RK23, RK45, solve_ivp
from torch import Tensor

from coursekit.diffusion.ode import BOGACKI_SHAMPINE, DORMAND_PRINCE, Pair, odeint

PAIRS = {"5(4)": DORMAND_PRINCE, "3(2)": BOGACKI_SHAMPINE}


def points(n: int = 6, D: int = 2) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def curved(x: Tensor, s: Tensor) -> Tensor:
    """Nonlinear, coupled, and different at every time."""
    return torch.stack([x[:, 1] + torch.sin(3 * s), -(2 + torch.cos(s)) * torch.sin(x[:, 0])], 1)


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_tables_are_those_of_scipy(pair: Pair) -> None:
    """The weights of the result, the nodes, and the error up to its sign."""
    other = {5: RK45, 3: RK23}[pair.order]
    nodes = [0.0, *(sum(row) for row in pair.rows[:-1])]
    np.testing.assert_allclose(nodes, other.C, rtol=1e-13)
    np.testing.assert_allclose(pair.rows[-1], other.B, rtol=1e-13)
    for row, expected in zip(pair.rows[:-1], other.A[1:], strict=True):
        np.testing.assert_allclose(row, expected[: len(row)], rtol=1e-13)
    np.testing.assert_allclose(pair.error, -other.E, rtol=1e-13)


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_order_of_the_result_and_of_the_embedded_one(pair: Pair) -> None:
    """With n equal steps the errors fall like n^-p and n^-(p-1)."""
    exact = torch.stack([solve_reference(x, 0.0, 1.0) for x in points()])

    def run(n: int) -> tuple[float, float]:
        x, s, h = (points(),), torch.zeros(6).double(), torch.full((6,), 1 / n).double()
        y = x  # follows the embedded formula
        for _ in range(n):
            new, _, _ = pair.step(field, x, s, h, field(x, s))
            lower, _, e = pair.step(field, y, s, h, field(y, s))
            x, y, s = new, (lower[0] - e[0],), s + h
        return (x[0] - exact).norm().item(), (y[0] - exact).norm().item()

    def field(x: tuple[Tensor], s: Tensor) -> tuple[Tensor]:
        return (curved(x[0], s),)

    coarse, fine = run(16), run(64)
    slopes = [math.log(a / b) / math.log(4) for a, b in zip(coarse, fine, strict=True)]
    assert slopes[0] > pair.order - 0.2
    assert pair.order - 1.2 < slopes[1] < pair.order - 0.5


def solve_reference(x: Tensor, start: float, end: float) -> Tensor:
    def f(s: float, x: np.ndarray) -> np.ndarray:
        return curved(torch.from_numpy(x)[None], torch.tensor([s]).double())[0].numpy()

    return torch.from_numpy(solve_ivp(f, (start, end), x.numpy(), "DOP853", rtol=1e-13, atol=1e-13).y[:, -1])


def test_agrees_with_scipy_one_sample_at_a_time() -> None:
    """Each sample with its own start and end, one of them backwards, one with nowhere to go."""
    start, end = torch.tensor([0.0, 0.3, 2.0, 1.0]).double(), torch.tensor([1.0, 3.0, -1.0, 1.0]).double()
    found = odeint(curved, points(4), start, end, rtol=1e-11, atol=1e-11).x
    expected = [solve_reference(x, float(a), float(b)) for x, a, b in zip(points(4), start, end, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-9)


def test_agrees_with_torchdiffeq() -> None:
    times = torch.tensor([0.0, 2.0]).double()
    other = torchdiffeq.odeint(lambda s, x: curved(x, s.expand(len(x))), points(), times, rtol=1e-10, atol=1e-10)
    found = odeint(curved, points(), 0.0, 2.0, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.x, other[-1], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7])
def test_error_estimate_is_cautious_and_not_absurd(pair: Pair, tolerance: float) -> None:
    found = odeint(curved, points(), 0.0, 1.0, rtol=tolerance, atol=tolerance, pair=pair)
    truth = torch.stack([solve_reference(x, 0.0, 1.0) for x in points()])
    error = (found.x - truth).abs().amax(1)
    assert bool((error < 3 * found.error.amax(1)).all())
    assert bool((found.error.amax(1) < 10 * found.steps * tolerance).all())
    assert found.error.max() > 0.1 * tolerance


@settings(max_examples=25, deadline=None)
@given(rate=st.floats(-3, 3), start=st.floats(-2, 2), end=st.floats(-2, 2))
def test_exponentials(rate: float, start: float, end: float) -> None:
    solution = odeint(lambda x, s: rate * x, points(3), start, end, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(solution.x, points(3) * math.exp(rate * (end - start)), rtol=1e-6, atol=1e-9)


def test_time_alone_is_integrated() -> None:
    solution = odeint(lambda x, s: torch.cos(s)[:, None].expand_as(x), points(), 0.5, 2.0, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(solution.x, points() + math.sin(2.0) - math.sin(0.5), rtol=1e-9, atol=1e-9)


def test_a_sample_does_not_see_its_batch_mates() -> None:
    """Mates of every stiffness: the sample's state, error and steps stay the same to the last bit."""

    def f(x: Tensor, s: Tensor) -> Tensor:  # elementwise, so that the shape of a batch does not change rounding
        return torch.sin(40 * s)[:, None] * x - x**3

    alone = odeint(f, points(1), 0.0, 1.0)
    for scale in (0.0, 1.0, 30.0):
        mates = odeint(f, torch.cat([points(1), scale * points(5)]), 0.0, 1.0)
        assert torch.equal(mates.x[0], alone.x[0])
        assert torch.equal(mates.error[0], alone.error[0])
        assert mates.steps[0] == alone.steps[0]


def test_a_sample_that_has_arrived_stays_put() -> None:
    """Even if the slope where it stands is no longer finite."""
    rates, first = torch.tensor([[1.0], [300.0]]).double(), torch.tensor([[True], [False]])
    calls: list[Tensor] = []

    def f(x: Tensor, s: Tensor) -> Tensor:
        calls.append(s)
        return torch.where(first & (s == 1)[:, None] & (len(calls) > 60), torch.nan, -rates * x)

    solution = odeint(f, torch.ones(2, 1).double(), 0.0, 1.0)
    assert solution.x[0].item() == pytest.approx(math.exp(-1), rel=1e-4)
    assert solution.steps[0] < solution.steps[1] / 5
    assert len(calls) == solution.evaluations > 60


def test_steps_adapt_to_each_sample() -> None:
    rates = torch.tensor([1.0, 10.0, 100.0]).double()
    steps = odeint(lambda x, s: torch.cos(rates * s)[:, None], torch.zeros(3, 1).double(), 0.0, 3.0).steps
    assert steps.tolist() == sorted(steps.tolist())
    assert steps[2] > 10 * steps[0]


def test_the_largest_of_the_parts_errors_counts() -> None:
    """A log-density of one number is not lost beside a picture of a thousand that stands still."""

    def f(state: tuple[Tensor, ...], s: Tensor) -> tuple[Tensor, ...]:
        return *(torch.zeros_like(part) for part in state[:-1]), torch.cos(50 * s)

    x, log_p = torch.zeros(2, 1000).double(), torch.zeros(2).double()
    alone, found = (odeint(f, (*still, log_p), 0.0, 1.0, rtol=1e-7, atol=1e-7) for still in ((), (x, x, x)))
    assert torch.equal(found.x[0], x)
    assert torch.equal(found.steps, alone.steps)
    torch.testing.assert_close(found.x[-1], torch.full((2,), math.sin(50) / 50).double(), rtol=0, atol=1e-6)
    assert found.error[-1].shape == (2,)


def test_times_stay_between_start_and_end() -> None:
    seen: list[Tensor] = []

    def f(x: Tensor, s: Tensor) -> Tensor:
        seen.append(s)
        return -x * s[:, None]

    for start, end in ((0.1, 0.7), (0.7, 0.1)):
        seen.clear()
        odeint(f, points().float(), start, end)
        low, high = sorted(torch.tensor([start, end]).tolist())
        assert min(float(s.min()) for s in seen) == low
        assert max(float(s.max()) for s in seen) == high


def test_an_impossible_equation_is_an_error_not_a_nan() -> None:
    with pytest.raises(RuntimeError, match=r"1 of 2 samples.*max_steps = 50.*s = 0\.5"):
        odeint(
            lambda x, s: torch.where((s > 0.5)[:, None], torch.nan, x),
            points(2),
            0.0,
            torch.tensor([1.0, 0.4]),
            max_steps=50,
        )
    with pytest.raises(RuntimeError, match="reached the end"):
        odeint(lambda x, s: x**2, torch.ones(1, 1), 0.0, 2.0, max_steps=200)  # infinite at s = 1


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"rtol": -1.0}, "rtol"),
        ({"atol": 0.0}, "atol"),
        ({"max_steps": 0}, "max_steps"),
        ({"end": torch.ones(3)}, "end"),
    ],
)
def test_impossible_settings_are_refused(keywords: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        odeint(lambda x, s: x, points(2), **({"start": 0.0, "end": 1.0} | keywords))


def test_whole_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="floats"):
        odeint(lambda x, s: x, torch.ones(2, 1, dtype=torch.long), 0.0, 1.0)
