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


def step(x, guess, i, j, alpha, sigma):
    r = sigma[j] / sigma[i]
    return r * x + (alpha[j] - r * alpha[i]) * guess


def ends(x, denoise, alpha, sigma):
    middle = step(x, denoise(x, 0), 0, 1, alpha, sigma)
    return middle, step(middle, denoise(middle, 1), 1, 2, alpha, sigma)


def target(x, denoise, alpha, sigma):
    r = sigma[2] / sigma[0]
    return (ends(x, denoise, alpha, sigma)[1] - r * x) / (alpha[2] - r * alpha[0])


def target_with(change):
    """A wrong target: change(x, middle, end, r, alpha, sigma) instead of the right solution."""
    return lambda x, denoise, a, s: change(x, *ends(x, denoise, a, s), s[2] / s[0], a, s)


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
    check.progressive_target: (target,),
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
    (check.progressive_target, (lambda x, D, a, s: ends(x, D, a, s)[1],), "where the teacher arrives"),
    (check.progressive_target, (lambda x, D, a, s: D(x, 0),), "one long step does"),
    (check.progressive_target, (lambda x, D, a, s: D(ends(x, D, a, s)[0], 1),), "second guess"),
    (
        check.progressive_target,
        (
            lambda x, D, a, s: (
                (step(ends(x, D, a, s)[0], D(x, 0), 1, 2, a, s) - s[2] / s[0] * x) / (a[2] - s[2] / s[0] * a[0])
            ),
        ),
        "ask again",
    ),
    (
        check.progressive_target,
        (target_with(lambda x, m, e, r, a, s: (e - s[2] / s[1] * m) / (a[2] - s[2] / s[1] * a[1])),),
        "from u to s",
    ),
    (check.progressive_target, (target_with(lambda x, m, e, r, a, s: (e - r * m) / (a[2] - r * a[0])),), "wrong point"),
    (
        check.progressive_target,
        (target_with(lambda x, m, e, r, a, s: (e - x / r) / (a[2] - a[0] / r)),),
        "upside down",
    ),
    (
        check.progressive_target,
        (target_with(lambda x, m, e, r, a, s: (e - r * x) / (a[2] + r * a[0])),),
        "sign in the denominator",
    ),
    (
        check.progressive_target,
        (target_with(lambda x, m, e, r, a, s: (e - r * x) / (a[2] - a[0])),),
        "missing in the denominator",
    ),
    (check.progressive_target, (target_with(lambda x, m, e, r, a, s: (e - r * x) / a[2]),), "alpha_s alone"),
    (
        check.progressive_target,
        (target_with(lambda x, m, e, r, a, s: (m - r * x) / (a[2] - r * a[0])),),
        "one step only",
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
    (check.share_left, (lambda x, e: 2 * share(x, e), 128), "2 D apart"),
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
