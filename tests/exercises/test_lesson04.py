"""The checks of lesson 04: the worked solution passes, and each plausible mistake is named."""

import math

import pytest
import torch

from coursekit.exercises import lesson04 as check


def spins(A, u, g):
    return A / 4, u / 2 + A.sum(1) / 4, g / 2 + A.sum(0) / 4


def phase(x, W, c):
    return x.T @ (c + x @ W).tanh() / len(x)


def annealed(log_w, log_z0):
    total = log_w.logsumexp(0)
    return log_z0 + total - math.log(len(log_w)), (2 * total - (2 * log_w).logsumexp(0)).exp()


def at_rest(P, eta):
    return torch.linalg.inv(P - eta / 2 * P @ P)


def two_points(x, sigma):
    return ((x / sigma**2).tanh() - x) / sigma**2


SOLUTIONS = {
    check.spins_from_bits: (spins,),
    check.positive_phase: (phase,),
    check.annealed_log_z: (annealed,),
    check.langevin_covariance: (at_rest,),
    check.two_point_score: (two_points, 1.0),
}

MISTAKES = [
    (check.spins_from_bits, (lambda A, u, g: (A / 2, *spins(A, u, g)[1:]),), "both units bring a factor"),
    (check.spins_from_bits, (lambda A, u, g: (A, u, g),), "your W is unchanged"),
    (check.spins_from_bits, (lambda A, u, g: (4 * A, u, g),), "not 2 x - 1"),
    (check.spins_from_bits, (lambda A, u, g: (A / 4, u / 2, g / 2),), "your b lacks what the weights leave"),
    (check.spins_from_bits, (lambda A, u, g: (A / 4, spins(A, u, g)[1], g / 2),), "your c lacks what the weights"),
    (check.spins_from_bits, (lambda A, u, g: (A / 4, u / 2 - A.sum(1) / 4, g),), "with the wrong sign"),
    (check.spins_from_bits, (lambda A, u, g: (A / 4, u / 2 + A.sum(1) / 2, g),), "it is a quarter"),
    (check.spins_from_bits, (lambda A, u, g: (A / 4, u),), "return 3 values"),
    (check.positive_phase, (lambda x, W, c: len(x) * phase(x, W, c),), "the sum over the batch"),
    (check.positive_phase, (lambda x, W, c: -phase(x, W, c),), "that is +dF/dW"),
    (check.positive_phase, (lambda x, W, c: x.T @ torch.sigmoid(2 * (c + x @ W)) / len(x),), "P(h = 1 | x)"),
    (check.positive_phase, (lambda x, W, c: phase(x, W, 0 * c),), "forgot the hidden bias"),
    (check.positive_phase, (lambda x, W, c: x.T @ (c + x @ W) / len(x),), "the field itself"),
    (check.positive_phase, (lambda x, W, c: phase(x, 2 * W, 2 * c),), "too much"),
    (check.positive_phase, (lambda x, W, c: phase(x, W, c).T,), "should have shape (4, 3)"),
    (check.annealed_log_z, (lambda w, z: (z + w.mean(), 1.0),), "you averaged the logarithms"),
    (check.annealed_log_z, (lambda w, z: (z + w.logsumexp(0), 1.0),), "divide by the number of chains"),
    (check.annealed_log_z, (lambda w, z: (annealed(w, 0 * z)[0], 1.0),), "you forgot log Z_0"),
    (check.annealed_log_z, (lambda w, z: (annealed(w, -z)[0], 1.0),), "added, not taken away"),
    (check.annealed_log_z, (lambda w, z: (annealed(w, z)[0].exp(), 1.0),), "that is Z"),
    (check.annealed_log_z, (lambda w, z: (annealed(w, z)[0], 1 / annealed(w, z)[1]),), "upside down"),
    (check.annealed_log_z, (lambda w, z: (annealed(w, z)[0], annealed(w, z)[1] / len(w)),), "sums, not means"),
    (
        check.annealed_log_z,
        (lambda w, z: (z + w.exp().mean().log(), w.exp().sum() ** 2 / w.exp().square().sum()),),
        "exp(2000) is infinite",
    ),
    (check.langevin_covariance, (lambda P, eta: torch.linalg.inv(P),), "the target's own covariance"),
    (check.langevin_covariance, (lambda P, eta: at_rest(P, eta) / 2,), "the kick is 2 eta"),
    (check.langevin_covariance, (lambda P, eta: at_rest(P, -eta),), "the wrong sign"),
    (check.langevin_covariance, (lambda P, eta: torch.linalg.inv(at_rest(P, eta)),), "invert it"),
    (check.langevin_covariance, (lambda P, eta: torch.linalg.inv(P - eta / 2 * P * P),), "entry by entry"),
    (check.langevin_covariance, (lambda P, eta: at_rest(P, 2 * eta),), "it is eta / 2"),
    (check.two_point_score, (lambda x, s: (x / s**2).tanh(), 1.0), "the best guess"),
    (check.two_point_score, (lambda x, s: two_points(x, s) * s**2, 1.0), "you lost sigma^2"),
    (check.two_point_score, (lambda x, s: two_points(x, s) * s, 1.0), "divides by sigma"),
    (check.two_point_score, (lambda x, s: -two_points(x, s), 1.0), "points towards the data"),
    (check.two_point_score, (lambda x, s: ((x / s).tanh() - x) / s**2, 1.0), "not x~ / sigma"),
    (check.two_point_score, (lambda x, s: ((2 * x / s**2).tanh() - x) / s**2, 1.0), "tanh of half of them"),
    (check.two_point_score, (lambda x, s: (x.sign() - x) / s**2, 1.0), "the nearer point alone"),
    (check.two_point_score, (two_points, 2.0), "distance of the two points"),
    (check.two_point_score, (two_points, 0.7071068), "a root too many"),
    (check.two_point_score, (two_points, 0.5), "too narrow"),
]


@pytest.mark.parametrize("exercise", SOLUTIONS, ids=lambda e: e.__name__)
def test_the_worked_solution_passes(exercise):
    verdict = exercise(*SOLUTIONS[exercise])
    assert verdict.passed, verdict


@pytest.mark.parametrize(("exercise", "answers", "message"), MISTAKES)
def test_each_mistake_is_named(exercise, answers, message):
    verdict = exercise(*answers)
    assert verdict.status == "not yet"
    assert message in verdict.message
