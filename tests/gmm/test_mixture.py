"""Laws of the exact mixture, against scipy, quadrature and autograd."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from torch import Tensor

from coursekit.gmm import GaussianMixture


def random_mixture(seed: int = 0, K: int = 3, D: int = 2, dtype: torch.dtype = torch.float64) -> GaussianMixture:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(K, D, D, generator=generator, dtype=torch.float64) * 0.5
    covariances = root @ root.mT + 0.1 * torch.eye(D, dtype=torch.float64)
    weights = torch.rand(K, generator=generator, dtype=torch.float64) + 0.1
    means = 2 * torch.randn(K, D, generator=generator, dtype=torch.float64)
    return GaussianMixture(weights.to(dtype), means.to(dtype), covariances.to(dtype))


def points(n: int = 50, D: int = 2, seed: int = 1) -> Tensor:
    return 3 * torch.randn(n, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scipy_density(mixture: GaussianMixture, x: Tensor) -> np.ndarray:
    parts = zip(mixture.weights.numpy(), mixture.means.numpy(), mixture.covariances.numpy(), strict=True)
    return sum(w * stats.multivariate_normal(m, c).pdf(x.numpy()) for w, m, c in parts)


@pytest.mark.parametrize(("K", "D"), [(1, 1), (3, 2), (5, 7)])
def test_log_prob_equals_scipy(K: int, D: int) -> None:
    mixture, x = random_mixture(K=K, D=D), points(D=D)
    np.testing.assert_allclose(mixture.log_prob(x).exp(), scipy_density(mixture, x), rtol=1e-9)
    torch.testing.assert_close(mixture.diffused_log_prob(x, 1.0, 0.0), mixture.log_prob(x), rtol=1e-9, atol=1e-9)


def test_density_integrates_to_one() -> None:
    mixture = random_mixture(seed=3)
    total, _ = integrate.dblquad(
        lambda b, a: float(mixture.log_prob(torch.tensor([[a, b]], dtype=torch.float64)).exp()),
        -9,
        9,
        -9,
        9,
        epsabs=1e-5,
    )
    assert total == pytest.approx(1, abs=1e-4)


@given(alpha=st.floats(0.0, 1.0), sigma=st.floats(0.01, 5.0), seed=st.integers(0, 20))
def test_diffused_mixture_is_the_mixture_under_noise(alpha: float, sigma: float, seed: int) -> None:
    """Its moments are those of alpha x + sigma eps, and per-sample levels agree with one level at a time."""
    mixture, x = random_mixture(seed), points(5)
    diffused = mixture.diffused(alpha, sigma)
    torch.testing.assert_close(diffused.means, alpha * mixture.means)
    torch.testing.assert_close(diffused.covariances, alpha**2 * mixture.covariances + sigma**2 * torch.eye(2).double())
    torch.testing.assert_close(mixture.diffused_log_prob(x, alpha, sigma), diffused.log_prob(x), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(mixture.diffused_score(x, alpha, sigma), diffused.score(x), rtol=1e-7, atol=1e-7)


def test_levels_may_differ_by_sample() -> None:
    mixture, x = random_mixture(), points(4)
    alpha, sigma = torch.tensor([1.0, 0.7, 0.2, 0.0]), torch.tensor([0.1, 0.5, 0.9, 1.0])
    for method in (mixture.diffused_log_prob, mixture.diffused_score, mixture.denoise):
        together = method(x, alpha, sigma)
        single = torch.cat([method(x[i : i + 1], float(alpha[i]), float(sigma[i])) for i in range(4)])
        torch.testing.assert_close(together, single, rtol=1e-6, atol=1e-7)


@given(alpha=st.floats(0.05, 1.0), sigma=st.floats(0.05, 3.0))
def test_score_is_the_gradient_and_denoiser_obeys_tweedie(alpha: float, sigma: float) -> None:
    """score = grad log p_t by autograd of the Cholesky form; E[x_0 | x_t] = (x_t + sigma^2 score) / alpha."""
    mixture, x = random_mixture(), points(20).requires_grad_()
    (gradient,) = torch.autograd.grad(mixture.diffused(alpha, sigma).log_prob(x).sum(), x)
    torch.testing.assert_close(mixture.diffused_score(x, alpha, sigma).detach(), gradient, rtol=1e-8, atol=1e-8)
    tweedie = (x.detach() + sigma**2 * gradient) / alpha
    torch.testing.assert_close(mixture.denoise(x, alpha, sigma).detach(), tweedie, rtol=1e-7, atol=1e-7)


def test_denoiser_is_the_posterior_mean_by_quadrature() -> None:
    mixture = random_mixture(K=3, D=1)
    alpha, sigma, x_t = 0.6, 0.8, 0.9

    def joint(x: float) -> float:
        return float(scipy_density(mixture, torch.tensor([[x]]))) * stats.norm.pdf(x_t, alpha * x, sigma)

    moments = [integrate.quad(lambda x, p=p: x**p * joint(x), -15, 15, limit=200)[0] for p in (0, 1)]
    got = mixture.denoise(torch.tensor([[x_t]], dtype=torch.float64), alpha, sigma)
    assert got.item() == pytest.approx(moments[1] / moments[0], rel=1e-7)


def test_denoiser_at_both_ends() -> None:
    mixture, x = random_mixture(), points(6)
    torch.testing.assert_close(mixture.denoise(x, 1.0, 0.0), x)  # no noise: the data itself
    mean = (mixture.weights[:, None] * mixture.means).sum(0)
    torch.testing.assert_close(mixture.denoise(x, 0.0, 1.0), mean.expand(6, 2))  # no signal: the mean of the data


def test_samples_have_the_moments_and_the_law() -> None:
    mixture, n = random_mixture(K=3, D=1), 20_000
    x = mixture.sample(n, torch.Generator().manual_seed(0))
    deviations = torch.sqrt(mixture.covariances[:, 0, 0]).numpy()

    def cdf(value: np.ndarray) -> np.ndarray:
        parts = zip(mixture.weights.numpy(), mixture.means[:, 0].numpy(), deviations, strict=True)
        return sum(w * stats.norm.cdf(value, m, s) for w, m, s in parts)

    assert stats.kstest(x[:, 0].numpy(), cdf).pvalue > 0.01
    wide, k = random_mixture(D=3).sample_labelled(40_000, torch.Generator().manual_seed(0))
    exact = random_mixture(D=3)
    for i in range(3):
        part = wide[k == i]
        torch.testing.assert_close(part.mean(0), exact.means[i], rtol=0, atol=0.05)
        torch.testing.assert_close(part.T.cov(), exact.covariances[i], rtol=0, atol=0.08)


def test_sampling_is_deterministic_and_follows_the_generator() -> None:
    mixture = random_mixture()
    draws = [mixture.sample(10, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_far_points_do_not_underflow() -> None:
    mixture = random_mixture(dtype=torch.float32)
    far = torch.full((3, 2), 1e4)
    assert bool(torch.isfinite(mixture.log_prob(far)).all())
    assert bool(torch.isfinite(mixture.denoise(far, 0.5, 0.5)).all())
    torch.testing.assert_close(mixture.responsibilities(far).sum(1), torch.ones(3))


EYE = torch.eye(2)[None]


@pytest.mark.parametrize(
    ("weights", "means", "covariances", "message"),
    [
        (torch.ones(1), torch.zeros(2), EYE, r"weights \(K,\)"),
        (torch.ones(2), torch.zeros(1, 2), EYE, r"weights \(K,\)"),
        (torch.zeros(1), torch.zeros(1, 2), EYE, "weights must be positive"),
        (torch.ones(1), torch.full((1, 2), torch.nan), EYE, "finite"),
        (torch.ones(1), torch.zeros(1, 2), torch.tensor([[[1.0, 0.5], [0.0, 1.0]]]), "symmetric"),
        (torch.ones(1), torch.zeros(1, 2), -EYE, "positive definite, component 0"),
    ],
)
def test_bad_mixtures_are_refused(weights: Tensor, means: Tensor, covariances: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianMixture(weights, means, covariances)


def test_bad_points_are_refused() -> None:
    mixture = random_mixture()
    with pytest.raises(ValueError, match=r"x must have shape \(N, 2\)"):
        mixture.log_prob(torch.zeros(3, 5))
    with pytest.raises(ValueError, match="noise level"):
        mixture.denoise(points(3), torch.ones(2), 1.0)
