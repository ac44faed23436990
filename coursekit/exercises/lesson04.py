"""Checks of lesson 04, "Boltzmann machines and energy".

Symbols as in the lesson: units are -1 or 1, E(x, h) = -x^T W h - b^T x - c^T h, log w are the log-weights of annealed
importance sampling, eta is the step of Langevin dynamics, sigma the deviation of noise.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from coursekit.exercises import Verdict, ask, compare, correct, exercise, first_refusal, parts, refuse

__all__ = ["annealed_log_z", "langevin_covariance", "spins_from_bits", "two_phases", "two_point_score"]

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
                "your W has the wrong sign: both energies begin with a minus, and so do b and c": -A / 4,
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
            f"your {name} leaves the bias of the bits whole: u = (1 + x) / 2 halves it, too": own + of_weights / 4,
            f"your {name} has the wrong sign: both energies begin with a minus": -own / 2 - of_weights / 4,
            f"your {name} translates from spins to bits; the other way is wanted": 2 * own - 2 * of_weights,
        },
        what=f"your {name}",
    )


@exercise
def two_phases(answer: Callable) -> Verdict:
    """Exercise 4.2: (x (N, D), chains (M, D), W (D, H), c (H,)) -> gradient of the log-likelihood by W, (D, H)."""
    x, chains, W, c = (
        _normal(5, 4, seed=4).sign(),
        _normal(7, 4, seed=9).sign(),
        _normal(4, 3, seed=5),
        _normal(3, seed=6),
    )

    def phase(z: Tensor, hidden: Callable[[Tensor], Tensor] = torch.tanh, bias: Tensor = c) -> Tensor:
        return z.T @ hidden(bias + z @ W) / len(z)

    def both(hidden: Callable[[Tensor], Tensor] = torch.tanh, bias: Tensor = c) -> Tensor:
        return phase(x, hidden, bias) - phase(chains, hidden, bias)

    def of_means(z: Tensor) -> Tensor:
        return torch.outer(z.mean(0), (c + z @ W).tanh().mean(0))

    return compare(
        ask(answer, x, chains, W, c),
        both(),
        mistakes={
            "those are the sums over states: divide each by the number of its own": 5 * phase(x) - 7 * phase(chains),
            "you divided both sums by the size of the batch: the chains are as many as they are": phase(x)
            - 7 / 5 * phase(chains),
            "that goes down: the positive phase, over the data, minus the negative, over the chains": -both(),
            "that is the positive phase alone: the machine's own states are missing": phase(x),
            "that is the negative phase alone: the data are missing": -phase(chains),
            "you added the phases: the negative one is taken away": phase(x) + phase(chains),
            "you used P(h = 1 | x): with units -1 and 1 the mean of h is tanh of the field": both(
                lambda field: torch.sigmoid(2 * field)
            ),
            "you forgot the hidden bias c": both(bias=0 * c),
            "you used the field itself: the mean of h is its tanh": both(lambda field: field),
            "tanh(2 field) is too much: P(h = 1 | x) = S(2 field), and its mean 2 P - 1 is tanh(field)": both(
                lambda field: (2 * field).tanh()
            ),
            "that is a product of means: the mean of the product x h is wanted": of_means(x) - of_means(chains),
        },
        what="your gradient",
        why="data minus chains, with h averaged given x: the hidden units are summed out, not drawn",
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
                "that is the logarithm of your effective size: take exp": (w.sum() ** 2 / w.square().sum()).log(),
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
    for shift in (2000, -2000):
        try:
            value, size = parts(answer(log_w + shift, log_z0), ("log Z", "effective sample size"))
            found = torch.stack([torch.as_tensor(part, **FLOAT) for part in (value, size)])
        except (OverflowError, ZeroDivisionError):
            found = torch.tensor(math.nan)
        if not bool(found.isfinite().all()):
            trouble = "exp(2000) is infinite" if shift > 0 else "exp(-2000) is rounded to 0"
            return refuse(f"right, but {trouble}: stay with logarithms, torch.logsumexp(log_w, 0)")
        far = first_refusal(
            compare(found[0], log_z0 + shift + w.mean().log(), what=f"your log Z for log-weights near {shift}"),
            compare(
                found[1], w.sum() ** 2 / w.square().sum(), what=f"your effective size for log-weights near {shift}"
            ),
            praise=verdict.message,
        )
        if not far.passed:
            return far
    return verdict


@exercise
def langevin_covariance(answer: Callable) -> Verdict:
    """Exercise 4.4: (P (D, D), eta) -> the covariance of unadjusted Langevin at rest, for E = x^T P x / 2."""
    half = _normal(3, 3, seed=8)
    P, eta = half @ half.T / 3 + torch.eye(3, **FLOAT), 0.2
    eye, covariance = torch.eye(3, **FLOAT), torch.linalg.inv(P)
    eigenvalues = torch.linalg.eigvalsh(P)
    return compare(
        ask(answer, P, eta),
        torch.linalg.inv(P - eta / 2 * P @ P),
        mistakes={
            "that is the target's own covariance: (I - eta P)^2 has a square, which makes it larger": covariance,
            "the variance of the kick is 2 eta, not eta": torch.linalg.inv(P - eta / 2 * P @ P) / 2,
            "the wrong sign: the unadjusted chain is too wide, not too narrow": torch.linalg.inv(P + eta / 2 * P @ P),
            "that is the precision at rest: invert it": P - eta / 2 * P @ P,
            "P * P is taken entry by entry: a matrix product is wanted": torch.linalg.inv(P - eta / 2 * P * P),
            "the bias is doubled: it is eta / 2": torch.linalg.inv(P - eta * P @ P),
            "half of the bias is missing: it is eta / 2": torch.linalg.inv(P - eta / 4 * P @ P),
            "that is right to first order in eta only: (4.22) is a quotient": covariance + eta / 2 * eye,
            "you divided entry by entry: the inverse of a matrix is wanted": 1 / (P - eta / 2 * P @ P),
            "those are the variances along the eigenvectors of P: turn them back to the axes": torch.diag(
                1 / (eigenvalues * (1 - eta / 2 * eigenvalues))
            ),
            "that takes every variance of the target for 1: v is one over an eigenvalue of P": eye / (1 - eta / 2),
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
    verdict = compare(widest, 1.0, what="your widest sigma", rtol=1e-3, mistakes={
        "your widest sigma is the distance of the two points: look at the slope of the score at 0": 2.0,
        "your widest sigma is too narrow: look at the slope of the score at 0": 0.5,
        "your widest sigma is sqrt(1/2): the slope of the score at 0 is (1 / sigma^2 - 1) / sigma^2": math.sqrt(0.5),
        "your widest sigma is near, as from a grid: set the slope of the score at 0 to zero and solve": 0.99,
    })  # fmt: skip
    praise = "at sigma = 1 the slope of the score at 0 changes its sign: above, one valley, and no chain gets stuck"
    return correct(praise) if verdict.passed else verdict
