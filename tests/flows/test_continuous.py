"""Laws of continuous flows: against matrix exponentials, exact mixtures, and the exact trace."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from coursekit import flows
from coursekit.diffusion import LinearVP
from coursekit.gmm import GaussianMixture

A = torch.tensor([[0.3, -1.2], [0.8, -0.5]], dtype=torch.float64)


def linear(x: Tensor, t: Tensor) -> Tensor:
    return x @ A.T


def points(n: int = 6) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_linear_velocity_is_the_matrix_exponential() -> None:
    layer = flows.ContinuousFlow(linear, solver="dopri8", rtol=1e-12, atol=1e-12)
    x = points()
    z, log_det = layer.inverse(x)  # t from 0 to 1
    torch.testing.assert_close(z, x @ torch.linalg.matrix_exp(A).T, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(log_det, A.trace().expand(6), rtol=1e-10, atol=1e-10)
    back, log_det = layer(z)
    torch.testing.assert_close(back, x, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(log_det, -A.trace().expand(6), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_fixed_solvers_have_their_order(solver: str, order: int) -> None:
    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return torch.sin(2 * x) + (t * t)[:, None]

    def run(steps: int | None) -> Tensor:
        accurate = {"solver": "dopri8", "rtol": 1e-12, "atol": 1e-12}
        settings = accurate if steps is None else {"solver": solver, "steps": steps}
        return torch.cat([part.flatten() for part in flows.ContinuousFlow(velocity, **settings).inverse(points())])

    coarse, fine = ((run(steps) - run(None)).abs().max().item() for steps in (10, 40))
    assert math.log(coarse / fine) / math.log(4) > order - 0.3


def test_probability_flow_velocity_gives_the_density_of_the_exact_mixture() -> None:
    """Schedule and score of a diffused mixture, integrated from data to noise, leave the mixture's own log-density."""
    schedule = LinearVP()
    root = 0.3 * torch.eye(2, dtype=torch.float64)
    means = torch.tensor([[1.0, 0.5], [-1.0, 0.0]], dtype=torch.float64)
    mixture = GaussianMixture(torch.tensor([0.3, 0.7]).double(), means, torch.stack([root, 0.5 * root]))

    def velocity(x: Tensor, t: Tensor) -> Tensor:  # the schedule refuses times outside [0, 1]
        score = mixture.diffused_score(x, schedule.alpha(t), schedule.sigma(t))
        return schedule.drift(t)[:, None] * x - 0.5 * (schedule.diffusion(t) ** 2)[:, None] * score

    end = torch.ones((), dtype=torch.float64)
    base = mixture.diffused(schedule.alpha(end), schedule.sigma(end))
    layer = flows.ContinuousFlow(velocity, solver="dopri8", rtol=1e-9, atol=1e-9)
    flow, x = flows.Flow([layer], [2], base=base), points()
    with torch.no_grad():
        torch.testing.assert_close(flow.log_prob(x), mixture.log_prob(x), rtol=1e-6, atol=1e-6)
        half = flows.ContinuousFlow(velocity, start=0.5, solver="dopri8", rtol=1e-9, atol=1e-9)
        level = torch.tensor(0.5, dtype=torch.float64)
        middle = mixture.diffused(schedule.alpha(level), schedule.sigma(level))
        torch.testing.assert_close(
            flows.Flow([half], [2], base=base).log_prob(x), middle.log_prob(x), rtol=1e-6, atol=1e-6
        )


def curved(x: Tensor, t: Tensor) -> Tensor:
    return torch.stack([torch.sin(x[:, 1]) + x[:, 0] * x[:, 1], torch.cos(x[:, 0]) - x[:, 1] ** 2 / 4], 1)


@pytest.mark.parametrize("gaussian", [False, True])
def test_hutchinsons_estimate_is_unbiased(gaussian: bool, generator: torch.Generator) -> None:
    x = points(1)
    exact = flows.ContinuousFlow(curved, solver="rk4").inverse(x)[1]
    noisy = flows.ContinuousFlow(curved, flows.Hutchinson(gaussian=gaussian), solver="rk4")
    estimates = noisy.inverse(x.expand(4000, 2), generator=generator)[1]
    error = estimates.std() / math.sqrt(len(estimates))
    assert estimates.std() > 0.05
    assert (estimates.mean() - exact).abs().item() < 4 * error.item()


def test_random_signs_are_exact_for_a_diagonal_jacobian(generator: torch.Generator) -> None:
    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return torch.sin(x)

    exact, noisy = (
        flows.ContinuousFlow(velocity, trace, solver="rk4").inverse(points(), generator=generator)[1]
        for trace in (flows.Hutchinson(), flows.Hutchinson(count=3))
    )
    torch.testing.assert_close(exact, flows.ContinuousFlow(velocity, solver="rk4").inverse(points())[1])
    torch.testing.assert_close(noisy, exact)


def test_more_probes_mean_less_noise(generator: torch.Generator) -> None:
    one, many = (
        flows.ContinuousFlow(curved, flows.Hutchinson(count=k), solver="rk4", steps=5)
        .inverse(points(1).expand(2000, 2), generator=generator)[1]
        .var()
        for k in (1, 8)
    )
    assert 5 < (one / many).item() < 12


def test_a_probe_is_kept_for_the_whole_solve_and_fixed_by_the_generator() -> None:
    """Were it drawn at every call, an adaptive solver would see noise and need hundreds of evaluations."""
    calls = 0

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return curved(x, t)

    flow = flows.Flow([flows.ContinuousFlow(velocity, flows.Hutchinson(), rtol=1e-6, atol=1e-6)], [2]).double()
    first, second = (flow.log_prob(points(), generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert calls < 300
    assert not torch.equal(first, flow.log_prob(points(), generator=torch.Generator().manual_seed(2)))


def test_path_passes_through_the_ends() -> None:
    layer = flows.ContinuousFlow(linear, solver="rk4", steps=50)
    path = layer.path(points(), torch.linspace(0, 1, 5))
    assert path.shape == (5, 6, 2)
    assert torch.equal(path[0], points())
    torch.testing.assert_close(path[-1], layer.inverse(points())[0], rtol=1e-8, atol=1e-8)
    back = layer.path(path[-1], torch.linspace(1, 0, 5))
    torch.testing.assert_close(back[2], path[2], rtol=1e-5, atol=1e-5)


def test_velocity_without_space_keeps_volume() -> None:
    layer = flows.ContinuousFlow(lambda x, t: torch.ones_like(x), solver="rk4", steps=2)
    z, log_det = layer.inverse(points())
    torch.testing.assert_close(z, points() + 1)
    assert torch.equal(log_det, torch.zeros(6).double())


@pytest.mark.parametrize("bad", [{"start": 1.0}, {"steps": 0}])
def test_impossible_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        flows.ContinuousFlow(linear, **bad)
