r"""EM: the mixture that makes the data most likely (ML), or that is most probable given them and a prior (MAP).

    E-step    r_nk = w_k N(x_n; m_k, C_k) / sum_j w_j N(x_n; m_j, C_j)
    M-step    N_k = sum_n r_nk,    w_k = N_k / N,    m_k = sum_n r_nk x_n / N_k,
              C_k = sum_n r_nk (x_n - m_k)(x_n - m_k)^T / N_k, or what comes nearest to it in a simpler structure

Each step raises the log-likelihood (Dempster, Laird and Rubin, 1977; Bishop, 2006, section 9.4), but for what `floor`
adds. The E-step walks over chunks that stay in the processor's cache and keeps `Moments` of them only, so that
memory does not grow with N K D.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from coursekit.gmm.covariances import Covariance
from coursekit.gmm.moments import Moments, Prior

__all__ = ["EMHistory", "Parameters", "Settings", "e_step", "m_step", "run"]

CHUNK_BYTES = 2**20  # of residuals (K, D, n): a second-level cache holds them and a copy or two


@dataclass
class EMHistory:
    """What a run of EM did.

    Attributes:
        log_likelihood: mean log p(x_n) in nats a point, before the first step, ..., after the last. If the data came
            in batches: in each pass, every batch before its own step.
        objective: what EM raises: the same plus, with a prior, its log-density over N.
        converged: whether the objective rose by less than `tol` in the last step.
        collapsed: the components that ended on a point or in a plane, where the likelihood has no bound and only
            `floor` gives them a variance, and those that lost all their points.
    """

    log_likelihood: list[float] = field(default_factory=list)
    objective: list[float] = field(default_factory=list)
    converged: bool = False
    collapsed: tuple[int, ...] = ()

    @property
    def steps(self) -> int:
        """M-steps done (if the data came in batches: passes after the first)."""
        return len(self.objective) - 1

    def note(self, log_likelihood: float, log_prior: float, tol: float) -> None:
        """Append one entry, in nats a point.

        Raises:
            FloatingPointError: for NaN or infinity.
        """
        if not math.isfinite(log_likelihood + log_prior):
            raise FloatingPointError(f"log-likelihood {log_likelihood} after {self.steps + 1} steps: x is too large")
        self.log_likelihood.append(log_likelihood)
        self.objective.append(log_likelihood + log_prior)
        self.converged = self.steps > 0 and abs(self.objective[-1] - self.objective[-2]) < tol


@dataclass(frozen=True)
class Settings:
    """How EM goes on and when it stops.

    Attributes:
        steps: M-steps at most (passes over the data, if it comes in batches).
        tol: stop when the objective, in nats a point, changes by less.
        floor: a variance added to every diagonal; None is 1e-6, and singular data are refused.
        prior: of weights and covariances; flat if None.
        chunk: points at a time; by default what fits the cache.

    Raises:
        ValueError: for a number outside its range.
    """

    steps: int = 100
    tol: float = 1e-3
    floor: float | None = None
    prior: Prior | None = None
    chunk: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or self.steps < 0:
            raise ValueError(f"steps must be an integer, at least 0, got {self.steps!r}")
        if self.chunk is not None and (not isinstance(self.chunk, int) or self.chunk < 1):
            raise ValueError(f"chunk must be a positive integer, got {self.chunk!r}")
        for name, value in (("tol", self.tol), ("floor", self.variance_floor)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {value}")

    @property
    def variance_floor(self) -> float:
        """The floor, a number."""
        return 1e-6 if self.floor is None else self.floor

    @property
    def belief(self) -> Prior:
        """The prior, flat if none was given."""
        return self.prior or Prior()

    @property
    def refuses_singular(self) -> bool:
        """Whether nothing says which variance a direction without any is to have."""
        return not self.floor and not self.belief.strength


@dataclass(frozen=True)
class Parameters:
    """A mixture as EM sees it: log w (K,), means (K, D), covariances of one structure."""

    log_weights: Tensor
    means: Tensor
    covariance: Covariance

    def log_prior(self, prior: Prior) -> Tensor:
        """The log-density of a prior, a scalar, up to a constant."""
        energy = self.covariance.energy(prior.variances(self.means))
        return (prior.concentration - 1) * self.log_weights.sum() - 0.5 * prior.strength * energy

    def collapsed(self, x: Tensor, N: int, floor: float) -> tuple[int, ...]:
        """The components with the least variance that `floor` and rounding allow, or without any of N points like x."""
        rounding = 10 * torch.finfo(x.dtype).eps * float(x.var(0, correction=0).mean())
        flat = self.covariance.smallest() <= max(2 * floor, rounding)
        lost = self.log_weights < -math.log(1000 * N)
        return tuple(torch.nonzero(flat | lost)[:, 0].tolist())


def chunks(x: Tensor, K: int, rows: int | None = None) -> Iterator[Tensor]:
    """Parts of x (N, D) whose residuals from K means fit the cache, or `rows` points each."""
    return iter(x.split(rows or max(64, CHUNK_BYTES // (K * x.shape[1] * x.element_size()))))


def e_step(now: Parameters, x: Tensor, rows: int | None = None) -> tuple[Tensor, Moments]:
    """The sums of log p(x_n) over chunks, on the device, and the moments that the M-step needs."""
    totals, count, sums = [], 0.0, None
    negligible = 0.9 * math.log(torch.finfo(x.dtype).tiny)  # exp of less is subnormal, which is slow
    for part in chunks(x, len(now.means), rows):
        squared, residuals = now.covariance.residuals(part, now.means)
        log_joint = now.covariance.log_normal(squared, x.shape[1]) + now.log_weights[:, None]  # (K, n)
        highest = log_joint.amax(0)
        r = (log_joint - highest).clamp_(min=negligible).exp_()
        evidence = r.sum(0)
        r /= evidence
        found = now.covariance.sums(residuals, r)
        totals.append((highest + evidence.log()).sum())
        count = count + r.sum(1)
        sums = found if sums is None else tuple(a.add_(b) for a, b in zip(sums, found, strict=True))
    return torch.stack(totals), now.covariance.moments(count, sums)


def m_step(now: Parameters, moments: Moments, settings: Settings) -> tuple[Parameters, Tensor]:
    """The next parameters, and by how much the means moved (K, D)."""
    prior, floor = settings.belief, settings.variance_floor
    tiny = 10 * torch.finfo(now.means.dtype).eps
    weights = moments.count + (prior.concentration - 1 + tiny)
    scale = prior.variances(now.means)
    shift, covariance = now.covariance.maximise(moments, prior.strength, scale, floor)
    return Parameters(torch.log(weights / weights.sum()), now.means + shift, covariance.mended(floor)), shift


def run(now: Parameters, x: Tensor, settings: Settings) -> tuple[Parameters, EMHistory]:
    """Steps on all points x (N, D) from `now` on; the device is asked for a value once a step."""
    history = EMHistory()
    for step in range(settings.steps + 1):
        totals, moments = e_step(now, x, settings.chunk)
        *found, log_prior = torch.cat([totals, now.log_prior(settings.belief)[None]]).tolist()
        history.note(math.fsum(found) / len(x), log_prior / len(x), settings.tol)
        if step == settings.steps or history.converged:
            break
        now, _ = m_step(now, moments, settings)
    return now, history
