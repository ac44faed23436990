"""Laws that each structure of covariances obeys: it is the mixture of its dense matrices, in everything it can do."""

import pytest
import torch
from scipy import integrate
from torch import Tensor

from coursekit.gmm import Covariance, Diagonal, Full, GaussianMixture, LowRank, Spherical, Tied, TrainableMixture

K, D = 3, 4


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def definite(*shape: int) -> Tensor:
    root = noise(*shape, shape[-1], seed=1)
    return root @ root.mT + 0.3 * torch.eye(shape[-1], dtype=torch.float64)


def structures(D: int = D) -> dict[str, Covariance]:
    return {
        "full": Full(definite(K, D)),
        "tied": Tied(definite(D)),
        "diagonal": Diagonal(noise(K, D).exp()),
        "spherical": Spherical(noise(K).exp()),
        "low rank": LowRank(noise(K, D, 2), noise(K, D, seed=1).exp()),
    }


def mixture(name: str, D: int = D) -> GaussianMixture:
    return GaussianMixture(noise(K, seed=2).exp(), 2 * noise(K, D, seed=3), structures(D)[name])


def dense(name: str, D: int = D) -> GaussianMixture:
    model = mixture(name, D)
    return GaussianMixture(model.weights, model.means, model.covariances.clone())


NAMES = list(structures())
each = pytest.mark.parametrize("name", NAMES)
close = torch.testing.assert_close


@each
def test_density_equals_that_of_the_dense_matrices(name: str) -> None:
    x = 3 * noise(50, D, seed=4)
    close(mixture(name).log_prob(x), dense(name).log_prob(x))
    close(mixture(name).loss(x), -dense(name).log_prob(x).mean())
    assert mixture(name).structure.smallest().min() <= dense(name).structure.eigenvalues.min() + 1e-12


@each
def test_score_is_the_gradient_of_the_density(name: str) -> None:
    model, x = mixture(name), noise(20, D).requires_grad_()
    (gradient,) = torch.autograd.grad(model.log_prob(x).sum(), x)
    close(model.score(x).detach(), gradient)


@each
def test_noise_acts_as_on_the_dense_matrices(name: str) -> None:
    model, reference, x = mixture(name), dense(name), noise(6, D)
    alpha, sigma = torch.tensor([1.0, 0.8, 0.5, 0.1, 0.0, 0.6]), torch.tensor([0.0, 0.5, 0.9, 2.0, 1.0, 0.7])
    for method in ("diffused_log_prob", "diffused_score", "denoise"):
        close(getattr(model, method)(x, alpha, sigma), getattr(reference, method)(x, alpha, sigma))
        close(getattr(model, method)(x, 0.7, 0.4), getattr(reference, method)(x, 0.7, 0.4))
    noisy = model.diffused(0.7, 0.4)
    assert type(noisy.structure) is type(model.structure)
    close(noisy.covariances, reference.diffused(0.7, 0.4).covariances)
    close(noisy.log_prob(x), model.diffused_log_prob(x, 0.7, 0.4))


@each
def test_samples_have_the_moments_of_each_component(name: str) -> None:
    model = mixture(name)
    x, k = model.sample_labelled(60_000, torch.Generator().manual_seed(0))
    close(torch.bincount(k) / len(k), model.weights, rtol=0, atol=0.01, check_dtype=False)
    for i in range(K):
        part, scale = x[k == i], float(model.covariances[i].diagonal().max())
        close(part.mean(0), model.means[i], rtol=0, atol=0.05 * scale**0.5)
        close(part.T.cov(), model.covariances[i], rtol=0, atol=0.08 * scale)


@each
def test_marginals_and_conditionals_obey_bayes_rule(name: str) -> None:
    """p(a, b) = p(a) p(b | a), for any split, given as numbers or as a mask."""
    model, x = mixture(name), noise(D)
    for seen, hidden in (([2], [0, 1, 3]), ([3, 0], [1, 2]), ([0, 1, 2], [3])):
        conditional = model.conditional(seen, x[seen])
        product = model.marginal(seen).log_prob(x[None, seen]) + conditional.log_prob(x[None, hidden])
        close(product, model.log_prob(x[None]))
        assert type(conditional.structure) is type(model.structure)
    mask = torch.tensor([True, False, True, False])
    close(model.marginal(mask).means, model.marginal([0, 2]).means)
    close(model.conditional(mask, x[mask]).means, model.conditional([0, 2], x[[0, 2]]).means)


@each
def test_marginals_and_conditionals_integrate_to_one(name: str) -> None:
    model = mixture(name, D=3)
    laws = model.marginal([1]), model.conditional([0, 2], torch.tensor([0.3, -1.0], dtype=torch.float64))
    for law in laws:
        total, _ = integrate.quad(
            lambda v, law=law: float(law.log_prob(torch.tensor([[v]]).double()).exp()), -25, 25, limit=200
        )
        assert total == pytest.approx(1, abs=1e-6)


@each
def test_the_conditional_mean_is_that_of_quadrature(name: str) -> None:
    model, x = mixture(name, D=3), noise(3)
    grid = torch.linspace(-30, 30, 20_001, dtype=torch.float64)
    points = x.repeat(len(grid), 1)
    points[:, 1] = grid
    density = model.log_prob(points).exp()
    filled = model.conditional_mean(x[None], [0, 2])
    close(filled[0, 1], (density * grid).sum() / density.sum())
    assert torch.equal(filled[0, [0, 2]], x[[0, 2]])


