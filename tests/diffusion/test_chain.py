"""Laws of the discrete chain: DDPM's tables, their precision, respacing and the posterior."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from coursekit.diffusion import SCHEDULES, Cosine, DiscreteChain, LinearVP, Rectified, ScaledLinearVP, SigmoidBetaVP
from coursekit.diffusion.chain import expand

CHAINS = {name: SCHEDULES[name]().discretised(1000) for name in SCHEDULES}


def reference_alpha_bar(beta: np.ndarray) -> np.ndarray:
    """The product of 1 - beta in extended precision."""
    return np.cumprod(1 - beta.astype(np.longdouble))


@pytest.mark.parametrize(
    ("schedule", "beta", "terminal"),
    [
        (LinearVP(), np.linspace(1e-4, 0.02, 1000), 4.0358e-5),
        (ScaledLinearVP(), np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 4.6601e-3),
        (SigmoidBetaVP(), 1e-4 + 0.0199 / (1 + np.exp(-np.linspace(-6, 6, 1000))), None),
    ],
)
def test_tables_of_the_papers(schedule: LinearVP, beta: np.ndarray, terminal: float | None) -> None:
    chain = schedule.discretised(1000)
    np.testing.assert_allclose(chain.beta[1:].numpy(), beta, rtol=1e-6)
    exact = reference_alpha_bar(beta)
    np.testing.assert_allclose(chain.alpha_bar[1:].numpy(), exact.astype(float), rtol=1e-6)
    variance = (1 - exact).astype(float)  # float32 products are off by 1.7e-4 here
    np.testing.assert_allclose(chain.sigma[1:].double().numpy() ** 2, variance, rtol=5e-7)
    if terminal is not None:
        assert chain.alpha_bar[-1].item() == pytest.approx(terminal, rel=1e-4)


def test_cosine_clipping_recomputes_alpha_bar() -> None:
    """Clipped at 0.999 the last step leaves 1 / sqrt(alpha_bar_T) = 20,291, and the tables still agree."""
    chain = Cosine().discretised(1000)
    assert chain.beta.max().item() == pytest.approx(0.999)
    assert 1 / chain.alpha[-1].item() == pytest.approx(20291, rel=1e-3)
    np.testing.assert_allclose(chain.alpha_bar[1:], reference_alpha_bar(chain.beta[1:].double().numpy()), rtol=1e-3)
    k = torch.arange(1000)  # before the clip, the grid is k/T: no step is lost or added
    torch.testing.assert_close(chain.alpha[:-1].double(), Cosine().alpha(k.double() / 1000), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_chain_iterates_to_the_closed_form(name: str) -> None:
    """Kernel after kernel, mean and variance of a point become alpha_k and sigma_k^2."""
    chain, mean, variance = CHAINS[name], 1.0, 0.0
    alpha, beta = chain.alpha.double(), chain.beta.double()
    for k in range(1, chain.T + 1):
        keep = float(alpha[k] / alpha[k - 1])
        mean, variance = keep * mean, keep**2 * variance + float(beta[k])
        assert mean == pytest.approx(float(alpha[k]), rel=1e-9)
        assert variance == pytest.approx(float(chain.sigma[k]) ** 2, rel=1e-4)


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("k", [1, 2, 17, 500, 999, 1000])
def test_posterior_is_bayes_rule(name: str, k: int) -> None:
    """q(x_{k-1} | x_k, x_0) on scalars, by quadrature of prior times likelihood."""
    chain, x_0 = CHAINS[name], 0.7
    alpha, sigma = chain.alpha.double(), chain.sigma.double()
    x_k = float(alpha[k] * x_0 - 1.3 * sigma[k])
    keep, beta = float(alpha[k] / alpha[k - 1]), float(chain.beta[k].double())
    mean, variance = chain.posterior(torch.tensor([[x_0]]), torch.tensor([[x_k]]), torch.tensor([k]))
    if k == 1:
        assert mean.item() == pytest.approx(x_0, rel=1e-6)
        assert variance.item() == 0
        return
    prior = stats.norm(float(alpha[k - 1]) * x_0, float(sigma[k - 1]))
    deviation = math.sqrt(beta)

    def joint(x: float) -> float:
        return prior.pdf(x) * stats.norm.pdf(x_k, keep * x, deviation)

    centre, width = mean.item(), math.sqrt(variance.item())
    moments = [
        integrate.quad(lambda x, p=p: joint(x) * (x - centre) ** p, centre - 12 * width, centre + 12 * width)[0]
        for p in range(3)
    ]
    assert moments[1] / moments[0] == pytest.approx(0, abs=2e-3 * width)
    assert moments[2] / moments[0] == pytest.approx(width**2, rel=2e-3)


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_no_table_holds_nan_and_variances_are_variances(name: str) -> None:
    chain = CHAINS[name]
    for buffer_name, buffer in chain.named_buffers():
        assert buffer.dtype == torch.float32, buffer_name
        assert buffer.shape == (1001,), buffer_name
        assert bool(torch.isfinite(buffer).all()), buffer_name
    assert bool((chain.posterior_variance >= 0).all())
    assert bool((chain.posterior_variance <= chain.beta * (1 + 1e-6)).all())
    assert chain.posterior_variance[1] == 0


@given(ks=st.sets(st.integers(1, 100), min_size=1, max_size=40))
def test_respacing_keeps_levels_and_derives_betas(ks: set[int]) -> None:
    full = LinearVP().discretised(100)
    kept = [0, *sorted(ks)]
    short = full.respaced(kept[1:])
    torch.testing.assert_close(short.alpha_bar, full.alpha_bar[kept])
    product = torch.cumprod(1 - short.beta.double(), 0)
    torch.testing.assert_close(product, short.alpha_bar.double(), rtol=2e-5, atol=1e-7)
    for (a, b), beta in zip(itertools.pairwise(kept), short.beta[1:], strict=True):
        exact = 1 - math.prod(1 - float(full.beta[k].double()) for k in range(a + 1, b + 1))
        assert float(beta) == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("schedule", [LinearVP(), ScaledLinearVP(), SigmoidBetaVP(), Cosine()])
def test_zero_terminal_snr(schedule: LinearVP) -> None:
    """Exactly zero at the end, the first step unchanged, still rising noise and variance preserving."""
    chain = schedule.discretised(1000)
    rescaled = chain.with_zero_terminal_snr()
    assert rescaled.alpha[-1] == 0
    assert rescaled.sigma[-1] == 1
    assert rescaled.alpha_bar[1] == chain.alpha_bar[1]
    assert bool((rescaled.beta[1:] > 0).all())
    torch.testing.assert_close(rescaled.alpha**2 + rescaled.sigma**2, torch.ones(1001))
    assert bool(torch.isfinite(torch.stack(list(rescaled.buffers()))).all())
    root = chain.alpha.double()
    wanted = (root[1:] - root[-1]) * root[1] / (root[1] - root[-1])
    torch.testing.assert_close(rescaled.alpha[1:].double(), wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_coefficients_stay_float32(dtype: torch.dtype) -> None:
    """In bfloat16 tables the first ten steps would add no noise at all."""
    chain = LinearVP().discretised(1000)
    x, noise = torch.ones(10, 3, dtype=dtype), torch.ones(10, 3, dtype=dtype)
    x_k = chain.add_noise(x, torch.arange(1, 11), noise)
    assert x_k.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    wanted = chain.alpha[1:11] + chain.sigma[1:11]
    torch.testing.assert_close(x_k[:, 0].float(), wanted)
    assert len(x_k[:, 0].unique()) == 10


def test_add_noise_writes_where_it_is_told() -> None:
    chain, generator = Rectified().discretised(10), torch.Generator().manual_seed(0)
    x, noise = torch.randn(4, 1, 5, 5, generator=generator), torch.randn(4, 1, 5, 5, generator=generator)
    k, out = torch.tensor([0, 3, 7, 10]), torch.empty(4, 1, 5, 5)
    result = chain.add_noise(x, k, noise, out=out)
    assert result.data_ptr() == out.data_ptr()
    torch.testing.assert_close(out[0], x[0])
    torch.testing.assert_close(out[3], noise[3])
    torch.testing.assert_close(out[1], 0.7 * x[1] + 0.3 * noise[1])
    torch.testing.assert_close(chain.add_noise(x, torch.tensor(3), noise)[1], out[1])


def test_buffers_follow_the_module() -> None:
    chain = LinearVP().discretised(30).to("meta")
    assert {buffer.device.type for buffer in chain.buffers()} == {"meta"}
    for half in (LinearVP().discretised(30).half(), LinearVP().discretised(30).to("meta", torch.bfloat16)):
        assert {buffer.dtype for buffer in half.buffers()} == {torch.float32}
    assert chain.state_dict() == {}  # rebuilt from the schedule, not stored


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DiscreteChain.from_betas([0.1, 1.5]), "beta must be"),
        (lambda: DiscreteChain.from_betas([]), "beta must be"),
        (lambda: DiscreteChain.from_betas([0.1, math.nan]), "beta must be"),
        (lambda: DiscreteChain(torch.tensor([1.0, 0.5, 0.9]), torch.tensor([0.0, 0.5, 0.1])), "noise must grow"),
        (lambda: DiscreteChain(torch.tensor([0.9, 0.5]), torch.tensor([0.0, 0.5])), "start at clean data"),
        (lambda: DiscreteChain(torch.tensor([1.0]), torch.tensor([0.0])), "one length"),
        (lambda: DiscreteChain(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 1.0])), "alpha must be positive"),
        (lambda: CHAINS["linear"].respaced([3, 2]), "ks must rise"),
        (lambda: CHAINS["linear"].respaced([0, 2]), "ks must rise"),
        (lambda: CHAINS["linear"].respaced([1, 1001]), "ks must rise"),
        (lambda: CHAINS["ve"].with_zero_terminal_snr(), "variance-preserving"),
        (lambda: CHAINS["linear"].add_noise(torch.ones(1, 2), torch.tensor([1001]), torch.ones(1, 2)), "k must lie"),
        (lambda: CHAINS["linear"].posterior(torch.ones(1, 2), torch.ones(1, 2), torch.tensor([-1])), "k must lie"),
        (lambda: expand(torch.ones(3), torch.ones(2, 2)), "one coefficient per sample"),
    ],
)
def test_bad_input_is_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
