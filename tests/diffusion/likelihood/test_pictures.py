"""Laws of likelihoods of 8-bit pictures: probabilities sum to one, tails, offsets; known entropy is never beaten."""

import math
import sys
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from coursekit.data import from_pixels, load_animals
from coursekit.diffusion import Denoiser, Rectified, time_grid
from coursekit.diffusion.likelihood import (
    BinNoise,
    Decoder,
    DiscretisedGaussian,
    Gaussian,
    GaussianNoise,
    Levels,
    capacity_grid,
    chain_bound,
    continuous_bound,
    dequantised_log_prob,
    log_normal_bin,
)
from coursekit.pixels import bits_per_dim
from coursekit.recipes import load_released

sys.path.insert(0, str(Path(__file__).parent))
from truths import exact, generator, levels, normal, standard_error

ALL = from_pixels(torch.arange(256, dtype=torch.uint8), torch.float64)
SHAPE = (500, 1, 2, 2)
SOURCES = ["black and white", "flat", "bumpy"]


def excess(nats: Tensor, source: Levels, dims: int = 4) -> tuple[float, float]:
    """Bits per pixel above the entropy of a source of independent pixels, and the standard error."""
    bits = bits_per_dim(-nats, dims) - source.entropy() / math.log(2)
    return bits.mean().item(), standard_error(bits)


def every_level(decoder: Decoder, x_t: float, estimate: float, alpha: float, sigma: float) -> Tensor:
    """log P of the 256 values of one pixel, given the same x_t."""
    columns = (torch.full((256, 1), value, dtype=torch.float64) for value in (x_t, estimate))
    return decoder(ALL[:, None], *columns, *(torch.full((256,), c, dtype=torch.float64) for c in (alpha, sigma)))


@given(x_t=st.floats(-1.5, 1.5), estimate=st.floats(-1.2, 1.2), sigma=st.floats(0.001, 2.0))
@settings(max_examples=40, deadline=None)
def test_probabilities_of_the_levels_sum_to_one(x_t: float, estimate: float, sigma: float) -> None:
    for decoder in (levels("bumpy"), levels("black and white"), DiscretisedGaussian(), DiscretisedGaussian(0.01)):
        total = every_level(decoder, x_t, estimate, 0.8, sigma).logsumexp(0)
        assert total.item() == pytest.approx(0, abs=1e-9)


