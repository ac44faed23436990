"""The checks of lesson 07: the worked solution passes, and each plausible mistake is named."""

import math

import pytest
import torch
from torch.distributions import Normal

from coursekit.exercises import lesson07 as check

LOG_2PI = math.log(2 * math.pi)


def normal(z):
    return -(z**2) / 2 - LOG_2PI / 2


def softplus(x, sign=-1.0, at=None, base=None, constant=0.0):
    """log p_X of x = log(1 + exp(z)), with a slip where a keyword is given."""
    z = torch.log(torch.expm1(x))
    slope = torch.sigmoid(z if at is None else at(x))
    return normal(z if base is None else base(x)) + sign * slope.log() + constant


def chain(z, log_dets, sign=-1.0, over=torch.sum, coordinates=torch.sum, constant=0.0):
    return coordinates(normal(z), 1) + sign * over(log_dets, 0) + constant


def inverse(x, scale_and_shift, see=0, order="subtract first", sign=-1.0, log_sign=-1.0):
    s, t = scale_and_shift(x[:, see])
    moved = (x[:, 1] - t) * torch.exp(sign * s)
    if order == "divide first":
        moved = x[:, 1] * torch.exp(-s) - t
    if order == "forward":
        moved = x[:, 1] * torch.exp(s) + t
    if order == "by s":
        moved = (x[:, 1] - t) / s
    return torch.stack([x[:, 0], moved], 1), log_sign * s


def planar(z, u, w, b, slope=lambda h: 1 - h**2, one=1.0, product=None):
    h = torch.tanh(z @ w + b)
    return torch.log((one + slope(h) * (w @ u if product is None else product)).abs())


def gap(m, s, twelfth=1 / 12, middle=0.5, sign=1.0, weighted=True, unit=1.0):
    v = torch.arange(-20, 20, dtype=torch.float64)
    P = Normal(m, s).cdf(v + 1) - Normal(m, s).cdf(v)
    v, P = v[P > 1e-12], P[P > 1e-12]
    bound = -math.log(s) - LOG_2PI / 2 - ((v + middle - m) ** 2 + twelfth) / (2 * s**2)
    return sign * float(((P if weighted else 1.0) * (P.log() - bound)).sum()) / unit


def with_density(m, s):
    v = torch.arange(-20, 20, dtype=torch.float64)
    P = Normal(m, s).cdf(v + 1) - Normal(m, s).cdf(v)
    v, P = v[P > 1e-12], P[P > 1e-12]
    bound = -math.log(s) - LOG_2PI / 2 - ((v + 0.5 - m) ** 2 + 1 / 12) / (2 * s**2)
    return float((P * (Normal(m, s).log_prob(v + 0.5) - bound)).sum())


SOLUTIONS = {
    check.softplus_log_prob: (softplus,),
    check.chain_log_prob: (chain,),
    check.coupling_inverse: (inverse,),
    check.planar_log_det: (planar,),
    check.dequantisation_gap: (gap, 0.8),
}

