"""The checks of lesson 02: the worked solution passes, and each plausible mistake is named."""

import math

import pytest
import torch

from coursekit.exercises import lesson02 as check


def table(x, w, m, v, weight=1.0, power=0.5, half=0.5, width=1.0, dim=1):
    """Responsibilities, with the slips that people make as arguments."""
    exponent = -half * (x[:, None] - m) ** 2 / v**width
    return torch.softmax(weight * torch.log(w) - power * torch.log(v) + exponent, dim=dim)


def unnormalised(x, w, m, v):
    return w * torch.exp(-0.5 * (x[:, None] - m) ** 2 / v) / torch.sqrt(v)


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


def hard_variances(x, r):
    best = torch.nn.functional.one_hot(r.argmax(1), r.shape[1]).to(r)
    return variances(x, best)


def towards(x, w, m, v, alpha, sigma, variance=None, centre=None, weights=None, pulls=None, sign=-1.0):
    """The derivative of log P(z = k | x_t), with the slips that people make as arguments."""
    variance = alpha**2 * v + sigma**2 if variance is None else variance(v, alpha, sigma)
    centre = alpha * m if centre is None else centre
    pull = (centre - x[:, None]) / (variance if pulls is None else pulls(variance))
    r = table(x, w, centre, variance) if weights is None else weights(x, w, m, v, centre, variance)
    return pull + sign * (r * pull).sum(1, keepdim=True)


def by_autograd(x, w, m, v, alpha, sigma):
    x = x.requires_grad_()
    variance = alpha**2 * v + sigma**2
    log_joint = torch.log(w) - 0.5 * torch.log(variance) - 0.5 * (x[:, None] - alpha * m) ** 2 / variance
    log_r = torch.log_softmax(log_joint, dim=1)
    return torch.stack([torch.autograd.grad(column.sum(), x, retain_graph=True)[0] for column in log_r.T], dim=1)


def by_ratios(x, w, m, v, alpha, sigma):
    variance = alpha**2 * v + sigma**2
    pull = (alpha * m - x[:, None]) / variance
    return pull - (ratios(x, w, alpha * m, variance) * pull).sum(1, keepdim=True)


def noisy_table(x, w, m, v, alpha, sigma):
    return table(x, w, alpha * m, alpha**2 * v + sigma**2)


def pulls_alone(x, w, m, v, alpha, sigma):
    return (alpha * m - x[:, None]) / (alpha**2 * v + sigma**2)


def score_of_all(*given):
    return (noisy_table(*given) * pulls_alone(*given)).sum(1)


SOLUTIONS = {
    check.responsibilities: table,
    check.spherical_variances: variances,
    check.bic: score,
    check.towards_each_heap: towards,
    check.merging_log_snr: lambda a, s: -torch.log(a**2 - s**2),
}

