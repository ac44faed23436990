r"""Langevin dynamics: a walk down the energy, shaken so that it comes to rest at the density and not at a minimum.

The stochastic differential equation dx = -grad E(x) dt + sqrt(2) dw has the stationary law exp(-E(x)) / Z. In steps of
length eps, with xi ~ N(0, I),

    x' = x - eps grad E(x) + sqrt(2 eps T) xi,        T the temperature; the law is exp(-E(x) / T) as eps -> 0.

The unadjusted chain is biased: for E = x^T P x / 2 and T = 1 its stationary covariance solves S = A S A + 2 eps I with
A = I - eps P, so

    S = (P - eps P^2 / 2)^{-1},                       v / (1 - eps / (2 v)) in one dimension with variance v,

and it diverges for eps > 2 v. A Metropolis test removes the bias: x' is taken with probability

    min(1, exp(E(x) - E(x')) q(x | x') / q(x' | x)),        q(x' | x) = N(x'; x - eps grad E(x), 2 eps I),

and x kept otherwise. References: Roberts and Tweedie, "Exponential Convergence of Langevin Distributions and Their
Discrete Approximations", 1996; Besag's comment on Grenander and Miller, 1994.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from coursekit.energy.moves import Chains, accept, check_settings, choose, noise_like, run, squares
from coursekit.energy.scores import Energy, Score, check_finite, energy_and_score, score_of

__all__ = ["langevin", "langevin_by_score", "mala"]


def langevin(
    energy: Energy,
    x: Tensor,
    step: float,
    steps: int,
    *,
    temperature: float = 1.0,
    clip: float | None = None,
    generator: torch.Generator | None = None,
    trajectory: bool = False,
) -> Tensor:
    """Unadjusted Langevin dynamics of N chains.

    Args:
        energy: E, a function (N, ...) -> (N,) or an `EnergyModel`.
        x: where the chains start, (N, ...).
        step: eps.
        steps: how many.
        temperature: T; below 1 the chains gather in the deepest valleys, 0 is gradient descent.
        clip: the largest norm of a chain's gradient; what is longer is shortened, which biases the law. None for
            no such bound.
        generator: source of the noise.
        trajectory: return all states, (steps + 1, N, ...), instead of the last.

    Returns:
        The states, (N, ...).

    Raises:
        ValueError: for a step that is not positive, fewer than no steps, or an energy that is not finite.

    Example:
        >>> x = langevin(lambda x: 0.5 * x.square().sum(1), torch.zeros(20000, 1), step=0.5, steps=50)
        >>> abs(x.var().item() - 1 / (1 - 0.5 / 2)) < 0.05  # not 1
        True
    """
    score = score_of(energy)
    return langevin_by_score(
        score, x, step, steps, temperature=temperature, clip=clip, generator=generator, trajectory=trajectory
    )


def langevin_by_score(
    score: Score,
    x: Tensor,
    step: float,
    steps: int,
    *,
    temperature: float = 1.0,
    clip: float | None = None,
    generator: torch.Generator | None = None,
    trajectory: bool = False,
) -> Tensor:
    """`langevin` for a density of which only the score is known; the other arguments are the same.

    Raises:
        ValueError: for impossible settings, or a score that is not finite.
    """
    check_settings(step, steps)
    if not temperature >= 0 or (clip is not None and not clip > 0):
        raise ValueError(f"temperature >= 0 and clip > 0 are wanted, got {temperature} and {clip}")
    walk = _walk(score, x, step, temperature, clip, generator)
    return run(walk, x, steps, trajectory)


def _walk(
    score: Score, x: Tensor, step: float, temperature: float, clip: float | None, generator: torch.Generator | None
) -> Iterator[Tensor]:
    while True:
        with torch.no_grad():
            slope = score(x)
            check_finite(slope, "score")
            slope = slope if clip is None else _shorten(slope, clip)
            x = torch.add(x, slope, alpha=step)
            x = x.add_(noise_like(x, generator), alpha=math.sqrt(2 * step * temperature))
        yield x


def _shorten(slope: Tensor, longest: float) -> Tensor:
    norm = slope.flatten(1).norm(dim=1).view(-1, *[1] * (slope.ndim - 1))
    return slope * (longest / norm.clamp(min=longest))


def mala(
    energy: Energy,
    x: Tensor,
    step: float,
    steps: int,
    *,
    generator: torch.Generator | None = None,
    trajectory: bool = False,
) -> Chains:
    """Metropolis-adjusted Langevin dynamics of N chains: each takes or refuses its own proposals.

    The best acceptance in many dimensions is near 0.57 (Roberts and Rosenthal, 1998).

    Args:
        energy: E, a function (N, ...) -> (N,).
        x: where the chains start, (N, ...).
        step: eps.
        steps: how many.
        generator: source of noise and decisions.
        trajectory: keep all states.

    Raises:
        ValueError: for impossible settings, or an energy that is not finite, at the start or where a chain wants to go.

    Example:
        >>> chains = mala(lambda x: 0.5 * x.square().sum(1), torch.zeros(20000, 1), step=0.5, steps=50)
        >>> abs(chains.x.var().item() - 1) < 0.05, bool(chains.acceptance.mean() > 0.8)
        (True, True)
    """
    check_settings(step, steps)
    accepted = x.new_zeros(len(x))

    def walk(x: Tensor) -> Iterator[Tensor]:
        E, s = energy_and_score(energy, x)
        while True:
            new = x + step * s + math.sqrt(2 * step) * noise_like(x, generator)
            E_new, s_new = energy_and_score(energy, new)
            there, back = new - x - step * s, x - new - step * s_new
            log_ratio = E - E_new + (squares(there) - squares(back)) / (4 * step)
            taken = accept(log_ratio, generator)
            accepted.add_(taken.to(accepted.dtype))
            x, s = choose(taken, new, x), choose(taken, s_new, s)
            E = torch.where(taken, E_new, E)
            yield x

    with torch.no_grad():
        return Chains(run(walk(x), x, steps, trajectory), accepted / max(1, steps))