MISTAKES = [
    (check.softplus_log_prob, lambda x: softplus(x, sign=0), "derivative is lost"),
    (check.softplus_log_prob, lambda x: softplus(x, sign=1), "wrong sign"),
    (check.softplus_log_prob, lambda x: softplus(x, sign=0, base=lambda x: x), "that is log p_Z(x)"),
    (check.softplus_log_prob, lambda x: softplus(x, base=lambda x: x), "base density at x instead"),
    (check.softplus_log_prob, lambda x: softplus(x, at=lambda x: x), "derivative f' at x"),
    (check.softplus_log_prob, lambda x: softplus(x, constant=LOG_2PI / 2), "constant -log(2 pi) / 2"),
    (check.softplus_log_prob, lambda x: softplus(x).exp(), "its logarithm is wanted"),
    (check.softplus_log_prob, lambda x: normal(x.expm1().log()) - x.expm1().log().sigmoid(), "not its logarithm"),
    (check.softplus_log_prob, lambda x: normal(x.exp().log1p()) - x.exp().log1p().sigmoid().log(), "you used f where"),
    (check.softplus_log_prob, lambda x: softplus(x).sum(), "shape"),
    (check.chain_log_prob, lambda z, d: chain(z, d, sign=1), "they are subtracted"),
    (check.chain_log_prob, lambda z, d: chain(z, d, over=torch.mean), "mean over the layers"),
    (check.chain_log_prob, lambda z, d: chain(z, d, over=lambda d, _: d[-1]), "only the last layer"),
    (check.chain_log_prob, lambda z, d: chain(z, d, over=lambda d, _: d.prod(0)), "multiplied the log-determinants"),
    (check.chain_log_prob, lambda z, d: chain(z, d, over=lambda d, _: d.abs().log().sum(0)), "the logarithm again"),
    (check.chain_log_prob, lambda z, d: chain(z, d, coordinates=torch.mean), "mean over the coordinates"),
    (check.chain_log_prob, lambda z, d: chain(z, d, constant=1.5 * LOG_2PI), "constant of the base is lost"),
    (check.chain_log_prob, lambda z, d: chain(z, d, constant=LOG_2PI), "D coordinates"),
    (check.chain_log_prob, lambda z, d: chain(z, d, sign=0), "are missing"),
    (check.chain_log_prob, lambda z, d: chain(z, d).sum(), "shape"),
    (check.coupling_inverse, lambda x, f: inverse(x, f, order="forward"), "one more step forward"),
    (check.coupling_inverse, lambda x, f: inverse(x, f, order="divide first"), "added last"),
    (check.coupling_inverse, lambda x, f: inverse(x, f, order="by s"), "the scale is exp(s)"),
    (check.coupling_inverse, lambda x, f: inverse(x, f, sign=1), "must divide"),
    (check.coupling_inverse, lambda x, f: inverse(x, f, see=1), "the half that stays"),
    (check.coupling_inverse, lambda x, f: (inverse(x, f)[0].flip(1), inverse(x, f)[1]), "exchanged"),
    (check.coupling_inverse, lambda x, f: inverse(x, f, log_sign=1), "opposite sign"),
    (check.coupling_inverse, lambda x, f: inverse(x, f, log_sign=0), "only shifted"),
    (check.coupling_inverse, lambda x, f: (inverse(x, f)[0], inverse(x, f)[1].exp()), "take its logarithm"),
    (check.coupling_inverse, lambda x, f: (inverse(x, f)[0], inverse(x, f)[1].sum().expand(4)), "over the batch"),
    (check.coupling_inverse, lambda x, f: inverse(x, f)[0], "return two values"),
    (check.planar_log_det, lambda *g: planar(*g).exp(), "take its logarithm"),
    (check.planar_log_det, lambda *g: planar(*g, slope=lambda h: h), "where its derivative belongs"),
    (check.planar_log_det, lambda *g: planar(*g, slope=lambda h: 1 - h), "1 - tanh^2, not 1 - tanh"),
    (check.planar_log_det, lambda *g: planar(*g, one=0.0), "the 1 of the identity"),
    (check.planar_log_det, lambda z, u, w, b: planar(z, u, w, b, product=z @ u), "you multiplied u with z"),
    (check.planar_log_det, lambda z, u, w, b: planar(z, u, w, b, product=(w * u).mean()), "you took the mean"),
    (check.planar_log_det, lambda z, u, w, b: planar(z, u, w, b, product=w @ w), "the vector w twice"),
    (check.planar_log_det, lambda z, u, w, b: planar(z, u, w, 0 * b), "b is left out"),
    (
        check.planar_log_det,
        lambda z, u, w, b: torch.log1p((1 - torch.tanh(z @ w + b) ** 2)[:, None] * u * w).sum(1),
        "no sum of logarithms",
    ),
    (check.planar_log_det, lambda *g: planar(*g).mean(), "shape"),
]

WRONG_GAPS = [
    (lambda m, s: gap(m, s, sign=-1), "the sign is flipped"),
    (lambda m, s: gap(m, s, twelfth=0), "variance of the noise is lost"),
    (lambda m, s: gap(m, s, middle=0), "the noise has mean 1/2"),
    (lambda m, s: gap(m, s, weighted=False), "weigh each v"),
    (lambda m, s: gap(m, s, unit=math.log(2)), "in bits"),
    (with_density, "difference of distribution functions"),
    (lambda m, s: torch.zeros(2), "shape"),
]

WRONG_SCALES = [
    (0.672, "0.1 nats"),
    (2.46, "0.01 bits"),
    (0.0693, "a gap, not a scale"),
    (3.0, "too large"),
    ("a", "number"),
]


@pytest.mark.parametrize("exercise", SOLUTIONS, ids=lambda exercise: exercise.__name__)
def test_the_solution_passes(exercise):
    assert exercise(*SOLUTIONS[exercise]).passed, exercise(*SOLUTIONS[exercise])


@pytest.mark.parametrize(("exercise", "answer", "named"), MISTAKES)
def test_a_mistake_is_named(exercise, answer, named):
    verdict = exercise(answer)
    assert verdict.status == "not yet"
    assert named in verdict.message


@pytest.mark.parametrize(("answer", "named"), WRONG_GAPS)
def test_a_wrong_gap_is_named(answer, named):
    verdict = check.dequantisation_gap(answer, 0.8)
    assert verdict.status == "not yet"
    assert named in verdict.message


@pytest.mark.parametrize(("scale", "named"), WRONG_SCALES)
def test_a_wrong_scale_is_named(scale, named):
    verdict = check.dequantisation_gap(gap, scale)
    assert verdict.status == "not yet"
    assert named in verdict.message


def test_half_an_answer_is_not_tried_yet():
    assert check.dequantisation_gap(gap, ...).status == "not tried yet"
