"""The checks of lesson 08: the worked solution passes, and each plausible mistake is named."""

import pytest
import torch

from coursekit.diffusion import Cosine, Rectified
from coursekit.exercises import lesson08 as check


def shifted(t, t_half, wanted, sign=1.0):
    log_snr = Cosine().log_snr(t) + sign * (wanted - Cosine().log_snr(t_half))
    return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()


def tables(beta):
    now = (1 - beta).cumprod(0)
    before = torch.cat([torch.ones(1, dtype=beta.dtype), now[:-1]])
    return (
        before.sqrt() * beta / (1 - now),
        (1 - beta).sqrt() * (1 - before) / (1 - now),
        beta * (1 - before) / (1 - now),
    )


def tables_by_precisions(beta):
    """Right but for k = 1, where 1 / sigma_0^2 is infinite."""
    now = (1 - beta).cumprod(0)
    before = torch.cat([torch.ones(1, dtype=beta.dtype), now[:-1]])
    v = 1 / ((1 - beta) / beta + 1 / (1 - before))
    return v * before.sqrt() / (1 - before), v * (1 - beta).sqrt() / beta, v


def tables_with(beta, v_upside_down=False, clipped=False, rolled=False):
    a, b, v = tables(beta)
    now = (1 - beta).cumprod(0)
    before = torch.cat([torch.ones(1, dtype=beta.dtype), now[:-1]])
    if v_upside_down:
        v = beta * (1 - now) / (1 - before)
    if clipped:
        v = torch.cat([v[1:2], v[1:]])
    if rolled:
        a = now.roll(1).sqrt() * beta / (1 - now)
    return a, b, v


def betas_of(alpha):
    return 1 - (alpha[1:] / alpha[:-1]) ** 2


SOLUTIONS = {
    check.two_steps: lambda b1, b2: (((1 - b1) * (1 - b2)).sqrt(), (1 - b2) * b1 + b2),
    check.rectified_time: lambda log_snr: 1 / (1 + torch.exp(log_snr / 2)),
    check.posterior_tables: tables,
    check.linear_alpha_betas: lambda T: betas_of(1 - torch.arange(T + 1) / T),
    check.shifted_cosine: shifted,
}

