"""Checks of lesson 07, "Flows: change of variables".

Symbols as in the lesson: z is drawn from the base density p_Z, x = f(z) has the density p_X, and
log p_X(x) = log p_Z(z) - log |det J_f(z)|.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from coursekit.exercises import Verdict, ask, compare, exercise, refuse

__all__ = ["chain_log_prob", "coupling_inverse", "dequantisation_gap", "planar_log_det", "softplus_log_prob"]

LOG_2PI = math.log(2 * math.pi)


def _normal(z: Tensor) -> Tensor:
    """log N(z; 0, 1), elementwise."""
    return -0.5 * z**2 - 0.5 * LOG_2PI


@exercise
def softplus_log_prob(answer: Callable) -> Verdict:
    """Exercise 7.1: x > 0 -> log p_X(x) for x = log(1 + exp(z)), z ~ N(0, 1)."""
    x = torch.tensor([0.2, 0.5, 1.0, 1.7, 3.0], dtype=torch.float64)
    z = torch.log(torch.expm1(x))
    slope = torch.sigmoid(z)  # f'(z)
    right = _normal(z) - slope.log()
    return compare(
        ask(answer, x),
        right,
        mistakes={
            "that is log p_Z(f^-1(x)): the derivative is lost": _normal(z),
            "the derivative enters with the wrong sign: where f stretches, the density falls": _normal(z) + slope.log(),
            "that is log p_Z(x): the base density belongs at f^-1(x)": _normal(x),
            "you evaluate the base density at x instead of f^-1(x)": _normal(x) - slope.log(),
            "you evaluate the derivative f' at x: it belongs at z = f^-1(x)": _normal(z) - torch.sigmoid(x).log(),
            "you used f where its inverse is wanted: z = log(exp(x) - 1)": _normal(torch.log1p(x.exp()))
            - torch.sigmoid(torch.log1p(x.exp())).log(),
            "the constant -log(2 pi) / 2 of the normal density is lost": right + 0.5 * LOG_2PI,
            "that is the density itself: its logarithm is wanted": right.exp(),
            "you subtract the derivative, not its logarithm": _normal(z) - slope,
        },
        what="your log-density",
        why="z = log(exp(x) - 1), and dz/dx = 1 / (1 - exp(-x)) is above 1: f shrinks, so the density rises",
    )


@exercise
def chain_log_prob(answer: Callable) -> Verdict:
    """Exercise 7.2: z_0 (N, D) and the layers' log |det J_{f_k}(z_{k-1})| (K, N) -> log p_X(x), (N,)."""
    z = torch.tensor([[0.3, -1.2, 0.7], [1.5, 0.1, -0.4], [0.0, 2.0, 1.0], [-0.6, 0.2, 0.9]], dtype=torch.float64)
    log_dets = torch.tensor([[0.5, -0.3, 1.1, 0.2], [-1.0, 0.4, 0.6, 0.9]], dtype=torch.float64)
    base, total = _normal(z).sum(1), log_dets.sum(0)
    return compare(
        ask(answer, z, log_dets),
        base - total,
        mistakes={
            "the log-determinants are those of the forward maps: they are subtracted": base + total,
            "only the last layer is counted": base - log_dets[-1],
            "you took the mean over the layers: log-determinants add": base - log_dets.mean(0),
            "you took the mean over the coordinates of z: their log-densities add": base / 3 - total,
            "the constant of the base is lost: -D/2 log(2 pi)": base - total + 1.5 * LOG_2PI,
            "the base has D coordinates: its constant is -D/2 log(2 pi)": base - total + LOG_2PI,
            "you multiplied the log-determinants: determinants multiply, their logarithms add": base - log_dets.prod(0),
            "the log-determinants are missing: that is log p_Z(z_0)": base,
            "you took the logarithm again of what are logarithms already": base - log_dets.abs().log().sum(0),
        },
        what="your log-density",
        why="the base at z_0, minus the sum of all log-determinants on the way",
    )


