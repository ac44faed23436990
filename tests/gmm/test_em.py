"""Laws of EM: against scikit-learn from the same start, against itself in chunks and batches, and what never falls."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Theirs
from torch import Tensor

from coursekit.data import load_animals
from coursekit.diffusion import fit
from coursekit.gmm import (
    Diagonal,
    Full,
    GaussianMixture,
    KMeansPlusPlus,
    LowRank,
    Prior,
    RandomPoints,
    Spherical,
    Tied,
    TrainableMixture,
)

STRUCTURES = {"full": Full, "tied": Tied, "diag": Diagonal, "spherical": Spherical}
ALL = {**STRUCTURES, "low rank": LowRank.of_rank(2)}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def heaps(N: int = 600, K: int = 3, D: int = 4, seed: int = 0, distance: float = 2.0) -> Tensor:
    """Points (N, D) float64 around K centres, correlated within a heap."""
    generator = seeded(seed)
    centres = distance * torch.randn(K, D, generator=generator, dtype=torch.float64)
    roots = torch.randn(K, D, D, generator=generator, dtype=torch.float64) / D**0.5
    k = torch.randint(K, (N,), generator=generator)
    noise = torch.randn(N, D, generator=generator, dtype=torch.float64)
    return (
        centres[k] + torch.einsum("nij,nj->ni", roots[k], noise) + 0.3 * torch.randn(noise.shape, generator=generator)
    )


def start_for(x: Tensor, K: int, covariance: Any, seed: int = 1) -> GaussianMixture:
    first = covariance.start if isinstance(covariance, type) else covariance
    return GaussianMixture(torch.ones(K, dtype=x.dtype), RandomPoints()(x, K, seeded(seed)), first(x - x.mean(0), K))


def of_sklearn(kind: str, x: Tensor, start: GaussianMixture, steps: int, floor: float) -> Theirs:
    precisions = torch.linalg.inv(start.structure.value) if kind in ("full", "tied") else 1 / start.structure.value
    model = Theirs(
        len(start.means),
        covariance_type=kind,
        max_iter=steps,
        tol=0,
        reg_covar=floor,
        weights_init=start.weights.numpy(),
        means_init=start.means.numpy(),
        precisions_init=precisions.numpy(),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x.numpy())


@pytest.mark.parametrize("kind", STRUCTURES)
@pytest.mark.parametrize("floor", [0.0, 1e-3])
def test_parameters_and_likelihood_equal_those_of_scikit_learn(kind: str, floor: float) -> None:
    x = heaps()
    start = start_for(x, 3, STRUCTURES[kind])
    theirs = of_sklearn(kind, x, start, 20, floor)
    ours, history = GaussianMixture.fit(x, 3, start=start, steps=20, tol=0, floor=floor)
    np.testing.assert_allclose(ours.weights, theirs.weights_, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ours.means, theirs.means_, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ours.structure.value, theirs.covariances_, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ours.log_prob(x), theirs.score_samples(x.numpy()), rtol=1e-6, atol=1e-6)
    assert history.log_likelihood[-1] == pytest.approx(theirs.score(x.numpy()), abs=1e-6)
    assert history.steps == 20
    assert (ours.bic(x), ours.aic(x)) == pytest.approx((theirs.bic(x.numpy()), theirs.aic(x.numpy())), rel=1e-9)


@pytest.mark.parametrize("kind", ALL)
def test_chunks_change_nothing(kind: str) -> None:
    x = heaps()
    start = start_for(x, 3, ALL[kind])
    found = [GaussianMixture.fit(x, 3, start=start, steps=5, tol=0, chunk=chunk)[0] for chunk in (None, 7, len(x))]
    for other in found[1:]:
        torch.testing.assert_close(other.means, found[0].means, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(other.covariances, found[0].covariances, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("strength", [0.0, 30.0])
@settings(max_examples=6, deadline=None)
@given(N=st.integers(200, 400), K=st.integers(1, 3), D=st.integers(3, 5), seed=st.integers(0, 1000))
def test_the_objective_never_falls(kind: str, strength: float, N: int, K: int, D: int, seed: int) -> None:
    """The log-likelihood for ML, with the prior for MAP; without a floor, which EM does not know, on many points."""
    x = heaps(N, K, D, seed, distance=1.0)
    prior = Prior(concentration=1 + strength / 10, strength=strength, scale=0.5)
    start = KMeansPlusPlus(rounds=2)
    _, history = GaussianMixture.fit(
        x, K, ALL[kind], start=start, steps=20, tol=0, floor=0.0, prior=prior, generator=seeded(seed)
    )
    assert np.diff(history.objective).min(initial=0) >= -1e-9
    if not strength:
        assert history.objective == history.log_likelihood


def test_one_component_with_a_prior_has_a_closed_form() -> None:
    """The mode of the inverse-Wishart posterior: (scatter + strength diag(scale)) / (N + strength)."""
    x, scale = heaps(), torch.tensor([0.1, 1.0, 2.0, 5.0], dtype=torch.float64)
    centred = x - x.mean(0)
    scatter = centred.T @ centred
    mode = (scatter + 50 * torch.diag(scale)) / (len(x) + 50)
    for covariance, expected in (
        (Full, mode),
        (Tied, mode),
        (Diagonal, torch.diag(mode.diagonal())),
        (Spherical, mode.trace() / 4 * torch.eye(4)),
    ):
        prior = Prior(strength=50.0, scale=scale)
        mixture, _ = GaussianMixture.fit(x, 1, covariance, floor=0.0, prior=prior, steps=3, tol=0)
        torch.testing.assert_close(mixture.means[0], x.mean(0))
        torch.testing.assert_close(mixture.covariances[0], expected.double())


def test_a_dirichlet_prior_evens_the_weights_out() -> None:
    x = heaps()
    start = start_for(x, 3, Full)
    even, _ = GaussianMixture.fit(x, 3, start=start, prior=Prior(concentration=1e6), steps=30)
    torch.testing.assert_close(even.weights, torch.full((3,), 1 / 3).double(), rtol=0, atol=1e-3)


def test_a_factor_analyser_reaches_the_optimum_of_the_likelihood() -> None:
    """At EM's fixed point the gradient vanishes; more factors explain more, a full matrix the most."""
    axes = torch.randn(6, 2, generator=seeded(), dtype=torch.float64)
    z, noise = torch.randn(500, 8, generator=seeded(1), dtype=torch.float64).split([2, 6], dim=1)
    x, found = z @ axes.T + noise, {}
    for covariance in (LowRank.of_rank(1), LowRank.of_rank(2), Full):
        found[covariance], history = GaussianMixture.fit(x, 1, covariance, steps=500, tol=1e-9, floor=0.0)
        assert history.converged
        trainable = TrainableMixture(found[covariance])
        trainable.loss(x).backward()
        assert max(float(parameter.grad.abs().max()) for parameter in trainable.parameters()) < 1e-3
    one, two, full = (float(mixture.log_prob(x).mean()) for mixture in found.values())
    assert one + 0.1 < two < full < two + 0.05