def test_levels_are_bayes_rule() -> None:
    source, x_t, alpha, sigma = levels("bumpy"), 0.13, 0.7, 0.2
    joint = source.log_prior.exp().numpy() * stats.norm.pdf(x_t, alpha * ALL.numpy(), sigma)
    posterior = joint / joint.sum()
    np.testing.assert_allclose(every_level(source, x_t, 0.0, alpha, sigma).exp(), posterior, rtol=1e-9)
    mean = source.denoise(torch.full((1, 1), x_t, dtype=torch.float64), alpha, sigma)
    assert mean.item() == pytest.approx(float(posterior @ ALL.numpy()), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tails_keep_their_digits(dtype: torch.dtype) -> None:
    """At 7, 12 and 40 deviations a difference of float32 probabilities would be 0; compared with 60 digits."""
    mpmath.mp.dps = 400
    std, level = 0.02, from_pixels(torch.tensor([100, 101, 128, 200], dtype=torch.uint8), dtype)
    for far in (0.3, 7.0, -7.0, 12.0, 40.0, -40.0):
        mean = level - far * std
        found = log_normal_bin(level, mean, torch.tensor(std, dtype=dtype))
        for x, m, value in zip(level.tolist(), mean.tolist(), found.tolist(), strict=True):
            ends = [(mpmath.mpf(x) + sign / mpmath.mpf(255) - m) / mpmath.mpf(std) for sign in (1, -1)]
            right = mpmath.log(mpmath.ncdf(ends[0]) - mpmath.ncdf(ends[1]))
            assert value == pytest.approx(float(right), rel=2e-4 if dtype == torch.float32 else 1e-10)


def test_outer_bins_reach_to_infinity() -> None:
    std = torch.tensor(0.1, dtype=torch.float64)
    for mean in (-0.97, 5.0, -40.0):
        found = log_normal_bin(ALL[[0, -1]], torch.tensor(mean, dtype=torch.float64), std)
        h = 1 / 255
        expected = [stats.norm.logcdf((-1 + h - mean) / 0.1), stats.norm.logsf((1 - h - mean) / 0.1)]
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_gaussian_decoder_is_a_density() -> None:
    x, estimate = torch.randn(2, 5, 3, generator=generator()).double()
    alpha, sigma = torch.full((5,), 0.8).double(), torch.linspace(0.1, 0.5, 5).double()
    found = Gaussian()(x, x, estimate, alpha, sigma)
    expected = stats.norm.logpdf(x, estimate, (sigma / alpha)[:, None]).sum(1)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_source_of_independent_levels() -> None:
    """Its samples, probabilities and entropy agree with each other and with a count."""
    source = levels("bumpy")
    x = source.sample((20000, 1), generator(100))
    nats = -source.log_prob(x)
    assert (nats.mean() - source.entropy()).abs().item() < 4 * standard_error(nats)
    counted = Levels.counted(x.float(), pseudo_count=0.5)
    torch.testing.assert_close(counted.log_prior.exp().double(), source.log_prior.exp(), rtol=0, atol=0.01)
    assert levels("flat").entropy().item() == pytest.approx(8 * math.log(2))


@pytest.mark.parametrize("bad", [torch.ones(255), torch.zeros(256), torch.full((256,), torch.nan)])
def test_impossible_priors_are_refused(bad: Tensor) -> None:
    with pytest.raises(ValueError, match="256 positive"):
        Levels(bad)


def test_pictures_between_the_levels_are_refused() -> None:
    x, model = torch.full((2, 1, 2, 2), 0.3), exact(levels("flat").float(), "rectified")
    for run in (
        lambda: continuous_bound(model, x, decoder=Levels(), times=1),
        lambda: chain_bound(model, x, times=time_grid(Rectified(), 2), decoder=DiscretisedGaussian()),
        lambda: dequantised_log_prob(model, x),
        lambda: Denoiser(lambda x, t: x, Rectified()).log_prob_bound(x),
    ):
        with pytest.raises(ValueError, match="256 levels"):
            run()


# --- known entropy is never beaten ---------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["rectified", "cosine", "edm"])
@pytest.mark.parametrize("kind", SOURCES)
def test_the_integral_does_not_beat_the_entropy_and_reaches_it(kind: str, schedule: str) -> None:
    """The best denoiser and the right decoder; the prior's KL is what EDM loses at SNR(1) = 1/6400."""
    source = levels(kind)
    x = source.sample(SHAPE, generator(100))
    bound = continuous_bound(exact(source, schedule), x, decoder=source, t_min=0.03, times=12, generator=generator())
    bits, error = excess(bound.nats, source)
    assert -4 * error < bits < 4 * error + 0.001
    assert error < 0.1


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("name", ["levels", "flat levels", "bins"])
def test_no_chain_beats_the_entropy(kind: str, name: str) -> None:
    source, s = levels(kind), Rectified()
    decoder = {"levels": source, "flat levels": levels("flat"), "bins": DiscretisedGaussian()}[name]
    x = source.sample(SHAPE, generator(100))
    for T in (3, 12):
        bound = chain_bound(
            exact(source, "rectified"), x, times=capacity_grid(s, T, 0.004), decoder=decoder, generator=generator(1)
        )
        bits, error = excess(bound.nats, source)
        assert bits > max(0.0, 2 * error)


@pytest.mark.parametrize("kind", SOURCES)
def test_the_ode_does_not_beat_the_entropy(kind: str) -> None:
    """On the diffusion's own noise it reaches it; uniform noise in the bins, which it never saw, costs."""
    source, t_min = levels(kind), 0.01
    x = source.sample((100, 1, 2, 1), generator(100))
    model = exact(source, "rectified")
    results = {}
    for noise in (GaussianNoise(source), BinNoise()):
        settings = {"t_min": t_min, "rtol": 1e-4, "atol": 1e-4, "generator": generator(1)}
        found = dequantised_log_prob(model, x, dequantisation=noise, **settings)
        bits, error = excess(-found.log_prob, source, 2)
        results[type(noise)] = bits, 4 * error + 3 * bits_per_dim(-found.solver_error.mean(), 2).item()
    (bits, error), (uniform, _) = results[GaussianNoise], results[BinNoise]
    assert abs(bits) < error < 0.8
    assert uniform > bits - error


def test_a_quantised_normal_law() -> None:
    """-log P of a normal law cut into the bins, by scipy's CDF, from the continuous law's own denoiser."""
    v, h = 0.05, 1 / 255
    k = torch.multinomial(torch.exp(-0.5 * ALL**2 / v), 3000, replacement=True, generator=generator())
    x, edges = ALL[k][:, None], np.concatenate([[-np.inf], ALL.numpy()[:-1] + h, [np.inf]])
    log_p = torch.from_numpy(np.log(np.diff(stats.norm.cdf(edges, scale=v**0.5))))[k]
    model = exact(normal(v), "rectified")
    settings = {"t_min": 0.001, "generator": generator(1)}
    ode = dequantised_log_prob(model, x, dequantisation=BinNoise(), **settings).log_prob
    gap = log_p - ode
    assert -4 * standard_error(gap) < gap.mean() < 4 * standard_error(gap) + 1e-3  # uniform noise hardly costs here
    for decoder in (levels("flat"), DiscretisedGaussian()):
        gap = continuous_bound(model, x, decoder=decoder, **settings).nats + log_p
        assert gap.mean() > -3 * standard_error(gap)


@pytest.mark.parametrize("schedule", ["rectified", "sub-vp"])
def test_offsets_of_the_bins(schedule: str) -> None:
    """A density that is 1/2 on [-1, 1] puts 1/256 on a level of [-1, 1], as nearly as 255/256 allows."""
    model = exact(levels("flat"), schedule)
    alpha, sigma = (float(c(0.01)) for c in (model.schedule.alpha, model.schedule.sigma))
    x = ALL[[0, 77, 255]][:, None]
    x_t, log_weight = BinNoise()(x, alpha, sigma, generator())
    assert bool(((x_t / alpha - x).abs() <= 1 / 255).all())
    density = math.log(0.5 / alpha)  # of x_t, uniform on [-alpha, alpha]
    assert bits_per_dim(density + log_weight[0], 1).item() == pytest.approx(8, abs=0.006)
    many = BinNoise()(torch.zeros(20000, 1).double(), 1.0, 0.0, generator())[0]
    assert many.std().item() == pytest.approx(2 / 255 / 12**0.5, rel=0.02)
    assert abs(many.mean().item()) < 1e-4  # not half a bin to one side


def test_denoisers_bound_is_the_integral_in_nats() -> None:
    source = levels("black and white").float()
    model = exact(source, "rectified")

    def network(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (c.view(-1, 1, 1, 1) for c in (1 - t, t))
        return model(x * torch.hypot(alpha, sigma), t)

    x = source.sample((50, 1, 2, 2), generator(100))
    denoiser = Denoiser(network, Rectified(), "x0", t_min=0.02)
    found = denoiser.log_prob_bound(x, generator=generator(), decoder=source, times=5)
    expected = continuous_bound(model, x, decoder=source, t_min=0.02, times=5, generator=generator())
    torch.testing.assert_close(found, expected.log_prob, rtol=1e-4, atol=1e-3)
    pixels = ((x + 1) * 127.5).round().to(torch.uint8)
    torch.testing.assert_close(denoiser.log_prob_bound(pixels, generator=generator(), decoder=source, times=5), found)


def test_released_denoisers_on_real_pictures() -> None:
    """Training where the bound looks pays: paired over 100 test pictures, fewer bits; and both need fewer than 2.2."""
    images, y, _ = load_animals("test")
    x, y, decoder = images[::20], y[::20], Levels.counted(load_animals("train").images)
    bits = [
        bits_per_dim(load_released(name).log_prob_bound(x, y, generator(), decoder, t_min, times=6), 784)
        for name, t_min in (("diffusion", 0.04), ("diffusion-likelihood", 0.015))
    ]
    assert (bits[0] - bits[1]).mean() > 3 * standard_error(bits[0] - bits[1])
    assert 1.4 < bits[1].mean() < bits[0].mean() < 2.2
