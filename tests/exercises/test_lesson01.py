"""The checks of lesson 01: the worked solution passes, and each plausible mistake is named."""

import re

import pytest
import torch

from coursekit.exercises import lesson01 as check


def rows(table):
    return table / table.sum(dim=1, keepdim=True)


def gradient(weight, x, y):
    error = (x @ weight.T).softmax(dim=1)
    error[torch.arange(len(y)), y] -= 1
    return error.T @ x / len(x)


def log_odds(mean_0, mean_1, covariance, prior_1):
    weight = torch.linalg.solve(covariance, mean_1 - mean_0)
    return weight, -0.5 * (mean_1 + mean_0) @ weight + torch.log(prior_1 / (1 - prior_1))


def with_bias(change):
    def answer(mean_0, mean_1, covariance, prior_1):
        weight, bias = log_odds(mean_0, mean_1, covariance, prior_1)
        return weight, change(bias, -0.5 * (mean_1 + mean_0) @ weight, prior_1)

    return answer


def with_weight(change):
    def answer(mean_0, mean_1, covariance, prior_1):
        _, bias = log_odds(mean_0, mean_1, covariance, prior_1)
        return change(mean_1 - mean_0, covariance), bias

    return answer


def tail(log_p, log_p_train):
    """The two-sided share of training pictures that are as far out."""
    below = (log_p_train < log_p[:, None]).double().mean(dim=1)
    return -torch.minimum(below, 1 - below)


SOLUTIONS = {
    "posterior_from_table": rows,
    "softmax_gradient": gradient,
    "two_gaussian_log_odds": log_odds,
    "change_of_prior": lambda p, old, new: rows(p * new / old),
    "novelty_score": lambda log_p, log_p_train: (log_p - log_p_train.mean()).abs(),
}

WRONG = [
    ("posterior_from_table", lambda t: t / t.sum(dim=0), r"columns sum to 1: that is P\(x \| y\)"),
    ("posterior_from_table", lambda t: t, "joint table itself"),
    ("posterior_from_table", lambda t: t / t.sum(), "joint table itself"),
    ("posterior_from_table", lambda t: t / t.sum(dim=1), "keepdim=True"),
    ("posterior_from_table", lambda t: t @ t, "raised RuntimeError"),
    ("posterior_from_table", lambda t: t * t.sum(dim=1, keepdim=True), "multiplied by P"),
    ("posterior_from_table", lambda t: t.sum(dim=1), r"should have shape \(3, 2\), got \(3,\)"),
    ("posterior_from_table", 0.5, "should be a function"),
    ("softmax_gradient", lambda w, x, y: gradient(w, x, y) * len(x), "sum over the pictures"),
    ("softmax_gradient", lambda w, x, y: -gradient(w, x, y), "sign flipped"),
    ("softmax_gradient", lambda w, x, y: (x @ w.T).softmax(1).T @ x / len(x), "lacks the labels"),
    ("softmax_gradient", lambda w, x, y: gradient(w, x, y).T, r"is \(D, C\)"),
    ("softmax_gradient", lambda w, x, y: gradient(w, x, y) / 3, "number of classes as well"),
    ("softmax_gradient", lambda w, x, y: ((x @ w.T).sigmoid() - torch.eye(3)[y]).T @ x / 5, "come from sigmoids"),
    ("softmax_gradient", lambda w, x, y: (x @ w.T - torch.eye(3)[y]).T @ x / 5, "softmax is missing"),
    (
        "softmax_gradient",
        lambda w, x, y: ((x @ w.T).softmax(0) - torch.eye(3)[y]).T @ x / 5,
        "softmax runs over the pictures",
    ),
    ("two_gaussian_log_odds", with_weight(lambda d, c: d), "multiplied by the inverse covariance"),
    ("two_gaussian_log_odds", with_weight(lambda d, c: c @ d), "inverse is wanted"),
    ("two_gaussian_log_odds", with_weight(lambda d, c: -torch.linalg.solve(c, d)), "classes swapped"),
    ("two_gaussian_log_odds", with_weight(lambda d, c: d / c.diagonal()), "variances only"),
    ("two_gaussian_log_odds", with_bias(lambda b, half, p: half), "forgets the prior"),
    ("two_gaussian_log_odds", with_bias(lambda b, half, p: half - p.logit()), "upside down"),
    ("two_gaussian_log_odds", with_bias(lambda b, half, p: half + p.log()), "log prior_1 alone"),
    ("two_gaussian_log_odds", with_bias(lambda b, half, p: 2 * half + p.logit()), "lost the factor 1/2"),
    ("two_gaussian_log_odds", with_bias(lambda b, half, p: -half + p.logit()), "wrong sign"),
    ("two_gaussian_log_odds", with_bias(lambda b, half, p: p.logit()), "quadratic terms of the means are missing"),
    ("two_gaussian_log_odds", lambda m0, m1, c, p: torch.linalg.solve(c, m1 - m0), "return two things"),
    ("change_of_prior", lambda p, old, new: p * new / old, "rows do not sum to 1"),
    ("change_of_prior", lambda p, old, new: rows(p * new), "did not divide by the old one"),
    ("change_of_prior", lambda p, old, new: rows(p / old), "did not multiply by the new one"),
    ("change_of_prior", lambda p, old, new: rows(p * old / new), "swapped"),
    ("change_of_prior", lambda p, old, new: p, "unchanged"),
    ("change_of_prior", lambda p, old, new: (p * new / old).argmax(1), r"should have shape \(3, 3\)"),
    ("novelty_score", lambda log_p, train: -log_p, "one side only"),
    ("novelty_score", lambda log_p, train: log_p, r"log p\(x\) itself"),
    ("novelty_score", lambda log_p, train: -(log_p - train.mean()).abs(), "sign flipped"),
    ("novelty_score", lambda log_p, train: (log_p - log_p.mean()).abs(), "compare it with log_p_train only"),
    ("novelty_score", lambda log_p, train: torch.zeros_like(log_p), "not sharp enough"),
    ("novelty_score", lambda log_p, train: (log_p.mean() - train.mean()).abs(), "one number for each picture"),
    ("novelty_score", lambda log_p, train: torch.exp(-1e4 * log_p), "not finite"),
    ("novelty_score", lambda log_p: log_p, "raised TypeError"),
]


def test_every_check_has_a_solution_that_passes():
    assert set(SOLUTIONS) == set(check.__all__)
    for name, solution in SOLUTIONS.items():
        verdict = getattr(check, name)(solution)
        assert verdict.passed, f"{name}: {verdict}"


def test_another_sound_score_passes():
    assert check.novelty_score(tail).passed


@pytest.mark.parametrize(("name", "answer", "message"), WRONG, ids=lambda v: v if isinstance(v, str) else "")
def test_wrong_answers_are_refused_with_their_reason(name, answer, message):
    verdict = getattr(check, name)(answer)
    assert verdict.status == "not yet"
    assert re.search(message, verdict.message), verdict.message