@pytest.mark.parametrize("kind", ALL)
def test_gradient_descent_finds_the_optimum_of_em(kind: str) -> None:
    x = heaps(300, 2, 3, distance=3.0)
    best, history = GaussianMixture.fit(x, 2, ALL[kind], steps=500, tol=1e-9, floor=0.0, generator=seeded())
    away = TrainableMixture(best)
    with torch.no_grad():
        for parameter in away.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=seeded(1))
    assert float(-away.loss(x).detach()) < history.log_likelihood[-1] - 0.01
    fit(away, x, steps=150, batch_size=300, lr=0.03, weight_decay=0.0, progress=False)
    assert float(away.mixture().log_prob(x).mean()) == pytest.approx(history.log_likelihood[-1], abs=2e-3)


@pytest.mark.parametrize("kind", ALL)
def test_batches_come_near_to_all_points_at_once(kind: str) -> None:
    x = heaps(4000, 3, 3, distance=4.0)
    start, _ = GaussianMixture.fit(x, 3, ALL[kind], steps=0, generator=seeded())
    _, history = GaussianMixture.fit(x, 3, start=start, steps=60)
    stepwise, passes = GaussianMixture.fit(x, 3, start=start, steps=8, tol=0, batch_size=500, generator=seeded())
    assert float(stepwise.log_prob(x).mean()) == pytest.approx(history.log_likelihood[-1], abs=0.02)
    assert len(passes.log_likelihood) == 8


