"""Lesson 00's checks accept their worked solutions and name the mistake in each wrong answer."""

import math
import re

import pytest
import torch

from coursekit.exercises import lesson00


def spread(x, alpha, sigma, eps):
    alpha, sigma = alpha[:, None, None, None], sigma[:, None, None, None]
    return alpha * x + sigma * eps


def log_normal(z):
    return -0.5 * z**2 - 0.5 * math.log(2 * math.pi)


def bisect(schedule, amount=lambda alpha, sigma: alpha - sigma):
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        if amount(schedule.alpha(middle), schedule.sigma(middle)) > 0:
            low = middle
        else:
            high = middle
    return low


SOLUTIONS = {
    "variance_on_the_axis": lambda alpha, sigma: alpha**2 + sigma**2,
    "noisy_batch": spread,
    "log_density": lambda x, a, b: log_normal((x - b) / a) - math.log(abs(a)),
    "half_way": bisect,
}

WRONG = [
    ("variance_on_the_axis", lambda a, s: a + s, "standard deviations added up"),
    ("variance_on_the_axis", lambda a, s: (a + s) ** 2, "no cross term"),
    ("variance_on_the_axis", lambda a, s: (a**2 + s**2).sqrt(), "a square root too many"),
    ("variance_on_the_axis", lambda a, s: torch.ones_like(a), "only if alpha"),
    ("variance_on_the_axis", lambda a, s: s**2, "noise alone"),
    ("variance_on_the_axis", lambda a, s: a**2 - s**2, "variances of independent variables add"),
    ("variance_on_the_axis", lambda a, s: 1.0, r"should have shape \(4,\), got \(\)"),
    ("variance_on_the_axis", 3.0, "should be a function"),
    ("noisy_batch", lambda x, a, s, e: a * x + s * e, "from left to right"),
    ("noisy_batch", lambda x, a, s, e: a[:, None] * x + s[:, None] * e, "from top to bottom"),
    ("noisy_batch", lambda x, a, s, e: spread(x, s, a, e), "swapped"),
    ("noisy_batch", lambda x, a, s, e: spread(x, a**2, s**2, e), "squares belong to the variance"),
    ("noisy_batch", lambda x, a, s, e: spread(x, a, 0 * s, e), "the noise is missing"),
    ("noisy_batch", lambda x, a, s, e: spread(x, a, torch.ones_like(s), e), "noise is not scaled"),
    ("noisy_batch", lambda x, a, s, e: spread(x, torch.ones_like(a), s, e), "picture is not scaled"),
    ("noisy_batch", lambda x, a, s, e: a.view(28, 1, 1, 1) * x + s.view(28, 1, 1, 1) * e, "raised RuntimeError"),
    ("noisy_batch", lambda x, a, s, e: a[0] * x + s[0] * e, "your batch of 28 pictures is too"),
    ("log_density", lambda x, a, b: log_normal((x - b) / a), "stretching is missing"),
    ("log_density", lambda x, a, b: log_normal((x - b) / a) + math.log(abs(a)), "wrong sign"),
    ("log_density", lambda x, a, b: log_normal(x) - math.log(abs(a)), "evaluated p_Z at x"),
    ("log_density", lambda x, a, b: log_normal(x / a - b) - math.log(abs(a)), "divided first"),
    ("log_density", lambda x, a, b: log_normal(a * x + b) - math.log(abs(a)), "inverse"),
    ("log_density", lambda x, a, b: log_normal((x - b) / a) - abs(a), r"log \|a\|"),
    ("log_density", lambda x, a, b: (log_normal((x - b) / a) - math.log(abs(a))).exp(), "not its logarithm"),
    ("log_density", lambda x, a, b: -0.5 * ((x - b) / a) ** 2 - math.log(abs(a)), "normalising constant"),
    ("log_density", lambda x, a, b: log_normal((x - b) / a) - torch.tensor(a).log(), r"take log \|a\|"),
    ("log_density", lambda x, a, b: log_normal((x - b) / a) - math.log(a), r"a may be negative.*take log \|a\|"),
    ("log_density", lambda x, a, b: math.log(-a), "raised ValueError"),
    ("half_way", lambda schedule: 0.5, "half of the time"),
    ("half_way", lambda schedule: bisect(schedule, lambda a, s: a - 0.5), "alpha_t = 1/2"),
    ("half_way", lambda schedule: bisect(schedule, lambda a, s: 0.5 - s), "sigma_t = 1/2"),
    ("half_way", lambda schedule: bisect(schedule, lambda a, s: a**2 - 0.5), r"alpha_t\^2 = 1/2"),
    ("half_way", lambda schedule: schedule.time(1.0), "log-SNR is 1"),
    ("half_way", lambda schedule: torch.zeros(3), "cannot be checked: RuntimeError"),
    ("half_way", lambda schedule: 0.9, "your list of times for .* is too large"),
]


def test_every_check_has_a_solution_that_passes():
    assert set(SOLUTIONS) == set(lesson00.__all__)
    for name, solution in SOLUTIONS.items():
        verdict = getattr(lesson00, name)(solution)
        assert verdict.passed, f"{name}: {verdict}"


def test_the_other_solution_of_the_last_exercise_passes():
    assert lesson00.half_way(lambda schedule: schedule.time(0.0)).passed


@pytest.mark.parametrize(
    ("name", "answer", "message"), WRONG, ids=lambda value: value if isinstance(value, str) else ""
)
def test_wrong_answers_are_refused_with_their_reason(name, answer, message):
    verdict = getattr(lesson00, name)(answer)
    assert verdict.status == "not yet"
    assert re.search(message, verdict.message), verdict.message
