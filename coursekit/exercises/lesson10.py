"""Checks of lesson 10, "Diffusion III: fast".

Symbols as in the lesson: x_t = alpha x_0 + sigma eps; a step goes from t to a cleaner s; time runs backwards in
dx = drift dtau + eta g dw; ell = log(alpha / sigma).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from coursekit.diffusion import ExactDenoiser, Rectified, sample
from coursekit.exercises import Verdict, ask, compare, correct, exercise, first_refusal, parts, refuse
from coursekit.gmm import GaussianMixture

__all__ = ["backward_drift", "ddim_step", "grid_for_eight", "mean_guess", "order_and_looks"]

LOOKS = 8  # of exercise 10.5


@exercise
def backward_drift(answer: Callable) -> Verdict:
    """Exercise 10.1: (x, score, f, g, eta) -> the drift of (10.7), in the time that runs from noise to data."""
    x, score = torch.randn(2, 6, generator=_generator(), dtype=torch.float64)
    f, g, etas = -1.7, 2.3, (0.0, 0.5, 1.0, 2.0)
    found = [ask(answer, x, score, f, g, eta) for eta in etas]
    eta = torch.tensor(etas, dtype=torch.float64)[:, None]
    wanted = -f * x + 0.5 * (1 + eta**2) * g**2 * score  # (4, 6)
    if torch.as_tensor(found[0]).shape != x.shape:
        return compare(found[0], wanted[0], what="your drift")
    return compare(
        torch.stack([torch.as_tensor(part, dtype=torch.float64) for part in found]),
        wanted,
        mistakes={
            "that is the forward drift: time runs backwards here, so f x turns its sign": wanted + 2 * f * x,
            "the score has the wrong sign: points must climb towards where data are": -2 * f * x - wanted,
            "that is -u, the drift of the ODE, for every eta: noise of rate eta g needs a drift that makes up for it": (
                wanted[:1].expand(4, 6)
            ),
            "that is Anderson's drift, eta = 1, whatever eta is": wanted[2:3].expand(4, 6),
            "the factor 1/2 is missing": -f * x + (1 + eta**2) * g**2 * score,
            "eta must be squared: noise of rate c weighs c^2": -f * x + 0.5 * (1 + eta) * g**2 * score,
            "g must be squared: noise of rate c weighs c^2": -f * x + 0.5 * (1 + eta**2) * g * score,
            "only the shaking in place is there: the ODE's own part, with g^2 / 2, is missing": -f * x
            + 0.5 * eta**2 * g**2 * score,
            "x itself moves as well: the term -f x is missing": wanted + f * x,
        },
        what="your drift, at eta = 0, 0.5, 1 and 2,",
        why="with no noise the ODE, with as much as forwards Anderson's reverse SDE, and all between",
    )


@exercise
def ddim_step(answer: Callable) -> Verdict:
    """Exercise 10.2: (x_t, guess, alpha_t, sigma_t, alpha_s, sigma_s) -> x_s of DDIM without chance."""
    x, guess = torch.randn(2, 6, generator=_generator(), dtype=torch.float64)
    for levels in ((0.3, 0.9, 0.7, 0.6), (0.7, 0.6, 1.0, 0.0), (0.0, 1.0, 0.2, 0.95)):
        verdict = compare(
            ask(answer, x, guess, *levels),
            _ddim(x, guess, *levels),
            mistakes=_wrong_ddim(x, guess, *levels),
            what="your step from alpha, sigma = {}, {} to {}, {}".format(*levels),
            why="it is right from pure noise on, and the step to clean data returns the guess itself",
        )
        if not verdict.passed:
            return verdict
    return verdict


@exercise
def mean_guess(answer: Callable) -> Verdict:
    """Exercise 10.3: (guess, before, ell_before, ell, ell_next) -> M of (10.18)."""
    guess, before = torch.randn(2, 6, generator=_generator(), dtype=torch.float64)
    for levels in ((-1.0, -0.4, 0.5), (0.5, 1.5, 1.8)):
        h, h_before = levels[2] - levels[1], levels[1] - levels[0]
        verdict = compare(
            ask(answer, guess, before, *levels),
            guess + h / (2 * h_before) * (guess - before),
            mistakes={said: guess + share * (guess - before) for said, share in _wrong_shares(h, h_before).items()},
            what="your M for ell = {}, {}, {}".format(*levels),
            why="the guess at the middle of the step to come, on the line through two looks",
        )
        if not verdict.passed:
            return verdict
    return verdict


@exercise
def order_and_looks(answer: Callable) -> Verdict:
    """Exercise 10.4: (looks (n,), errors (n,), target) -> the order, and the looks for an error of target."""
    looks = torch.tensor([10.0, 20.0, 40.0, 80.0], dtype=torch.float64)
    for p, constant, target in ((2.0, 3.0, 1e-5), (1.0, 0.7, 1e-3), (3.0, 40.0, 1e-6)):
        errors = constant * looks**-p
        order, needed = parts(ask(answer, looks, errors, target), ("order", "looks"))
        wrong_orders, wrong_looks = _wrong_orders(looks, errors, p), _wrong_looks(looks, errors, p, constant, target)
        verdict = first_refusal(
            compare(order, p, wrong_orders, what="your order"),
            compare(needed, (constant / target) ** (1 / p), wrong_looks, what="your number of looks", rtol=1e-3),
            praise="the slope is the order, and a line can be followed beyond its last point",
        )
        if not verdict.passed:
            return verdict
    return verdict


@exercise
def grid_for_eight(answer: Callable) -> Verdict:
    """Exercise 10.5: steps -> times for DPM-Solver++(2M) on the two heaps: eight, a quarter better than uniform."""
    times = torch.as_tensor(ask(answer, LOOKS), dtype=torch.float64)
    if times.shape != (LOOKS,):
        return refuse(f"{LOOKS} times are wanted, got shape {tuple(times.shape)}")
    if not bool((times.diff() < 0).all()) or not float(times[-1]) > 0 or not float(times[0]) <= 1:
        return refuse("the times must fall strictly and lie in (0, 1]: the step to t = 0 is implied, it needs no look")
    if float(times[0]) < 0.97:
        return refuse(
            f"your first look is at t = {float(times[0]):.3f}, but the sampler starts from pure noise, t = 1: noise "
            "would be taken for signal (section 10)"
        )
    uniform = torch.arange(LOOKS, 0, -1, dtype=torch.float64) / LOOKS
    share = error_of_grid(times) / error_of_grid(uniform)
    said = f"your grid has {100 * share:.0f} % of the error of equal steps of t"
    if share > 0.75:
        return refuse(f"{said}; 75 % is wanted: vary the times and keep what helps, for example at random")
    return correct(f"{said}; the best grid that we found has 48 %")


def error_of_grid(times: Tensor) -> float:
    """The root mean square error of DPM-Solver++(2M) along `times`, falling, on the two heaps of the lesson.

    Over 201 starts that halve, quarter, ... the mass of N(0, 1), against the exact map of the ODE (`Rectified`).
    """
    ends = sample(_DENOISER, _STARTS.shape, "dpm++2m", len(times), grid=times, x_T=_STARTS)
    return float((ends - _ENDS).square().mean().sqrt())


def _ddim(x: Tensor, guess: Tensor, a: float, s: float, a_next: float, s_next: float) -> Tensor:
    return a_next * guess + s_next * (x - a * guess) / s


def _wrong_ddim(x: Tensor, guess: Tensor, a: float, s: float, a_next: float, s_next: float) -> dict[str, Tensor]:
    """What common mistakes would give instead of `_ddim`."""
    noise, eps, kept = x - a * guess, (x - a * guess) / s, a_next * guess
    return {
        "you stayed at the old level: alpha and sigma of s mix the guess and the noise": x,
        "the guess is mixed with the old alpha": a * guess + s_next * eps,
        "the noise is mixed with the old sigma": kept + s * eps,
        "that is the noise as it lies in x_t: divide by sigma_t to make it eps": kept + s_next * noise,
        "the noise is x_t less alpha_t times the guess: you forgot alpha_t": kept + s_next * (x - guess) / s,
        "x_t itself is used for the noise": kept + s_next * x,
        "the noise is missing: that is the guess alone, scaled": kept,
        "the noise has the wrong sign": kept - s_next * eps,
        "alpha and sigma of the new level are exchanged": s_next * guess + a_next * eps,
    }


def _wrong_shares(h: float, h_before: float) -> dict[str, float]:
    """By how much of the last change common mistakes move the guess, instead of h / (2 h_before)."""
    ratio = h / h_before
    return {
        "the factor 1/2 is missing: that is the guess at the end of the step, not at its middle": ratio,
        "the ratio is upside down: the new step over the old one": 1 / (2 * ratio),
        "the change has the wrong sign: you go back in time": -ratio / 2,
        "that is the middle between the two looks, not the middle of the step to come": -0.5,
        "you start from the older of the two guesses": ratio / 2 - 1,
        "the lengths of the steps do not matter in your answer: how far is the middle, in units of the last step?": 0.5,
        "the change must be divided by the length of the last step": h / 2,
        "that is the guess itself: DDIM": 0.0,
        "that is the exact mean of the line, h / (1 - exp(-h)) - 1, right as well and also of order two; DPM-Solver++ "
        "takes its first term, h / 2": (h / (1 - math.exp(-h)) - 1) / h_before,
    }


def _wrong_orders(looks: Tensor, errors: Tensor, p: float) -> dict[str, float]:
    centred = looks - looks.mean()
    return {
        "errors fall: turn the sign of the slope, so that an order is positive": -p,
        "you fitted looks against errors: that is one over the order": 1 / p,
        "that is the factor by which a doubling divides the error: its logarithm to base 2 is the order": 2**p,
        "the axis of the looks is not logarithmic": -float((centred @ errors.log()) / centred.square().sum()),
        "you took the difference of the logarithms without dividing by that of the looks": p * math.log(8),
    }


def _wrong_looks(looks: Tensor, errors: Tensor, p: float, constant: float, target: float) -> dict[str, float]:
    ratio = float(errors[-1]) / target
    return {
        "that would be the looks at order one": float(looks[-1]) * ratio,
        "you took the constant for 1": target ** (-1 / p),
        "you took the p-th power where the p-th root is wanted": (constant / target) ** p,
        "that is by how many times more looks are needed than the last number, not how many": ratio ** (1 / p),
    }


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(10)


def _inverse_cdf(mixture: GaussianMixture, rank: Tensor) -> Tensor:
    """Where the mixture (of one dimension) has the mass `rank` (N,) to the left; by bisection."""
    low, high = torch.full_like(rank, -9), torch.full_like(rank, 9)
    for _ in range(60):
        middle = (low + high) / 2
        left = torch.special.ndtr((middle[:, None] - mixture.means[:, 0]) / mixture.covariances[:, 0, 0].sqrt())
        below = left @ mixture.weights < rank
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return middle


_HEAPS = GaussianMixture(
    torch.tensor([0.6, 0.4], dtype=torch.float64),
    torch.tensor([[-0.8], [1.2]], dtype=torch.float64),
    torch.tensor([[[0.09]], [[0.04]]], dtype=torch.float64),
)
_DENOISER = ExactDenoiser(_HEAPS, Rectified())
_RANKS = (torch.arange(201, dtype=torch.float64) + 0.5) / 201
_STARTS = torch.special.ndtri(_RANKS)[:, None]
_ENDS = _inverse_cdf(_HEAPS, _RANKS)[:, None]
