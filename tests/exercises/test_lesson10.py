"""The checks of lesson 10: the worked solution passes, and each plausible mistake is named."""

import math

import pytest
import torch

from coursekit.exercises import lesson10 as check


def drift(x, score, f, g, eta):
    return -f * x + 0.5 * (1 + eta**2) * g**2 * score


def step(x, guess, alpha_t, sigma_t, alpha_s, sigma_s):
    return alpha_s * guess + sigma_s * (x - alpha_t * guess) / sigma_t


def mean(guess, before, ell_before, ell, ell_next):
    return guess + (ell_next - ell) / (2 * (ell - ell_before)) * (guess - before)


def mean_with(share):
    """The line through two looks, followed for share(h, h_before) times the last change."""
    return lambda guess, before, a, b, c: guess + share(c - b, b - a) * (guess - before)


def fit(looks, errors):
    return (torch.diff(errors.log()) / torch.diff(looks.log())).mean()


def order(looks, errors, target):
    p = -fit(looks, errors)
    return p, looks[-1] * (errors[-1] / target) ** (1 / p)


def grid(steps):
    u = torch.arange(steps, 0, -1, dtype=torch.float64) / steps
    return u**1.2 / (u**1.2 + 1.4 * (1 - u) ** 1.2)


def shifted(steps):
    u = torch.arange(steps, 0, -1, dtype=torch.float64) / steps
    return u / (u + 1.6 * (1 - u))


def power(p):
    return lambda steps: (torch.arange(steps, 0, -1) / steps) ** p


SOLUTIONS = {
    check.backward_drift: drift,
    check.ddim_step: step,
    check.mean_guess: mean,
    check.order_and_looks: order,
    check.grid_for_eight: grid,
}

