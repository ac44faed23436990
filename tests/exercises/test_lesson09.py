"""The checks of lesson 09: the worked solution passes, and each plausible mistake is named."""

import pytest
import torch

from coursekit.diffusion import LinearVP
from coursekit.exercises import lesson09 as check


def kl(m, n, variance):
    return (m - n).square().sum(1) / (2 * variance)


def clean(x_t, eps, alpha, sigma):
    return (x_t - sigma * eps) / alpha


def v_target(x_0, eps, alpha, sigma):
    return alpha * eps - sigma * x_0


def from_v(x_t, v, alpha, sigma):
    return alpha * x_t - sigma * v


def tables(T):
    t = torch.arange(T + 1, dtype=torch.float64) / T
    return LinearVP().alpha(t), LinearVP().sigma(t)


def coefficients(k, alpha, sigma):
    keep = alpha[k] / alpha[k - 1]
    beta = 1 - keep**2
    return (
        alpha[k - 1] * beta / sigma[k] ** 2,
        keep * sigma[k - 1] ** 2 / sigma[k] ** 2,
        beta * sigma[k - 1] ** 2 / sigma[k] ** 2,
        beta,
    )


def step(x, guess, noise, k, alpha, sigma):
    a, b, v, _ = coefficients(k, alpha, sigma)
    return a * guess + b * x + v.sqrt() * noise


def step_with(change):
    """A wrong step: change(x, guess, noise, a, b, v, beta) instead of the right combination."""
    return lambda x, guess, noise, k, alpha, sigma: change(x, guess, noise, *coefficients(k, alpha, sigma))


def variance_after(T, factor_of=lambda a, b, slope: (a * slope + b) ** 2, added=lambda v, beta: v):
    alpha, sigma = tables(T)
    variance = 1.0
    for k in range(T, 0, -1):
        a, b, v, beta = coefficients(k, alpha, sigma)
        slope = alpha[k] * 0.25 / (alpha[k] ** 2 * 0.25 + sigma[k] ** 2)
        variance = factor_of(a, b, slope) * variance + added(v, beta)
    return float(variance)


STEPS = 285

SOLUTIONS = {
    check.equal_variance_kl: (kl,),
    check.clean_from_noise: (clean,),
    check.v_prediction: (v_target, from_v),
    check.ancestral_step: (step,),
    check.drawn_variance: (variance_after, STEPS),
}

