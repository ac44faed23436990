"""The checks of lesson 02: the worked solution passes, and each plausible mistake is named."""

import math

import pytest
import torch

from coursekit.exercises import lesson02 as check


def table(x, w, m, v, weight=1.0, power=0.5, half=0.5, width=1.0, dim=1):
    """Responsibilities, with the slips that people make as arguments."""
    exponent = -half * (x[:, None] - m) ** 2 / v**width
    return torch.softmax(weight * torch.log(w) - power * torch.log(v) + exponent, dim=dim)


def ratios(x, w, m, v):
    """Right near the heaps; far away every density underflows."""
    density = w * torch.exp(-0.5 * (x[:, None] - m) ** 2 / v) / torch.sqrt(2 * math.pi * v)
    return density / density.sum(1, keepdim=True)


def safe_ratios(x, w, m, v):
    r = ratios(x, w, m, v)
    return torch.where(r.isfinite(), r, w)


def variances(x, r, dims=True, count="N_k", squared=True, about=None):
    counts = {"N_k": r.sum(0), "N": len(x), "N_k - 1": r.sum(0) - 1, "1": 1}[count]
    m = r.T @ x / r.sum(0)[:, None] if about is None else about
    square = (x[:, None] - m).square().sum(2)
    return (r * (square if squared else square.sqrt())).sum(0) / counts / (x.shape[1] if dims else 1)


