"""Checks of lesson 04, "Boltzmann machines and energy".

Symbols as in the lesson: units are -1 or 1, E(x, h) = -x^T W h - b^T x - c^T h, log w are the log-weights of annealed
importance sampling, eta is the step of Langevin dynamics, sigma the deviation of noise.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from coursekit.exercises import Verdict, ask, compare, correct, exercise, first_refusal, parts, refuse

__all__ = ["annealed_log_z", "langevin_covariance", "positive_phase", "spins_from_bits", "two_point_score"]

FLOAT = {"dtype": torch.float64}


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **FLOAT)


@exercise
def spins_from_bits(answer: Callable) -> Verdict:
    """Exercise 4.1: weights and biases for units 0 and 1 -> the same machine's W, b, c for units -1 and 1."""
    A, of_u, of_g = _normal(4, 3, seed=1), _normal(4, seed=2), _normal(3, seed=3)
    W, b, c = parts(ask(answer, A, of_u, of_g), ("W", "b", "c"))
    return first_refusal(
        compare(
            W,
            A / 4,
            mistakes={
                "your W is halved once only: both units bring a factor 1/2": A / 2,
                "your W is unchanged: write u = (1 + x) / 2 and g = (1 + h) / 2 into the energy": A,
                "your W is four times as large where it should be a quarter: u = (1 + x) / 2, not 2 x - 1": 4 * A,
            },
            what="your W",
        ),
        _bias(b, of_u, A.sum(1), "b", "A.sum(1)"),
        _bias(c, of_g, A.sum(0), "c", "A.sum(0)"),
        praise="the energies differ by a constant only, which Z swallows: the same probabilities",
    )


def _bias(found: object, own: Tensor, of_weights: Tensor, name: str, sum_: str) -> Verdict:
    return compare(
        found,
        own / 2 + of_weights / 4,
        mistakes={
            f"your {name} lacks what the weights leave: a product of two halves has terms with one unit, too": own / 2,
            f"your {name} is that of the bits: it is halved, and {sum_} / 4 is added": own,
            f"your {name} takes {sum_} / 2: in the product of (1 + x) / 2 and (1 + h) / 2 it is a quarter": own / 2
            + of_weights / 2,
            f"your {name} has {sum_} / 4 with the wrong sign": own / 2 - of_weights / 4,
        },
        what=f"your {name}",
    )


@exercise
def positive_phase(answer: Callable) -> Verdict:
    """Exercise 4.2: (x (N, D), W (D, H), c (H,)) -> mean of -dF/dW over the batch, (D, H)."""
    x, W, c = _normal(5, 4, seed=4).sign(), _normal(4, 3, seed=5), _normal(3, seed=6)
    field = c + x @ W
    h, p = field.tanh(), torch.sigmoid(2 * field)
    return compare(
        ask(answer, x, W, c),
        x.T @ h / 5,
        mistakes={
            "that is the sum over the batch: divide by its size": x.T @ h,
            "that is +dF/dW: the positive phase is -dF/dW": -x.T @ h / 5,
            "you used P(h = 1 | x): with units -1 and 1 the mean of h is tanh of the field": x.T @ p / 5,
            "you forgot the hidden bias c": x.T @ (x @ W).tanh() / 5,
            "you used the field itself: the mean of h is its tanh": x.T @ field / 5,
            "tanh(2 field) is too much: P(h = 1 | x) = S(2 field), and its mean 2 P - 1 is tanh(field)": x.T
            @ (2 * field).tanh()
            / 5,
        },
        what="your gradient",
        why="the mean of x h with h averaged given x: the hidden units are summed out, not drawn",
    )


