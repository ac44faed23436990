r"""Variational bounds: how many nats a diffusion model needs at most, -log p(x) <= prior + diffusion + reconstruction.

Of the discrete chain x_0 -> ... -> x_T the diffusion part is a sum of KL divergences between normal laws,

    sum_{k=2}^T KL(q(x_{k-1} | x_k, x_0) || p(x_{k-1} | x_k))        (Ho et al., 2020, arXiv 2006.11239, eq. 5),

each of which, with the posterior's own variance, is (SNR_{k-1} - SNR_k) |x_0 - D(x_k)|^2 / 2. As the steps become
smaller the sum becomes an integral, in which the schedule only decides where one looks:

    1/2 E int_{t_min}^{t_max} -SNR'(t) |x_0 - D(x_t)|^2 dt           (Kingma et al., 2021, arXiv 2107.00630, section 5).

The integral lies below the sum for the exact denoiser, since looking at a noisier x_k for the whole step costs. Both
start from N(0, sigma^2 I) and end in a decoder (see the other modules of this folder). A chain of few steps is a model
of its own: it may give single points more than they deserve, but over the data no mean lies below their entropy.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from coursekit.diffusion.chain import expand
from coursekit.diffusion.likelihood.bound import Bound, prior_term
from coursekit.diffusion.likelihood.capacity import capacity, chain_through, ends, time_of_capacity
from coursekit.diffusion.likelihood.decoders import Decoder
from coursekit.diffusion.likelihood.variances import ReverseVariance, Step, lower_variance
from coursekit.diffusion.losses import ImportanceSampled, Stratified

__all__ = ["chain_bound", "continuous_bound"]


@torch.no_grad()
def chain_bound(
    denoiser: nn.Module,
    x: Tensor,
    y: Tensor | None = None,
    *,
    times: Tensor,
    decoder: Decoder,
    variance: ReverseVariance = lower_variance,
    terms: int | None = None,
    draws: int = 1,
    generator: torch.Generator | None = None,
) -> Bound:
    """The bound of the chain through `times`, for any denoiser and schedule.

    Args:
        denoiser: anything with `schedule` and `forward(x_t, t, y)` = E[x_0 | x_t].
        x: data (N, ...).
        y: labels (N,), if the denoiser takes them.
        times: (T,), falling, from the noisiest time to that of x_1, such as `time_grid` or `capacity_grid` gives.
        decoder: log p(x | x_1).
        variance: of the steps back.
        terms: how many of the T - 1 diffusion terms are looked at a sample: one at random from each of so many equal
            pieces of the chain, so that the sum stays unbiased. All if None.
        draws: repetitions with noise of their own; at least two for a standard error.
        generator: of the noise and the choice of terms, on x's device.

    Raises:
        ValueError: for times that do not fall, or an impossible number of terms or draws.

    Example:
        >>> from coursekit.diffusion import ExactDenoiser, Rectified, time_grid
        >>> from coursekit.diffusion.likelihood import Gaussian
        >>> from coursekit.gmm import GaussianMixture
        >>> normal = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
        >>> x, model = torch.zeros(1000, 2), ExactDenoiser(normal, Rectified())
        >>> bound = chain_bound(model, x, times=time_grid(Rectified(), 100), decoder=Gaussian())
        >>> bool(bound.nats.mean() > -normal.log_prob(x).mean())
        True
    """
    chain, t = chain_through(denoiser.schedule, times)
    chain, t = chain.to(x.device), t.to(x)
    first, size = _pieces(chain.T, terms)
    _check_draws(draws)

    def noisy(k: Tensor) -> Step:
        x_k = chain.add_noise(x, k, torch.empty_like(x).normal_(generator=generator))
        return Step(chain, k, t[k], x_k, denoiser(x_k, t[k], y), y)

    def term(low: int, width: int) -> tuple[Tensor, Tensor]:
        step = noisy(torch.randint(low, low + width, (len(x),), generator=generator, device=x.device))
        return width * step.divergence(x, variance(step)), denoiser.schedule.log_snr(step.t)

    def draw() -> tuple[Tensor, Tensor, Tensor]:
        pairs = [term(low, width) for low, width in zip(first, size, strict=True)]
        last = noisy(torch.ones(len(x), dtype=torch.long, device=x.device))
        levels = chain.alpha[last.k], chain.sigma[last.k]
        steps, log_snr = (torch.stack(each) for each in zip(*pairs, strict=True)) if pairs else _empty(x)
        return steps, log_snr, -decoder(x, last.x_k, last.estimate, *levels)

    prior = prior_term(x, chain.alpha[-1], chain.sigma[-1])
    return Bound.of([draw() for _ in range(draws)], prior, x[0].numel())


@torch.no_grad()
def continuous_bound(
    denoiser: nn.Module,
    x: Tensor,
    y: Tensor | None = None,
    *,
    decoder: Decoder,
    times: int = 32,
    t_min: float | None = None,
    importance: ImportanceSampled | None = None,
    draws: int = 1,
    generator: torch.Generator | None = None,
) -> Bound:
    """The bound of infinitely many steps, its integral over capacity (see `capacity`) estimated at random times.

    Args:
        denoiser: anything with `schedule` and `forward(x_t, t, y)` = E[x_0 | x_t].
        x: data (N, ...).
        y: labels (N,), if the denoiser takes them.
        decoder: log p(x | x_{t_min}).
        times: a sample, one from each of so many equal pieces of the range of capacities.
        t_min: where the integral ends and the decoder begins; the denoiser's own if None.
        importance: draw the times from its density instead, which `update` has fitted to earlier terms; see
            `coursekit.diffusion.ImportanceSampled`. In training mode it goes on learning.
        draws: repetitions with noise of their own; at least two for a standard error.
        generator: of times and noise, on x's device.

    Raises:
        ValueError: for an impossible number of times or draws, or t_min without noise.
    """
    _check_draws(draws)
    if not isinstance(times, int) or times < 1:
        raise ValueError(f"times must be a positive integer, got {times!r}")
    schedule, (t_min, t_max) = denoiser.schedule, ends(denoiser, t_min)
    low, high = (float(capacity(schedule, t)) for t in (t_max, t_min))

    def noisy(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        x_t = expand(alpha, x) * x + expand(sigma, x) * torch.empty_like(x).normal_(generator=generator)
        return x_t, denoiser(x_t, t, y), alpha, sigma

    def term(piece: int) -> tuple[Tensor, Tensor]:
        u = (piece + Stratified()(len(x), generator, x.device)[0]) / times
        u, weight = (u, 1.0) if importance is None else importance.warp(u)
        t = time_of_capacity(schedule, low + (high - low) * u.to(x)).clamp(t_min, t_max)
        _, estimate, alpha, sigma = noisy(t)
        integrand = (x - estimate).square().flatten(1).sum(1) * (1 + (alpha / sigma).square())
        if importance is not None and importance.training:
            importance.update(u, integrand)
        return (high - low) / times * weight * integrand, schedule.log_snr(t)

    def draw() -> tuple[Tensor, Tensor, Tensor]:
        steps, log_snr = (torch.stack(each) for each in zip(*(term(i) for i in range(times)), strict=True))
        return steps, log_snr, -decoder(x, *noisy(torch.full_like(log_snr[0], t_min)))

    prior = prior_term(x, schedule.alpha(t_max), schedule.sigma(t_max))
    return Bound.of([draw() for _ in range(draws)], prior, x[0].numel())


def _pieces(T: int, terms: int | None) -> tuple[list[int], list[int]]:
    """The first k and the length of each of `terms` nearly equal pieces of 2..T."""
    terms = T - 1 if terms is None else terms
    if not isinstance(terms, int) or not min(1, T - 1) <= terms <= T - 1:
        raise ValueError(f"terms must lie in 1..{T - 1}, one less than the steps of the chain, got {terms!r}")
    edges = [2 + i * (T - 1) // max(terms, 1) for i in range(terms + 1)]
    return edges[:-1], [b - a for a, b in pairwise(edges)]


def _empty(x: Tensor) -> tuple[Tensor, Tensor]:
    """No steps: the chain of T = 1 is prior and decoder only."""
    return x.new_zeros(0, len(x)), x.new_zeros(0, len(x))


def _check_draws(draws: int) -> None:
    if not isinstance(draws, int) or draws < 1:
        raise ValueError(f"draws must be a positive integer, got {draws!r}")