def test_batches_come_from_arrays_on_disk_and_from_iterables(tmp_path: Path) -> None:
    x = heaps(2000, 3, 3, distance=4.0)
    on_disk = np.memmap(tmp_path / "points.bin", np.float64, "w+", shape=(2000, 3))
    on_disk[:] = x.numpy()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=250)
    whole, _ = GaussianMixture.fit(x, 3, generator=seeded())
    for source, size in ((on_disk, 250), (loader, None), (list(x.split(250)), None)):
        mixture, _ = GaussianMixture.fit(source, 3, steps=5, batch_size=size, generator=seeded())
        assert float(mixture.log_prob(x).mean()) == pytest.approx(float(whole.log_prob(x).mean()), abs=0.03)


@pytest.mark.parametrize("covariance", [Full, Tied, Diagonal])
def test_the_average_over_batches_has_a_closed_form(covariance: Any) -> None:
    """For one component: the moments of two batches, the second with the share 3^(-0.7)."""
    first, second = heaps(100, 1, 3), heaps(100, 1, 3, seed=1) + 5
    mixture, _ = GaussianMixture.fit([first, second], 1, covariance, steps=1, floor=0.0)
    share = 3**-0.7
    mean = torch.lerp(first.mean(0), second.mean(0), share)
    square = torch.lerp(first.T @ first / 100, second.T @ second / 100, share) - torch.outer(mean, mean)
    torch.testing.assert_close(mixture.means[0], mean)
    expected = torch.diag(square.diagonal()) if covariance is Diagonal else square
    torch.testing.assert_close(mixture.covariances[0], expected)


def test_a_batch_as_large_as_the_data_is_em() -> None:
    """With a share of 1 the first stepwise update is an M-step on all points."""
    x = heaps()
    start = start_for(x, 3, Full)
    batch, _ = GaussianMixture.fit(x, 3, start=start, steps=1, batch_size=len(x))
    whole, _ = GaussianMixture.fit(x, 3, start=start, steps=1)
    torch.testing.assert_close(batch.covariances, whole.covariances)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_component_on_one_point_is_reported_and_stays_finite(kind: str, dtype: torch.dtype) -> None:
    """Twenty copies of a far point draw a component onto them, where the likelihood has no bound."""
    x = torch.cat([heaps(100, 1, 3), torch.full((20, 3), 30.0, dtype=torch.float64)]).to(dtype)
    start = GaussianMixture(torch.ones(2).to(x), torch.stack([x[0], x[-1]]), start_for(x, 2, ALL[kind]).structure)
    if kind == "tied":  # the shared matrix cannot collapse
        assert GaussianMixture.fit(x, 2, start=start)[1].collapsed == ()
        return
    with pytest.warns(RuntimeWarning, match=r"components \[1\] collapsed"):
        mixture, history = GaussianMixture.fit(x, 2, start=start)
    assert history.collapsed == (1,)
    assert bool(torch.isfinite(mixture.log_prob(x)).all() & torch.isfinite(mixture.covariances).all())
    _, silent = GaussianMixture.fit(x, 2, start=start, floor=0.01)
    assert silent.collapsed == (1,)
    prior = Prior(strength=5.0, scale=0.5)
    assert GaussianMixture.fit(x, 2, start=start, prior=prior)[1].collapsed == ()
    without, _ = GaussianMixture.fit(x, 2, start=start, floor=0.0, steps=30)
    assert bool(torch.isfinite(without.log_prob(x)).all())


