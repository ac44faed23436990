"""Checks of lesson 09, "Diffusion II: creating".

Symbols as in the lesson: x_t = alpha x_0 + sigma eps; a step back of the chain, if x_0 is known, is
N(a_k x_0 + b_k x_k, v_k I); tables are indexed by k itself, 0..T, with alpha_0 = 1 and sigma_0 = 0.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from coursekit.diffusion.schedules import LinearVP
from coursekit.exercises import Verdict, ask, compare, correct, exercise, refuse

__all__ = ["ancestral_step", "clean_from_noise", "drawn_variance", "equal_variance_kl", "v_prediction"]

VARIANCE = 0.25  # of the data in exercise 9.5


@exercise
def equal_variance_kl(answer: Callable) -> Verdict:
    """Exercise 9.1: (m (N, D), n (N, D), variance) -> KL(N(m, variance I) || N(n, variance I)), (N,) in nats."""
    m, n = torch.randn(2, 4, 3, generator=_generator(), dtype=torch.float64)
    variance, squares = 0.3, (m - n).square()
    value = ask(answer, m, n, variance)
    if torch.as_tensor(value).ndim == 0:
        return refuse("you added up the samples too: one divergence for each of the N rows is wanted")
    if torch.as_tensor(value).shape == m.shape:
        return refuse("you have one number per coordinate: sum them, since independent coordinates add up")
    wanted = squares.sum(1) / (2 * variance)
    return compare(
        value,
        wanted,
        mistakes={
            "you took the mean over the coordinates where the sum is wanted: divergences of independent coordinates "
            "add up": wanted / 3,
            "the factor 1/2 is missing": 2 * wanted,
            "you divided by the standard deviation: the variance is wanted": squares.sum(1) / (2 * variance**0.5),
            "you divided by the variance squared": squares.sum(1) / (2 * variance**2),
            "you forgot to divide by the variance": squares.sum(1) / 2,
            "the distance of the means is not squared": squares.sum(1).sqrt() / (2 * variance),
        },
        what="your divergence",
        why="only the distance of the means is left, in units of the standard deviation, squared and halved",
    )


@exercise
def clean_from_noise(answer: Callable) -> Verdict:
    """Exercise 9.2: (x_t, eps, alpha, sigma) -> the x_0 that belongs to a prediction of the noise."""
    x_t, eps = torch.randn(2, 6, generator=_generator(), dtype=torch.float64)
    alpha = torch.tensor([0.99, 0.9, 0.7, 0.5, 0.2, 0.05], dtype=torch.float64)
    sigma = torch.sqrt(1 - alpha**2)
    return compare(
        ask(answer, x_t, eps, alpha, sigma),
        (x_t - sigma * eps) / alpha,
        mistakes={
            "the noise has the wrong sign: it was added on the way there, so take it away": (x_t + sigma * eps) / alpha,
            "you did not undo alpha: what is left of the picture is alpha x_0, so divide": x_t - sigma * eps,
            "you multiplied by alpha where you must divide": (x_t - sigma * eps) * alpha,
            "you divided by alpha_bar = alpha^2: a square root is lost": (x_t - sigma * eps) / alpha**2,
            "you took away sigma^2 eps: the noise is sigma times eps": (x_t - sigma**2 * eps) / alpha,
            "you divided x_t by alpha but not the noise": x_t / alpha - sigma * eps,
            "alpha and sigma are exchanged": (x_t - alpha * eps) / sigma,
        },
        what="your x_0",
        why="an error of the noise becomes an error sigma/alpha times as large in x_0, and (sigma/alpha)^2 = 1/SNR: a "
        "squared error of eps is SNR times the squared error of x_0, the weight of section 6",
    )


@exercise
def v_prediction(forward: Callable, back: Callable) -> Verdict:
    """Exercise 9.3: (x_0, eps, alpha, sigma) -> v, and (x_t, v, alpha, sigma) -> x_0, variance preserved."""
    x_0, eps = torch.randn(2, 6, generator=_generator(), dtype=torch.float64)
    alpha = torch.tensor([0.99, 0.9, 0.7, 0.5, 0.2, 0.05], dtype=torch.float64)
    sigma = torch.sqrt(1 - alpha**2)
    v, x_t = alpha * eps - sigma * x_0, alpha * x_0 + sigma * eps
    first = compare(
        ask(forward, x_0, eps, alpha, sigma),
        v,
        mistakes={
            "your v has its sign flipped: some papers do that, but then x_0 = alpha x_t + sigma v": -v,
            "that is x_t itself: v is the other combination, at a right angle to it": x_t,
            "alpha and sigma are exchanged in v": sigma * eps - alpha * x_0,
            "that is the velocity of the straight line, eps - x_0: v weighs the two by alpha and sigma": eps - x_0,
            "v has a plus where a minus is wanted": alpha * eps + sigma * x_0,
        },
        what="your v",
    )
    second = compare(
        ask(back, x_t, v, alpha, sigma),
        x_0,
        mistakes={
            "back from v: the sign in front of sigma is flipped": alpha * x_t + sigma * v,
            "back from v: that is eps, the other one of the pair": sigma * x_t + alpha * v,
            "back from v: alpha and sigma are exchanged": sigma * x_t - alpha * v,
            "back from v: that is the rule for a prediction of the noise": (x_t - sigma * v) / alpha,
        },
        what="your x_0",
    )
    if first.passed and second.passed:
        return correct("a turn by the angle phi and the turn back: no division, so nothing blows up at t = 0 or t = 1")
    return second if first.passed else first


@exercise
def ancestral_step(answer: Callable) -> Verdict:
    """Exercise 9.4: (x_k, guess, noise, k, alpha, sigma) -> x_{k-1} = a_k guess + b_k x_k + sqrt(v_k) noise."""
    x, guess, noise = torch.randn(3, 8, generator=_generator(), dtype=torch.float64)
    alpha, sigma = _tables(6)
    for k in (4, 6, 1):
        verdict = compare(
            ask(answer, x, guess, noise, k, alpha, sigma),
            _step(x, guess, noise, k, alpha, sigma),
            mistakes=_wrong_steps(x, guess, noise, k, alpha, sigma),
            what=f"your step from k = {k}",
            why="it is exact where the guess is, and the last step returns the guess itself, without noise",
        )
        if not verdict.passed:
            return verdict
    return verdict


@exercise
def drawn_variance(answer: Callable, steps: int) -> Verdict:
    """Exercise 9.5: T -> the variance of what T ancestral steps draw, and the smallest T with an error below 5 %.

    The data are N(0, 0.25), the guess is the best one, alpha and sigma are those of LinearVP at t = k/T.
    """
    for T in (5, 20, 80):
        verdict = compare(
            float(ask(answer, T)), _variance_after(T), _wrong_variances(T), what=f"your variance after T = {T} steps"
        )
        if not verdict.passed:
            return verdict
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= 5000:
        return refuse(f"your variance is right; the number of steps should be a positive int, got {steps!r}")
    error, before = (abs(_variance_after(T) / VARIANCE - 1) for T in (steps, max(steps - 1, 1)))
    slack = 2e-4  # an answer found in float32 may be a step off
    if error >= 0.05 + slack:
        return refuse(f"your variance is right, but with {steps} steps it is still {100 * error:.2f} % off")
    if before < 0.05 - slack:
        return refuse(f"your variance is right, but {steps} is not the smallest: {steps - 1} steps suffice as well")
    return correct(
        "the error falls like 1/T, a slow law, first order, as lesson 10 calls it and mends: "
        "285 steps are the first to leave less than 5 %"
    )


def _wrong_variances(T: int) -> dict[str, float]:
    """What common mistakes would give instead of `_variance_after`."""
    wanted = _variance_after(T)
    return {
        "you forgot the noise that each step adds, v_k": _variance_after(T, noise=False),
        "the factor of x_k must be squared: variances multiply with squares": _variance_after(T, squared=False),
        "you added beta_k, the variance of the step forward, where v_k is wanted": _variance_after(T, beta=True),
        "you added the standard deviation sqrt(v_k) where the variance is wanted": _variance_after(T, root=True),
        "you left out a_k times the guess: the guess depends on x_k as well": _variance_after(T, pull=False),
        "that is a standard deviation: a variance is wanted": wanted**0.5,
        "that is the error, not the variance itself": (wanted - VARIANCE) / VARIANCE,
    }


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(9)


def _tables(T: int) -> tuple[Tensor, Tensor]:
    """alpha and sigma of LinearVP at t = k/T, k = 0..T."""
    t = torch.arange(T + 1, dtype=torch.float64) / T
    return LinearVP().alpha(t), LinearVP().sigma(t)


def _coefficients(k: int, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """a_k, b_k, v_k and beta_k."""
    keep = alpha[k] / alpha[k - 1]
    beta = sigma[k] ** 2 - keep**2 * sigma[k - 1] ** 2
    shrink = sigma[k - 1] ** 2 / sigma[k] ** 2
    return alpha[k - 1] * beta / sigma[k] ** 2, keep * shrink, beta * shrink, beta


def _step(x: Tensor, guess: Tensor, noise: Tensor, k: int, alpha: Tensor, sigma: Tensor) -> Tensor:
    a, b, v, _ = _coefficients(k, alpha, sigma)
    return a * guess + b * x + v.sqrt() * noise


def _wrong_steps(x: Tensor, guess: Tensor, noise: Tensor, k: int, alpha: Tensor, sigma: Tensor) -> dict[str, Tensor]:
    """What common mistakes would give instead of `_step`."""
    a, b, v, beta = _coefficients(k, alpha, sigma)
    mean, keep, fresh = a * guess + b * x, alpha[k] / alpha[k - 1], v.sqrt() * noise
    eps = (x - alpha[k] * guess) / sigma[k]
    return {
        "you added v_k times the noise: a square root is lost, v_k is a variance": mean + v * noise,
        "you used beta_k, the variance of the step forward, where v_k is wanted": mean + beta.sqrt() * noise,
        "beta_k itself multiplies the noise: take v_k, and its square root": mean + beta * noise,
        "the noise is missing: that is the mean of the step": mean,
        "the noise is taken away where it is added (the law is the same, the step is not)": mean - fresh,
        "a_k and b_k are exchanged: a_k belongs to the guess of x_0": a * x + b * guess + fresh,
        "a_k holds alpha_k where alpha_{k-1} belongs": keep * a * guess + b * x + fresh,
        "b_k is alpha_k / alpha_{k-1} alone: sigma_{k-1}^2 / sigma_k^2 is missing": a * guess + keep * x + fresh,
        "b_k holds the square of alpha_k / alpha_{k-1}": a * guess + keep * b * x + fresh,
        "x_k is forgotten: that is the guess under fresh noise": alpha[k - 1] * guess + sigma[k - 1] * noise,
        "that is DDIM's step without chance: here part of the noise is renewed": alpha[k - 1] * guess
        + sigma[k - 1] * eps,
    }


def _variance_after(
    T: int, noise: bool = True, squared: bool = True, beta: bool = False, root: bool = False, pull: bool = True
) -> float:
    """The variance of x_0 after T ancestral steps from N(0, 1) with the best denoiser of N(0, VARIANCE)."""
    alpha, sigma = _tables(T)
    variance = torch.ones((), dtype=torch.float64)
    for k in range(T, 0, -1):
        a, b, v, forward = _coefficients(k, alpha, sigma)
        slope = alpha[k] * VARIANCE / (alpha[k] ** 2 * VARIANCE + sigma[k] ** 2)  # of E[x_0 | x_k]
        factor = a * slope * pull + b
        added = forward if beta else v
        variance = (factor**2 if squared else factor) * variance + noise * (added.sqrt() if root else added)
    return float(variance)
