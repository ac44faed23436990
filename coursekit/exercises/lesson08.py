"""Checks of lesson 08, "Diffusion I: destroying".

Symbols as in the lesson: step k of the chain adds the variance beta_k and leaves x_k = alpha_k x_0 + sigma_k eps,
alpha_bar_k = alpha_k^2 the product of all 1 - beta_j up to k; lambda = log(alpha^2 / sigma^2).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from coursekit.diffusion.schedules import Cosine
from coursekit.exercises import Verdict, ask, compare, exercise, first_refusal, parts, refuse

__all__ = ["linear_alpha_betas", "posterior_tables", "rectified_time", "shifted_cosine", "two_steps"]


@exercise
def two_steps(answer: Callable) -> Verdict:
    """Exercise 8.1: (beta_1, beta_2) -> the factor of x_0 in x_2 and the variance of x_2 given x_0."""
    first, second = (torch.tensor(beta, dtype=torch.float64) for beta in ([0.1, 0.3, 0.02], [0.2, 0.05, 0.5]))
    factor, variance = parts(ask(answer, first, second), ("factor", "variance"))
    kept = (1 - first) * (1 - second)
    return first_refusal(
        compare(
            factor,
            kept.sqrt(),
            mistakes={
                "your factor is alpha_bar_2 itself: each step multiplies by the square root of 1 - beta": kept,
                "your factor is that of the second step alone": (1 - second).sqrt(),
                "you added the two factors where they must be multiplied": (1 - first).sqrt() + (1 - second).sqrt(),
            },
            what="your factor",
        ),
        compare(
            variance,
            1 - kept,
            mistakes={
                "your variance is beta_1 + beta_2: the second step also shrinks the noise of the first": first + second,
                "your variance shrinks the first noise by sqrt(1 - beta_2): a variance shrinks by the square of the "
                "factor, 1 - beta_2": (1 - second).sqrt() * first + second,
                "your variance is a standard deviation: you took a square root too many": (1 - kept).sqrt(),
                "your variance is alpha_bar_2, the share of signal: the noise has the rest": kept,
            },
            what="your variance",
        ),
        praise="the first noise shrinks with the picture, and the variance is 1 - (1 - beta_1)(1 - beta_2)",
    )


@exercise
def rectified_time(answer: Callable) -> Verdict:
    """Exercise 8.2: lambda -> the t at which alpha_t = 1 - t and sigma_t = t have this log-SNR."""
    log_snr, share = torch.tensor([-6.0, -1.0, 0.5, 2.0, 8.0], dtype=torch.float64), torch.sigmoid
    return compare(
        ask(answer, log_snr),
        share(-log_snr / 2),
        mistakes={
            "that is alpha = 1 - t, or the sign of lambda is flipped: a large log-SNR means a small t": share(
                log_snr / 2
            ),
            "a square root is lost: exp(lambda) is the square of (1 - t) / t": share(-log_snr),
            "exp(lambda) was squared where its root is wanted: (1 - t) / t = exp(lambda / 2)": share(-2 * log_snr),
            "sigma^2 = sigmoid(-lambda) holds where alpha^2 + sigma^2 = 1; here alpha + sigma = 1": share(
                -log_snr
            ).sqrt(),
            "that is t / (1 - t), the ratio of noise to signal: solve it for t": torch.exp(-log_snr / 2),
        },
        what="your time",
        why="t = 1 / (1 + exp(lambda / 2)), and lambda = 0 lies at t = 1/2",
    )


@exercise
def posterior_tables(answer: Callable) -> Verdict:
    """Exercise 8.3: beta (T,) -> a, b, v (T,) of q(x_{k-1} | x_k, x_0) = N(a_k x_0 + b_k x_k, v_k I), k = 1..T."""
    beta = torch.tensor([0.05, 0.1, 0.2, 0.3, 0.45, 0.6], dtype=torch.float64)
    found = dict(zip("abv", parts(ask(answer, beta), ("a", "b", "v")), strict=True))
    if any(not torch.as_tensor(part).flatten()[:1].isfinite().all() for part in found.values()):
        return _infinite_start(found["v"], beta)
    wanted, mistakes = _posterior(beta)
    return first_refusal(
        *(compare(found[name], wanted[name], mistakes=mistakes[name], what=name) for name in wanted),
        praise="at k = 1 they are 1, 0 and 0: whoever knows x_0 has nothing to guess",
    )


def _infinite_start(v: object, beta: Tensor) -> Verdict:
    """What to say of tables that are not finite at k = 1, where sigma_0 = 0."""
    variance = 1 - (1 - beta).cumprod(0)
    upside_down, later = beta[1:] * variance[1:] / variance[:-1], torch.as_tensor(v, dtype=beta.dtype).flatten()[1:]
    if later.shape == upside_down.shape and torch.allclose(later, upside_down):
        return refuse("v has the ratio upside down: sigma_{k-1}^2 / sigma_k^2 is below 1")
    return refuse("at k = 1 you divide by sigma_0 = 0: multiply numerator and denominator by sigma_{k-1}^2 first")


def _posterior(beta: Tensor) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """The tables a, b, v of exercise 8.3, and for each the named slips on the way to it."""
    alpha_bar = (1 - beta).cumprod(0)
    before = torch.cat([beta.new_ones(1), alpha_bar[:-1]])  # alpha_bar_{k-1}
    variance, variance_before, keep = 1 - alpha_bar, 1 - before, (1 - beta).sqrt()
    a, b = before.sqrt() * beta / variance, keep * variance_before / variance
    v = beta * variance_before / variance
    of_a = {
        "a and b are exchanged: the first belongs to x_0": b,
        "a holds alpha_bar where its square root alpha belongs": before * beta / variance,
        "a holds alpha_k where alpha_{k-1} belongs: x_0 speaks about x_{k-1}": keep * a,
        "at k = 1 the alpha_bar one step earlier is 1; yours is that of the last step (`roll` wraps around)": (
            alpha_bar.roll(1).sqrt() * beta / variance
        ),
        "a is not yet divided by sigma_k^2 = 1 - alpha_bar_k": before.sqrt() * beta,
        "a is divided by sigma_k, the standard deviation: divide by the variance": a * variance.sqrt(),
    }
    of_b = {
        "b holds 1 - beta where its square root belongs": keep * b,
        "b holds alpha_k, all steps from x_0 on, where one is wanted: sqrt(1 - beta_k)": before.sqrt() * b,
        "b is the factor of the step forward: the pull of x_0 is missing": keep,
    }
    of_v = {
        "v is beta, the variance of the step forward: knowing x_0 makes it smaller": beta,
        "v is a standard deviation: a variance is wanted": v.sqrt(),
        "v_1 was replaced by v_2, as in code that takes its logarithm: at k = 1 it is 0": torch.cat([v[1:2], v[1:]]),
    }
    return {"a": a, "b": b, "v": v}, {"a": of_a, "b": of_b, "v": of_v}


@exercise
def linear_alpha_betas(answer: Callable) -> Verdict:
    """Exercise 8.4: T -> the beta_k (T,), k = 1..T, for which alpha_k = 1 - k/T."""
    T = 10
    beta = torch.as_tensor(ask(answer, T))
    if beta.shape == (T + 1,):
        beta = beta[1:] if float(beta[0]) == 0 else beta  # a table from k = 0 on is as good
    alpha = 1 - torch.arange(T + 1, dtype=torch.float64) / T
    late = 1 - torch.arange(T + 1, dtype=torch.float64) / (T + 1)
    rectified = (1 - alpha[1:]) ** 2 - (alpha[1:] / alpha[:-1]) ** 2 * (1 - alpha[:-1]) ** 2
    return compare(
        beta,
        1 - (alpha[1:] / alpha[:-1]) ** 2,
        mistakes={
            "with these betas alpha_bar falls on a straight line: 1 - beta_k is the square of alpha_k / alpha_{k-1}": 1
            - alpha[1:] / alpha[:-1],
            "that is 1 - beta_k, what a step keeps": (alpha[1:] / alpha[:-1]) ** 2,
            "that is 1 - alpha_bar_k, the noise of all steps so far: beta_k belongs to one step": 1 - alpha[1:] ** 2,
            "that is the rectified chain, whose sigma_k is k / T: where variance is preserved, "
            "beta_k = 1 - (alpha_k / alpha_{k-1})^2": rectified,
            "equal betas make alpha fall geometrically, not on a line": torch.full((T,), 1 / T, dtype=torch.float64),
            "that is the square root of beta_k": (1 - (alpha[1:] / alpha[:-1]) ** 2).sqrt(),
            "the line ends one step late: alpha_T must be 0": 1 - (late[1:] / late[:-1]) ** 2,
        },
        what="your table",
        why="the last beta is 1 (no signal is left) and the first is 1 - (1 - 1/T)^2",
    )


@exercise
def shifted_cosine(answer: Callable) -> Verdict:
    """Exercise 8.5: (t, t_half, log_snr_half) -> alpha, sigma of the cosine schedule, moved along the log-SNR.

    The log-SNR is the cosine schedule's plus a constant, and at t_half it is log_snr_half; alpha^2 + sigma^2 = 1.
    """
    t, t_half, wanted = torch.linspace(0.05, 0.95, 7, dtype=torch.float64), 0.4, -3.0
    alpha, sigma = parts(ask(answer, t, t_half, wanted), ("alpha", "sigma"))
    start, cosine = Cosine().log_snr(t_half), Cosine().log_snr(t)
    both = [torch.as_tensor(level, dtype=t.dtype) for level in (alpha, sigma)]
    shaped = all(level.shape == t.shape for level in both)
    right_ratio = shaped and torch.allclose(2 * torch.log(both[0] / both[1]), cosine - start + wanted)
    if right_ratio and not torch.allclose(both[0] ** 2 + both[1] ** 2, torch.ones_like(t)):
        return refuse("your log-SNR is right, but alpha^2 + sigma^2 is not 1: both levels must follow from it")
    log_snr = cosine - start + wanted
    mistakes = {
        "is the cosine schedule as it was: nothing is shifted": cosine,
        "is shifted the wrong way": cosine + start - wanted,
        "passes the wanted log-SNR with its sign flipped": cosine - start - wanted,
        "adds the wanted log-SNR but forgets to take away the one that is there at t_half": cosine + wanted,
        "is multiplied where a constant must be added": cosine * (wanted / start),
        "lacks a factor of 2: lambda = 2 log(alpha / sigma), you shifted log(alpha / sigma) by as much": cosine
        + 2 * (wanted - start),
    }
    return first_refusal(
        compare(alpha, torch.sigmoid(log_snr).sqrt(), _levels(mistakes, log_snr, 1), what="your alpha"),
        compare(sigma, torch.sigmoid(-log_snr).sqrt(), _levels(mistakes, log_snr, -1), what="your sigma"),
        praise="the whole curve moves by one constant, and alpha^2 + sigma^2 stays 1",
    )


def _levels(mistakes: dict[str, Tensor], log_snr: Tensor, sign: int) -> dict[str, Tensor]:
    """Each wrong log-SNR as an alpha (sign 1) or a sigma (sign -1), and the slips on the way from the right one."""
    name = "alpha" if sign > 0 else "sigma"
    return {f"your log-SNR {slip}": torch.sigmoid(sign * wrong).sqrt() for slip, wrong in mistakes.items()} | {
        f"that is {name}^2: take the square root": torch.sigmoid(sign * log_snr),
        f"that is the other level: {name}^2 = sigmoid({'' if sign > 0 else '-'}lambda)": torch.sigmoid(
            -sign * log_snr
        ).sqrt(),
    }
