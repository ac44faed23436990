"""The checks of lesson 11: the worked solution passes, and each plausible mistake is named."""

import math

import pytest
import torch

from coursekit.diffusion import LinearVP
from coursekit.exercises import lesson11 as check


def denoise(x, alpha, sigma, mean, deviation):
    return (mean * sigma**2 + alpha * deviation**2 * x) / (alpha**2 * deviation**2 + sigma**2)


def guided(x, alpha, sigma, w, m, s, m_0, s_0):
    return (1 - w) * denoise(x, alpha, sigma, m_0, s_0) + w * denoise(x, alpha, sigma, m, s)


def tilted(x, alpha, sigma, w, m, s, m_0, s_0):
    variance = 1 / (w / s**2 + (1 - w) / s_0**2)
    return denoise(x, alpha, sigma, variance * (w * m / s**2 + (1 - w) * m_0 / s_0**2), variance**0.5)


def carried(x, alpha, sigma, alpha_there, sigma_there, slope):
    return sigma_there**2 / alpha_there * slope(sigma_there / sigma * x)


def matched(D, slope, alpha, sigma, A, b, tau, noise=lambda tau: tau**2, factor=lambda a, s: s**2 / a):
    V = factor(alpha, sigma) * slope
    bracket = A @ V @ A.T + noise(tau) * torch.eye(len(A), dtype=A.dtype)
    return D + torch.einsum("nij,kj,nkl,nl->ni", V, A, torch.linalg.inv(bracket), b - D @ A.T)


def scale(s2, e2, worse):
    return math.log((s2 + worse) / s2) / math.log((s2 + worse) / (s2 + e2))


def mix(w, of_class, plain):
    return (1 - w) * plain + w * of_class


def deviation(w, T, slope_of=mix, root=True, noise=1.0, v_of=lambda v: v):
    t = torch.arange(T + 1, dtype=torch.float64) / T
    alpha, sigma, variance = LinearVP().alpha(t), LinearVP().sigma(t), 1.0
    for k in range(T, 0, -1):
        of_class, plain = (alpha[k] * v / (alpha[k] ** 2 * v + sigma[k] ** 2) for v in (v_of(0.25), v_of(1.0)))
        keep = alpha[k] / alpha[k - 1]
        beta = 1 - keep**2
        a, b = alpha[k - 1] * beta / sigma[k] ** 2, keep * sigma[k - 1] ** 2 / sigma[k] ** 2
        v = beta if noise is None else noise * beta * sigma[k - 1] ** 2 / sigma[k] ** 2
        variance = (a * slope_of(w, of_class, plain) + b) ** 2 * variance + v
    return float(variance**0.5 if root else variance)


def other(gain):
    """(11.18) with another product in the place of V A^T (A V A^T + tau^2 I)^-1."""

    def answer(D, slope, alpha, sigma, A, b, tau):
        V = sigma**2 / alpha * slope
        return D + (gain(V, A, tau) @ (b - D @ A.T)[..., None])[..., 0]

    return answer


eye = torch.eye(2, dtype=torch.float64)
LIMIT = 2 * deviation(2.0, 400) - deviation(2.0, 200)

SOLUTIONS = {
    check.guided_estimate: (guided,),
    check.carried_slope: (carried,),
    check.moment_matched: (matched,),
    check.auto_scale: (scale,),
    check.ancestral_deviation: (deviation, LIMIT),
}