@exercise
def coupling_inverse(answer: Callable) -> Verdict:
    """Exercise 7.3: x (N, 2) and a function x_A (N,) -> s, t -> z (N, 2) and log |det J_{f^-1}(x)|, (N,)."""
    x = torch.tensor([[0.4, -1.0], [-1.3, 0.6], [0.9, 2.1], [0.1, -0.5]], dtype=torch.float64)

    def scale_and_shift(kept: Tensor) -> tuple[Tensor, Tensor]:
        return 0.8 * torch.tanh(kept) - 0.3, kept**2 - 0.5 * kept

    result = ask(answer, x, scale_and_shift)
    if not isinstance(result, tuple | list) or len(result) != 2:
        return refuse(f"return two values, z and the log-determinant, got a {type(result).__name__}")
    s, t = scale_and_shift(x[:, 0])
    points = compare(result[0], _undone(x, s, t), _wrong_points(x, s, t, *scale_and_shift(x[:, 1])), what="your z")
    if not points.passed:
        return points
    return compare(
        result[1],
        -s,
        mistakes={
            "your log-determinant is that of f: the inverse has the opposite sign": s,
            "your log-determinant is a determinant: take its logarithm": torch.exp(-s),
            "your log-determinant is 0, as if the layer only shifted": torch.zeros_like(s),
            "your log-determinant is summed over the batch: it is one number a point": (-s.sum()).expand_as(s),
        },
        what="your log-determinant",
        why="the network was never inverted, and -s is all that the determinant needs",
    )


