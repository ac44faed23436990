"""Laws of inverse problems: operators, the solver, estimates against exact posteriors, replacement."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from coursekit.diffusion import SCHEDULES, Cosine, Denoiser, ExactDenoiser, Rectified, sample
from coursekit.diffusion.grids import Path, time_grid
from coursekit.diffusion.guidance import ClassifierFree
from coursekit.diffusion.inverse import (
    DPS,
    AveragePool,
    Blur,
    LinearOperator,
    Mask,
    Matrix,
    MomentMatching,
    PiGDM,
    Projected,
    Replacement,
    conjugate_residuals,
    exact_posterior,
)
from coursekit.gmm import GaussianMixture

TIMES = torch.tensor([0.01, 0.1, 0.3, 0.5, 0.7, 0.85], dtype=torch.float64)
SHAPE = (3, 2, 6, 4)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masked() -> Mask:
    return Mask(normal(*SHAPE[1:], seed=3) > 0.3)


OPERATORS: dict[str, tuple[LinearOperator, tuple[int, ...]]] = {
    "mask": (masked(), SHAPE),
    "pool": (AveragePool(2), SHAPE),
    "blur": (Blur(normal(3, 2, seed=1), SHAPE[2:]), SHAPE),
    "blur, odd picture": (Blur(normal(2, 5, seed=1), (5, 7)), (3, 1, 5, 7)),
    "blur that loses frequencies": (Blur(torch.full((2, 4), 0.125, dtype=torch.float64), SHAPE[2:]), SHAPE),
    "gaussian blur": (Blur.gaussian(1.0, SHAPE[2:]).double(), SHAPE),
    "matrix": (Matrix(normal(2, 5, seed=2)), (3, 5)),
    "matrix of low rank": (Matrix(normal(4, 1, seed=2) * normal(1, 5, seed=3)), (3, 5)),
}


def prior(K: int, D: int = 3) -> GaussianMixture:
    root = normal(K, D, D, seed=5) / 2
    return GaussianMixture(torch.ones(K).double(), normal(K, D, seed=6), root @ root.mT + 0.05 * torch.eye(D).double())


def noisy(schedule: object, D: int = 3) -> Tensor:
    x, eps = normal(2, len(TIMES), D)
    return schedule.alpha(TIMES)[:, None] * x + schedule.sigma(TIMES)[:, None] * eps


# --- operators ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(OPERATORS))
@given(st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_operators_are_linear_and_know_their_adjoint(name: str, seed: int) -> None:
    A, shape = OPERATORS[name]
    x, z = normal(2, *shape, seed=seed)
    b = normal(*A(x).shape, seed=seed + 1)
    torch.testing.assert_close(A(2 * x - 3 * z), 2 * A(x) - 3 * A(z))
    inner = [(u * v).flatten(1).sum(1) for u, v in ((A(x), b), (x, A.adjoint(b)))]
    torch.testing.assert_close(inner[0], inner[1])
    assert A.adjoint(b).shape == x.shape
    alone = torch.cat([A(x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(A(x), alone)


@pytest.mark.parametrize("name", list(OPERATORS))
def test_pseudo_inverse_is_moores_and_penroses(name: str) -> None:
    """A A+ A = A, A+ A A+ = A+, and both products symmetric: these four have one solution."""
    A, shape = OPERATORS[name]
    x, z = normal(2, *shape)
    b, c = normal(2, *A(x).shape, seed=1)
    plus = A.pseudo_inverse
    torch.testing.assert_close(A(plus(A(x))), A(x))
    torch.testing.assert_close(plus(A(plus(b))), plus(b))
    torch.testing.assert_close((A(plus(b)) * c).sum(), (b * A(plus(c))).sum())
    torch.testing.assert_close((plus(A(x)) * z).sum(), (x * plus(A(z))).sum())


def test_blur_is_the_tiled_convolution() -> None:
    kernel, x = normal(3, 2, seed=1), normal(1, 1, 6, 4)
    wanted = sum(
        float(kernel[i, j]) * torch.roll(x, (i - 1, j - 1), (2, 3)) for i in range(3) for j in range(2)
    )  # its middle is at (1, 1)
    torch.testing.assert_close(Blur(kernel, (6, 4))(x), wanted)
    gaussian = Blur.gaussian(1.5, (28, 28))
    spot = torch.zeros(1, 1, 28, 28)
    spot[0, 0, 14, 14] = 1.0
    row = gaussian(spot)[0, 0].sum(0)
    place = torch.arange(28.0) - 14
    assert row.sum().item() == pytest.approx(1)
    assert (row * place).sum().item() == pytest.approx(0, abs=1e-3)
    assert (row * place**2).sum().sqrt().item() == pytest.approx(1.5, rel=0.05)


def test_measuring_adds_noise_of_the_given_deviation() -> None:
    A, x = Matrix(torch.ones(1, 2)), torch.ones(50_000, 2)
    noise = A.measure(x, 0.3, torch.Generator().manual_seed(0)) - 2
    assert noise.std().item() == pytest.approx(0.3, rel=0.02)
    assert torch.equal(A.measure(x), A(x))


# --- the solver -----------------------------------------------------------------------------------------


@given(st.integers(0, 1000), st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_residuals_are_the_smallest_in_the_krylov_space(seed: int, iterations: int) -> None:
    """Against least squares in the span of b, M b, ..., for symmetric positive M."""
    root, b = normal(2, 6, 6, seed=seed), normal(2, 6, seed=seed + 1)
    M = root @ root.mT + 0.1 * torch.eye(6).double()
    v = conjugate_residuals(lambda u: torch.einsum("nij,nj->ni", M, u), b, iterations)
    for i in range(2):
        krylov = np.stack([np.linalg.matrix_power(M[i].numpy(), k) @ b[i].numpy() for k in range(iterations)], axis=1)
        basis, _ = np.linalg.qr(krylov)
        best = np.linalg.lstsq(M[i].numpy() @ basis, b[i].numpy(), rcond=None)[0]
        found, wanted = (np.linalg.norm(b[i].numpy() - M[i].numpy() @ u) for u in (v[i].numpy(), basis @ best))
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-7)


@given(st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_residuals_never_grow_whatever_the_matrix(seed: int) -> None:
    """Neither symmetric nor positive, singular, or zero: what a network's Jacobian can be."""
    M, b = normal(4, 5, 5, seed=seed), normal(4, 5, seed=seed + 1)
    M[1] = M[1] - M[1].mT
    M[2, :, 2:] = 0
    M[3] = 0
    before = b.norm(dim=1)
    for iterations in range(1, 8):
        v = conjugate_residuals(lambda u: torch.einsum("nij,nj->ni", M, u), b, iterations)
        assert bool(torch.isfinite(v).all())
        after = (b - torch.einsum("nij,nj->ni", M, v)).norm(dim=1)
        assert bool((after <= before * (1 + 1e-9) + 1e-9).all())
        before = after
    assert torch.equal(v[3], torch.zeros(5, dtype=torch.float64))