MISTAKES = [
    (check.equal_variance_kl, (lambda m, n, s: (m - n).square().mean(1) / (2 * s),), "mean over the coordinates"),
    (check.equal_variance_kl, (lambda m, n, s: (m - n).square().sum(1) / s,), "1/2 is missing"),
    (check.equal_variance_kl, (lambda m, n, s: (m - n).square().sum(1) / (2 * s**0.5),), "standard deviation"),
    (check.equal_variance_kl, (lambda m, n, s: (m - n).square().sum(1) / (2 * s**2),), "variance squared"),
    (check.equal_variance_kl, (lambda m, n, s: (m - n).square().sum(1) / 2,), "forgot to divide"),
    (check.equal_variance_kl, (lambda m, n, s: (m - n).norm(dim=1) / (2 * s),), "not squared"),
    (check.equal_variance_kl, (lambda m, n, s: (m - n).square() / (2 * s),), "independent coordinates add up"),
    (check.equal_variance_kl, (lambda m, n, s: (m - n).square().sum() / (2 * s),), "each of the N rows"),
    (check.clean_from_noise, (lambda x, e, a, s: (x + s * e) / a,), "wrong sign"),
    (check.clean_from_noise, (lambda x, e, a, s: x - s * e,), "did not undo alpha"),
    (check.clean_from_noise, (lambda x, e, a, s: (x - s * e) * a,), "must divide"),
    (check.clean_from_noise, (lambda x, e, a, s: (x - s * e) / a**2,), "alpha_bar"),
    (check.clean_from_noise, (lambda x, e, a, s: (x - s**2 * e) / a,), "sigma^2 eps"),
    (check.clean_from_noise, (lambda x, e, a, s: x / a - s * e,), "but not the noise"),
    (check.clean_from_noise, (lambda x, e, a, s: (x - a * e) / s,), "exchanged"),
    (check.clean_from_noise, (lambda x, e, a, s: x[:3],), "shape"),
    (check.v_prediction, (lambda x, e, a, s: s * x - a * e, from_v), "sign flipped"),
    (check.v_prediction, (lambda x, e, a, s: a * x + s * e, from_v), "that is x_t itself"),
    (check.v_prediction, (lambda x, e, a, s: s * e - a * x, from_v), "exchanged in v"),
    (check.v_prediction, (lambda x, e, a, s: e - x, from_v), "straight line"),
    (check.v_prediction, (lambda x, e, a, s: a * e + s * x, from_v), "plus where a minus"),
    (check.v_prediction, (v_target, lambda x, v, a, s: a * x + s * v), "sign in front of sigma"),
    (check.v_prediction, (v_target, lambda x, v, a, s: s * x + a * v), "that is eps"),
    (check.v_prediction, (v_target, lambda x, v, a, s: s * x - a * v), "back from v: alpha and sigma"),
    (check.v_prediction, (v_target, clean), "prediction of the noise"),
    (check.ancestral_step, (step_with(lambda x, g, z, a, b, v, beta: a * g + b * x + v * z),), "square root is lost"),
    (check.ancestral_step, (step_with(lambda x, g, z, a, b, v, beta: a * g + b * x + beta.sqrt() * z),), "beta_k, the"),
    (check.ancestral_step, (step_with(lambda x, g, z, a, b, v, beta: a * g + b * x + beta * z),), "beta_k itself"),
    (check.ancestral_step, (step_with(lambda x, g, z, a, b, v, beta: a * g + b * x),), "noise is missing"),
    (check.ancestral_step, (step_with(lambda x, g, z, a, b, v, beta: a * g + b * x - v.sqrt() * z),), "taken away"),
    (check.ancestral_step, (step_with(lambda x, g, z, a, b, v, beta: a * x + b * g + v.sqrt() * z),), "are exchanged"),
    (
        check.ancestral_step,
        (step_with(lambda x, g, z, a, b, v, beta: (1 - beta).sqrt() * a * g + b * x + v.sqrt() * z),),
        "alpha_{k-1} belongs",
    ),
    (
        check.ancestral_step,
        (step_with(lambda x, g, z, a, b, v, beta: a * g + (1 - beta).sqrt() * x + v.sqrt() * z),),
        "is missing",
    ),
    (
        check.ancestral_step,
        (step_with(lambda x, g, z, a, b, v, beta: a * g + (1 - beta).sqrt() * b * x + v.sqrt() * z),),
        "the square of",
    ),
    (check.ancestral_step, (lambda x, g, z, k, a, s: a[k - 1] * g + s[k - 1] * z,), "forgotten"),
    (check.ancestral_step, (lambda x, g, z, k, a, s: a[k - 1] * g + s[k - 1] * (x - a[k] * g) / s[k],), "DDIM"),
    (check.drawn_variance, (lambda T: variance_after(T, added=lambda v, beta: 0.0), STEPS), "forgot the noise"),
    (check.drawn_variance, (lambda T: variance_after(T, lambda a, b, c: a * c + b), STEPS), "must be squared"),
    (check.drawn_variance, (lambda T: variance_after(T, added=lambda v, beta: beta), STEPS), "step forward"),
    (check.drawn_variance, (lambda T: variance_after(T, added=lambda v, beta: v.sqrt()), STEPS), "sqrt(v_k)"),
    (check.drawn_variance, (lambda T: variance_after(T, lambda a, b, c: b**2), STEPS), "left out a_k"),
    (check.drawn_variance, (lambda T: variance_after(T) ** 0.5, STEPS), "standard deviation"),
    (check.drawn_variance, (lambda T: variance_after(T) / 0.25 - 1, STEPS), "not the variance itself"),
    (check.drawn_variance, (lambda T: variance_after(T) + 0.001, STEPS), "after T = 5 steps is too large"),
    (check.drawn_variance, (variance_after, 100), "still 12"),
    (check.drawn_variance, (variance_after, 1000), "not the smallest"),
    (check.drawn_variance, (variance_after, 285.5), "positive int"),
]


@pytest.mark.parametrize("exercise", SOLUTIONS, ids=lambda exercise: exercise.__name__)
def test_worked_solution_passes(exercise):
    verdict = exercise(*SOLUTIONS[exercise])
    assert verdict.passed, verdict


@pytest.mark.parametrize(("exercise", "answers", "said"), MISTAKES)
def test_mistake_is_named(exercise, answers, said):
    verdict = exercise(*answers)
    assert verdict.status == "not yet"
    assert said in verdict.message


def test_an_answer_found_in_float32_is_told_the_exact_one():
    assert abs(variance_after(STEPS) / 0.25 - 1) < 0.05 < abs(variance_after(STEPS - 1) / 0.25 - 1)
    verdict = check.drawn_variance(variance_after, STEPS - 1)
    assert verdict.passed
    assert f"{STEPS} steps are the first" in verdict.message


@pytest.mark.parametrize("exercise", SOLUTIONS, ids=lambda exercise: exercise.__name__)
def test_wrong_shapes_are_refused(exercise):
    assert exercise(lambda *_: torch.zeros(2, 7, 5), *SOLUTIONS[exercise][1:]).status == "not yet"