MISTAKES = [
    (check.posterior_tables, lambda beta: tables_with(beta, v_upside_down=True), "upside down"),
    (check.posterior_tables, lambda beta: tables_with(beta, clipped=True), "v_1 was replaced by v_2"),
    (check.posterior_tables, lambda beta: tables_with(beta, rolled=True), "wraps around"),
    (check.linear_alpha_betas, lambda T: Rectified().discretised(T).beta[1:].double(), "rectified chain"),
    (check.linear_alpha_betas, lambda T: torch.full((T,), 1 / T), "geometrically"),
    (check.shifted_cosine, lambda *given: tuple(2 * level for level in shifted(*given)), "is not 1"),
    (check.two_steps, lambda b1, b2: ((1 - b1) * (1 - b2), 1 - (1 - b1) * (1 - b2)), "square root of 1 - beta"),
    (check.two_steps, lambda b1, b2: ((1 - b2).sqrt(), b1 + b2), "second step alone"),
    (check.two_steps, lambda b1, b2: ((1 - b1).sqrt() + (1 - b2).sqrt(), b1 + b2), "must be multiplied"),
    (check.two_steps, lambda b1, b2: (((1 - b1) * (1 - b2)).sqrt(), b1 + b2), "also shrinks the noise of the first"),
    (check.two_steps, lambda b1, b2: (((1 - b1) * (1 - b2)).sqrt(), (1 - b2).sqrt() * b1 + b2), "square of the factor"),
    (
        check.two_steps,
        lambda b1, b2: (((1 - b1) * (1 - b2)).sqrt(), (1 - (1 - b1) * (1 - b2)).sqrt()),
        "standard deviation",
    ),
    (check.two_steps, lambda b1, b2: (((1 - b1) * (1 - b2)).sqrt(), (1 - b1) * (1 - b2)), "share of signal"),
    (check.two_steps, lambda b1, b2: b1 + b2, "return 2 values"),
    (check.rectified_time, lambda log_snr: torch.sigmoid(log_snr / 2), "sign of lambda is flipped"),
    (check.rectified_time, lambda log_snr: torch.sigmoid(-log_snr), "square root is lost"),
    (check.rectified_time, lambda log_snr: torch.sigmoid(-2 * log_snr), "was squared"),
    (check.rectified_time, lambda log_snr: torch.sigmoid(-log_snr).sqrt(), "alpha + sigma = 1"),
    (check.rectified_time, lambda log_snr: torch.exp(-log_snr / 2), "solve it for t"),
    (check.rectified_time, lambda log_snr: torch.zeros(3), "shape"),
    (check.posterior_tables, lambda beta: (*tables(beta)[1::-1], tables(beta)[2]), "exchanged"),
    (
        check.posterior_tables,
        lambda beta: (tables(beta)[0] * (1 - beta).sqrt(), *tables(beta)[1:]),
        "alpha_{k-1} belongs",
    ),
    (
        check.posterior_tables,
        lambda beta: (tables(beta)[0] ** 2 * (1 - (1 - beta).cumprod(0)) / beta, *tables(beta)[1:]),
        "a holds alpha_bar",
    ),
    (
        check.posterior_tables,
        lambda beta: (tables(beta)[0] * (1 - (1 - beta).cumprod(0)), *tables(beta)[1:]),
        "not yet divided",
    ),
    (
        check.posterior_tables,
        lambda beta: (tables(beta)[0] * (1 - (1 - beta).cumprod(0)).sqrt(), *tables(beta)[1:]),
        "divide by the variance",
    ),
    (
        check.posterior_tables,
        lambda beta: (tables(beta)[0], tables(beta)[1] * (1 - beta).sqrt(), beta),
        "b holds 1 - beta",
    ),
    (
        check.posterior_tables,
        lambda beta: (tables(beta)[0], tables(beta)[1] * tables(beta)[0] * 0 + (1 - beta).sqrt(), beta),
        "pull of x_0",
    ),
    (check.posterior_tables, lambda beta: (*tables(beta)[:2], beta), "step forward"),
    (check.posterior_tables, lambda beta: (*tables(beta)[:2], tables(beta)[2].sqrt()), "standard deviation"),
    (check.posterior_tables, tables_by_precisions, "sigma_0 = 0"),
    (check.linear_alpha_betas, lambda T: 1 / (T - torch.arange(T)), "alpha_bar falls on a straight line"),
    (check.linear_alpha_betas, lambda T: 1 - betas_of(1 - torch.arange(T + 1) / T), "what a step keeps"),
    (check.linear_alpha_betas, lambda T: 1 - (1 - torch.arange(1, T + 1) / T) ** 2, "all steps so far"),
    (check.linear_alpha_betas, lambda T: betas_of(1 - torch.arange(T + 1) / T).sqrt(), "square root of beta_k"),
    (check.linear_alpha_betas, lambda T: betas_of(1 - torch.arange(T + 1) / (T + 1)), "one step late"),
    (check.linear_alpha_betas, lambda T: betas_of(torch.linspace(1, 0, T)), "shape"),
    (check.shifted_cosine, lambda t, t_half, wanted: (Cosine().alpha(t), Cosine().sigma(t)), "nothing is shifted"),
    (check.shifted_cosine, lambda t, t_half, wanted: shifted(t, t_half, wanted, sign=-1), "wrong way"),
    (check.shifted_cosine, lambda t, t_half, wanted: shifted(t, t_half, -wanted), "sign flipped"),
    (check.shifted_cosine, lambda t, t_half, wanted: shifted(t, t_half, wanted, sign=2), "factor of 2"),
    (check.shifted_cosine, lambda t, t_half, wanted: [part**2 for part in shifted(t, t_half, wanted)], "square root"),
    (check.shifted_cosine, lambda t, t_half, wanted: shifted(t, t_half, wanted)[::-1], "other level"),
    (check.shifted_cosine, lambda t, t_half, wanted: shifted(t, t_half, wanted)[0], "return 2 values"),
]


@pytest.mark.parametrize("exercise", SOLUTIONS)
def test_the_solution_passes(exercise):
    assert exercise(SOLUTIONS[exercise]).passed, exercise(SOLUTIONS[exercise])


@pytest.mark.parametrize(("exercise", "answer", "named"), MISTAKES)
def test_a_mistake_is_named(exercise, answer, named):
    verdict = exercise(answer)
    assert verdict.status == "not yet"
    assert named in verdict.message


def test_a_table_from_k_0_on_is_as_good():
    solution = SOLUTIONS[check.linear_alpha_betas]
    assert check.linear_alpha_betas(lambda T: torch.cat([torch.zeros(1), solution(T)])).passed
