"""Checks of lesson 12, "Diffusion V: one model, many names".

Symbols as in the lesson: x_t = alpha x_0 + sigma eps; y = x_0 + s eps is EDM's noisy point; tau = 1 - t is the clock of
flow matching, 0 for noise; lambda is the log-SNR; D is a guess of x_0, d a number of coordinates.
"""

import math
from collections.abc import Callable

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from coursekit.exercises import Verdict, ask, compare, correct, exercise, first_refusal, parts, refuse

__all__ = ["bits", "consistency_pair", "share_left", "velocity_from_edm", "weight_of_cosine"]

BATCH = 128  # pairs in exercise 12.5


@exercise
def velocity_from_edm(answer: Callable) -> Verdict:
    """Exercise 12.1: (denoise(y, s), x (N, D), tau) -> u = E[x_0 - eps | x] at x = tau x_0 + (1 - tau) eps."""
    x, tau = torch.randn(5, 2, generator=_generator(), dtype=torch.float64), 0.3
    s = (1 - tau) / tau
    guess, swapped = _denoise(x / tau, s), _denoise(x / (1 - tau), 1 / s)
    clock = "you took tau for our t: with tau the data's share is tau and the noise's 1 - tau"
    return compare(
        ask(answer, _denoise, x, tau),
        (guess - x) / (1 - tau),
        mistakes={
            "your velocity points to the noise: flow matching's clock runs from noise to data": (x - guess) / (1 - tau),
            "you asked at x: EDM's point is y = x_0 + s eps, so divide x by what multiplies x_0": (_denoise(x, s) - x)
            / (1 - tau),
            "s is upside down: the noise of y is (1 - tau) / tau": (_denoise(x / tau, tau / (1 - tau)) - x) / (1 - tau),
            "s = 1 - tau is the noise of x; that of y = x / tau is larger": (_denoise(x / tau, 1 - tau) - x)
            / (1 - tau),
            "s = tau is the share of the data, not the noise": (_denoise(x / tau, tau) - x) / (1 - tau),
            "you multiplied x by tau where you must divide": (_denoise(x * tau, s) - x) / (1 - tau),
            "you divided by tau: the way that is left, from x to the guess, takes the time 1 - tau": (guess - x) / tau,
            "you forgot to divide by the time that is left, 1 - tau": guess - x,
            "that is EDM's own slope, (y - D) / s: a velocity in another clock, of another point": (x / tau - guess)
            / s,
            "(x - D) / s mixes two papers: EDM's slope is (y - D) / s at y = x / tau, and another velocity": (x - guess)
            / s,
            clock: (swapped - x) / tau,
            f"{clock}; and the velocity points to the noise": (x - swapped) / tau,
            f"{clock} (in the denoiser; you have the time that is left right)": (swapped - x) / (1 - tau),
            "the distance is that from x / tau: the point of flow matching is x": (guess - x / tau) / (1 - tau),
            "that is the guess itself": guess,
        },
        what="your velocity",
        why="the same picture at the same log-SNR, asked on another axis; then the way that is left, in the time left",
    )


@exercise
def weight_of_cosine(answer: Callable) -> Verdict:
    """Exercise 12.2: lambda (N,) -> w(lambda) of (12.9) for eps, the cosine schedule and uniform times."""
    lam = torch.linspace(-9, 9, 13, dtype=torch.float64)
    wanted = 1 / (math.pi * torch.cosh(lam / 2))
    return compare(
        ask(_with_tensors(answer), lam),
        wanted,
        mistakes={
            "the 2 of (12.9) is missing, or 2 sin cos was taken for sin cos: w = 2 / |d lambda/dt|": wanted / 2,
            "twice too much: sin cos = 1 / (2 cosh(lambda / 2))": 2 * wanted,
            "pi is missing: d lambda/dt = -pi / (sin cos)": math.pi * wanted,
            "that is d lambda/dt: divide by it, since dt = d lambda / |d lambda/dt|": -2 / wanted,
            "that is |d lambda/dt|: divide by it, since dt = d lambda / |d lambda/dt|": 2 / wanted,
            "w is negative: take the absolute value, as lambda falls while t grows": -wanted,
            "that is the weight of v on the cosine schedule (12.10): for eps, c = 1": 2 / math.pi * torch.exp(-lam / 2),
            "that is flow matching's weight on the straight line": torch.exp(-lam / 2),
            "the half is missing: tan = exp(-lambda / 2), not exp(-lambda)": 1 / (math.pi * torch.cosh(lam)),
        },
        what="your weight",
        why="1 / (pi cosh(lambda / 2)): symmetric, and largest at lambda = 0, where a picture is decided",
    )


