"""The checks of lesson 12: the worked solution passes, and each plausible mistake is named."""

import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from coursekit.exercises import lesson12 as check


def velocity(denoise, x, tau):
    return (denoise(x / tau, (1 - tau) / tau) - x) / (1 - tau)


def weight(lam):
    return 1 / (math.pi * torch.cosh(lam / 2))


def bits(density, dims):
    return -density / (dims * math.log(2)) + math.log2(255 / 2)


def step(x, guess, alpha, sigma):
    return alpha[1] * guess + sigma[1] * (x - alpha[0] * guess) / sigma[0]


def pair(x_0, eps, D, f, alpha, sigma):
    x_t = alpha[0] * x_0 + sigma[0] * eps
    return f(x_t, 0), f(step(x_t, D(x_t, 0), alpha, sigma), 1)


def target(change):
    """A wrong target: change(x_0, eps, x_t, x_u, D, f, alpha, sigma) instead of f(x_u, 1)."""

    def wrong(x_0, eps, D, f, alpha, sigma):
        x_t = alpha[0] * x_0 + sigma[0] * eps
        x_u = step(x_t, D(x_t, 0), alpha, sigma)
        return f(x_t, 0), change(x_0, eps, x_t, x_u, D, f, alpha, sigma)

    return wrong


def said(change):
    """A wrong first answer: change(x_0, x_t, D, f) instead of f(x_t, 0)."""

    def wrong(x_0, eps, D, f, alpha, sigma):
        return change(x_0, alpha[0] * x_0 + sigma[0] * eps, D, f), pair(x_0, eps, D, f, alpha, sigma)[1]

    return wrong


def share(x, noise):
    cost = torch.cdist(x, noise).square()
    rows, columns = linear_sum_assignment(cost.numpy())
    return float(cost[rows, columns].mean()) / (2 * x.shape[1])


def pairs_by_distance(x, noise):
    cost = torch.cdist(x, noise)
    rows, columns = linear_sum_assignment(cost.numpy())
    return float(cost[rows, columns].square().mean()) / (2 * x.shape[1])


SOLUTIONS = {
    check.velocity_from_edm: (velocity,),
    check.weight_of_cosine: (weight,),
    check.bits: (bits,),
    check.consistency_pair: (pair,),
    check.share_left: (share, 128),
}

