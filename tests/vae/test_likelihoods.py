"""Laws of the likelihoods: they sum or integrate to one, their means are means, draws follow them."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from coursekit.pixels import Bernoulli, DiscretisedLogistics
from coursekit.vae import GaussianLikelihood, PixelLikelihood

LEVELS = torch.arange(256, dtype=torch.float64) / 127.5 - 1


def test_gaussian_is_that_of_scipy_summed_over_the_picture() -> None:
    likelihood = GaussianLikelihood(0.3).double()
    a, x = torch.randn(2, 5, 1, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth = stats.norm(a.numpy(), 0.3).logpdf(x.numpy()).sum((1, 2, 3))
    torch.testing.assert_close(likelihood.log_prob(a, x).detach(), torch.from_numpy(truth), rtol=1e-6, atol=1e-6)
    assert torch.equal(likelihood.mean(a), a)


def test_the_best_sigma_is_the_root_of_the_mean_squared_error() -> None:
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    likelihood = GaussianLikelihood(x.square().mean().sqrt().item(), learned=True).double()
    (gradient,) = torch.autograd.grad(likelihood.log_prob(torch.zeros_like(x), x).sum(), likelihood.log_sigma)
    assert abs(gradient.item()) < 1e-4
    assert not GaussianLikelihood().log_sigma.requires_grad


@pytest.mark.parametrize("scale", [1e-2, 1.0])
def test_levels_sum_to_one_and_the_mean_is_theirs_to_half_a_level(scale: float) -> None:
    """In float64, over decoders' numbers from mild to wild, means outside [-1, 1] and needle-sharp scales included."""
    generator = torch.Generator().manual_seed(0)
    likelihood = PixelLikelihood(DiscretisedLogistics(components=3))
    parameters = torch.randn(1, 9, 20, generator=generator, dtype=torch.float64)
    parameters[:, 6:] = parameters[:, 6:] * 3 + math.log(scale)
    every = LEVELS.view(256, 1, 1).expand(256, 1, 20)
    p = likelihood.pixel.log_prob(parameters.expand(256, -1, -1), every).exp()
    torch.testing.assert_close(p.sum(0), torch.ones(20).double())
    means = (p * every[:, 0]).sum(0)
    assert (likelihood.mean(parameters)[0, 0] - means).abs().max() <= 1 / 255 + 1e-9


def test_black_and_white_sum_to_one_over_all_pictures() -> None:
    likelihood = PixelLikelihood(Bernoulli())
    every = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 6).double().view(64, 1, 2, 3)
    logits = torch.randn(1, 1, 2, 3, generator=torch.Generator().manual_seed(0)).double()
    p = likelihood.log_prob(logits.expand(64, -1, -1, -1), every).exp()
    torch.testing.assert_close(p.sum(), torch.tensor(1.0).double())
    torch.testing.assert_close((p.view(64, 1, 1, 1) * every).sum(0), likelihood.mean(logits)[0])


@pytest.mark.parametrize(
    "likelihood",
    [
        GaussianLikelihood(0.5),
        PixelLikelihood(Bernoulli()),
        PixelLikelihood(DiscretisedLogistics(2)),
    ],
)
def test_draws_have_the_mean(likelihood: torch.nn.Module, generator: torch.Generator) -> None:
    parameters = torch.randn(1, likelihood.channels, 3, 3, generator=generator)
    x = likelihood.sample(parameters.expand(20_000, -1, -1, -1), generator)
    error = x.std(0) / math.sqrt(len(x))
    assert ((x.mean(0) - likelihood.mean(parameters)[0]).abs() < 4.5 * error + 1 / 255).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GaussianLikelihood(0.0), "sigma must be positive"),
        (lambda: GaussianLikelihood().log_prob(torch.zeros(3, 2), torch.zeros(3, 1)), "parameters must have the shape"),
        (lambda: PixelLikelihood(Bernoulli()).log_prob(torch.zeros(3, 1, 2), torch.ones(3, 1, 1)), "parameters"),
        (lambda: PixelLikelihood(Bernoulli()).log_prob(torch.zeros(3, 1, 2), torch.ones(3, 2)), "parameters"),
        (lambda: PixelLikelihood(Bernoulli()).log_prob(torch.zeros(3, 1, 2), torch.zeros(3, 1, 2)), "only -1 and 1"),
        (
            lambda: PixelLikelihood(DiscretisedLogistics()).log_prob(torch.zeros(3, 1, 2), torch.ones(3, 1, 2)),
            r"parameters \(N, 15, \*\)",
        ),
    ],
)
def test_bad_arguments_are_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
