r"""What is known exactly about adversarial games, to stand beside what is trained.

For densities p (real) and q (generated) the best discriminator of the original game is D* = p / (p + q), its logit
log p - log q, and the game's value there

    E_p log D* + E_q log(1 - D*) = -log 4 + 2 JS(p, q),    JS = KL(p || m) / 2 + KL(q || m) / 2,   m = (p + q) / 2

(Goodfellow et al., 2014, arXiv 1406.2661, proposition 1 and theorem 1). JS is log 2 for laws that do not touch, however
far apart they are; W_1, the least mean distance over which one has to be carried to become the other, is not
(Arjovsky et al., 2017, arXiv 1701.07875, example 1). Densities come as logarithms in nats and may be -inf.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "game_value",
    "jensen_shannon",
    "non_saturating_slope",
    "optimal_discriminator",
    "optimal_logit",
    "parallel_lines_distances",
    "sample_line",
    "saturating_slope",
    "wasserstein_1d",
]


def optimal_logit(log_p: Tensor, log_q: Tensor) -> Tensor:
    """The logit of the best discriminator, log p - log q; 0 where neither law has any mass."""
    return torch.where(log_p == log_q, torch.zeros_like(log_p), log_p - log_q)


def optimal_discriminator(log_p: Tensor, log_q: Tensor) -> Tensor:
    """The best discriminator's probability of "real", p / (p + q); 1/2 where neither law has any mass.

    Example:
        >>> optimal_discriminator(torch.tensor([0.3]).log(), torch.tensor([0.1]).log())
        tensor([0.7500])
    """
    return torch.sigmoid(optimal_logit(log_p, log_q))


def jensen_shannon(log_p: Tensor, log_q: Tensor, weights: Tensor | float = 1.0) -> Tensor:
    """JS(p, q) in nats by quadrature, a scalar between 0 and log 2.

    Args:
        log_p: of the first density at the nodes, (N,).
        log_q: of the second.
        weights: of the nodes: the size of a cell, or (N,); 1 for probabilities.

    Raises:
        ValueError: if shapes differ, or if a density is NaN.

    Example:
        >>> log_p = torch.tensor([0.5, 0.5, 0.0, 0.0]).log()
        >>> round(jensen_shannon(log_p, log_p.flip(0)).item(), 4)  # log 2
        0.6931
    """
    if log_p.shape != log_q.shape:
        raise ValueError(f"log_q must have the shape of log_p, {tuple(log_p.shape)}, got {tuple(log_q.shape)}")
    for name, value in (("log_p", log_p), ("log_q", log_q)):
        if bool(value.isnan().any()):
            raise ValueError(f"{name} must hold logarithms of densities, got NaN")
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return (_mean(log_p, log_p - log_m, weights) + _mean(log_q, log_q - log_m, weights)) / 2


def _mean(log_p: Tensor, values: Tensor, weights: Tensor | float) -> Tensor:
    """The integral of p times values, where p is positive."""
    return (weights * torch.where(log_p == -math.inf, 0.0, log_p.exp() * values)).sum()


def game_value(logits: Tensor, log_p: Tensor, log_q: Tensor, weights: Tensor | float = 1.0) -> Tensor:
    """E_p log D + E_q log(1 - D) of any discriminator D = sigmoid(logits), by quadrature: a scalar, in nats.

    Largest, -log 4 + 2 JS(p, q), for `optimal_logit`. Arguments otherwise as for `jensen_shannon`.

    Example:
        >>> log_p = torch.tensor([0.5, 0.5]).log()
        >>> round(game_value(torch.zeros(2), log_p, log_p).item(), 4)  # -log 4
        -1.3863
    """
    return _mean(log_p, F.logsigmoid(logits), weights) + _mean(log_q, F.logsigmoid(-logits), weights)


def saturating_slope(logits: Tensor) -> Tensor:
    """The slope of the original generator's loss log(1 - D) by the logit, -D: it vanishes where fakes are found out."""
    return -torch.sigmoid(logits)


def non_saturating_slope(logits: Tensor) -> Tensor:
    """The slope of -log D by the logit, -(1 - D): near -1 where fakes are found out."""
    return -torch.sigmoid(-logits)


def wasserstein_1d(a: Tensor, b: Tensor) -> Tensor:
    """The exact W_1 between two samples on the line, the area between their distribution functions: a scalar.

    For samples of one length it is the mean distance between the sorted values. Differentiable.

    Args:
        a: numbers (N,).
        b: numbers (M,).

    Raises:
        ValueError: if a sample is empty, has another shape, or is not finite.

    Example:
        >>> wasserstein_1d(torch.tensor([0.0, 1.0]), torch.tensor([6.0, 5.0]))
        tensor(5.)
    """
    for name, values in (("a", a), ("b", b)):
        if values.ndim != 1 or not len(values) or not bool(torch.isfinite(values).all()):
            raise ValueError(f"{name} must be finite numbers (N,), N >= 1, got shape {tuple(values.shape)}")
    (a, _), (b, _) = a.sort(), b.sort()
    if len(a) == len(b):
        return (a - b).abs().mean()
    edges = torch.cat([a, b]).sort().values
    gap = _share_below(a, edges[:-1]) - _share_below(b, edges[:-1])
    return (gap.abs() * edges.diff()).sum()


def _share_below(values: Tensor, points: Tensor) -> Tensor:
    """The share of sorted values that are at most each point: the distribution function."""
    return torch.searchsorted(values.detach(), points.detach(), right=True).to(values) / len(values)


def sample_line(n: int, theta: float, generator: torch.Generator | None = None) -> Tensor:
    """n points (n, 2) of the vertical line {theta} x [0, 1], uniformly.

    Example:
        >>> sample_line(2, 0.5)[:, 0]
        tensor([0.5000, 0.5000])
    """
    height = torch.rand(n, generator=generator, device=None if generator is None else generator.device)
    return torch.stack([torch.full_like(height, theta), height], dim=1)


def parallel_lines_distances(theta: float) -> tuple[float, float]:
    """JS (in nats) and W_1 between the lines at 0 and at theta: log 2 unless they coincide, and |theta|.

    Example:
        >>> [round(value, 4) for value in parallel_lines_distances(-0.3)]
        [0.6931, 0.3]
    """
    return (math.log(2) if theta else 0.0), abs(theta)
