r"""Annealed importance sampling: log Z of a machine that is too large to be enumerated, with an interval.

Chains start as exact draws of the base-rate model (beta = 0, whose Z_0 is known) and are led through the machines of
`Tempered` to beta = 1, one Gibbs sweep at each. The weight of a chain,

    log w = sum_k F_{beta_(k-1)}(x_(k-1)) - F_{beta_k}(x_(k-1)),        E[w] = Z / Z_0 exactly,

is an importance weight on the space of whole paths. The mean of w is unbiased, but the logarithm of a mean is too small
on average, and by much if few chains carry all the weight: then log Z comes out too low and every likelihood too good.
References: Neal, "Annealed Importance Sampling", 1998, arXiv physics/9803008; Salakhutdinov and Murray, "On the
Quantitative Analysis of Deep Belief Networks", 2008.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from scipy import stats
from torch import Tensor

from coursekit.boltzmann.restricted import RestrictedMachine
from coursekit.boltzmann.tempering import Tempered, checked_betas
from coursekit.estimates import Estimate

__all__ = ["LogPartition", "annealed_importance_sampling", "base_rate"]


@dataclass(frozen=True)
class LogPartition(Estimate):
    """An estimate of log Z in nats.

    Attributes:
        effective_sample_size: (sum w)^2 / sum w^2, of as many chains as there were; near 1, trust nothing.
        log_weights: log Z_0 + log w of each chain, (M,) float64.
    """

    effective_sample_size: float = 0.0
    log_weights: Tensor = field(default_factory=lambda: torch.empty(0), repr=False, compare=False)


def base_rate(x: Tensor, smoothing: float = 1.0) -> Tensor:
    """Biases b0 with which independent units have the means of binary data, (N, *shape) -> (D,): b0 = artanh E[x].

    Args:
        x: of -1 and 1.
        smoothing: imagined observations of either value, without which a pixel that never changes has none.

    Raises:
        ValueError: if the smoothing is not positive.

    Example:
        >>> base_rate(torch.tensor([[1.0, -1.0], [1.0, 1.0]])).tanh()
        tensor([0.5000, 0.0000])
    """
    if not smoothing > 0:
        raise ValueError(f"smoothing must be positive, got {smoothing}")
    return torch.atanh(x.flatten(1).sum(0) / (len(x) + 2 * smoothing))


@torch.no_grad()
def annealed_importance_sampling(
    machine: RestrictedMachine,
    chains: int = 100,
    betas: int | Sequence[float] | Tensor = 1000,
    base: Tensor | None = None,
    level: float = 0.95,
    generator: torch.Generator | None = None,
) -> LogPartition:
    """log Z of an RBM of either kind, estimated.

    The interval is the hull of two. The delta method takes the weights as they are, but sees none that was never
    drawn. Cox's interval for the mean of a log-normal variable (Land, "Confidence Intervals for Linear Functions of the
    Normal Mean and Variance", 1971) infers the rare large weights from the spread of log w, but trusts it to be normal.
    Each alone misses log Z too often in one of the two cases: few temperatures, or chains stuck in modes.

    Args:
        machine: whose log Z is wanted.
        chains: M, independent of each other.
        betas: temperatures rising from 0 to 1, or how many, at equal distances.
        base: biases (D,) of the base-rate model, such as `base_rate` of the data; the machine's own if None.
        level: of the interval.
        generator: source of all randomness.

    Returns:
        log of the mean weight, in nats, with its interval, the effective sample size and the weights.

    Raises:
        ValueError: for fewer than two chains, a level outside (0, 1), or impossible betas or biases.

    Example:
        >>> from coursekit.boltzmann import RBM
        >>> machine = RBM(6, hidden=4)
        >>> estimate = annealed_importance_sampling(machine, betas=50, generator=torch.Generator().manual_seed(0))
        >>> abs(estimate.value - machine.log_partition().item()) < 0.1
        True
    """
    if chains < 2 or not 0 < level < 1:
        raise ValueError(f"chains >= 2 and 0 < level < 1 are wanted, got {chains} and {level}")
    path = Tempered(machine, base)
    line = checked_betas(torch.linspace(0, 1, betas) if isinstance(betas, int) else betas, path.base).tolist()
    x = path.start(chains, generator=generator)
    log_w = path.log_partition_of_base().double().expand(chains)
    for before, beta in pairwise(line):
        hidden = machine.hidden_field(x)  # (M, H)
        log_w = log_w + (path.free_energy(x, hidden, before) - path.free_energy(x, hidden, beta)).double()
        x = path.gibbs(hidden, beta, generator)
    return _estimate(log_w.cpu(), level)


def _estimate(log_w: Tensor, level: float) -> LogPartition:
    M = len(log_w)
    value = log_w.logsumexp(0).item() - math.log(M)
    effective = (2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp().item()
    mean, variance = log_w.mean().item(), log_w.var().item()
    quantile = float(stats.t.ppf((1 + level) / 2, M - 1))
    delta = quantile * math.sqrt(max(0.0, M / effective - 1) / (M - 1))  # relative error of the mean weight
    cox = quantile * math.sqrt(variance / M + variance**2 / (2 * (M - 1)))  # error of mean + variance / 2
    low, high = (min(value - delta, mean + variance / 2 - cox), max(value + delta, mean + variance / 2 + cox))
    return LogPartition(value, low, high, level, effective, log_w)
