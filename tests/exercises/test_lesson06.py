"""The checks of lesson 06: the worked solution passes, and each plausible mistake is named."""

import math

import pytest
import torch

from coursekit.exercises import lesson06 as check


def rate(mean, log_variance):
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)


def rate_with(term):
    """The rate with another summand, a function of mean and log-variance, summed over dimensions."""
    return lambda mean, log_variance: 0.5 * term(mean, log_variance, log_variance.exp()).sum(1)


def importance(log_weights):
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def price(eigenvalues, tau, beta):
    return 0.5 * (eigenvalues / (beta * tau**2)).log().clamp(min=0)


def product(a, u, b, v):
    variance = 1 / (1 / u + 1 / v)
    return variance * (a / u + b / v), variance


def chain(alpha, sigma, c, last=True, half=0.5, shift=1, best=True, prior=False, sign=-1, e=1):
    alpha, sigma = alpha[:, None], sigma[:, None]
    snr, mmse = (alpha / sigma) ** 2, c * sigma**2 / (alpha**2 * c + sigma**2)
    mmse = c.expand(len(alpha), -1) if prior else mmse
    end = 0.5 * (alpha[-1] ** 2 * c + sigma[-1] ** 2 - 1 - (sigma[-1] ** 2).log()) if last else torch.zeros(1)
    steps = half * ((snr[:-1] - snr[1:]) * (mmse[1:] if shift else mmse[:-1])).sum(0)
    width = mmse[0] if best else torch.ones_like(mmse[0])
    first = -0.5 * (math.log(2 * math.pi) + width.log() + e * mmse[0] / width)
    return (first + sign * steps - end).sum()


def least():
    spectrum = torch.tensor([4.0, 2.0, 0.8, 0.3, 0.15, 0.05], dtype=torch.float64)
    exact = -0.5 * (2 * math.pi * math.e * spectrum).log().sum()
    return next(T for T in range(2, 1000) if exact - chain(*check.chain_levels(T), spectrum) < 0.5)


LEAST = least()

SOLUTIONS = {
    check.rate: (rate,),
    check.importance_bound: (importance,),
    check.price_of_a_dimension: (price,),
    check.product_of_gaussians: (product,),
    check.chain_bound: (chain, LEAST),
}

