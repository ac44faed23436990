"""Laws of the aggregated posterior and of the parts of the rate."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch

from coursekit.gmm import GaussianMixture
from coursekit.vae import (
    AggregatedPosterior,
    DiagonalGaussian,
    active_units,
    aggregate,
    aggregated_posterior,
    kl_to_prior,
    rate_parts,
    rate_per_dimension,
)

sys.path.insert(0, str(Path(__file__).parent))
import models


def codes(M: int = 30, D: int = 2, seed: int = 0) -> AggregatedPosterior:
    means, spread = torch.randn(2, M, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return AggregatedPosterior(DiagonalGaussian(1.5 * means, spread - 2))


def test_density_is_that_of_the_mixture(monkeypatch: pytest.MonkeyPatch) -> None:
    q = codes()
    covariances = torch.diag_embed(q.components.log_variance.exp())
    mixture = GaussianMixture(torch.ones(30).double(), q.components.mean, covariances)
    z = torch.randn(50, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(q.log_prob(z), mixture.log_prob(z))
    monkeypatch.setattr(aggregate, "NUMBERS", 130)  # two points at a time
    torch.testing.assert_close(q.log_prob(z), mixture.log_prob(z))


@pytest.mark.parametrize("num_classes", [None, 3])
def test_it_is_made_of_the_codes_of_all_data(num_classes: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregate, "DATA", 4)
    model, x = models.make("points", num_classes=num_classes), models.data("points", 10)
    y = None if num_classes is None else torch.arange(10) % 3
    q = aggregated_posterior(model, x, y)
    assert len(q) == 10
    torch.testing.assert_close(q.components.mean, model.encode(x, y))
    torch.testing.assert_close(q.components.log_variance, model.posterior(x, y).log_variance)
    torch.testing.assert_close(rate_per_dimension(q), model.elbo(x, y).rates.mean(0))


def test_divergence_from_the_prior_against_quadrature(generator: torch.Generator) -> None:
    q = codes(M=5)
    line = torch.linspace(-8, 8, 801, dtype=torch.float64)
    z = torch.cartesian_prod(line, line)
    log_q = q.log_prob(z)
    log_p = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    truth = (log_q.exp() * (log_q - log_p)).sum().item() * 0.02**2
    for estimate in (kl_to_prior, lambda *settings: rate_parts(*settings).to_prior):
        found = [estimate(q, 1000, generator) for _ in range(40)]
        assert sum(one.low < truth < one.high for one in found) >= 33
        assert sum(one.value for one in found) / 40 == pytest.approx(truth, abs=0.06)


def test_the_rate_is_information_and_distance_from_the_prior(generator: torch.Generator) -> None:
    q = codes(M=30)
    parts = rate_parts(q, samples=20_000, generator=generator)
    assert parts.rate == pytest.approx(parts.information.value + parts.to_prior.value, abs=0.1)
    assert parts.information.low < math.log(30)


def test_codes_far_apart_tell_everything_and_equal_codes_nothing(generator: torch.Generator) -> None:
    far = DiagonalGaussian(100.0 * torch.arange(8.0)[:, None], torch.zeros(8, 1))
    parts = rate_parts(AggregatedPosterior(far), generator=generator)
    assert parts.information.value == pytest.approx(math.log(8), abs=1e-4)
    same = AggregatedPosterior(DiagonalGaussian(torch.zeros(8, 1), torch.zeros(8, 1)))
    parts = rate_parts(same, generator=generator)
    assert parts.rate == 0
    assert abs(parts.information.value) + abs(parts.to_prior.value) < 1e-6
    assert not active_units(same).any()


def test_draws_follow_the_density(generator: torch.Generator) -> None:
    q = codes(M=4)
    z = q.sample(50_000, generator)
    mean, second = q.components.mean, q.components.mean.square() + q.components.log_variance.exp()
    torch.testing.assert_close(z.mean(0), mean.mean(0), rtol=0, atol=0.04)
    torch.testing.assert_close(z.square().mean(0), second.mean(0), rtol=0.04, atol=0)


def test_units_that_follow_the_data_are_active() -> None:
    means = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0.12, 0.08]) + 5
    assert active_units(AggregatedPosterior(DiagonalGaussian(means, means))).tolist() == [True, True, False]


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"z must have shape \(N, 2\)"):
        codes().log_prob(torch.zeros(2))
    with pytest.raises(ValueError, match="values must have shape"):
        kl_to_prior(codes(), samples=1)