@exercise
def bits(answer: Callable) -> Verdict:
    """Exercise 12.3: (log-densities (N,) in nats, dims) -> bits per dimension of pictures in [-1, 1], 256 levels."""
    density, dims = torch.tensor([2400.0, 1800.0, -50.0], dtype=torch.float64), 784
    bare = -density / (dims * math.log(2))
    width = 2 / 255
    return compare(
        ask(answer, density, dims),
        bare - math.log2(width),
        mistakes={
            "nats are reported: divide by log 2 as well, the whole": (bare - math.log2(width)) * math.log(2),
            "nats are reported: divide the log-density by log 2": -density / dims - math.log2(width),
            "the offset is forgotten: a probability is a density times the volume of a bin": bare,
            "the offset has its sign flipped: bins are small, so a probability costs more bits": bare
            + math.log2(width),
            "bins of 1/256 belong to pixels in [0, 1): here 256 levels cover [-1, 1]": bare + 8,
            "bins of 1/255 belong to pixels in [0, 1]: here the levels are 2/255 apart": bare + math.log2(255),
            "2/256 would be the width if the levels were middles of bins that fill [-1, 1]; with levels on both ends "
            "they are 2/255 apart": bare + 7,
            "the offset counts once for all dimensions: it belongs to each": bare - math.log2(width) / dims,
            "the sign of the log-density is lost: likely pictures cost few bits": -bare - math.log2(width),
            "the log-density is that of all dimensions: divide it by dims": dims * bare - math.log2(width),
            "that is the total: per dimension, divide by dims": (bare - math.log2(width)) * dims,
        },
        what="your bits",
        why="a bin is 2/255 wide, so each dimension costs log2(127.5) = 6.994 bits more than the bare density says",
    )


@exercise
def consistency_pair(answer: Callable) -> Verdict:
    """Exercise 12.4: (x_0, eps, denoise(x, i), f(x, i), alpha (2,), sigma (2,)) -> f(x_t, t) and f(x_u, u)."""
    x_0, eps = torch.randn(2, 4, 2, generator=_generator(), dtype=torch.float64)
    alpha, sigma = torch.tensor([[0.4, 0.7], [0.9, 0.6]], dtype=torch.float64)
    said, target = parts(ask(answer, x_0, eps, _teacher, _student, alpha, sigma), ("f(x_t, t)", "f(x_u, u)"))
    x_t = alpha[0] * x_0 + sigma[0] * eps
    x_u = _step(x_t, _teacher(x_t, 0), alpha, sigma)
    first = compare(
        said,
        _student(x_t, 0),
        mistakes={
            "the two are exchanged: first what the student says at t, then what it should say": _student(x_u, 1),
            "the student was asked at u: x_t is the noisier point, level 0": _student(x_t, 1),
            "that is the teacher's guess at t: the student's answer is f(x_t, 0)": _teacher(x_t, 0),
            "that is x_t itself: ask the student about it": x_t,
            "the student was asked about clean data: noise them first": _student(x_0, 0),
        },
        what="what the student says",
    )
    second = compare(
        target,
        _student(x_u, 1),
        mistakes=_wrong_targets(x_0, eps, alpha, sigma),
        what="the target",
    )
    return first_refusal(
        first,
        second,
        praise="one path, two places, one answer: the teacher only has to know the short way between neighbours",
    )


@exercise
def share_left(answer: Callable, smallest: int) -> Verdict:
    """Exercise 12.5: (x, noise (n, d)) -> optimal mean squared distance / 2 d; the first d = 2^k that saves < 1/4."""
    for d in (2, 16):
        x, noise = torch.randn(2, 40, d, generator=_generator())
        cost, scale = torch.cdist(x, noise).square(), 2 * d
        best = _optimal(cost) / scale
        verdict = compare(
            ask(answer, x, noise),
            best,
            mistakes={
                "that is the share that is saved: one minus it is left": 1 - best,
                "nothing was paired: that is the distance as drawn": float(cost.diagonal().mean()) / scale,
                "every point took its nearest partner, and some partners serve twice: a pairing is one to one": float(
                    cost.min(1).values.mean() / scale
                ),
                "you minimised and averaged the distances, not their squares": _optimal(cost.sqrt()) / scale,
                "the pairs minimise the distances: minimise their squares": _by(cost.sqrt(), cost) / scale,
                "that is the sum over the batch: take the mean": best * len(x),
                "you divided by d: independent pairs are 2 d apart": 2 * best,
                "you did not divide by 2 d": best * scale,
                "that is the longest pairing: costs are minimised": _by(-cost, cost) / scale,
            },
            what=f"your share in {d} dimensions",
            rtol=1e-3,
        )
        if not verdict.passed:
            return verdict
    return _smallest_dimension(smallest)


