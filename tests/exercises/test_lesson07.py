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
    z = x + torch.log(-torch.expm1(-x))
    log_slope = torch.nn.functional.logsigmoid(z if at is None else at(x))
    return normal(z if base is None else base(x)) + sign * log_slope + constant


def realnvp(x, networks, order=-1, keeps=0, see=0, undo=None, sign=-1.0, count=None, base=None, each=1.0, constant=0.0):
    """log p_X of a chain of couplings, with a slip where a keyword is given."""
    columns, logs = [x[:, 0], x[:, 1]], []
    for k in list(range(len(networks)))[::order]:
        kept = 0 if keeps is None else (k + keeps) % 2
        s, t = networks[k](columns[(kept + see) % 2])
        old = columns[1 - kept]
        columns[1 - kept] = (old - t) / s.exp() if undo is None else undo(old, s, t)
        logs.append(s)
    logs = torch.stack(logs)
    z = torch.stack(columns, 1) if base is None else base(x)
    return each * normal(z).sum(1) + sign * (logs.sum(0) if count is None else count(logs)) + constant


def backwards_with_the_wrong_parity(x, networks):
    """What `enumerate(reversed(networks))` does to an even number of layers."""
    return realnvp(x, networks, keeps=1)


def shift(u, w, minus=1.0, square=True):
    c = w @ u
    return u + (torch.log(1 + c.exp()) - minus - c) * w / ((w @ w) if square else 1.0)


def newton(target, product):
    a = torch.zeros_like(target)
    for _ in range(200):
        a = a - (a + product * a.tanh() - target) / (1 + product * (1 - a.tanh() ** 2))
    return a


def planar(x, u, w, b, move=shift, at=None, slope=None, sign=-1.0, one=1.0, log=torch.log, z=None, h=None, each=1.0):
    """log p_X of a planar layer, with a slip where a keyword is given."""
    u = move(u, w)
    target, product = x @ w + b, w @ u
    a = newton(target, product)
    point = x - u * torch.tanh(a if h is None else h(target))[:, None] if z is None else z(x, u, a)
    t = torch.tanh(a if at is None else at(target))
    det = one + (1 - t**2 if slope is None else slope(t)) * product
    return each * normal(point).sum(1) + sign * log(det)


def only_where_it_folds(u, w):
    return u if w @ u > -1 else shift(u, w)


def gap(m, s, twelfth=1 / 12, middle=0.5, sign=1.0, weighted=True, unit=1.0, reach=200):
    v = torch.arange(-reach, reach, dtype=torch.float64)
    P = Normal(m, s).cdf(v + 1) - Normal(m, s).cdf(v)
    v, P = v[P > 1e-12], P[P > 1e-12]
    bound = -math.log(s) - LOG_2PI / 2 - ((v + middle - m) ** 2 + twelfth) / (2 * s**2)
    return sign * float(((P if weighted else 1.0) * (P.log() - bound)).sum()) / unit


def plain_mean(m, s):
    v = torch.arange(-200, 200, dtype=torch.float64)
    kept = (Normal(m, s).cdf(v + 1) - Normal(m, s).cdf(v) > 1e-12).sum()
    return gap(m, s, weighted=False) / float(kept)


def with_density(m, s):
    v = torch.arange(-200, 200, dtype=torch.float64)
    P = Normal(m, s).cdf(v + 1) - Normal(m, s).cdf(v)
    v, P = v[P > 1e-12], P[P > 1e-12]
    bound = -math.log(s) - LOG_2PI / 2 - ((v + 0.5 - m) ** 2 + 1 / 12) / (2 * s**2)
    return float((P * (Normal(m, s).log_prob(v + 0.5) - bound)).sum())


SOLUTIONS = {
    check.softplus_log_prob: (softplus,),
    check.realnvp_log_prob: (realnvp,),
    check.planar_log_prob: (planar,),
    check.uniform_gap: (gap, 0.8),
}


def naive(x):
    """Overflows where x is large."""
    z = torch.log(torch.expm1(x))
    return normal(z) - torch.nn.functional.logsigmoid(z)


def without_expm1(x):
    z = x + torch.log(1 - torch.exp(-x))
    return normal(z) - torch.nn.functional.logsigmoid(z)