MISTAKES = [
    (check.velocity_from_edm, (lambda D, x, t: -velocity(D, x, t),), "points to the noise"),
    (check.velocity_from_edm, (lambda D, x, t: (D(x, (1 - t) / t) - x) / (1 - t),), "you asked at x"),
    (check.velocity_from_edm, (lambda D, x, t: (D(x / t, t / (1 - t)) - x) / (1 - t),), "upside down"),
    (check.velocity_from_edm, (lambda D, x, t: (D(x / t, 1 - t) - x) / (1 - t),), "the noise of x"),
    (check.velocity_from_edm, (lambda D, x, t: (D(x / t, t) - x) / (1 - t),), "share of the data"),
    (check.velocity_from_edm, (lambda D, x, t: (D(x * t, (1 - t) / t) - x) / (1 - t),), "must divide"),
    (check.velocity_from_edm, (lambda D, x, t: (D(x / t, (1 - t) / t) - x) / t,), "takes the time 1 - tau"),
    (check.velocity_from_edm, (lambda D, x, t: D(x / t, (1 - t) / t) - x,), "forgot to divide"),
    (check.velocity_from_edm, (lambda D, x, t: (x / t - D(x / t, (1 - t) / t)) * t / (1 - t),), "own slope"),
    (check.velocity_from_edm, (lambda D, x, t: (D(x / t, (1 - t) / t) - x / t) / (1 - t),), "from x / tau"),
    (check.velocity_from_edm, (lambda D, x, t: D(x / t, (1 - t) / t),), "guess itself"),
    (check.velocity_from_edm, (lambda D, x, t: (x - D(x / t, (1 - t) / t)) * t / (1 - t),), "mixes two papers"),
    (check.velocity_from_edm, (lambda D, x, t: (D(x / (1 - t), t / (1 - t)) - x) / t,), "tau for our t"),
    (check.velocity_from_edm, (lambda D, x, t: (x - D(x / (1 - t), t / (1 - t))) / t,), "and the velocity points"),
    (check.velocity_from_edm, (lambda D, x, t: (D(x / (1 - t), t / (1 - t)) - x) / (1 - t),), "in the denoiser"),
    (check.weight_of_cosine, (lambda lam: 1 / (math.pi * math.cosh(lam / 2)),), "torch.cosh"),
    (check.weight_of_cosine, (lambda lam: lam + torch.ones(7),), "raised RuntimeError"),
    (check.weight_of_cosine, (lambda lam: lam + "1",), "raised TypeError"),
    (check.weight_of_cosine, (lambda lam: weight(lam) / 2,), "the 2 of (12.9)"),
    (check.weight_of_cosine, (lambda lam: 2 * weight(lam),), "twice too much"),
    (check.weight_of_cosine, (lambda lam: 1 / torch.cosh(lam / 2),), "pi is missing"),
    (check.weight_of_cosine, (lambda lam: -2 * math.pi * torch.cosh(lam / 2),), "that is d lambda/dt"),
    (check.weight_of_cosine, (lambda lam: 2 * math.pi * torch.cosh(lam / 2),), "that is |d lambda/dt|"),
    (check.weight_of_cosine, (lambda lam: -weight(lam),), "negative"),
    (check.weight_of_cosine, (lambda lam: 2 / math.pi * torch.exp(-lam / 2),), "weight of v"),
    (check.weight_of_cosine, (lambda lam: torch.exp(-lam / 2),), "straight line"),
    (check.weight_of_cosine, (lambda lam: 1 / (math.pi * torch.cosh(lam)),), "the half is missing"),
    (check.bits, (lambda p, d: bits(p, d) * math.log(2),), "as well, the whole"),
    (check.bits, (lambda p, d: -p / d + math.log2(127.5),), "divide the log-density"),
    (check.bits, (lambda p, d: -p / (d * math.log(2)),), "offset is forgotten"),
    (check.bits, (lambda p, d: -p / (d * math.log(2)) - math.log2(127.5),), "sign flipped"),
    (check.bits, (lambda p, d: -p / (d * math.log(2)) + 8,), "[0, 1)"),
    (check.bits, (lambda p, d: -p / (d * math.log(2)) + math.log2(255),), "1/255"),
    (check.bits, (lambda p, d: -p / (d * math.log(2)) + 7,), "2/256"),
    (check.bits, (lambda p, d: -p / (d * math.log(2)) + math.log2(127.5) / d,), "it belongs to each"),
    (check.bits, (lambda p, d: p / (d * math.log(2)) + math.log2(127.5),), "cost few bits"),
    (check.bits, (lambda p, d: bits(p, d) * d,), "total"),
    (check.bits, (lambda p, d: -p / math.log(2) + math.log2(127.5),), "of all dimensions"),
    (check.consistency_pair, (lambda *a: pair(*a)[::-1],), "exchanged"),
    (check.consistency_pair, (said(lambda x_0, x_t, D, f: f(x_t, 1)),), "asked at u"),
    (check.consistency_pair, (said(lambda x_0, x_t, D, f: D(x_t, 0)),), "teacher's guess at t"),
    (check.consistency_pair, (said(lambda x_0, x_t, D, f: x_t),), "x_t itself"),
    (check.consistency_pair, (said(lambda x_0, x_t, D, f: f(x_0, 0)),), "clean data"),
    (check.consistency_pair, (lambda *a: pair(*a)[0],), "return 2 values"),
    (check.consistency_pair, (target(lambda x, e, t, u, D, f, a, s: f(a[1] * x + s[1] * e, 1)),), "no teacher"),
    (check.consistency_pair, (target(lambda x, e, t, u, D, f, a, s: f(u, 0)),), "asked at t"),
    (check.consistency_pair, (target(lambda x, e, t, u, D, f, a, s: D(t, 0)),), "a step further"),
    (check.consistency_pair, (target(lambda x, e, t, u, D, f, a, s: u),), "that is x_u"),
    (check.consistency_pair, (target(lambda x, e, t, u, D, f, a, s: x),), "mean of all ends"),
    (check.consistency_pair, (target(lambda x, e, t, u, D, f, a, s: f(t, 1)),), "step is missing"),
    (
        check.consistency_pair,
        (target(lambda x, e, t, u, D, f, a, s: f(step(t, f(t, 0), a, s), 1)),),
        "student made the step",
    ),
    (
        check.consistency_pair,
        (target(lambda x, e, t, u, D, f, a, s: f(step(t, D(t, 1), a, s), 1)),),
        "steps away from t",
    ),
    (
        check.consistency_pair,
        (target(lambda x, e, t, u, D, f, a, s: f(s[0] / s[1] * t + (a[1] - s[0] / s[1] * a[0]) * D(t, 0), 1)),),
        "upside down",
    ),
    (check.consistency_pair, (target(lambda x, e, t, u, D, f, a, s: f(D(t, 0), 1)),), "noise is left at u"),
    (
        check.consistency_pair,
        (target(lambda x, e, t, u, D, f, a, s: f(a[1] * D(t, 0) + s[1] * e, 1)),),
        "own noise",
    ),
    (check.share_left, (lambda x, e: 1 - share(x, e), 128), "is saved"),
    (check.share_left, (lambda x, e: (x - e).square().sum(1).mean() / (2 * x.shape[1]), 128), "nothing was paired"),
    (
        check.share_left,
        (lambda x, e: torch.cdist(x, e).square().min(1).values.mean() / (2 * x.shape[1]), 128),
        "serve twice",
    ),
    (check.share_left, (pairs_by_distance, 128), "minimise their squares"),
    (check.share_left, (lambda x, e: share(x, e) * len(x), 128), "take the mean"),
    (check.share_left, (lambda x, e: 2 * share(x, e), 128), "2 d apart"),
    (check.share_left, (lambda x, e: 2 * x.shape[1] * share(x, e), 128), "did not divide"),
    (check.share_left, (share, 64), "save a quarter or more"),
    (check.share_left, (share, 512), "not the smallest"),
    (check.share_left, (share, 100), "power of two"),
]