def _undone(x: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """The z of x, (N, 2)."""
    return torch.stack([x[:, 0], (x[:, 1] - t) * torch.exp(-s)], 1)


def _wrong_points(x: Tensor, s: Tensor, t: Tensor, s_moved: Tensor, t_moved: Tensor) -> dict[str, Tensor]:
    """The slips on the way to z; s_moved and t_moved were computed from the wrong half."""

    def beside(moved: Tensor) -> Tensor:
        return torch.stack([x[:, 0], moved], 1)

    return {
        "your z is f(x), one more step forward: undo the shift, then the scale": beside(x[:, 1] * s.exp() + t),
        "you divide before you subtract: the shift was added last, so it goes first": beside(
            x[:, 1] * torch.exp(-s) - t
        ),
        "you multiply by exp(s) where you must divide by it": beside((x[:, 1] - t) * s.exp()),
        "you divide by s: the scale is exp(s)": beside((x[:, 1] - t) / s),
        "s and t must be computed from the half that stays, x_A": _undone(x, s_moved, t_moved),
        "z_A and z_B are exchanged": _undone(x, s, t).flip(1),
    }


@exercise
def planar_log_det(answer: Callable) -> Verdict:
    """Exercise 7.4: z (N, D), u (D,), w (D,), b -> log |det| of z + u tanh(w . z + b), (N,)."""
    z = torch.tensor([[0.2, -0.5, 1.0], [1.1, 0.3, -0.7], [-0.9, 0.8, 0.4], [2.0, -1.0, 0.1]], dtype=torch.float64)
    u, w = (torch.tensor(v, dtype=torch.float64) for v in ([0.7, -0.4, 1.2], [0.9, 0.5, 0.6]))
    b = torch.tensor(-0.2, dtype=torch.float64)
    h = torch.tanh(z @ w + b)
    product, slope = w @ u, 1 - h**2
    right = torch.log(1 + slope * product)
    return compare(
        ask(answer, z, u, w, b),
        right,
        mistakes={
            "that is the determinant: take its logarithm": right.exp(),
            "h stands where its derivative belongs: h' = 1 - tanh^2": torch.log((1 + h * product).abs()),
            "the derivative of tanh is 1 - tanh^2, not 1 - tanh": torch.log((1 + (1 - h) * product).abs()),
            "the 1 of the identity is lost: det(I + u v^T) = 1 + v^T u": torch.log((slope * product).abs()),
            "you multiplied u with z: the lemma wants w^T u": torch.log((1 + slope * (z @ u)).abs()),
            "w^T u is a sum over the dimensions, you took the mean": torch.log(1 + slope * product / 3),
            "you took the vector w twice: the lemma wants w^T u": torch.log(1 + slope * (w @ w)),
            "b is left out of w^T z + b": torch.log(1 + (1 - torch.tanh(z @ w) ** 2) * product),
            "det(I + u v^T) is no sum of logarithms over coordinates": torch.log1p(slope[:, None] * u * w).sum(1),
        },
        what="your log-determinant",
        why="one inner product a point, where a general determinant would cost D^3",
    )


@exercise
def dequantisation_gap(gap: Callable, smallest_scale: object) -> Verdict:
    """Exercise 7.5: (m, s) -> E_{v ~ P}[log P(v) - uniform bound] in nats; the s from which on it is <= 0.1 bits."""
    models = ((0.5, 1.0), (0.2, 0.5), (0.0, 0.3))  # m, s
    found, cases = [ask(gap, m, s) for m, s in models], [_gaps(m, s) for m, s in models]
    values = {name: torch.stack([case[name] for case in cases]) for name in cases[0]}
    mistakes = {meaning: values[name] for name, meaning in _GAP_MISTAKES.items()}
    verdict = compare(found, values["right"], mistakes, what="your gap", rtol=1e-3, atol=1e-5)
    if not verdict.passed:
        return verdict
    return compare(
        smallest_scale,
        _scale_at(0.1 * math.log(2)),
        mistakes={
            "your scale has a gap of 0.1 nats: 0.1 bits are 0.1 log 2 = 0.069 nats": _scale_at(0.1),
            "your scale has a gap of 0.01 bits: 0.1 were asked for": _scale_at(0.01 * math.log(2)),
            "that is a gap, not a scale": 0.1 * math.log(2),
        },
        what="your scale",
        why="a peak narrower than 0.8 of a cell costs uniform noise more than a tenth of a bit; for wide peaks the "
        "gap is close to 1 / (24 s^2)",
        rtol=0,
        atol=0.006,
    )


_GAP_MISTAKES = {
    "flipped": "the sign is flipped: the gap is log P(v) minus the bound, never negative",
    "no twelfth": "the variance of the noise is lost: E (v + u - m)^2 = (v + 1/2 - m)^2 + 1/12",
    "left end": "the noise has mean 1/2: E (v + u - m)^2 = (v + 1/2 - m)^2 + 1/12",
    "twelfth unscaled": "the 1/12 is a part of the square: it is divided by 2 s^2 as well",
    "unweighted": "weigh each v by P(v): an average over v ~ P is wanted, not a plain sum",
    "density": "log P(v) is the logarithm of a difference of distribution functions, not the density at the middle",
    "bits": "your gap is in bits: nats are asked for",
}


def _gaps(m: float, s: float) -> dict[str, Tensor]:
    """The gap of N(m, s^2), and the same with each slip."""
    v = torch.arange(-30, 31, dtype=torch.float64)
    normal = torch.distributions.Normal(torch.tensor(m, dtype=v.dtype), torch.tensor(s, dtype=v.dtype))
    P = normal.cdf(v + 1) - normal.cdf(v)
    keep = P > 1e-12
    v, P = v[keep], P[keep]
    constant = -math.log(s) - 0.5 * LOG_2PI

    def gap(square: Tensor, log_p: Tensor | None = None, extra: float = 0.0) -> Tensor:
        log_p = P.log() if log_p is None else log_p
        return (P * (log_p - constant + square / (2 * s**2) + extra)).sum()

    middle = (v + 0.5 - m) ** 2
    right = gap(middle + 1 / 12)
    return {
        "right": right,
        "flipped": -right,
        "no twelfth": gap(middle),
        "left end": gap((v - m) ** 2 + 1 / 12),
        "twelfth unscaled": gap(middle, extra=1 / 12),
        "unweighted": (P.log() - constant + (middle + 1 / 12) / (2 * s**2)).sum(),
        "density": gap(middle + 1 / 12, log_p=normal.log_prob(v + 0.5)),
        "bits": right / math.log(2),
    }


def _scale_at(nats: float) -> float:
    """The s at which the gap of N(0, s^2) is so many nats, by bisection: the gap falls as s grows."""
    low, high = 0.05, 5.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if float(_gaps(0.0, middle)["right"]) > nats else (low, middle)
    return low