@exercise
def annealed_log_z(answer: Callable) -> Verdict:
    """Exercise 4.3: (log w (M,), log Z_0) -> log Z, effective sample size."""
    log_w, log_z0 = _normal(6, seed=7), torch.tensor(3.0, **FLOAT)
    value, size = parts(ask(answer, log_w, log_z0), ("log Z", "effective sample size"))
    w = log_w.exp()
    verdict = first_refusal(
        compare(
            value,
            log_z0 + w.mean().log(),
            mistakes={
                "you averaged the logarithms: E[w] = Z / Z_0 holds for w, so average w and take the logarithm "
                "afterwards": log_z0 + log_w.mean(),
                "you forgot to divide by the number of chains": log_z0 + w.sum().log(),
                "you forgot log Z_0": w.mean().log(),
                "log Z_0 is added, not taken away": w.mean().log() - log_z0,
                "that is Z, not its logarithm": (log_z0 + w.mean().log()).exp(),
            },
            what="your log Z",
        ),
        compare(
            size,
            w.sum() ** 2 / w.square().sum(),
            mistakes={
                "your effective size is upside down: equal weights must give M": w.square().sum() / w.sum() ** 2,
                "your effective size lacks a square: (sum of w)^2 above": w.sum() / w.square().sum(),
                "your effective size is 1 for equal weights: use sums, not means": w.mean() ** 2 / w.square().mean(),
                "your effective size uses log w: the weights are w": log_w.sum() ** 2 / log_w.square().sum(),
            },
            what="your effective size",
        ),
        praise="it also holds where exp overflows",
    )
    if not verdict.passed:
        return verdict
    far = log_w + 2000
    value, size = parts(ask(answer, far, log_z0), ("log Z", "effective sample size"))
    found = torch.stack([torch.as_tensor(part, **FLOAT) for part in (value, size)])
    if not bool(found.isfinite().all()):
        return refuse("right, but exp(2000) is infinite: stay with logarithms, torch.logsumexp(log_w, 0)")
    return first_refusal(
        compare(found[0], log_z0 + 2000 + w.mean().log(), what="your log Z for large weights"),
        compare(found[1], w.sum() ** 2 / w.square().sum(), what="your effective size for large weights"),
        praise=verdict.message,
    )


@exercise
def langevin_covariance(answer: Callable) -> Verdict:
    """Exercise 4.4: (P (D, D), eta) -> the covariance of unadjusted Langevin at rest, for E = x^T P x / 2."""
    half = _normal(3, 3, seed=8)
    P, eta = half @ half.T / 3 + torch.eye(3, **FLOAT), 0.2
    eye = torch.eye(3, **FLOAT)
    return compare(
        ask(answer, P, eta),
        torch.linalg.inv(P - eta / 2 * P @ P),
        mistakes={
            "that is the target's own covariance: the step makes it larger": torch.linalg.inv(P),
            "the variance of the kick is 2 eta, not eta": torch.linalg.inv(P - eta / 2 * P @ P) / 2,
            "the wrong sign: the unadjusted chain is too wide, not too narrow": torch.linalg.inv(P + eta / 2 * P @ P),
            "that is the precision at rest: invert it": P - eta / 2 * P @ P,
            "P * P is taken entry by entry: a matrix product is wanted": torch.linalg.inv(P - eta / 2 * P * P),
            "half of the bias is missing or doubled: it is eta / 2": torch.linalg.inv(P - eta * P @ P),
            "you dropped the square of the step, (I - eta P)^2 = I - 2 eta P + eta^2 P^2": torch.linalg.inv(
                eye - (eye - eta * P)
            )
            * eta,
        },
        what="your covariance",
        why="each direction of P has its own bias, the narrowest one the largest",
    )


@exercise
def two_point_score(answer: Callable, widest: float) -> Verdict:
    """Exercise 4.5: (x, sigma) -> the optimum of denoising score matching for data -1 and 1; where two heaps merge."""
    x = torch.linspace(-2.0, 2.0, 9, **FLOAT)
    for sigma in (0.5, 1.3):
        guess = (x / sigma**2).tanh()
        verdict = compare(
            ask(answer, x, sigma),
            (guess - x) / sigma**2,
            mistakes={
                "that is the best guess of the clean point, E[x | x~]: the score is (guess - x~) / sigma^2": guess,
                "you lost sigma^2 below: (guess - x~) / sigma^2": guess - x,
                "that divides by sigma where sigma^2 is wanted": (guess - x) / sigma,
                "the wrong sign: the score points towards the data": (x - guess) / sigma**2,
                "the evidence grows like x~ / sigma^2, not x~ / sigma": ((x / sigma).tanh() - x) / sigma**2,
                "inside the tanh stands x~ / sigma^2, not twice as much: the log-odds are 2 x~ / sigma^2, and the mean "
                "is tanh of half of them": ((2 * x / sigma**2).tanh() - x) / sigma**2,
                "that is the score of the nearer point alone: the other one counts as well": (x.sign() - x) / sigma**2,
            },
            what=f"your score at sigma = {sigma}",
        )
        if not verdict.passed:
            return verdict
    verdict = compare(widest, 1.0, what="your widest sigma", rtol=0.02, mistakes={
        "your widest sigma is the distance of the two points: look at the slope of the score at 0": 2.0,
        "your widest sigma is too narrow: look at the slope of the score at 0": 0.5,
        "your widest sigma is half of a root too many: the slope at 0 is (1 / sigma^2 - 1) / sigma^2": math.sqrt(0.5),
    })  # fmt: skip
    praise = "at sigma = 1 the slope of the score at 0 changes its sign: above, one valley, and no chain gets stuck"
    return correct(praise) if verdict.passed else verdict
