"""Checks of lesson 10, "Diffusion III: fast".

Symbols as in the lesson: x_t = alpha x_0 + sigma eps; a step goes from t to a cleaner s; time runs backwards in
dx = drift dtau + eta g dw; ell = log(alpha / sigma).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from coursekit.diffusion import ExactDenoiser, Rectified, sample
from coursekit.diffusion.samplers import Sampler
from coursekit.exercises import Verdict, ask, compare, correct, exercise, first_refusal, parts, refuse
from coursekit.gmm import GaussianMixture

__all__ = ["backward_drift", "ddim_step", "grid_for_eight", "mean_guess", "order_and_looks"]

LOOKS = 8  # of exercise 10.5
HEAPS, OTHER_HEAPS = (
    GaussianMixture(
        torch.tensor([weight, 1 - weight], dtype=torch.float64),
        torch.tensor([[left], [right]], dtype=torch.float64),
        torch.tensor([[[0.09]], [[0.04]]], dtype=torch.float64),
    )
    for weight, left, right in ((0.6, -0.8, 1.2), (0.3, -1.4, 0.5))
)
"""The two heaps of the lesson, and two of other weights and places."""
_ZEROS = "alpha_t is 0 at pure noise, and sigma_s at clean data: divide by sigma_t only"


@exercise
def backward_drift(answer: Callable) -> Verdict:
    """Exercise 10.1: (x, score, f, g, eta) -> the drift of (10.7), in the time that runs from noise to data."""
    x, score = torch.randn(2, 6, generator=_generator(), dtype=torch.float64)
    f, g, etas = -1.7, 2.3, (0.0, 0.5, 1.0, 2.0)
    found = [ask(answer, x, score, f, g, eta) for eta in etas]
    again = ask(answer, x, score, f, g, 2.0)
    if torch.as_tensor(again).shape == x.shape and not torch.equal(torch.as_tensor(again), torch.as_tensor(found[-1])):
        return refuse(
            "two calls with the same arguments differ: the drift holds no noise, the noise is a term of its own"
        )
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
            "the noise's part has the wrong sign: Langevin's drift climbs towards data, so the halves add up": -f * x
            + 0.5 * (1 - eta**2) * g**2 * score,
            "the noise has the rate c = eta g, so its part is c^2 / 2 = eta^2 g^2 / 2": -f * x
            + (0.5 * g**2 + eta * g) * score,
        },
        what="your drift, at eta = 0, 0.5, 1 and 2,",
        why="with no noise the ODE, with as much as forwards Anderson's reverse SDE, and all between",
    )


@exercise
def ddim_step(answer: Callable) -> Verdict:
    """Exercise 10.2: (x_t, guess, alpha_t, sigma_t, alpha_s, sigma_s) -> x_s of DDIM without chance."""
    x, guess = torch.randn(2, 6, generator=_generator(), dtype=torch.float64)
    for levels in ((0.3, 0.9, 0.7, 0.6), (0.7, 0.6, 1.0, 0.0), (0.0, 1.0, 0.2, 0.95)):
        found = ask(_without_zero_division(answer), x, guess, *levels)
        if isinstance(found, Tensor) and not bool(found.isfinite().all()):
            return refuse(_ZEROS)
        verdict = compare(
            found,
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
        if _close(needed, p) and _close(order, (constant / target) ** (1 / p)):
            return refuse("the two are exchanged: first the order, then the number of looks")
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
    if float(times[0]) < 0.999:
        return refuse(
            f"your first look is at t = {float(times[0]):.3f}, but the sampler starts from pure noise, t = 1: noise "
            "would be taken for signal (section 10), and what is gained so on one mixture is luck"
        )
    uniform = torch.arange(LOOKS, 0, -1, dtype=torch.float64) / LOOKS
    share = error_of_grid(times) / error_of_grid(uniform)
    said = f"your grid has {100 * share:.0f} % of the error of equal steps of t"
    if share > 0.75:
        return refuse(f"{said}; 75 % is wanted: vary the times and keep what helps, for example at random")
    elsewhere = error_of_grid(times, OTHER_HEAPS) / error_of_grid(uniform, OTHER_HEAPS)
    return correct(f"{said}, and {100 * elsewhere:.0f} % on other heaps, which it has not seen")


def error_of_grid(times: Tensor, mixture: GaussianMixture | None = None, sampler: str | Sampler = "dpm++2m") -> float:
    """The root mean square error of a sampler along `times`, falling, on a mixture on a line.

    Over 201 starts, the middles of equal parts of the mass of N(0, 1), against the exact map of the ODE (`Rectified`).

    Args:
        times: where the sampler looks, in (0, 1].
        mixture: of one dimension; the two heaps of the lesson if None.
        sampler: a name, or such a function; without noise.
    """
    mixture = HEAPS if mixture is None else mixture
    ranks = (torch.arange(201, dtype=torch.float64) + 0.5) / 201
    starts, ends = torch.special.ndtri(ranks)[:, None], _inverse_cdf(mixture, ranks)[:, None]
    x_T = float(times[0]) * starts  # sigma = t
    found = sample(ExactDenoiser(mixture, Rectified()), starts.shape, sampler, len(times), grid=times, x_T=x_T)
    return float((found - ends).square().mean().sqrt())


def _without_zero_division(answer: Callable) -> Callable:
    """The answer, with an error that says which level is 0."""

    def guarded(*arguments: object) -> object:
        try:
            return answer(*arguments)
        except ZeroDivisionError:
            raise ZeroDivisionError(_ZEROS) from None

    return guarded


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
        "that is the guess itself: mix it with its noise again, at the next level": guess,
        "s and t are exchanged: the noise belongs to the old level, t, and is mixed in at the new one, s": (
            a * guess + s * (x - a_next * guess) / s_next if s_next > 0 else torch.full_like(x, math.inf)
        ),
        "the noise has the wrong sign": kept - s_next * eps,
        "alpha and sigma of the new level are exchanged": s_next * guess + a_next * eps,
    }


def _wrong_shares(h: float, h_before: float) -> dict[str, float]:
    """By how much of the last change common mistakes move the guess, instead of h / (2 h_before)."""
    ratio = h / h_before
    return {
        "the factor 1/2 is missing: that is the guess at the end of the step, not at its middle": ratio,
        "your ratio is upside down: it should be the new step over the old one": 1 / (2 * ratio),
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
        "you took the p-th power of the ratio of the errors where the p-th root is wanted": float(looks[-1]) * ratio**p,
    }


def _close(value: object, wanted: float) -> bool:
    try:
        return math.isclose(float(value), wanted, rel_tol=1e-3)
    except (TypeError, ValueError):
        return False


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