def _smallest_dimension(smallest: int) -> Verdict:
    if isinstance(smallest, bool) or not isinstance(smallest, int) or smallest < 1 or smallest & (smallest - 1):
        return refuse(f"your share is right; the dimension should be a power of two, got {smallest!r}")
    if smallest < 128:
        return refuse(f"your share is right, but in {smallest} dimensions batches of {BATCH} save a quarter or more")
    if smallest > 128:
        return refuse(
            f"your share is right, but {smallest} is not the smallest: 128 dimensions save less than a quarter too"
        )
    return correct(
        "about a fifth is saved in 128 dimensions, three tenths in 64: with many dimensions all partners are almost "
        "equally far"
    )


def _with_tensors(answer: Callable) -> Callable:
    """The same function, with a word on the functions of `math`, which take one number only."""

    def asked(lam: Tensor) -> Tensor:
        try:
            return answer(lam)
        except (TypeError, ValueError) as error:
            if "converted to Python scalars" not in str(error):
                raise
            raise ValueError("lam is a tensor: take torch.cosh, torch.exp, ... instead of math's") from None

    return asked if callable(answer) else answer


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(12)


def _denoise(y: Tensor, s: float) -> Tensor:
    """The best denoiser of N(m, diag(v)): linear, different in each coordinate."""
    mean, variance = y.new_tensor([0.7, -0.4]), y.new_tensor([0.5, 2.0])
    return mean + variance / (variance + s**2) * (y - mean)


def _teacher(x: Tensor, i: int) -> Tensor:
    return torch.tanh(x + 0.5 * i) * (1 - 0.2 * i)


def _student(x: Tensor, i: int) -> Tensor:
    return torch.sin(1.3 * x - 0.4 * i) * (1 + 0.3 * i)


def _step(x: Tensor, guess: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """From level 0 to level 1 under a guess of x_0."""
    keep = sigma[1] / sigma[0]
    return keep * x + (alpha[1] - keep * alpha[0]) * guess


def _wrong_targets(x_0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> dict[str, Tensor]:
    """What common mistakes would give instead of the target of `consistency_pair`."""
    x_t = alpha[0] * x_0 + sigma[0] * eps
    guess = _teacher(x_t, 0)
    x_u = _step(x_t, guess, alpha, sigma)
    upside_down = sigma[0] / sigma[1]
    return {
        "x_u was made of x_0 and eps: that asks no teacher (it is consistency training, another method); here the "
        "teacher steps from x_t": _student(alpha[1] * x_0 + sigma[1] * eps, 1),
        "the student was asked at t: x_u is at level 1": _student(x_u, 0),
        "that is the teacher's guess: the target is what the student itself says a step further": guess,
        "that is x_u: ask the student about it": x_u,
        "the target is the clean data: regression on x_0 gives the mean of all ends, not the end of this path": x_0,
        "f was asked about x_t: the teacher's step is missing": _student(x_t, 1),
        "the student made the step to x_u: the short way between neighbours is the teacher's": _student(
            _step(x_t, _student(x_t, 0), alpha, sigma), 1
        ),
        "the teacher was asked at u: it steps away from t, level 0": _student(
            _step(x_t, _teacher(x_t, 1), alpha, sigma), 1
        ),
        "r is upside down: sigma_u / sigma_t": _student(
            upside_down * x_t + (alpha[1] - upside_down * alpha[0]) * guess, 1
        ),
        "the guess was put in place of x_u: noise is left at u": _student(guess, 1),
        "eps stands where the teacher's own noise belongs, (x_t - alpha_t guess) / sigma_t": _student(
            alpha[1] * guess + sigma[1] * eps, 1
        ),
    }


def _by(order: Tensor, cost: Tensor) -> float:
    """Mean cost of the pairs whose sum of `order` is smallest."""
    rows, columns = linear_sum_assignment(order.numpy())
    return float(cost[rows, columns].mean())


def _optimal(cost: Tensor) -> float:
    return _by(cost, cost)