def test_a_component_without_points_is_reported_and_stays_finite() -> None:
    x = heaps(200, 1, 2)
    for kind in ALL:
        structure = start_for(x, 2, ALL[kind]).structure
        start = GaussianMixture(torch.ones(2).double(), torch.stack([x.mean(0), x.mean(0) + 1e4]), structure)
        with pytest.warns(RuntimeWarning, match="lost all"):
            mixture, history = GaussianMixture.fit(x, 2, start=start)
        assert history.collapsed == (1,)
        assert bool(torch.isfinite(mixture.log_prob(x)).all())


def test_as_many_components_as_points() -> None:
    x = heaps(6, 2, 2)
    with pytest.warns(RuntimeWarning, match="collapsed"):
        mixture, _ = GaussianMixture.fit(x, 6, generator=seeded())
    assert bool(torch.isfinite(mixture.log_prob(x)).all())


def test_restarts_keep_the_best_run_and_seeds_repeat_it() -> None:
    x = heaps(300, 5, 2, distance=5.0)
    runs = [
        GaussianMixture.fit(x, 5, start=RandomPoints(), generator=seeded(seed))[1].objective[-1] for seed in (0, 0, 1)
    ]
    assert runs[0] == runs[1] != runs[2]
    several = GaussianMixture.fit(x, 5, start=RandomPoints(), restarts=5, generator=seeded(0))[1].objective[-1]
    assert several >= runs[0]


def test_the_history_belongs_to_the_mixture_that_is_returned() -> None:
    x = heaps()
    mixture, history = GaussianMixture.fit(x, 3, generator=seeded())
    assert history.converged
    assert history.log_likelihood[-1] == pytest.approx(-float(mixture.loss(x)), abs=1e-12)
    _, history = GaussianMixture.fit(x, 3, steps=0, generator=seeded())
    assert (history.steps, history.converged) == (0, False)


@pytest.mark.parametrize("kind", ALL)
def test_float32_far_from_the_origin_finds_what_float64_finds(kind: str) -> None:
    x = heaps(distance=4.0) + 100.0
    start = start_for(x, 3, ALL[kind])
    _, history = GaussianMixture.fit(x, 3, start=start, steps=20, tol=0)
    single, approximate = GaussianMixture.fit(x.float(), 3, start=start, steps=20, tol=0)
    assert single.means.dtype == single.covariances.dtype == torch.float32
    assert approximate.log_likelihood[-1] == pytest.approx(history.log_likelihood[-1], rel=1e-4)


def test_animals_fit_without_pca() -> None:
    images, _, _ = load_animals("train", classes=("bird", "horse"))
    x = images.flatten(1)[:400]
    mixture, history = GaussianMixture.fit(x, 2, LowRank.of_rank(4), floor=1e-2, steps=10, tol=0, generator=seeded())
    _, flat = GaussianMixture.fit(x, 2, Diagonal, floor=1e-2, steps=10, tol=0, generator=seeded())
    assert np.diff(history.log_likelihood).min() > -1e-3
    assert history.log_likelihood[-1] > flat.log_likelihood[-1] + 50
    seen = torch.arange(784) % 28 < 14
    filled = mixture.conditional_mean(x, seen)
    mean = x.clone()
    mean[:, ~seen] = x[:, ~seen].mean(0)
    assert float((filled - x).square().mean()) < 0.9 * float((mean - x).square().mean())