@pytest.mark.parametrize("exercise", SOLUTIONS, ids=lambda exercise: exercise.__name__)
def test_worked_solution_passes(exercise):
    verdict = exercise(*SOLUTIONS[exercise])
    assert verdict.passed, verdict


@pytest.mark.parametrize("exercise", SOLUTIONS, ids=lambda exercise: exercise.__name__)
def test_an_untouched_stub_is_not_tried_yet(exercise):
    stub = [(lambda *_: ...) if callable(answer) else ... for answer in SOLUTIONS[exercise]]
    assert exercise(*stub).status == "not tried yet"


@pytest.mark.parametrize(("exercise", "answers", "said"), MISTAKES)
def test_mistake_is_named(exercise, answers, said):
    verdict = exercise(*answers)
    assert verdict.status == "not yet"
    assert said in verdict.message


def test_the_dimension_asked_for_is_clear_of_chance():
    """Batches of 128 save well over a quarter in 64 dimensions and well under one in 128."""
    saved = {}
    for D in (64, 128):
        generator = torch.Generator().manual_seed(0)
        saved[D] = [1 - share(*torch.randn(2, 128, D, generator=generator)) for _ in range(5)]
    assert min(saved[64]) > 0.27
    assert max(saved[128]) < 0.23


@pytest.mark.parametrize("exercise", SOLUTIONS, ids=lambda exercise: exercise.__name__)
def test_wrong_shapes_are_refused(exercise):
    assert exercise(lambda *_: torch.zeros(2, 7, 5), *SOLUTIONS[exercise][1:]).status == "not yet"
