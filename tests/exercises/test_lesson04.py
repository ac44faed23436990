"""The checks of lesson 04: the worked solution passes, and each plausible mistake is named."""

import math

import pytest
import torch

from coursekit.exercises import lesson04 as check


def spins(A, u, g):
    return A / 4, u / 2 + A.sum(1) / 4, g / 2 + A.sum(0) / 4


def phase(z, W, c, hidden=torch.tanh):
    return z.T @ hidden(c + z @ W) / len(z)


def phases(x, y, W, c, hidden=torch.tanh):
    return phase(x, W, c, hidden) - phase(y, W, c, hidden)


def of_means(z, W, c):
    return torch.outer(z.mean(0), (c + z @ W).tanh().mean(0))


def annealed(log_w, log_z0):
    total = log_w.logsumexp(0)
    return log_z0 + total - math.log(len(log_w)), (2 * total - (2 * log_w).logsumexp(0)).exp()


def with_math(log_w, log_z0):
    w = [math.exp(value) for value in log_w]
    return log_z0 + math.log(sum(w) / len(w)), sum(w) ** 2 / sum(value**2 for value in w)


def anchored(log_w, log_z0):
    """Safe against overflow, but not against underflow."""
    top = log_w.max().clamp(min=0)
    w = (log_w - top).exp()
    return log_z0 + top + w.mean().log(), w.sum() ** 2 / w.square().sum()


def along_eigenvectors(P, eta):
    eigenvalues = torch.linalg.eigvalsh(P)
    return torch.diag(1 / (eigenvalues * (1 - eta / 2 * eigenvalues)))


def at_rest(P, eta):
    return torch.linalg.inv(P - eta / 2 * P @ P)


def two_points(x, sigma):
    return ((x / sigma**2).tanh() - x) / sigma**2


SOLUTIONS = {
    check.spins_from_bits: (spins,),
    check.two_phases: (phases,),
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
    (check.spins_from_bits, (lambda A, u, g: tuple(-part for part in spins(A, u, g)),), "your W has the wrong sign"),
    (check.spins_from_bits, (lambda A, u, g: (A / 4, -spins(A, u, g)[1], g),), "your b has the wrong sign"),
    (check.spins_from_bits, (lambda A, u, g: (A / 4, u + A.sum(1) / 4, g),), "leaves the bias of the bits whole"),
    (check.spins_from_bits, (lambda A, u, g: (A / 4, 2 * u - 2 * A.sum(1), g),), "from spins to bits"),
    (check.two_phases, (lambda x, y, W, c: len(x) * phase(x, W, c) - len(y) * phase(y, W, c),), "sums over states"),
    (check.two_phases, (lambda x, y, W, c: phase(x, W, c) - 7 / 5 * phase(y, W, c),), "divided both sums"),
    (check.two_phases, (lambda x, y, W, c: -phases(x, y, W, c),), "that goes down"),
    (check.two_phases, (lambda x, y, W, c: phase(x, W, c),), "positive phase alone"),
    (check.two_phases, (lambda x, y, W, c: -phase(y, W, c),), "negative phase alone"),
    (check.two_phases, (lambda x, y, W, c: phase(x, W, c) + phase(y, W, c),), "you added the phases"),
    (check.two_phases, (lambda x, y, W, c: phases(x, y, W, c, lambda r: torch.sigmoid(2 * r)),), "P(h = 1 | x)"),
    (check.two_phases, (lambda x, y, W, c: phases(x, y, W, 0 * c),), "forgot the hidden bias"),
    (check.two_phases, (lambda x, y, W, c: phases(x, y, W, c, lambda r: r),), "the field itself"),
    (check.two_phases, (lambda x, y, W, c: phases(x, y, 2 * W, 2 * c),), "too much"),
    (check.two_phases, (lambda x, y, W, c: of_means(x, W, c) - of_means(y, W, c),), "a product of means"),
    (check.two_phases, (lambda x, y, W, c: phases(x, y, W, c).T,), "should have shape (4, 3)"),
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
    (check.annealed_log_z, (lambda w, z: (annealed(w, z)[0], annealed(w, z)[1].log()),), "that is the logarithm"),
    (check.annealed_log_z, (lambda w, z: with_math(w, z),), "exp(2000) is infinite"),
    (check.annealed_log_z, (lambda w, z: anchored(w, z),), "exp(-2000) is rounded to 0"),
    (check.langevin_covariance, (lambda P, eta: torch.linalg.inv(P),), "the target's own covariance"),
    (check.langevin_covariance, (lambda P, eta: torch.linalg.inv(P) + eta / 2 * torch.eye(3),), "first order"),
    (check.langevin_covariance, (lambda P, eta: 1 / (P - eta / 2 * P @ P),), "divided entry by entry"),
    (check.langevin_covariance, (lambda P, eta: along_eigenvectors(P, eta),), "along the eigenvectors"),
    (check.langevin_covariance, (lambda P, eta: torch.eye(3) / (1 - eta / 2),), "every variance of the target for 1"),
    (check.langevin_covariance, (lambda P, eta: at_rest(P, eta / 2),), "half of the bias is missing"),
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
    (check.two_point_score, (two_points, 0.7071068), "sqrt(1/2)"),
    (check.two_point_score, (two_points, 0.99), "as from a grid"),
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
