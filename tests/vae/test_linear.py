"""Linear models, whose optimum and evidence are known: principal components, plain and probabilistic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.decomposition import PCA
from torch import Tensor

from coursekit.diffusion import fit
from coursekit.vae import (
    VAE,
    AutoEncoder,
    active_units,
    aggregated_posterior,
    conv_auto_encoder,
    fit_linear_vae,
    linear_auto_encoder,
    linear_log_prob,
    linear_vae,
    point_vae,
    rate_per_dimension,
)


def correlated(n: int = 500, D: int = 5, seed: int = 0) -> Tensor:
    """Points of a Gaussian with two large and D - 2 small directions, away from the origin."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(2, D, generator=generator, dtype=torch.float64)
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64) @ mix
    return x + 0.3 * torch.randn(n, D, generator=generator, dtype=torch.float64) + 1.5


@given(seed=st.integers(0, 100), D=st.integers(2, 6), latent=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_closed_form_has_the_evidence_of_scikit_learn_and_its_bound_touches_it(seed: int, D: int, latent: int) -> None:
    latent = min(latent, D - 1)
    x = correlated(200, D, seed)
    model = fit_linear_vae(x, latent)
    covariance = np.cov(x.numpy().T, bias=True)
    pca = PCA(latent).fit(x.numpy())
    pca.explained_variance_ *= 199 / 200  # maximum likelihood divides by N
    pca.noise_variance_ *= 199 / 200
    evidence = linear_log_prob(model, x).detach()
    torch.testing.assert_close(evidence.numpy(), pca.score_samples(x.numpy()), rtol=1e-6, atol=1e-6)
    bound = model.log_prob_bound(x, samples=1).detach()
    torch.testing.assert_close(bound, evidence)  # of every x, with every draw
    W, sigma = model.decoder.weight.detach().numpy(), model.likelihood.sigma.item()
    law = stats.multivariate_normal(model.decoder.bias.detach().numpy(), W @ W.T + sigma**2 * np.eye(D))
    torch.testing.assert_close(evidence.numpy(), law.logpdf(x.numpy()), rtol=1e-6, atol=1e-6)
    if latent == D - 1:
        np.testing.assert_allclose(law.cov, covariance, rtol=1e-6, atol=1e-8)


def test_no_parameter_raises_the_evidence_of_the_closed_form() -> None:
    x = correlated(400)
    model = fit_linear_vae(x, 2)
    parameters = [*model.decoder.parameters(), *model.likelihood.parameters()]
    for gradient in torch.autograd.grad(linear_log_prob(model, x).mean(), parameters):
        assert gradient.abs().max() < 1e-9


def gap_to_evidence(model: VAE, x: Tensor) -> Tensor:
    """KL(q(z | x) || p(z | x)) of a linear VAE, a divergence of two Gaussians, by torch.distributions: (N,)."""
    q, W, noise = model.posterior(x), model.decoder.weight, model.likelihood.sigma.square()
    precision = torch.eye(W.shape[1]).double() + W.T @ W / noise
    mean = torch.linalg.solve(precision, W.T @ (x - model.decoder.bias).T / noise).T
    posterior = torch.distributions.MultivariateNormal(mean, precision_matrix=precision)
    law = torch.distributions.MultivariateNormal(q.mean, torch.diag_embed(q.log_variance.exp()))
    return torch.distributions.kl_divergence(law, posterior)


@torch.no_grad()
def test_training_reaches_the_evidence_to_a_thousandth_of_a_nat() -> None:
    x = correlated(500)
    torch.manual_seed(0)
    model = linear_vae(5, 2).double()
    with torch.enable_grad():
        fit(model, x, steps=1200, batch_size=500, lr=3e-2, decay=0.8, progress=False)
    best = linear_log_prob(fit_linear_vae(x, 2), x).mean().item()
    bound = (linear_log_prob(model, x) - gap_to_evidence(model, x)).mean().item()
    assert best - 1e-3 < bound <= best


@pytest.mark.parametrize("steps", [5, 40])
@torch.no_grad()
def test_the_elbo_is_below_the_evidence_all_the_way_by_the_divergence_of_the_posteriors(steps: int) -> None:
    """Of every x, in the mean over draws."""
    x = correlated(50)
    torch.manual_seed(1)
    model = linear_vae(5, 2).double()
    with torch.enable_grad():
        fit(model, x, steps=steps, batch_size=50, lr=2e-2, progress=False)
    gap, evidence = gap_to_evidence(model, x), linear_log_prob(model, x)
    draws = model.elbo(x.repeat(20_000, 1), generator=torch.Generator().manual_seed(0)).total.view(20_000, 50)
    error = draws.std(0) / math.sqrt(20_000)
    assert ((evidence - gap - draws.mean(0)).abs() < 4.5 * error).all()
    assert (gap > 0).all()


def test_linear_auto_encoder_finds_the_principal_subspace_and_its_error() -> None:
    x = correlated(500)
    torch.manual_seed(0)
    model = linear_auto_encoder(5, 2).double()
    fit(model, x, steps=900, batch_size=500, lr=3e-2, decay=0.7, progress=False)
    pca = PCA(2).fit(x.numpy())
    back = pca.inverse_transform(pca.transform(x.numpy()))
    best = np.square(back - x.numpy()).mean()
    assert model.loss(x).item() == pytest.approx(best, rel=1e-4)
    assert model.loss(x).item() > best * (1 - 1e-9)
    columns = np.linalg.qr(model.decoder.weight.detach().numpy())[0]
    overlap = np.linalg.svd(pca.components_ @ columns)[1]  # cosines of the angles between the subspaces
    np.testing.assert_allclose(overlap, 1, atol=1e-3)
    np.testing.assert_allclose(model.reconstruct(x).detach().numpy(), back, atol=0.02)


def test_auto_encoder_errors_are_those_of_each_sample(generator: torch.Generator) -> None:
    model = conv_auto_encoder(latent=3, width=8)
    x = torch.randn(4, 1, 28, 28, generator=generator)
    errors = (model.reconstruct(x) - x).flatten(1).square().mean(1)
    torch.testing.assert_close(model.errors(x), errors)
    torch.testing.assert_close(model.loss(x, torch.arange(4)), errors.mean())
    path = model.interpolate(x[:2], x[2:], 5)
    torch.testing.assert_close(path[0, 2], model.decode((model.encode(x)[0] + model.encode(x)[2])[None] / 2)[0])
    assert not hasattr(model, "sample")


def test_conv_auto_encoder_learns_pictures(generator: torch.Generator) -> None:
    x = torch.nn.functional.interpolate(torch.randn(6, 1, 7, 7, generator=generator).sign(), scale_factor=4)
    torch.manual_seed(0)
    model = conv_auto_encoder(latent=4, width=8)
    before = model.loss(x).item()
    fit(model, (x, torch.arange(6)), steps=100, batch_size=6, lr=5e-3, progress=False)
    assert model.loss(x).item() < 0.2 * before


X = torch.zeros(3, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_linear_vae(torch.zeros(3), 1), "latent in 1"),
        (lambda: fit_linear_vae(correlated(), 5), "latent in 1"),
        (lambda: fit_linear_vae(correlated()[:2], 2), "latent must leave variance"),
        (lambda: linear_auto_encoder(2, 1).encode(X, torch.arange(3)), "y must be None"),
        (lambda: linear_auto_encoder(2, 1).decode(X), "z must have shape"),
        (lambda: AutoEncoder(torch.nn.Linear(2, 1), torch.nn.Linear(1, 1), 1).loss(X), "decoder must return the shape"),
    ],
)
def test_bad_arguments_are_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_evidence_is_refused_where_it_is_not_known() -> None:
    with pytest.raises(TypeError, match="model must have a linear decoder"):
        linear_log_prob(point_vae(2), X)


@pytest.mark.parametrize("beta", [1.0, 4.0])
def test_directions_below_the_noise_collapse_and_the_others_cost_half_a_log_ratio(beta: float) -> None:
    """With sigma held, dimension j is used if l_j > beta sigma^2 and then costs 1/2 log(l_j / (beta sigma^2)) nats."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([3.0, 1.5, 0.8, 0.3]).double()
    x = torch.randn(2000, 4, generator=generator, dtype=torch.float64)
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky((x - x.mean(0)).T.cov(correction=0))).T * spread
    torch.manual_seed(0)
    model = linear_vae(4, 4, beta=beta).double()
    model.likelihood.log_sigma.requires_grad_(False).fill_(math.log(0.6))
    fit(model, x, steps=1000, batch_size=500, lr=2e-2, decay=0.8, progress=False)
    q = aggregated_posterior(model, x)
    expected = 0.5 * (spread.square() / (beta * 0.36)).log().clamp(min=0)
    rates = rate_per_dimension(q).sort(descending=True).values
    torch.testing.assert_close(rates, expected, rtol=0.02, atol=0.01)
    assert active_units(q).sum() == (spread.square() > beta * 0.36).sum()