def absolute_product(x, u, w, b):
    """Right as long as w^T u is positive."""
    return planar(x, u, w, b) if w @ shift(u, w) > 0 else planar(x, u, w, b, log=lambda d: torch.log(2 - d))


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
    (check.softplus_log_prob, naive, "not for x = 1000"),
    (check.softplus_log_prob, without_expm1, "not for x = 1e-18"),
    (check.realnvp_log_prob, lambda x, n: realnvp(x, n, order=1), "the first layer first"),
    (check.realnvp_log_prob, backwards_with_the_wrong_parity, "columns are exchanged"),
    (check.realnvp_log_prob, lambda x, n: realnvp(x, n, keeps=None), "they take turns"),
    (check.realnvp_log_prob, lambda x, n: realnvp(x, n, see=1), "the column that stays"),
    (check.realnvp_log_prob, lambda x, n: realnvp(x, n, undo=lambda x, s, t: x * s.exp() + t), "you went forward"),
    (check.realnvp_log_prob, lambda x, n: realnvp(x, n, undo=lambda x, s, t: x / s.exp() - t), "divide before"),
    (check.realnvp_log_prob, lambda x, n: realnvp(x, n, undo=lambda x, s, t: (x - t) * s.exp()), "must divide by it"),
    (check.realnvp_log_prob, lambda x, n: realnvp(x, n, undo=lambda x, s, t: (x - t) / s), "the scale is exp(s)"),
    (check.realnvp_log_prob, lambda x, n: realnvp(x, n, sign=1), "wrong sign"),
    (check.realnvp_log_prob, lambda x, n: realnvp(x, n, sign=0), "are missing"),
    (check.realnvp_log_prob, lambda x, n: realnvp(x, n, count=lambda s: s[0]), "only the last layer's"),
    (check.realnvp_log_prob, lambda x, n: realnvp(x, n, count=lambda s: s[-1]), "only the first layer's"),
    (check.realnvp_log_prob, lambda x, n: realnvp(x, n, count=lambda s: s.mean(0)), "mean over the layers"),
    (check.realnvp_log_prob, lambda x, n: realnvp(x, n, count=lambda s: s.sum()), "each point has its own"),
    (check.realnvp_log_prob, lambda x, n: realnvp(x, n, count=lambda s: s.sum(0).exp()), "you subtract determinants"),
    (check.realnvp_log_prob, lambda x, n: realnvp(x, n, base=lambda x: x), "the base at x"),
    (check.realnvp_log_prob, lambda x, n: realnvp(x, n, each=0.5), "mean over the coordinates"),
    (check.realnvp_log_prob, lambda x, n: realnvp(x, n, constant=LOG_2PI / 2), "constant is -log(2 pi)"),
    (check.realnvp_log_prob, lambda x, n: realnvp(x, n, constant=LOG_2PI), "constant of the base is lost"),
    (check.realnvp_log_prob, lambda x, n: realnvp(x, n).sum(), "shape"),
    (check.planar_log_prob, lambda *g: planar(*g, move=lambda u, w: u), "you used the free u"),
    (check.planar_log_prob, lambda *g: planar(*g, move=only_where_it_folds), "moves it, whatever"),
    (check.planar_log_prob, lambda *g: planar(*g, move=lambda u, w: shift(u, w, minus=0)), "the -1 is lost"),
    (check.planar_log_prob, lambda *g: planar(*g, move=lambda u, w: shift(u, w, square=False)), "|w|^2 is lost"),
    (check.planar_log_prob, lambda *g: planar(*g, at=lambda target: target), "the a that solves (7.19)"),
    (
        check.planar_log_prob,
        lambda *g: planar(*g, h=lambda target: target, at=lambda target: target),
        "solve (7.19) for a first",
    ),
    (check.planar_log_prob, lambda *g: planar(*g, slope=lambda h: h), "where its derivative belongs"),
    (check.planar_log_prob, lambda *g: planar(*g, slope=lambda h: 1 - h), "1 - tanh^2, not 1 - tanh"),
    (check.planar_log_prob, lambda *g: planar(*g, sign=1), "it is subtracted"),
    (check.planar_log_prob, lambda *g: planar(*g, sign=0), "is missing"),
    (check.planar_log_prob, lambda *g: planar(*g, log=lambda d: d), "its logarithm is wanted"),
    (check.planar_log_prob, lambda *g: planar(*g, one=0, log=lambda d: d.abs().log()), "the 1 of the identity"),
    (check.planar_log_prob, lambda *g: planar(*g, z=lambda x, u, a: x), "the base at x"),
    (check.planar_log_prob, lambda *g: planar(*g, z=lambda x, u, a: x + u * a.tanh()[:, None]), "forward once more"),
    (check.planar_log_prob, lambda *g: planar(*g) + 1.5 * LOG_2PI, "constant of the base is lost"),
    (check.planar_log_prob, lambda *g: planar(*g, each=1 / 3), "mean over the coordinates"),
    (check.planar_log_prob, absolute_product, "where the free layer folds: your log-density"),
    (check.planar_log_prob, lambda *g: planar(*g).mean(), "shape"),
]

WRONG_GAPS = [
    (lambda m, s: gap(m, s, sign=-1), "the sign is flipped"),
    (lambda m, s: gap(m, s, twelfth=0), "variance of the noise is lost"),
    (lambda m, s: gap(m, s, middle=0), "the noise has mean 1/2"),
    (lambda m, s: gap(m, s, weighted=False), "weigh each v"),
    (plain_mean, "not a plain mean"),
    (lambda m, s: gap(m, s, unit=math.log(2)), "in bits"),
    (lambda m, s: gap(m, s, reach=30), "a wide peak needs more values"),
    (with_density, "difference of distribution functions"),
    (lambda m, s: torch.zeros(2), "shape"),
]

WRONG_SCALES = [
    (0.672, "0.1 nats"),
    (0.68, "0.1 nats"),
    (0.79, "still above 0.1"),
    (0.795, "still above 0.1"),
    (2.46, "0.0100 bits, and 0.1 are allowed: a smaller s will do"),
    (0.0693, "that is the gap"),
    (30.0, "too large"),
    ("a", "number"),
]


@pytest.mark.parametrize("scale", [0.8, 0.7984, torch.tensor(0.8)])
def test_the_scale_may_be_rounded(scale):
    assert check.uniform_gap(gap, scale).passed


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
    verdict = check.uniform_gap(answer, 0.8)
    assert verdict.status == "not yet"
    assert named in verdict.message


@pytest.mark.parametrize(("scale", "named"), WRONG_SCALES)
def test_a_wrong_scale_is_named(scale, named):
    verdict = check.uniform_gap(gap, scale)
    assert verdict.status == "not yet"
    assert named in verdict.message


def test_half_an_answer_is_not_tried_yet():
    assert check.uniform_gap(gap, ...).status == "not tried yet"