MISTAKES = [
    (check.rate, (lambda m, v: rate(m, v) / m.shape[1],), "do not average"),
    (check.rate, (lambda m, v: 2 * rate(m, v),), "one half is missing"),
    (check.rate, (rate_with(lambda m, v, s: m**2 + s - 1 - 2 * v),), "log s^2 already"),
    (check.rate, (rate_with(lambda m, v, s: m**2 + s**2 - 1 - v),), "squared it once more"),
    (check.rate, (rate_with(lambda m, v, s: m**2 + s.sqrt() - 1 - v),), "took it for s"),
    (check.rate, (rate_with(lambda m, v, s: m**2 + s**2 - 1 - 2 * v),), "log_variance for log s"),
    (check.rate, (rate_with(lambda m, v, s: m + s - 1 - v),), "enters as its square"),
    (check.rate, (rate_with(lambda m, v, s: s - 1 - v),), "the mean is missing"),
    (check.rate, (rate_with(lambda m, v, s: m**2 + s - v),), "the -1 is missing"),
    (check.rate, (rate_with(lambda m, v, s: m**2 + s - 1 + v),), "sign of the logarithm"),
    (check.rate, (rate_with(lambda m, v, s: (1 + m**2) / s - 1 + v),), "other way round"),
    (check.rate, (lambda m, v: 0.5 * (m**2 + v.exp() - 1 - v),), "shape"),
    (check.rate, (lambda m, v: -rate(m, v),), "sign flipped"),
    (check.importance_bound, (lambda w: w.mean(0),), "that is the ELBO"),
    (check.importance_bound, (lambda w: w.logsumexp(0),), "divide by their number"),
    (check.importance_bound, (lambda w: w.logsumexp(0) / len(w),), "do not divide the logarithm"),
    (check.importance_bound, (lambda w: w.logsumexp(0) + math.log(len(w)),), "sign of log K"),
    (check.importance_bound, (lambda w: w.exp().mean(0),), "mean weight itself"),
    (check.importance_bound, (lambda w: w.max(0).values,), "largest weight alone"),
    (check.importance_bound, (lambda w: w.exp().mean(0).log(),), "torch.logsumexp"),
    (check.importance_bound, (lambda w: (w - w.max()).exp().mean(0).log() + w.max(),), "torch.logsumexp"),
    (check.importance_bound, (lambda w: w.logsumexp(1),), "shape"),
    (check.price_of_a_dimension, (lambda e, t, b: 0.5 * (e / (b * t**2)).log(),), "never negative"),
    (check.price_of_a_dimension, (lambda e, t, b: price(e, t, 1.0),), "beta is missing"),
    (check.price_of_a_dimension, (lambda e, t, b: price(e, t**0.5, b),), "took tau for the variance"),
    (check.price_of_a_dimension, (lambda e, t, b: price(e, t, b**2),), "not squared"),
    (check.price_of_a_dimension, (lambda e, t, b: 2 * price(e, t, b),), "one half is missing"),
    (check.price_of_a_dimension, (lambda e, t, b: price(e, t, b) / math.log(2),), "in bits"),
    (check.price_of_a_dimension, (lambda e, t, b: price(e, t, 1 / b),), "divided by beta"),
    (check.price_of_a_dimension, (lambda e, t, b: b * price(e, t, 1.0),), "multiplied by it outside"),
    (check.price_of_a_dimension, (lambda e, t, b: price(e, t, 1.0) / b,), "divided by it outside"),
    (check.price_of_a_dimension, (lambda e, t, b: 0.5 * (e / (b * t / 2)).log().clamp(min=0),), "off by"),
    (check.price_of_a_dimension, (lambda e, t, b: b * price(e, t, b),), "what the loss pays"),
    (check.price_of_a_dimension, (lambda e, t, b: (e - b * t**2).clamp(min=0),), "without the logarithm"),
    (check.product_of_gaussians, (lambda a, u, b, v: (product(a, u, b, v)[0], u + v),), "precisions add up"),
    (check.product_of_gaussians, (lambda a, u, b, v: (product(a, u, b, v)[0], 1 / u + 1 / v),), "is the precision"),
    (check.product_of_gaussians, (lambda a, u, b, v: (product(a, u, b, v)[0], (u + v) / 2),), "averaged the variances"),
    (check.product_of_gaussians, (lambda a, u, b, v: (product(a, u, b, v)[0], u * v),), "divide by their sum"),
    (check.product_of_gaussians, (lambda a, u, b, v: ((a + b) / 2, product(a, u, b, v)[1]),), "look at the variances"),
    (check.product_of_gaussians, (lambda a, u, b, v: (product(a, v, b, u)[0], product(a, u, b, v)[1]),), "swapped"),
    (check.product_of_gaussians, (lambda a, u, b, v: (a / u + b / v, product(a, u, b, v)[1]),), "not normalised"),
    (check.product_of_gaussians, (lambda a, u, b, v: product(a, u, b, v)[0],), "return 2 values"),
    (check.product_of_gaussians, (lambda a, u, b, v: product(a, u, b, v)[::-1],), "variance first"),
    (check.chain_bound, (lambda a, s, c: chain(a, s, c, last=False), LEAST), "left out the last level"),
    (check.chain_bound, (lambda a, s, c: chain(a, s, c, half=1.0), LEAST), "half is missing"),
    (check.chain_bound, (lambda a, s, c: chain(a, s, c, shift=0), LEAST), "noisier end"),
    (check.chain_bound, (lambda a, s, c: chain(a, s, c, sign=1), LEAST), "divergences cost"),
    (check.chain_bound, (lambda a, s, c: chain(a, s, c, prior=True), LEAST), "you took the prior's"),
    (check.chain_bound, (lambda a, s, c: chain(a, s, c, best=False), LEAST), "you took 1"),
    (check.chain_bound, (lambda a, s, c: -0.5 * (2 * math.pi * math.e * c).log().sum(), LEAST), "minus the entropy"),
    (check.chain_bound, (lambda a, s, c: chain(a, s, c, e=0), LEAST), "the e is missing"),
    (check.chain_bound, (lambda a, s, c: chain(a, s, c) / len(c), LEAST), "do not average"),
    (check.chain_bound, (lambda a, s, c: chain(a, s, c) * c, LEAST), "one number"),
    (check.chain_bound, (lambda a, s, c: -chain(a, s, c), LEAST), "negative of the bound"),
    (check.chain_bound, (chain, LEAST - 1), "still 0.5 nats"),
    (check.chain_bound, (chain, LEAST - 3), "still 0.5 nats"),
    (check.chain_bound, (chain, LEAST + 0.5), "whole number"),
    (check.chain_bound, (chain, LEAST + 1), "a smaller T does it too"),
    (check.chain_bound, (chain, 1000), "a smaller T does it too"),
]


@pytest.mark.parametrize("exercise", SOLUTIONS, ids=lambda exercise: exercise.__name__)
def test_the_worked_solution_passes(exercise):
    verdict = exercise(*SOLUTIONS[exercise])
    assert verdict.passed, verdict


@pytest.mark.parametrize(("exercise", "answers", "message"), MISTAKES)
def test_a_plausible_mistake_is_named(exercise, answers, message):
    verdict = exercise(*answers)
    assert verdict.status == "not yet"
    assert message in verdict.message, verdict


def test_a_product_may_come_stacked():
    assert check.product_of_gaussians(lambda a, u, b, v: torch.stack(product(a, u, b, v))).passed