def test_starts_choose_different_points() -> None:
    x = torch.cat([torch.zeros(50, 2), torch.full((50, 2), 9.0), torch.tensor([[0.0, 9.0]]).repeat(50, 1)])
    for seed in range(10):
        means = KMeansPlusPlus()(x, 3, seeded(seed))
        assert sorted(means.tolist()) == [[0.0, 0.0], [0.0, 9.0], [9.0, 9.0]]
        assert len(RandomPoints()(heaps(20), 20, seeded(seed)).unique(dim=0)) == 20
    with pytest.raises(ValueError, match="K must be at most the number of different points in x, 3, got 4"):
        KMeansPlusPlus()(x, 4, seeded())


SINGULAR = torch.cat([heaps(50, 1, 2), torch.ones(50, 1).double()], dim=1)
IN_A_PLANE = torch.cat([heaps(50, 1, 2), heaps(50, 1, 2).sum(1, keepdim=True)], dim=1)


@pytest.mark.parametrize(
    ("x", "K", "settings", "message"),
    [
        (heaps(5), 6, {}, "K must be at most the number of points, 5, got 6"),
        (heaps(5), 6, {"batch_size": 5}, "K must be at most the number of points, 5, got 6"),
        (heaps(5), 0, {}, "K must be a positive integer, got 0"),
        (heaps(5)[0], 1, {}, r"x must have shape \(N, D\), got \(4,\)"),
        (torch.zeros(0, 2), 1, {}, r"x must have shape \(N, D\), got \(0, 2\)"),
        (heaps(5).log(), 1, {}, "x must be finite"),
        (SINGULAR, 1, {}, "x is singular: 1 of its 3 dimensions are constant"),
        (SINGULAR, 1, {"covariance": Diagonal}, "x is singular"),
        (SINGULAR, 1, {"covariance": LowRank.of_rank(1)}, "x is singular"),
        (IN_A_PLANE, 1, {"floor": 0.0}, "x is singular: 0 of its 3"),
        (torch.ones(9, 2), 1, {"covariance": Spherical}, "x is singular: 2 of its 2"),
        (heaps(9), 1, {"covariance": LowRank.of_rank(5)}, "rank must be at most"),
        (
            heaps(9),
            2,
            {"start": start_for(heaps(9), 3, Full)},
            r"start must have means of shape \(2, 4\), got \(3, 4\)",
        ),
        (heaps(9), 2, {"floor": -1.0}, "floor must be at least 0 and finite, got -1.0"),
        (heaps(9), 2, {"tol": np.nan}, "tol must be"),
        (heaps(9), 2, {"steps": -1}, "steps must be an integer, at least 0, got -1"),
        (heaps(9), 2, {"chunk": 0}, "chunk must be a positive integer, got 0"),
        (heaps(9), 2, {"restarts": 0}, "restarts must be a positive integer, got 0"),
        (heaps(9), 2, {"batch_size": 5, "steps": 0}, "steps must be at least 1 where the data come in batches"),
        (heaps(9), 2, {"batch_size": 0}, "batch_size must be a positive integer, got 0"),
    ],
)
def test_bad_input_is_refused(x: Tensor, K: int, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianMixture.fit(x, K, **settings)


def test_singular_data_are_accepted_with_a_floor_or_a_prior() -> None:
    for settings_ in ({"floor": 1e-3}, {"prior": Prior(strength=2.0)}, {"covariance": Spherical}):
        mixture, _ = GaussianMixture.fit(SINGULAR, 2, **settings_, generator=seeded())
        assert bool(torch.isfinite(mixture.log_prob(SINGULAR)).all())
    assert GaussianMixture.fit(IN_A_PLANE, 2, Diagonal, generator=seeded())[1].collapsed == ()


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match=r"x must be float32 or float64, got torch.int64"):
        GaussianMixture.fit(torch.ones(5, 2, dtype=torch.long), 1)
    with pytest.raises(TypeError, match="x must be an array, or batches that can be gone through again, got generator"):
        GaussianMixture.fit((part for part in heaps(50).split(10)), 1)


@pytest.mark.parametrize(("name", "value"), [("concentration", 0.5), ("strength", -1.0), ("scale", 0.0)])
def test_bad_priors_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        Prior(**{name: value})