MISTAKES = [
    (check.backward_drift, lambda x, s, f, g, e: f * x + 0.5 * (1 + e**2) * g**2 * s, "forward drift"),
    (check.backward_drift, lambda x, s, f, g, e: -f * x - 0.5 * (1 + e**2) * g**2 * s, "wrong sign"),
    (check.backward_drift, lambda x, s, f, g, e: -f * x + 0.5 * g**2 * s, "drift of the ODE, for every eta"),
    (check.backward_drift, lambda x, s, f, g, e: -f * x + g**2 * s, "Anderson's drift"),
    (check.backward_drift, lambda x, s, f, g, e: -f * x + (1 + e**2) * g**2 * s, "1/2 is missing"),
    (check.backward_drift, lambda x, s, f, g, e: -f * x + 0.5 * (1 + e) * g**2 * s, "eta must be squared"),
    (check.backward_drift, lambda x, s, f, g, e: -f * x + 0.5 * (1 + e**2) * g * s, "g must be squared"),
    (check.backward_drift, lambda x, s, f, g, e: -f * x + 0.5 * e**2 * g**2 * s, "shaking in place"),
    (check.backward_drift, lambda x, s, f, g, e: 0.5 * (1 + e**2) * g**2 * s, "the term -f x"),
    (check.backward_drift, lambda x, s, f, g, e: -f * x + 0.5 * (1 - e**2) * g**2 * s, "the halves add up"),
    (check.backward_drift, lambda x, s, f, g, e: -f * x + (0.5 * g**2 + e * g) * s, "c^2 / 2"),
    (check.backward_drift, lambda x, s, f, g, e: drift(x, s, f, g, e) + e * g * torch.randn_like(x), "no noise"),
    (check.ddim_step, lambda x, m, a, s, b, r: b * m + r / a * (x - a * m) * a / s, "alpha_t is 0 at pure noise"),
    (check.ddim_step, lambda x, m, a, s, b, r: b * m + r * (x / a - m) * a / s, "alpha_t is 0 at pure noise"),
    (check.ddim_step, lambda x, m, a, s, b, r: m, "the guess itself"),
    (check.ddim_step, lambda x, m, a, s, b, r: a * m + s * (x - b * m) / r, "exchanged: the noise belongs"),
    (check.ddim_step, lambda x, m, a, s, b, r: a * m + s * (x - a * m) / s, "stayed at the old level"),
    (check.ddim_step, lambda x, m, a, s, b, r: a * m + r * (x - a * m) / s, "the old alpha"),
    (check.ddim_step, lambda x, m, a, s, b, r: b * m + s * (x - a * m) / s, "the old sigma"),
    (check.ddim_step, lambda x, m, a, s, b, r: b * m + r * (x - a * m), "divide by sigma_t"),
    (check.ddim_step, lambda x, m, a, s, b, r: b * m + r * (x - m) / s, "forgot alpha_t"),
    (check.ddim_step, lambda x, m, a, s, b, r: b * m + r * x, "x_t itself"),
    (check.ddim_step, lambda x, m, a, s, b, r: b * m, "noise is missing"),
    (check.ddim_step, lambda x, m, a, s, b, r: b * m - r * (x - a * m) / s, "wrong sign"),
    (check.ddim_step, lambda x, m, a, s, b, r: r * m + b * (x - a * m) / s, "exchanged"),
    (check.ddim_step, lambda x, m, a, s, b, r: x, "stayed at the old level"),
    (check.mean_guess, mean_with(lambda h, k: h / k), "end of the step"),
    (check.mean_guess, mean_with(lambda h, k: k / (2 * h)), "upside down"),
    (check.mean_guess, mean_with(lambda h, k: -h / (2 * k)), "wrong sign"),
    (check.mean_guess, mean_with(lambda h, k: -0.5), "between the two looks"),
    (check.mean_guess, mean_with(lambda h, k: h / (2 * k) - 1), "the older of the two"),
    (check.mean_guess, mean_with(lambda h, k: 0.5), "do not matter"),
    (check.mean_guess, mean_with(lambda h, k: h / 2), "divided by the length"),
    (check.mean_guess, mean_with(lambda h, k: 0.0), "DDIM"),
    (check.mean_guess, mean_with(lambda h, k: (h / (1 - math.exp(-h)) - 1) / k), "right as well"),
    (check.order_and_looks, lambda n, e, t: (-order(n, e, t)[0], order(n, e, t)[1]), "turn the sign"),
    (check.order_and_looks, lambda n, e, t: (1 / order(n, e, t)[0], order(n, e, t)[1]), "one over the order"),
    (check.order_and_looks, lambda n, e, t: (2 ** order(n, e, t)[0], order(n, e, t)[1]), "logarithm to base 2"),
    (
        check.order_and_looks,
        lambda n, e, t: (((e.log() - e.log().mean()) @ (n - n.mean())) / -((n - n.mean()) ** 2).sum(), 1.0),
        "axis of the looks",
    ),
    (check.order_and_looks, lambda n, e, t: (-(e[-1] / e[0]).log(), 1.0), "without dividing"),
    (check.order_and_looks, lambda n, e, t: (order(n, e, t)[0], n[-1] * e[-1] / t), "order one"),
    (check.order_and_looks, lambda n, e, t: (order(n, e, t)[0], t ** (-1 / order(n, e, t)[0])), "constant for 1"),
    (
        check.order_and_looks,
        lambda n, e, t: (order(n, e, t)[0], (e[-1] * n[-1] ** order(n, e, t)[0] / t) ** order(n, e, t)[0]),
        "p-th root",
    ),
    (check.order_and_looks, lambda n, e, t: (order(n, e, t)[0], order(n, e, t)[1] / n[-1]), "how many times more"),
    (
        check.order_and_looks,
        lambda n, e, t: (order(n, e, t)[0], n[-1] * (e[-1] / t) ** order(n, e, t)[0]),
        "ratio of the errors",
    ),
    (check.order_and_looks, lambda n, e, t: order(n, e, t)[::-1], "exchanged"),
    (check.order_and_looks, lambda n, e, t: order(n, e, t)[0], "return 2 values"),
    (check.grid_for_eight, power(1.0), "100 %"),
    (check.grid_for_eight, power(2.0), "75 % is wanted"),
    (check.grid_for_eight, lambda steps: grid(steps).flip(0), "fall strictly"),
    (check.grid_for_eight, lambda steps: torch.linspace(1, 0, steps), "lie in (0, 1]"),
    (check.grid_for_eight, lambda steps: torch.linspace(1, 0, steps + 1), "8 times are wanted"),
    (check.grid_for_eight, lambda steps: 0.9 * grid(steps), "noise would be taken for signal"),
    (check.grid_for_eight, lambda steps: torch.cat([torch.tensor([0.98]), shifted(steps)[1:]]), "first look is at"),
]


@pytest.mark.parametrize("exercise", SOLUTIONS, ids=lambda exercise: exercise.__name__)
def test_worked_solution_passes(exercise):
    verdict = exercise(SOLUTIONS[exercise])
    assert verdict.passed, verdict


@pytest.mark.parametrize(("exercise", "answer", "said"), MISTAKES)
def test_mistake_is_named(exercise, answer, said):
    verdict = exercise(answer)
    assert verdict.status == "not yet"
    assert said in verdict.message, verdict


@pytest.mark.parametrize("exercise", SOLUTIONS, ids=lambda exercise: exercise.__name__)
def test_wrong_shapes_are_refused(exercise):
    assert exercise(lambda *_: torch.zeros(2, 7, 5)).status == "not yet"


@pytest.mark.parametrize("mixture", [check.HEAPS, check.OTHER_HEAPS])
@pytest.mark.parametrize("sampler", ["dpm++2m", "heun"])
def test_the_quantile_map_agrees_with_a_fine_solution(mixture, sampler):
    """The truth of exercise 10.5, by bisection, is where 400 steps arrive."""
    fine = torch.linspace(1, 0, 401, dtype=torch.float64)[:-1] ** 2
    assert check.error_of_grid(fine, mixture, sampler) < 5e-4
