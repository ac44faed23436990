"""The same network, levels and noise: trajectories equal those of diffusers' schedulers, where the definitions agree.

Where they differ, a comment says how, and the test shows it. All of diffusers' samplers keep to the 1,000 levels of a
table, alpha_bar_k for k = 1..1000, there counted from 0; a `Path` through those levels makes ours look at the same.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from coursekit.diffusion import LinearVP, Rectified, time_grid
from coursekit.diffusion.grids import Path
from coursekit.diffusion.samplers import SAMPLERS, Sampler, ddim, dpmpp_2m, dpmpp_2m_sde, log_snr, unipc

diffusers = pytest.importorskip("diffusers", reason="the optional extra `bench` is not installed")

TABLE = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
CLEAN = {"prediction_type": "sample", "timestep_spacing": "trailing"}  # the network answers with x_0
close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)
Network = Callable[[Tensor, float], Tensor]


@pytest.fixture
def network() -> Network:
    """A fixed random network (x, t) -> the estimate of x_0, bent and different at every time."""
    generator = torch.Generator().manual_seed(0)
    a, b, c = (torch.randn(shape, generator=generator) for shape in ((16, 6), (6, 16), (16,)))
    return lambda x, t: torch.tanh(torch.tanh(x @ a.T + c * t) @ b.T / 4)


def noise(seed: int = 1) -> Tensor:
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(seed))


def path_through(scheduler: object) -> Path:
    """The levels at which a scheduler of diffusers looks, and t = k / 1000."""
    k = scheduler.timesteps.long()
    alpha_bar = scheduler.alphas_cumprod.double()[k]
    alpha, sigma = alpha_bar.sqrt().tolist(), (1 - alpha_bar).sqrt().tolist()
    return Path(LinearVP(), tuple(((k + 1) / 1000).tolist()), (*alpha, 1.0), (*sigma, 0.0))


def trajectory_of(scheduler: object, network: Network, x: Tensor, **keywords: object) -> Iterator[Tensor]:
    for t in scheduler.timesteps:
        estimate = network(scheduler.scale_model_input(x, t), float(t + 1) / 1000)
        x = scheduler.step(estimate, t, x, **keywords).prev_sample
        yield x


def ours(sampler: Sampler, network: Network, x: Tensor, path: Path) -> list[Tensor]:
    return list(sampler(network, x, path, torch.Generator().manual_seed(7)))


@pytest.mark.parametrize("steps", [1, 2, 10, 50])
def test_ddim(network: Network, steps: int) -> None:
    # diffusers clips the estimate to [-1, 1] by default (clip_sample): switched off. set_alpha_to_one, its default,
    # ends in clean data as ours does always; without it the run would stop at the noise of alpha_bar_1.
    theirs = diffusers.DDIMScheduler(**TABLE, **CLEAN, clip_sample=False, set_alpha_to_one=True)
    theirs.set_timesteps(steps)
    expected = list(trajectory_of(theirs, network, noise()))
    for state, other in zip(ours(ddim, network, noise(), path_through(theirs)), expected, strict=True):
        close(state, other)


def test_ddim_with_fresh_noise(network: Network) -> None:
    # Both scale the noise of eq. 16 by eta; diffusers draws it with randn, we fill a tensor: the same numbers of one
    # generator. At the last step the variance is 0, so that it does not matter that diffusers draws there too.
    theirs = diffusers.DDIMScheduler(**TABLE, **CLEAN, clip_sample=False, set_alpha_to_one=True)
    theirs.set_timesteps(20)
    generator = torch.Generator().manual_seed(7)
    expected = list(trajectory_of(theirs, network, noise(), eta=0.6, generator=generator))
    for state, other in zip(
        ours(partial(ddim, eta=0.6), network, noise(), path_through(theirs)), expected, strict=True
    ):
        close(state, other)


def test_ddpm(network: Network) -> None:
    # variance_type "fixed_small", the default, is the posterior's variance, held at 1e-20 at least; no noise at the
    # last step, as here. clip_sample is switched off.
    theirs = diffusers.DDPMScheduler(50, 0.002, 0.4, clip_sample=False, prediction_type="sample")
    theirs.set_timesteps(50)
    path = path_through(theirs)
    generator = torch.Generator().manual_seed(7)
    x, expected = noise(), []
    for t in theirs.timesteps:
        estimate = network(x, float(t + 1) / 1000)
        x = theirs.step(estimate, t, x, generator=generator).prev_sample
        expected.append(x)
    for state, other in zip(ours(SAMPLERS["ddpm"], network, noise(), path), expected, strict=True):
        close(state, other)


@pytest.mark.parametrize("steps", [5, 20])
def test_euler_discrete_is_our_ddim(network: Network, steps: int) -> None:
    # Their Euler step is taken in sigma / alpha, for x / alpha: that is DDIM's step (arXiv 2010.02502, section 4.3).
    # It starts from x / alpha, so from noise times sigma / alpha; its init_noise_sigma for trailing spacing is this
    # sigma / alpha, not sqrt(1 + its square). Our `euler` takes its step in the angle, which no scheduler does.
    theirs = diffusers.EulerDiscreteScheduler(**TABLE, **CLEAN, final_sigmas_type="zero")
    theirs.set_timesteps(steps)
    path = path_through(theirs)
    torch.testing.assert_close(
        theirs.sigmas[:-1].double(), torch.tensor(path.sigma[:-1]).double() / torch.tensor(path.alpha[:-1]).double(),
        rtol=1e-4, atol=0,
    )  # fmt: skip
    expected = list(trajectory_of(theirs, network, noise() / path.alpha[0]))
    for alpha, state, other in zip(path.alpha[1:], ours(ddim, network, noise(), path), expected, strict=True):
        close(state, alpha * other)


def test_flow_match_euler_is_our_ddim_and_our_euler_is_as_good(network: Network) -> None:
    # diffusers follows the straight line x_t = (1 - t) x_0 + t eps by the velocity eps - x_0 in t, again DDIM's step;
    # its times are sigma itself. In the angle the slope is another, the limit the same: both of first order.
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)
    theirs.set_timesteps(sigmas=time_grid(Rectified(), 10).tolist())
    path = Path.along(Rectified(), time_grid(Rectified(), 10))
    x, expected = noise(), []
    for t, sigma in zip(theirs.timesteps, theirs.sigmas, strict=False):
        x = theirs.step((x - network(x, float(sigma))) / sigma, t, x).prev_sample
        expected.append(x)
    for state, other in zip(ours(ddim, network, noise(), path), expected, strict=True):
        close(state, other)
    fine = [Path.along(Rectified(), time_grid(Rectified(), n)) for n in (400, 800)]
    gaps = [
        (ours(SAMPLERS["euler"], network, noise(), p)[-1] - ours(ddim, network, noise(), p)[-1]).norm() for p in fine
    ]
    assert 1.6 < float(gaps[0] / gaps[1]) < 2.6


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 20])
@pytest.mark.parametrize("karras", [False, True])
def test_dpm_solver_multistep(network: Network, steps: int, karras: bool) -> None:
    # The line is in log(alpha / sigma) there: `coordinate=log_snr`. Ours by default takes the coordinate in which the
    # grid's steps are even. solver_type "midpoint" is the paper's algorithm 2; "heun" integrates the line exactly.
    # final_sigmas_type "zero" (the default) ends in clean data by a step of first order, as ours does always;
    # lower_order_final with fewer than 15 steps changes that last step only, for order 2.
    theirs = diffusers.DPMSolverMultistepScheduler(
        **TABLE, **CLEAN, algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint",
        final_sigmas_type="zero", lower_order_final=True, use_karras_sigmas=karras,
    )  # fmt: skip
    theirs.set_timesteps(steps)
    path = path_of_sigmas(theirs) if karras else path_through(theirs)
    expected = list(multistep_of(theirs, network, path))
    states = ours(partial(dpmpp_2m, coordinate=log_snr), network, noise(), path)
    for state, other in zip(states, expected, strict=True):
        close(state, other)


def test_sde_dpm_solver_multistep(network: Network) -> None:
    # diffusers draws fresh noise at the last step too and multiplies it by 0; ours draws none.
    theirs = diffusers.DPMSolverMultistepScheduler(
        **TABLE, **CLEAN, algorithm_type="sde-dpmsolver++", solver_order=2, final_sigmas_type="zero"
    )
    theirs.set_timesteps(20)
    path, generator = path_through(theirs), torch.Generator().manual_seed(7)
    expected = list(multistep_of(theirs, network, path, generator=generator))
    states = ours(partial(dpmpp_2m_sde, coordinate=log_snr), network, noise(), path)
    for state, other in zip(states, expected, strict=True):
        close(state, other)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc(network: Network, order: int) -> None:
    # B(h) = expm1 ("bh2"). diffusers lowers the order of the last steps (lower_order_final); with final_sigmas_type
    # "zero" the very last must be 1, as ours is, but for order 3 it also makes the last but one 2: then the states
    # differ from that step on. Its states after a step are the predicted ones, as ours are.
    theirs = diffusers.UniPCMultistepScheduler(
        **TABLE, **CLEAN, solver_order=order, solver_type="bh2", predict_x0=True, final_sigmas_type="zero"
    )
    theirs.set_timesteps(12)
    path = path_through(theirs)
    expected = list(multistep_of(theirs, network, path))
    states = ours(partial(unipc, order=order, coordinate=log_snr), network, noise(), path)
    same = len(states) - 2 if order == 3 else len(states)
    for state, other in zip(states[:same], expected[:same], strict=True):
        close(state, other)


def path_of_sigmas(scheduler: object) -> Path:
    """The levels of a scheduler that looks between those of its table; x has variance 1 there too."""
    q = scheduler.sigmas[:-1].double()
    alpha = 1 / torch.sqrt(1 + q**2)
    times = tuple((1 - i / len(q)) for i in range(len(q)))  # names only: the network below is told these
    return Path(LinearVP(), times, (*alpha.tolist(), 1.0), (*(q * alpha).tolist(), 0.0))


def multistep_of(scheduler: object, network: Network, path: Path, **keywords: object) -> Iterator[Tensor]:
    x = noise()
    for t, time in zip(scheduler.timesteps, path.times, strict=True):
        x = scheduler.step(network(x, time), t, x, **keywords).prev_sample
        yield x


def test_grids_are_theirs() -> None:
    # trailing: the same integers, k = t + 1. leading: diffusers shifts by steps_offset (0 here), ours never does.
    for steps in (1, 2, 7, 30, 61, 103, 333):
        for spacing in ("trailing", "leading"):
            theirs = diffusers.DDIMScheduler(**TABLE, timestep_spacing=spacing, steps_offset=0)
            theirs.set_timesteps(steps)
            k = (1000 * time_grid(LinearVP(), steps, spacing)).round().long()
            # N = 61, 103, ...: theirs in trailing may have one entry too many, at t = -1 (diffusers issue 9261)
            assert (k - 1).tolist() == theirs.timesteps.tolist()[:steps]
            assert all(a > b for a, b in pairwise(k.tolist()))