# --- the exact posterior --------------------------------------------------------------------------------


def test_exact_posterior_is_the_conditional_of_seen_coordinates() -> None:
    """With hardly any noise, and against Bayes' rule at points: p(x) p(b | x) / p(x | b) is one number, p(b)."""
    mixture, seen = prior(4), torch.tensor([0.4, -0.2], dtype=torch.float64)
    posterior = exact_posterior(mixture, torch.eye(3)[:2].double(), seen, 1e-4)
    conditional = mixture.conditional([0, 1], seen)
    torch.testing.assert_close(posterior.weights, conditional.weights, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(posterior.means[:, 2:], conditional.means, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(posterior.covariances[:, 2:, 2:], conditional.covariances, rtol=1e-4, atol=1e-6)
    A, x = normal(2, 3, seed=8), normal(20, 3, seed=9)
    posterior = exact_posterior(mixture, A, seen, 0.4)
    likelihood = stats.norm.logpdf(seen.numpy(), (x @ A.T).numpy(), 0.4).sum(1)
    evidence = mixture.log_prob(x).numpy() + likelihood - posterior.log_prob(x).numpy()
    np.testing.assert_allclose(evidence, evidence[0])
    parts = (stats.multivariate_normal.pdf(seen, A @ m, A @ C @ A.T + 0.16 * np.eye(2)) for m, C in
             zip(mixture.means, mixture.covariances, strict=True))  # fmt: skip
    assert evidence[0] == pytest.approx(math.log(sum(parts) / 4))


# --- estimates ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("deviation", [0.3, 1e-3])
def test_moment_matching_is_exact_for_gaussian_data(name: str, deviation: float) -> None:
    """On every schedule, once the solver has had as many iterations as b has values."""
    schedule, A, b = SCHEDULES[name](), normal(2, 3, seed=8), normal(2, seed=9)
    found = MomentMatching(ExactDenoiser(prior(1), schedule), Matrix(A), b[None], deviation, iterations=2)
    x_t = noisy(schedule)
    wanted = ExactDenoiser(exact_posterior(prior(1), A, b, deviation), schedule)(x_t, TIMES)
    torch.testing.assert_close(found(x_t, TIMES), wanted, rtol=1e-5, atol=1e-6)


def test_moment_matching_without_noise_fits_the_observation() -> None:
    A, b = normal(2, 3, seed=8), normal(6, 2, seed=9)
    found = MomentMatching(ExactDenoiser(prior(4), Cosine()), Matrix(A), b, iterations=2)(noisy(Cosine()), TIMES)
    torch.testing.assert_close(found @ A.T, b)


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_moment_matching_has_its_limit_at_pure_noise(name: str) -> None:
    """V = (sigma^2 / alpha) dD/dx is infinity times zero there; the answer is E[x_0 | b] to the order of the floor."""
    schedule, t = SCHEDULES[name](), torch.ones(6, dtype=torch.float64)
    A, b = normal(2, 3, seed=8), normal(2, seed=9)
    found = MomentMatching(ExactDenoiser(prior(1), schedule), Matrix(A), b[None], 0.3, iterations=2)
    x_t = float(schedule.sigma(1.0)) * normal(6, 3)
    wanted = ExactDenoiser(exact_posterior(prior(1), A, b, 0.3), schedule)(x_t, t)
    assert float((found(x_t, t) - wanted).abs().max()) < 0.03


def test_isotropic_gain_is_moment_matching_for_isotropic_data() -> None:
    """N(0, d^2 I): the covariance that PiGDM assumes is the one that the denoiser has."""
    d, A, b = 1.3, normal(2, 4, seed=8), normal(6, 2, seed=9)
    data = GaussianMixture(torch.ones(1).double(), torch.zeros(1, 4).double(), d**2 * torch.eye(4).double()[None])
    exact = ExactDenoiser(data, Cosine())
    x_t = noisy(Cosine(), 4)
    found = PiGDM(exact, Matrix(A), b, 0.2, sigma_data=d)(x_t, TIMES)
    torch.testing.assert_close(found, MomentMatching(exact, Matrix(A), b, 0.2, iterations=2)(x_t, TIMES))


@pytest.mark.parametrize("name", ["mask", "pool", "matrix", "blur that loses frequencies"])
def test_projection_shows_what_was_seen_and_leaves_the_rest(name: str) -> None:
    A, shape = OPERATORS[name]
    inner = Denoiser(lambda x, t: torch.tanh(x), Rectified(), "x0")
    x_t, b = normal(*shape), A(normal(*shape, seed=1))
    t = torch.tensor(0.4)
    found, estimate = Projected(inner, A, b)(x_t, t), inner(x_t, t)
    torch.testing.assert_close(A(found), b)
    rest = (x - A.pseudo_inverse(A(x)) for x in (found, estimate))
    torch.testing.assert_close(*rest)


@pytest.mark.parametrize("name", ["cosine", "edm", "rectified"])
def test_dps_steps_down_the_distance(name: str) -> None:
    """D - zeta sigma sqrt(M) grad |b - A D(x_t)|, the gradient by differences of the distance."""
    schedule, A, b = SCHEDULES[name](), normal(2, 3, seed=8), normal(6, 2, seed=9)
    exact, x_t = ExactDenoiser(prior(4), schedule), noisy(schedule)
    step = 1e-5 * schedule.sigma(TIMES)[:, None]
    gradient = torch.zeros_like(x_t)
    for i in range(3):
        shift = step * torch.eye(3)[i].double()
        ends = [(b - exact(x_t + s * shift, TIMES) @ A.T).norm(dim=1) for s in (1, -1)]
        gradient[:, i] = (ends[0] - ends[1]) / (2 * step[:, 0])
    wanted = exact(x_t, TIMES) - 0.7 * schedule.sigma(TIMES)[:, None] * math.sqrt(2) * gradient
    torch.testing.assert_close(DPS(exact, Matrix(A), b, 0.7)(x_t, TIMES), wanted, rtol=1e-4, atol=1e-5)


def test_zeta_is_the_papers_in_a_ddim_step() -> None:
    """x moves by -zeta' grad |r|^2 / |r| with zeta' = zeta pi sqrt(M) / (4 N) for N equal angles."""
    N, zeta, A, b = 1000, 1.5, normal(2, 3, seed=8), normal(1, 2, seed=9)
    exact, path = ExactDenoiser(prior(4), Cosine()), Path.along(Cosine(), time_grid(Cosine(), N, "angle"))
    i, x = 600, normal(1, 3).requires_grad_()
    t = torch.tensor(path.times[i], dtype=torch.float64)
    distance = (b - exact(x, t) @ A.T).norm()
    (gradient,) = torch.autograd.grad(distance**2, x)
    moved = (DPS(exact, Matrix(A), b, zeta)(x, t) - exact(x, t)) * (
        path.alpha[i + 1] - path.alpha[i] * path.sigma[i + 1] / path.sigma[i]
    )
    paper = zeta * math.pi * math.sqrt(2) / (4 * N)
    torch.testing.assert_close(moved, -paper * gradient / distance, rtol=3e-3, atol=1e-9)


def test_a_zero_residual_moves_nothing() -> None:
    """Division by the norm of the residual, where there is none."""
    exact, A, x_t = ExactDenoiser(prior(4), Cosine()), Matrix(normal(2, 3, seed=8)), noisy(Cosine())
    estimate = exact(x_t, TIMES)
    for method in (DPS, MomentMatching, PiGDM):
        torch.testing.assert_close(method(exact, A, A(estimate))(x_t, TIMES), estimate)


class Picture(nn.Module):
    """A network of random weights that mixes all pixels and the label, with a Jacobian of no symmetry."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix, self.label = nn.Linear(48, 48), nn.Embedding(4, 48)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        h = self.mix(x.flatten(1)) + self.label(y) + t[:, None]
        return torch.tanh(h).view(x.shape)


METHODS: dict[str, Callable[..., nn.Module]] = {
    "projected": Projected,
    "dps": DPS,
    "pigdm": PiGDM,
    "moments": MomentMatching,
}


@pytest.mark.parametrize("name", list(METHODS))
def test_a_sample_does_not_depend_on_its_batch_mates(name: str) -> None:
    """Norms and inner products are taken sample by sample, whatever a mate's residual."""
    A, inner = masked(), Denoiser(Picture().double(), Rectified(), "velocity", num_classes=3)
    x, y, t = normal(*SHAPE), torch.arange(3), torch.tensor([0.2, 0.6, 1.0], dtype=torch.float64)
    b = A(normal(*SHAPE, seed=1)) * torch.tensor([[1.0], [100.0], [0.01]]).double()
    guided = ClassifierFree(inner, 2.0)
    together = METHODS[name](guided, A, b)(x, t, y)
    alone = [METHODS[name](guided, A, b[i : i + 1])(x[i : i + 1], t[i : i + 1], y[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))
    assert not together.requires_grad or name == "projected"
    for_all = METHODS[name](guided, A, b[:1])(x, t, y)  # one observation for every sample
    torch.testing.assert_close(for_all, METHODS[name](guided, A, b[:1].expand(3, -1))(x, t, y))


@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize("sampler", ["heun", "ddpm"])
def test_estimates_serve_every_sampler_and_leave_the_weights_alone(name: str, sampler: str) -> None:
    A, inner = masked(), Denoiser(Picture(), Rectified(), "velocity", num_classes=3)
    b, y = A(normal(*SHAPE, seed=1)).float(), torch.arange(3)
    drawn = sample(METHODS[name](inner, A, b), SHAPE, sampler, 4, y, generator=torch.Generator().manual_seed(0))
    assert drawn.dtype == torch.float32
    assert bool(torch.isfinite(drawn).all())
    assert all(p.grad is None for p in inner.parameters())


def test_order_of_bias_on_a_gaussian() -> None:
    """Draws against the exact posterior: moment matching within sampling error, projection and weak DPS far off."""
    A, b, n = normal(1, 3, seed=8), normal(1, seed=9), 4000
    posterior, exact = exact_posterior(prior(1), A, b, 0.3), ExactDenoiser(prior(1), Cosine())
    root = torch.linalg.cholesky(posterior.covariances[0])
    p = {}
    for name, denoiser in {
        "moments": MomentMatching(exact, Matrix(A), b[None], 0.3, iterations=1),
        "projected": Projected(exact, Matrix(A), b[None]),
        "dps": DPS(exact, Matrix(A), b[None], 0.1),
    }.items():
        x_T = normal(n, 3, seed=11)
        drawn = sample(denoiser, (n, 3), "heun", 40, x_T=x_T, grid="angle") - posterior.means[0]
        white = torch.linalg.solve_triangular(root, drawn.T, upper=False)
        p[name] = stats.kstest(white.square().sum(0).numpy(), stats.chi2(3).cdf).pvalue
    assert p["moments"] > 0.01
    assert p["projected"] < 1e-6
    assert p["dps"] < 1e-6


# --- replacement ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["ddpm", "heun", "euler"])
@pytest.mark.parametrize(("repeats", "jump"), [(1, 1), (3, 1), (2, 4)])
def test_replacement_ends_on_the_observation(sampler: str, repeats: int, jump: int) -> None:
    A = masked()
    b, inner = A(normal(*SHAPE, seed=1)), Denoiser(Picture().double(), Rectified(), "velocity", num_classes=3)
    half = Replacement(A, b, sampler, repeats, jump)
    states = sample(inner, SHAPE, half, 10, x_T=normal(*SHAPE), trajectory=True, generator=torch.Generator())
    assert len(states) == 11
    torch.testing.assert_close(A(states[-1]), b)
    assert not torch.allclose(A(states[-2]), b, atol=1e-2)


def test_seen_part_is_a_diffused_observation() -> None:
    """At each level its mean is alpha b and its deviation sigma, also after jumps; so is the whole for exact data."""
    A, b, n = Matrix(torch.eye(2)[:1].double()), torch.tensor([[0.8]]).double(), 20_000
    data = GaussianMixture(torch.ones(1).double(), torch.zeros(1, 2).double(), torch.eye(2).double()[None])
    path = Path.along(Cosine(), time_grid(Cosine(), 6, "angle"))
    half = Replacement(A, b, "ddpm", repeats=2, jump=2)
    generator = torch.Generator().manual_seed(0)
    exact, x_T = ExactDenoiser(data, Cosine()), normal(n, 2, seed=12)
    states = sample(exact, (n, 2), half, 6, x_T=x_T, grid="angle", generator=generator, trajectory=True)
    for i, x in enumerate(states[1:], start=1):
        seen = x[:, 0]
        assert seen.mean().item() == pytest.approx(0.8 * path.alpha[i], abs=4 / math.sqrt(n))
        assert seen.std().item() == pytest.approx(path.sigma[i], rel=0.03, abs=1e-9)
        assert abs(float((x[:, 1] * (seen - seen.mean())).mean())) < 0.03  # hidden and seen are independent here


def test_going_back_is_the_forward_process() -> None:
    """For standard normal data every level has unit variance: jumps keep it, in the hidden part as well."""
    A, n = Matrix(torch.eye(2)[:1].double()), 20_000
    data = GaussianMixture(torch.ones(1).double(), torch.zeros(1, 2).double(), torch.eye(2).double()[None])
    half = Replacement(A, normal(n, 1, seed=4), "heun", repeats=3, jump=3)
    generator = torch.Generator().manual_seed(0)
    x_T = normal(n, 2, seed=12)
    drawn = sample(ExactDenoiser(data, Cosine()), (n, 2), half, 30, x_T=x_T, grid="angle", generator=generator)
    assert drawn[:, 1].std().item() == pytest.approx(1, rel=0.03)
    calls: list[float] = []

    def denoise(x: Tensor, t: float) -> Tensor:
        calls.append(t)
        return torch.zeros_like(x)

    path = Path.along(Cosine(), time_grid(Cosine(), 5))
    again = Replacement(A, torch.zeros(1, 1).double(), "ddpm", repeats=3, jump=3)
    *_, _ = again(denoise, torch.zeros(n, 2).double(), path, generator)
    assert calls == [*path.times[:3] * 3, *path.times[3:] * 3]


def test_repeats_bring_the_two_parts_together() -> None:
    """Two strongly tied coordinates, one seen: plain replacement forgets the tie, repeated steps find it."""
    one = torch.ones(1, dtype=torch.float64)
    tied = torch.tensor([[[1.0, 0.95], [0.95, 1.0]]], dtype=torch.float64)
    exact = ExactDenoiser(GaussianMixture(one, torch.zeros(1, 2).double(), tied), Cosine())
    A, x_T, generator = Matrix(torch.eye(2)[:1].double()), normal(4000, 2), torch.Generator().manual_seed(0)
    errors = []
    for repeats in (1, 10):
        half = Replacement(A, torch.tensor([[1.5]]).double(), "ddpm", repeats)
        drawn = sample(exact, (4000, 2), half, 40, x_T=x_T, generator=generator, grid="angle")[:, 1]
        errors.append(abs(drawn.mean().item() - 0.95 * 1.5))
    assert errors[1] < 0.5 * errors[0]


# --- bad input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda d: Mask(torch.ones(2, 2)), "mask must be bool"),
        (lambda d: Mask(torch.zeros(2, 2, dtype=torch.bool)), "true somewhere"),
        (lambda d: AveragePool(0), "factor must be"),
        (lambda d: AveragePool(3)(torch.zeros(1, 1, 4, 6)), "divisible by 3"),
        (lambda d: Blur(torch.ones(3, 3), (2, 5)), "kernel must have"),
        (lambda d: Blur(torch.ones(3, 3), (5, 5))(torch.zeros(1, 1, 4, 5)), "pictures must be"),
        (lambda d: Matrix(torch.ones(3)), "matrix must have"),
        (lambda d: conjugate_residuals(lambda v: v, torch.ones(1, 1), 0), "iterations"),
        (lambda d: exact_posterior(prior(1), torch.ones(2, 2), torch.ones(2), 0.1), r"matrix \(M, 3\)"),
        (lambda d: exact_posterior(prior(1), torch.ones(2, 3).double(), torch.ones(2), 0.0), "deviation"),
        (lambda d: Projected(d, Matrix(torch.eye(3).double()), torch.zeros(2, 3))(noisy(Cosine()), TIMES), "or 1 in"),
        (lambda d: DPS(d, Matrix(torch.eye(3).double()), torch.zeros(6, 2))(noisy(Cosine()), TIMES), "observation"),
        (lambda d: Replacement(Mask(torch.ones(1) > 0), torch.zeros(1, 1), "magic"), "sampler must be one of"),
        (lambda d: Replacement(Mask(torch.ones(1) > 0), torch.zeros(1, 1), repeats=0), "repeats and jump"),
    ],
)
def test_bad_input_is_refused(build: Callable[[nn.Module], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(ExactDenoiser(prior(1), Cosine()))