MISTAKES = [
    (check.guided_estimate, (lambda x, a, s, w, *law: guided(x, a, s, w + 1, *law),), "counted w from the class"),
    (check.guided_estimate, (tilted,), "do not commute"),
    (check.guided_estimate, (lambda x, a, s, w, *law: guided(x, a, s, 1 - w, *law),), "exchanged"),
    (
        check.guided_estimate,
        (lambda x, a, s, w, m, d, m_0, d_0: denoise(x, a, s, m_0, d_0) + w * denoise(x, a, s, m, d),),
        "not w times the difference",
    ),
    (check.guided_estimate, (lambda x, a, s, *law: (a * guided(x, a, s, *law) - x) / s**2,), "guided score"),
    (
        check.guided_estimate,
        (
            lambda x, a, s, w, m, d, m_0, d_0: (
                (1 - w) * (m_0 + d_0**2 / (a**2 * d_0**2 + s**2) * (x - a * m_0))
                + w * (m + d**2 / (a**2 * d**2 + s**2) * (x - a * m))
            ),
        ),
        "alpha is missing",
    ),
    (
        check.guided_estimate,
        (lambda x, a, s, w, m, d, m_0, d_0: guided(x, a, s, w, m, d**0.5, m_0, d_0**0.5),),
        "deviation",
    ),
    (
        check.guided_estimate,
        (
            lambda x, a, s, w, m, d, m_0, d_0: (
                (1 - w) * (m_0 + a * d_0**2 / (a**2 * d_0**2 + s**2) * (x - m_0))
                + w * (m + a * d**2 / (a**2 * d**2 + s**2) * (x - m))
            ),
        ),
        "an alpha is missing in x_t",
    ),
    (check.carried_slope, (lambda x, a, s, a2, s2, f: s2**2 / a2 * f(x),), "about x_t itself"),
    (check.carried_slope, (lambda x, a, s, a2, s2, f: s**2 / a * f(x),), "neither rescaled"),
    (check.carried_slope, (lambda x, a, s, a2, s2, f: s**2 / a * f(s2 / s * x),), "chain rule is missing"),
    (check.carried_slope, (lambda x, a, s, a2, s2, f: s2 / s * s2**2 / a2 * f(s2 / s * x),), "twice"),
    (
        check.carried_slope,
        (lambda x, a, s, a2, s2, f: s**2 / a * s / s2 * f(s2 / s * x),),
        "where the chain rule multiplies",
    ),
    (check.carried_slope, (lambda x, a, s, a2, s2, f: s2**2 / a2 * f(s / s2 * x),), "wrong way round"),
    (check.carried_slope, (lambda x, a, s, a2, s2, f: s2 / a2 * f(s2 / s * x),), "a sigma is lost"),
    (check.carried_slope, (lambda x, a, s, a2, s2, f: f(s2 / s * x),), "slope alone"),
    (check.moment_matched, (lambda *given: matched(*given, noise=lambda tau: tau),), "tau where tau^2"),
    (check.moment_matched, (lambda *given: matched(*given, noise=lambda tau: 0.0),), "tau^2, is missing"),
    (check.moment_matched, (lambda *given: matched(*given, factor=lambda a, s: 1.0),), "slope itself"),
    (check.moment_matched, (lambda *given: matched(*given, factor=lambda a, s: s / a),), "sigma / alpha times"),
    (check.moment_matched, (lambda *given: matched(*given, factor=lambda a, s: a / s**2),), "factor round"),
    (check.moment_matched, (other(lambda V, A, tau: V @ A.T / tau**2),), "bracket lacks"),
    (check.moment_matched, (other(lambda V, A, tau: torch.linalg.pinv(A)),), "that is projection"),
    (
        check.moment_matched,
        (other(lambda V, A, tau: A.T @ torch.linalg.inv(A @ V @ A.T + tau**2 * eye)),),
        "missing on the left",
    ),
    (
        check.moment_matched,
        (other(lambda V, A, tau: V @ A.T @ torch.linalg.inv(A @ A.T + tau**2 * eye)),),
        "missing inside",
    ),
    (check.moment_matched, (lambda *given: matched(*given, factor=lambda a, s: s**2),), "1/alpha is missing"),
    (
        check.moment_matched,
        (other(lambda V, A, tau: A.T @ torch.linalg.inv(A @ A.T + tau**2 * eye)),),
        "V by the identity",
    ),
    (check.moment_matched, (lambda D, slope, a, s, A, b, tau: D + slope @ A.T @ (b - D @ A.T),), "is a column"),
    (check.moment_matched, (lambda D, slope, a, s, A, b, tau: D + slope @ A.T @ (b - D @ A.T)[..., None],), "again"),
    (check.moment_matched, (lambda D, *rest: 2 * D - matched(D, *rest),), "wrong sign"),
    (check.moment_matched, (lambda D, *rest: matched(D, *rest) - D,), "without D"),
    (check.moment_matched, (lambda D, slope, a, s, A, b, tau: b,), "shape of the observation"),
    (check.auto_scale, (lambda s2, e2, worse: worse / (worse - e2),), "small errors"),
    (check.auto_scale, (lambda s2, e2, worse: scale(s2, e2**2, worse**2),), "squared them again"),
    (check.auto_scale, (lambda s2, e2, worse: 1 - scale(s2, e2, worse),), "are exchanged"),
    (check.auto_scale, (lambda s2, e2, worse: scale(s2, e2, worse) - 1,), "counts from the better"),
    (check.auto_scale, (lambda s2, e2, worse: scale(s2, worse, e2),), "exchanged"),
    (
        check.auto_scale,
        (lambda s2, e2, worse: math.log(worse / s2) / math.log(worse / e2),),
        "without the data's variance",
    ),
    (
        check.auto_scale,
        (lambda s2, e2, worse: (1 / s2 - 1 / (s2 + worse)) / (1 / (s2 + e2) - 1 / (s2 + worse)),),
        "mixes precisions",
    ),
    (check.ancestral_deviation, (lambda w, T: deviation(w, T, root=False), LIMIT), "root is wanted"),
    (check.ancestral_deviation, (lambda w, T: deviation(w, T, noise=0.0), LIMIT), "forgot the noise"),
    (check.ancestral_deviation, (lambda w, T: deviation(w, T, noise=None), LIMIT), "forward step"),
    (check.ancestral_deviation, (lambda w, T: deviation(w, T, v_of=lambda v: v**0.5), LIMIT), "variances belong"),
    (
        check.ancestral_deviation,
        (lambda w, T: deviation(1.0, T, v_of=lambda v: 1 / (4 * w + 1 - w) if v < 1 else v), LIMIT),
        "denoiser of the tilted law",
    ),
    (check.ancestral_deviation, (lambda w, T: deviation(1.0, T), LIMIT), "class alone"),
    (check.ancestral_deviation, (lambda w, T: deviation(w + 1, T), LIMIT), "counted w"),
    (check.ancestral_deviation, (lambda w, T: deviation(1 - w, T), LIMIT), "exchanged"),
    (
        check.ancestral_deviation,
        (lambda w, T: deviation(w, T, lambda w, of_class, plain: plain + w * of_class), LIMIT),
        "not w times the difference",
    ),
    (check.ancestral_deviation, (lambda w, T: 0.5**w, LIMIT), "what the ODE draws"),
    (check.ancestral_deviation, (lambda w, T: (4 * w + 1 - w) ** -0.5, LIMIT), "tilted law's"),
    (check.ancestral_deviation, (deviation, 7**-0.5), "tilted law"),
    (check.ancestral_deviation, (deviation, 0.25), "ODE"),
    (check.ancestral_deviation, (deviation, LIMIT**2), "a variance"),
    (check.ancestral_deviation, (deviation, deviation(2.0, 50)), "not the limit"),
]