def parameters(K, D, covariance=None, heaps=None):
    return (K if heaps is None else heaps) * (covariance or D * (D + 1) // 2) + K * D + K - 1


def score(log_likelihood, N, K, D, sign=-2.0, price=math.log, free=parameters):
    return sign * log_likelihood + free(K, D) * price(N)


def fill_in(x, w, m, C, weights=True, scaled=True, start=True, slope=None, own=0):
    """E[x_2 | x_1] of a mixture in the plane; `slope` is a function of C."""
    variance, distance = C[:, own, own], x[:, None] - m[:, 0]
    log_joint = start * w.log() - scaled * 0.5 * variance.log() - 0.5 * distance**2 / variance
    r = log_joint.softmax(1) if weights else w
    slopes = C[:, 1, 0] / C[:, 0, 0] if slope is None else slope(C)
    return (r * (m[:, 1] + slopes * distance)).sum(1)


def loudest(x, w, m, C):
    lines = m[:, 1] + C[:, 1, 0] / C[:, 0, 0] * (x[:, None] - m[:, 0])
    log_joint = w.log() - 0.5 * C[:, 0, 0].log() - 0.5 * (x[:, None] - m[:, 0]) ** 2 / C[:, 0, 0]
    return lines[torch.arange(len(x)), log_joint.argmax(1)]


SOLUTIONS = {
    check.responsibilities: table,
    check.spherical_variances: variances,
    check.bic: score,
    check.conditional_mean: fill_in,
    check.merging_log_snr: lambda a, s: -torch.log(a**2 - s**2),
}

MISTAKES = [
    (check.responsibilities, lambda *given: table(*given, weight=0.0), "weights w_k are missing"),
    (check.responsibilities, lambda *given: table(*given, power=0.0), "1/sqrt(v_k) is missing"),
    (check.responsibilities, lambda *given: table(*given, power=1.0), "before the exponential"),
    (check.responsibilities, lambda *given: table(*given, half=1.0), "factor 1/2"),
    (check.responsibilities, lambda *given: table(*given, width=0.5), "by the deviation"),
    (check.responsibilities, lambda *given: table(*given, power=1.0, width=2.0), "v for deviations"),
    (check.responsibilities, lambda *given: table(*given, dim=0), "over the points"),
    (check.responsibilities, lambda *given: table(*given).T, "on its side"),
    (check.responsibilities, lambda *given: table(*given).log(), "logarithms"),
    (check.responsibilities, ratios, "underflows"),
    (check.responsibilities, safe_ratios, "fall back to the weights"),
    (check.spherical_variances, lambda x, r: variances(x, r, dims=False), "divide by D"),
    (check.spherical_variances, lambda x, r: variances(x, r, count="N"), "own count N_k"),
    (check.spherical_variances, lambda x, r: variances(x, r, count="N_k - 1"), "N_k - 1"),
    (check.spherical_variances, lambda x, r: variances(x, r, count="1"), "did not divide by N_k"),
    (check.spherical_variances, lambda x, r: variances(x, r).sqrt(), "deviations"),
    (check.spherical_variances, lambda x, r: variances(x, r, squared=False), "not squared"),
    (check.spherical_variances, lambda x, r: variances(x, r, about=torch.zeros(1, 3)), "measured from 0"),
    (check.spherical_variances, lambda x, r: variances(x, r, about=x.mean(0)[None]), "mean of all points"),
    (
        check.spherical_variances,
        lambda x, r: (x[:, None] - r.T @ x / r.sum(0)[:, None]).square().mean((0, 2)),
        "left the responsibilities out",
    ),
    (check.spherical_variances, lambda x, r: r.T @ x, "one variance per coordinate"),
    (check.bic, lambda *given: score(*given, free=lambda K, D: parameters(K, D) + 1), "sum to one"),
    (check.bic, lambda *given: score(*given, free=lambda K, D: parameters(K, D) - K + 1), "forgot the weights"),
    (check.bic, lambda *given: score(*given, free=lambda K, D: parameters(K, D) - K * D), "forgot the means"),
    (check.bic, lambda *given: score(*given, free=lambda K, D: parameters(K, D, D * D)), "symmetric"),
    (check.bic, lambda *given: score(*given, free=lambda K, D: parameters(K, D, heaps=1)), "tied"),
    (check.bic, lambda *given: score(*given, free=lambda K, D: parameters(K, D, D)), "diagonal"),
    (check.bic, lambda *given: score(*given, price=lambda N: 2), "AIC"),
    (check.bic, lambda *given: score(*given, sign=-1.0), "factor 2"),
    (check.bic, lambda *given: score(*given, sign=2.0), "wrong sign"),
    (check.bic, lambda *given: -score(*given), "flipped"),
    (check.bic, lambda *given: -score(*given) / 2, "half of it"),
    (check.bic, lambda *given: score(*given, price=math.log10), "base 10"),
    (check.conditional_mean, lambda *given: fill_in(*given, weights=False), "kept the weights"),
    (check.conditional_mean, lambda *given: fill_in(*given, slope=lambda C: 0 * C[:, 0, 0]), "means m_k2 alone"),
    (check.conditional_mean, lambda *given: fill_in(*given, slope=lambda C: C[:, 0, 0] / C[:, 0, 1]), "upside down"),
    (
        check.conditional_mean,
        lambda *given: fill_in(*given, slope=lambda C: C[:, 0, 1] / C[:, 1, 1]),
        "divides by C_22",
    ),
    (check.conditional_mean, lambda *given: fill_in(*given, slope=lambda C: C[:, 0, 1]), "not divided"),
    (check.conditional_mean, lambda *given: fill_in(*given, slope=lambda C: -C[:, 0, 1] / C[:, 0, 0]), "sign flipped"),
    (check.conditional_mean, loudest, "most responsible heap alone"),
    (check.conditional_mean, lambda *given: fill_in(*given, own=1), "found with C_22"),
    (check.conditional_mean, lambda *given: fill_in(*given, scaled=False), "1/sqrt(C_11)"),
    (check.conditional_mean, lambda *given: fill_in(*given, start=False), "lacks the weights"),
    (check.conditional_mean, lambda x, w, m, C: torch.zeros(5, 3), "shape"),
    (check.merging_log_snr, lambda a, s: torch.log(a**2 - s**2), "sign is flipped"),
    (check.merging_log_snr, lambda a, s: -torch.log(a**2), "own width"),
    (check.merging_log_snr, lambda a, s: -torch.log(a**2 + s**2), "wrong side"),
    (check.merging_log_snr, lambda a, s: -2 * torch.log(a - s), "variances add"),
    (check.merging_log_snr, lambda a, s: 1 / (a**2 - s**2), "take its logarithm"),
    (check.merging_log_snr, lambda a, s: -0.5 * torch.log(a**2 - s**2), "log(alpha / sigma)"),
    (check.merging_log_snr, lambda a, s: -torch.log(4 * a**2 - s**2), "whole distance"),
]


@pytest.mark.parametrize("exercise", SOLUTIONS)
def test_the_solution_passes(exercise):
    assert exercise(SOLUTIONS[exercise]).passed, exercise(SOLUTIONS[exercise])


@pytest.mark.parametrize(("exercise", "answer", "named"), MISTAKES)
def test_a_mistake_is_named(exercise, answer, named):
    verdict = exercise(answer)
    assert verdict.status == "not yet"
    assert named in verdict.message, verdict