@each
def test_what_is_filled_in_has_the_conditional_law(name: str) -> None:
    model, x, n = mixture(name), noise(D), 20_000
    filled = model.fill_in(x.repeat(n, 1), [0, 2], torch.Generator().manual_seed(0))
    assert torch.equal(filled[:, [0, 2]], x[[0, 2]].repeat(n, 1))
    law = model.conditional([0, 2], x[[0, 2]])
    mean = law.weights @ law.means
    second = torch.einsum("k,kij->ij", law.weights, law.covariances + law.means[:, :, None] * law.means[:, None])
    spread = second - torch.outer(mean, mean)
    close(filled[:, [1, 3]].mean(0), mean, rtol=0, atol=5 * float(spread.max() / n) ** 0.5)
    close(filled[:, [1, 3]].T.cov(), spread, rtol=0, atol=0.05 * float(spread.max()))


@each
def test_moments_move_with_the_means(name: str) -> None:
    """Sums around other means are those that one gets around these means at once."""
    model, x, shift = mixture(name), noise(30, D, seed=5), noise(K, D, seed=6)
    structure, r = model.structure, model.responsibilities(x).T
    sums = [structure.sums(structure.residuals(x, means)[1], r) for means in (model.means, model.means + shift)]
    here, there = (structure.moments(r.sum(1), part) for part in sums)
    moved = structure.moved(here, shift)
    close(moved.first, there.first)
    close(moved.second[0], there.second[0])
    if name == "low rank":  # the latents keep their values: E[z | x] was found around the old means
        z = structure.beta @ (x.T - model.means[..., None])
        close(moved.second[1], torch.einsum("kn,kdn,krn->kdr", r, x.T - (model.means + shift)[..., None], z))


@each
def test_free_numbers_say_the_same_and_feel_the_gradient(name: str) -> None:
    model, x = mixture(name), noise(30, D)
    trainable = TrainableMixture(model)
    close(trainable.log_prob(x), model.log_prob(x))
    close(trainable.mixture().covariances, model.covariances)
    trainable.loss(x).backward()
    assert all(float(parameter.grad.abs().max()) > 0 for parameter in trainable.parameters())


@each
def test_parameters_are_counted(name: str) -> None:
    numbers = {"full": 30, "tied": 10, "diagonal": 12, "spherical": 3, "low rank": 3 * (8 + 4 - 1)}
    assert mixture(name).num_parameters == 2 + 12 + numbers[name]


@each
def test_moves_and_saves(name: str) -> None:
    model, x = mixture(name), noise(5, D)
    single = mixture(name).to(torch.float32)
    assert single.log_prob(x.float()).dtype == single.denoise(x.float(), 0.5, 0.5).dtype == torch.float32
    assert single.sample(3).dtype == torch.float32
    close(single.log_prob(x.float()), model.log_prob(x), rtol=1e-4, atol=1e-4, check_dtype=False)
    other = GaussianMixture(
        torch.ones(K).double(), torch.zeros(K, D).double(), type(model.structure).start(noise(9, D), K)
    )
    if name != "low rank":  # another rank is another shape
        other.load_state_dict(model.state_dict())
        close(other.denoise(x, 0.6, 0.8), model.denoise(x, 0.6, 0.8))


def test_784_pixels_need_no_square_matrix() -> None:
    """A low rank under noise, given half the picture, stays one: no tensor has 784 x 784 entries."""
    model = GaussianMixture(torch.ones(2), torch.zeros(2, 784), LowRank(torch.randn(2, 784, 3), torch.ones(2, 784)))
    parts = [
        model,
        model.diffused(0.5, 0.5),
        model.conditional(list(range(392)), torch.zeros(392)),
        model.marginal([5, 7]),
    ]
    assert max(tensor.numel() for part in parts for tensor in part.buffers()) <= 2 * 784 * 3
    assert torch.isfinite(model.denoise(torch.randn(4, 784), torch.rand(4), torch.rand(4))).all()


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        (Tied(torch.eye(3)), r"\(D, D\) = \(2, 2\), got \(3, 3\)"),
        (Tied(-torch.eye(2)), "positive definite"),
        (Diagonal(torch.ones(2, 2)), r"\(K, D\) = \(1, 2\), got \(2, 2\)"),
        (Diagonal(torch.zeros(1, 2)), "variances must be positive"),
        (Spherical(torch.ones(2)), r"\(K,\) = \(1,\), got \(2,\)"),
        (Spherical(-torch.ones(1)), "variances must be positive"),
        (LowRank(torch.ones(1, 3, 2), torch.ones(1, 3)), "factors"),
        (LowRank(torch.ones(1, 2, 2), torch.zeros(1, 2)), "noise must be positive"),
        (Full(torch.full((1, 2, 2), torch.nan)), "finite"),
    ],
)
def test_bad_structures_are_refused(structure: Covariance, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianMixture(torch.ones(1), torch.zeros(1, 2), structure)


@pytest.mark.parametrize("dims", [[], [4], [-1], [0, 0], [0.5], torch.ones(3, dtype=torch.bool)])
def test_bad_dimensions_are_refused(dims: list[int] | Tensor) -> None:
    with pytest.raises(ValueError, match="dims must be"):
        mixture("full").marginal(dims)


def test_bad_conditions_are_refused() -> None:
    with pytest.raises(ValueError, match="dims must leave"):
        mixture("full").conditional(list(range(D)), torch.zeros(D).double())
    with pytest.raises(ValueError, match=r"values must have shape \(2,\), got \(3,\)"):
        mixture("full").conditional([0, 1], torch.zeros(3).double())
    with pytest.raises(ValueError, match="observed must be"):
        mixture("full").conditional_mean(torch.zeros(2, 4).double(), [9])
    with pytest.raises(ValueError, match=r"x must have shape \(N, 4\)"):
        mixture("full").fill_in(torch.zeros(2, 3).double(), [0])
    with pytest.raises(ValueError, match="rank must be a positive integer, got 0"):
        LowRank.of_rank(0)