MISTAKES = [
    (check.responsibilities, lambda *given: table(*given, weight=0.0), "weights w_k are missing"),
    (check.responsibilities, lambda *given: table(*given, power=0.0), "1/sqrt(v_k) is missing"),
    (check.responsibilities, lambda *given: table(*given, power=1.0), "before the exponential"),
    (check.responsibilities, lambda *given: table(*given, half=1.0), "factor 1/2"),
    (check.responsibilities, lambda *given: table(*given, width=0.5), "by the standard deviation"),
    (check.responsibilities, lambda *given: table(*given, power=1.0, width=2.0), "v for standard deviations"),
    (check.responsibilities, lambda *given: table(*given, dim=0), "over the points"),
    (check.responsibilities, lambda *given: table(*given).T, "on its side"),
    (check.responsibilities, lambda *given: table(*given).log(), "logarithms"),
    (check.responsibilities, lambda *given: unnormalised(*given), "do not sum to one"),
    (check.responsibilities, lambda *given: unnormalised(*given) / math.sqrt(2 * math.pi), "do not sum to one"),
    (check.responsibilities, ratios, "underflows"),
    (check.responsibilities, safe_ratios, "fall back to the weights"),
    (check.spherical_variances, lambda x, r: variances(x, r, dims=False), "divide by D"),
    (check.spherical_variances, lambda x, r: variances(x, r, count="N"), "own count N_k"),
    (check.spherical_variances, lambda x, r: variances(x, r, count="N_k - 1"), "N_k - 1"),
    (check.spherical_variances, lambda x, r: variances(x, r, count="1"), "did not divide by N_k"),
    (check.spherical_variances, lambda x, r: variances(x, r).sqrt(), "deviations"),
    (check.spherical_variances, lambda x, r: variances(x, r, squared=False), "not squared"),
    (check.spherical_variances, hard_variances, "wholly to its most responsible heap"),
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
    (check.bic, lambda *given: score(*given, price=math.log2), "base 2"),
    (check.bic, lambda ll, N, K, D: score(ll * N, N, K, D), "multiplied the log-likelihood by N"),
    (check.bic, lambda ll, N, K, D: score(ll / N, N, K, D), "divided the log-likelihood by N"),
    (check.towards_each_heap, pulls_alone, "pull of each heap alone"),
    (check.towards_each_heap, score_of_all, "one number for each point"),
    (check.towards_each_heap, lambda *given: score_of_all(*given)[:, None].expand(-1, 3), "score of the whole mixture"),
    (check.towards_each_heap, lambda *given: towards(*given, sign=1.0), "added the score"),
    (check.towards_each_heap, lambda *given: -towards(*given), "signs are flipped"),
    (check.towards_each_heap, lambda *given: noisy_table(*given) * towards(*given), "P(z = k | x) itself"),
    (
        check.towards_each_heap,
        lambda *given: pulls_alone(*given) - pulls_alone(*given).mean(1, keepdim=True),
        "mean of the pulls",
    ),
    (
        check.towards_each_heap,
        lambda *given: towards(*given, weights=lambda x, w, *rest: w),
        "weighed the pulls by w_k",
    ),
    (check.towards_each_heap, lambda x, w, m, v, alpha, sigma: towards(x, w, m, v, 1.0, 0.0), "left out the noise"),
    (check.towards_each_heap, lambda *given: towards(*given, centre=given[2]), "means are not scaled"),
    (check.towards_each_heap, lambda *given: towards(*given, variance=lambda v, a, s: v + s**2), "alpha is missing"),
    (check.towards_each_heap, lambda *given: towards(*given, variance=lambda v, a, s: a * v + s**2), "alpha is not"),
    (check.towards_each_heap, lambda *given: towards(*given, variance=lambda v, a, s: a**2 * v + s), "sigma is not"),
    (check.towards_each_heap, lambda *given: towards(*given, variance=lambda v, a, s: a * v + s), "neither alpha nor"),
    (
        check.towards_each_heap,
        lambda *given: towards(*given, variance=lambda v, a, s: (a * v) ** 2 + s**2),
        "v for standard deviations",
    ),
    (
        check.towards_each_heap,
        lambda *given: towards(*given, weights=lambda x, w, m, v, *noisy: table(x, w, m, v)),
        "clean mixture",
    ),
    (
        check.towards_each_heap,
        lambda *given: towards(*given, weights=lambda x, w, m, v, *noisy: table(x, w, *noisy, weight=0.0)),
        "lack the weights",
    ),
    (
        check.towards_each_heap,
        lambda *given: towards(*given, weights=lambda x, w, m, v, *noisy: table(x, w, *noisy, power=0.0)),
        "1/sqrt(variance)",
    ),
    (check.towards_each_heap, lambda *given: towards(*given, pulls=torch.ones_like), "not divided by its variance"),
    (check.towards_each_heap, lambda *given: towards(*given, pulls=torch.sqrt), "by the standard deviation"),
    (check.towards_each_heap, by_ratios, "underflows"),
    (check.towards_each_heap, lambda *given: towards(*given).T, "on its side"),
    (check.merging_log_snr, lambda a, s: torch.log(a**2 - s**2), "sign is flipped"),
    (check.merging_log_snr, lambda a, s: -torch.log(a**2), "own width"),
    (check.merging_log_snr, lambda a, s: -torch.log(a**2 + s**2), "wrong side"),
    (check.merging_log_snr, lambda a, s: -2 * torch.log(a - s), "variances add"),
    (check.merging_log_snr, lambda a, s: -torch.log(a - s), "squares are missing"),
    (check.merging_log_snr, lambda a, s: torch.log((1 + s**2) / (a**2 - s**2)), "s^2 unscaled"),
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


ALSO_RIGHT = [
    (check.towards_each_heap, by_autograd),
    (check.bic, lambda ll, N, K, D: -2 * ll + parameters(K, D) * torch.log(N)),
    (check.merging_log_snr, lambda a, s: -math.log(a**2 - s**2)),
]


@pytest.mark.parametrize(("exercise", "answer"), ALSO_RIGHT)
def test_another_way_to_the_same_answer_passes(exercise, answer):
    assert exercise(answer).passed, exercise(answer)