@pytest.mark.parametrize("exercise", SOLUTIONS, ids=lambda exercise: exercise.__name__)
def test_the_worked_solution_passes(exercise):
    assert exercise(*SOLUTIONS[exercise]).passed


@pytest.mark.parametrize(("exercise", "answers", "named"), MISTAKES)
def test_a_mistake_is_named(exercise, answers, named):
    verdict = exercise(*answers)
    assert verdict.status == "not yet"
    assert named in verdict.message


def test_the_limit_is_that_of_the_integral():
    """(s^2/(s^2+u))^(2w) (s_0^2/(s_0^2+u))^(2(1-w)) over u, for w = 2, s = 1/2, s_0 = 1."""
    v = torch.linspace(-20, 20, 100_001, dtype=torch.float64)
    u = v.exp()
    integral = torch.trapezoid((0.25 / (0.25 + u)) ** 4 * (1 + u) ** 2 * u, v)
    assert abs(check.LIMIT**2 - float(integral)) < 1e-6
    assert abs(deviation(2.0, 4000) - check.LIMIT) < 2e-3


@pytest.mark.parametrize("exercise", SOLUTIONS, ids=lambda exercise: exercise.__name__)
def test_wrong_shapes_are_refused(exercise):
    assert exercise(lambda *_: torch.zeros(2, 7, 5), *SOLUTIONS[exercise][1:]).status == "not yet"
