"""Laws of the distributions of single pixels."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from coursekit.data import from_pixels
from coursekit.pixels import Bernoulli, DiscretisedLogistics, binarise, bits_per_dim, check_binary

LEVELS = from_pixels(torch.arange(256, dtype=torch.uint8), torch.float64)


def one_pixel(parameters: list[float], copies: int) -> torch.Tensor:
    return torch.tensor(parameters, dtype=torch.float64).view(1, -1, 1).expand(copies, -1, 1)


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=2), st.lists(st.floats(-6, 2), min_size=2, max_size=2))
def test_levels_sum_to_one(means, log_scales):
    parameters = one_pixel([0.3, -0.2, *means, *log_scales], 256)
    log_prob = DiscretisedLogistics(2).log_prob(parameters, LEVELS.view(256, 1, 1))
    assert log_prob.isfinite().all()
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-9)


def test_bins_are_areas_of_the_logistic_density():
    """Against scipy's distribution function, where its difference still has digits."""
    expected = stats.logistic(loc=0.2, scale=math.exp(-2.0))
    edges = np.concatenate([[-np.inf], LEVELS[:-1].numpy() + 1 / 255, [np.inf]])
    log_prob = DiscretisedLogistics(1).log_prob(one_pixel([0.0, 0.2, -2.0], 256), LEVELS.view(256, 1, 1))
    np.testing.assert_allclose(log_prob[:, 0].exp(), np.diff(expected.cdf(edges)), rtol=1e-9)


def test_tails_keep_their_digits_in_single_precision():
    """Forty scales from the mean the difference of two sigmoids is 0 in float32; the logarithm is about -40."""
    parameters, x = one_pixel([0.0, -1.0, math.log(0.05)], 1), torch.ones(1, 1, 1, dtype=torch.float64) * LEVELS[250]
    head = DiscretisedLogistics(1)
    exact, single = head.log_prob(parameters, x), head.log_prob(parameters.float(), x.float())
    assert -45 < exact.item() < -35
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("head", "parameters", "values"),
    [
        (Bernoulli(), [0.8], torch.tensor([-1.0, 1.0], dtype=torch.float64)),
        (DiscretisedLogistics(2), [0.0, 1.0, -1.0, 0.4, -1.5, -2.5], LEVELS),
        (DiscretisedLogistics(3), [0.0, 1.5, -1.0, -1.0, 0.4, 0.8, -1.5, -2.5, -4.0], LEVELS),
    ],
)
def test_samples_have_the_probabilities_that_log_prob_gives(head, parameters, values):
    n = 40_000
    drawn = head.sample(one_pixel(parameters, n), torch.Generator().manual_seed(0))
    assert drawn.shape == (n, 1, 1)
    counts = (drawn.view(-1, 1) - values).abs().argmin(dim=1).bincount(minlength=len(values))
    assert counts.sum() == n
    assert (drawn.view(-1, 1) - values).abs().min(dim=1).values.max() < 1e-6  # nothing but the values
    expected = n * head.log_prob(one_pixel(parameters, len(values)), values.view(-1, 1, 1))[:, 0].exp()
    often = expected > 5
    observed = torch.cat([counts[often], counts[~often].sum()[None]])
    expected = torch.cat([expected[often], expected[~often].sum()[None]])
    if expected[-1] == 0:
        observed, expected = observed[:-1], expected[:-1]
    assert stats.chisquare(observed, expected * (n / expected.sum())).pvalue > 1e-3


def test_a_draw_repeats_with_its_generator():
    parameters = torch.randn(3, 15, 4, 4)
    draw = lambda: DiscretisedLogistics(5).sample(parameters, torch.Generator().manual_seed(1))  # noqa: E731
    assert torch.equal(draw(), draw())


def test_gradients_reach_every_parameter():
    parameters = torch.randn(4, 6, 3, dtype=torch.float64, requires_grad=True)
    x = LEVELS[torch.randint(256, (4, 1, 3), generator=torch.Generator().manual_seed(0))]
    assert torch.autograd.gradcheck(lambda p: DiscretisedLogistics(2).log_prob(p, x), parameters)


def test_black_and_white():
    x = torch.tensor([-1.0, -0.1, 0.2, 1.0])
    assert binarise(x).tolist() == [-1, -1, 1, 1]
    assert binarise(x, 0.5).tolist() == [-1, -1, -1, 1]
    check_binary(binarise(x))
    probability = Bernoulli().log_prob(torch.full((2, 1, 1), 1.3), torch.tensor([1.0, -1.0]).view(2, 1, 1)).exp()
    assert probability.sum().item() == pytest.approx(1)
    assert probability[0].item() == pytest.approx(1 / (1 + math.exp(-1.3)))


@pytest.mark.parametrize("wrong", [0.0, 0.5, math.nan, 255.0])
def test_pixels_that_are_not_binary_are_named(wrong):
    with pytest.raises(ValueError, match=r"^pictures must hold only -1 and 1 .*, got " + f"{wrong:g}"):
        check_binary(torch.tensor([1.0, wrong]), "pictures")


def test_bad_input_is_named():
    with pytest.raises(TypeError, match=r"images must be floats in \[-1, 1\], got torch.uint8"):
        binarise(torch.zeros(2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="components must be at least 1, got 0"):
        DiscretisedLogistics(0)
    with pytest.raises(ValueError, match="parameters must have 6 channels, got 5"):
        DiscretisedLogistics(2).log_prob(torch.zeros(1, 5, 2), torch.zeros(1, 1, 2))


def test_a_fair_coin_costs_one_bit():
    assert bits_per_dim(torch.tensor(10 * math.log(0.5)), 10).item() == pytest.approx(1)
