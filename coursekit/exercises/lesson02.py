"""Checks of lesson 02, "Gaussian mixtures".

Symbols as in the lesson: heap k = 1..K has the weight w_k, the mean m_k and the covariance C_k (on a line, the
variance v_k); r_nk = P(heap k | x_n) are responsibilities, (N, K); N_k is the sum of r_nk over the points.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from coursekit.exercises import Verdict, ask, compare, exercise, refuse

__all__ = ["bic", "conditional_mean", "merging_log_snr", "responsibilities", "spherical_variances"]


@exercise
def responsibilities(answer: Callable) -> Verdict:
    """Exercise 2.1: (x (N,), w (K,), m (K,), v (K,)) -> P(heap k | x_n), (N, K), also far from every heap."""
    w, m, v = _line_of_heaps()
    x = torch.tensor([-1.4, -0.2, 0.5, 1.3, 2.2], dtype=torch.float64)
    r = ask(answer, x, w, m, v)
    if torch.as_tensor(r).shape == (len(w), len(x)):
        return refuse("your table is lying on its side: one row for each point, one column for each heap")
    log_joint = _log_joint(x, w, m, v)
    verdict = compare(
        r,
        log_joint.softmax(1),
        mistakes=_wrong_responsibilities(x, w, m, v),
        what="your table of responsibilities",
    )
    return _far_away(answer, w, m, v) if verdict.passed else verdict


def _log_joint(x: Tensor, w: Tensor, m: Tensor, v: Tensor) -> Tensor:
    """log w_k + log N(x_n; m_k, v_k) up to a constant, (N, K)."""
    return w.log() - 0.5 * v.log() - 0.5 * (x[:, None] - m) ** 2 / v


def _wrong_responsibilities(x: Tensor, w: Tensor, m: Tensor, v: Tensor) -> dict[str, Tensor]:
    """What each slip in Bayes' rule leads to."""
    right, square = _log_joint(x, w, m, v), (x[:, None] - m) ** 2
    rows = {
        "the weights w_k are missing: a heap that holds more points deserves more": right - w.log(),
        "the factor 1/sqrt(v_k) is missing: it does not cancel, since the heaps differ in width": right + 0.5 * v.log(),
        "you divided by v_k before the exponential: the density has 1/sqrt(v_k) there": right - 0.5 * v.log(),
        "the factor 1/2 in the exponent is missing": right - 0.5 * square / v,
        "you divided the squared distance by the deviation: divide by the variance v_k": right
        + 0.5 * square * (1 / v - 1 / v.sqrt()),
        "you took v for deviations: they are variances already": w.log() - v.log() - 0.5 * square / v**2,
    }
    density = (right - 0.5 * math.log(2 * math.pi)).exp()
    return {slip: wrong.softmax(1) for slip, wrong in rows.items()} | {
        "you normalised over the points: each *row* must sum to one, a point belongs to one heap": right.softmax(0),
        "that is w_k N(x_n; m_k, v_k) itself: divide each row by its sum": density,
        "those are logarithms of the responsibilities": right.log_softmax(1),
    }


def _far_away(answer: Callable, w: Tensor, m: Tensor, v: Tensor) -> Verdict:
    """Where every density underflows to zero, ratios of densities are 0/0, and differences of logarithms are not."""
    x = torch.tensor([90.0, -300.0], dtype=torch.float64)
    far = torch.as_tensor(ask(answer, x, w, m, v))
    if not far.isfinite().all() or bool((far.sum(1) < 0.5).any()):
        return refuse(
            "right near the heaps, but at x = 90 every density underflows to 0, and 0/0 is no number: "
            "add logarithms and let torch.softmax divide"
        )
    return compare(
        far,
        _log_joint(x, w, m, v).softmax(1),
        mistakes={
            "far from every heap you fall back to the weights: the widest heap should win there": w.expand(2, -1)
        },
        what="your table at x = 90",
        why="each row sums to one, and far away the widest heap takes all",
    )


@exercise
def spherical_variances(answer: Callable) -> Verdict:
    """Exercise 2.2: (x (N, D), r (N, K)) -> the variances (K,) of the M-step for round heaps."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(12, 3, generator=generator, dtype=torch.float64) + 1
    r = torch.randn(12, 4, generator=generator, dtype=torch.float64).softmax(1)
    counts = r.sum(0)
    means = r.T @ x / counts[:, None]
    squares = (x[:, None] - means).square().sum(2)  # (N, K)
    total, dims = (r * squares).sum(0), x.shape[1]
    about_zero = (r * x.square().sum(1, keepdim=True)).sum(0)
    about_mean = (r * (x - x.mean(0)).square().sum(1, keepdim=True)).sum(0)
    value = ask(answer, x, r)
    if torch.as_tensor(value).shape == means.shape:
        return refuse("you have one variance per coordinate: that is the diagonal model; a round heap has one in all")
    return compare(
        value,
        total / (counts * dims),
        mistakes={
            "you forgot to divide by D: the squared distance sums D coordinates, each with this variance": total
            / counts,
            "you divided by N where the heap's own count N_k is wanted": total / (len(x) * dims),
            "you divided by N_k - 1: maximum likelihood divides by N_k": total / ((counts - 1) * dims),
            "you did not divide by N_k": total / dims,
            "those are deviations: the square root is too much": (total / (counts * dims)).sqrt(),
            "you squared the responsibilities": (r**2 * squares).sum(0) / (counts * dims),
            "you measured from 0: take each heap's mean away first": about_zero / (counts * dims),
            "you measured from the mean of all points: each heap has its own mean": about_mean / (counts * dims),
            "the distance is not squared": (r * squares.sqrt()).sum(0) / (counts * dims),
            "you left the responsibilities out: a point counts in a heap by r_nk": squares.mean(0) / dims,
        },
        what="your variance",
        why="the mean squared distance, weighted by responsibility, per coordinate",
    )


@exercise
def bic(answer: Callable) -> Verdict:
    """Exercise 2.3: (log_likelihood, N, K, D) -> BIC of a mixture with full covariances; the smaller, the better."""
    cases = ((-1234.5, 500, 3, 2), (-80.25, 60, 1, 4), (310.0, 9000, 5, 7))
    value = [float(ask(answer, *case)) for case in cases]

    def wrong(parameters: Callable = _free, sign: float = -2.0, price: Callable = math.log) -> Tensor:
        scores = [sign * ll + parameters(K, D) * price(N) for ll, N, K, D in cases]
        return torch.tensor(scores, dtype=torch.float64)

    return compare(
        value,
        wrong(),
        mistakes={
            "you counted K weights: they sum to one, so K - 1 are free": wrong(lambda K, D: _free(K, D) + 1),
            "you forgot the weights": wrong(lambda K, D: _free(K, D) - (K - 1)),
            "you forgot the means, or the diagonals of the covariances": wrong(lambda K, D: _free(K, D) - K * D),
            "you counted D^2 entries in a covariance: it is symmetric, D (D + 1) / 2 are free": wrong(
                lambda K, D: K * (D * D + D) + K - 1
            ),
            "you counted one covariance: without `tied` each heap has its own": wrong(
                lambda K, D: D * (D + 1) // 2 + K * D + K - 1
            ),
            "you counted the parameters of diagonal covariances": wrong(lambda K, D: 2 * K * D + K - 1),
            "that is AIC: BIC charges log N for a parameter, not 2": wrong(price=lambda N: 2.0),
            "the factor 2 of the log-likelihood is missing": wrong(sign=-1.0),
            "the log-likelihood has the wrong sign: more likelihood must make BIC smaller": wrong(sign=2.0),
            "your BIC has its sign flipped: here the smaller is the better": -wrong(),
            "that is half of it, with its sign flipped: the log-evidence itself; BIC is -2 times that": -wrong() / 2,
            "you charge N for a parameter: the price is log N": wrong(price=float),
            "you took the logarithm to base 10": wrong(price=math.log10),
        },
        what="your BIC",
        why="-2 log-likelihood + P log N, with P = K D (D + 1) / 2 + K D + K - 1",
    )


def _free(K: int, D: int) -> int:
    """Free parameters of K full Gaussians in D dimensions and of their weights."""
    return K * D * (D + 1) // 2 + K * D + K - 1


@exercise
def conditional_mean(answer: Callable) -> Verdict:
    """Exercise 2.4: (x_1 (N,), w (K,), m (K, 2), C (K, 2, 2)) -> E[x_2 | x_1], (N,), of a mixture in the plane."""
    w = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    m = torch.tensor([[-1.0, 0.5], [0.6, -0.8], [1.5, 1.2]], dtype=torch.float64)
    C = torch.tensor([[[0.5, 0.3], [0.3, 0.9]], [[0.8, -0.5], [-0.5, 0.6]], [[0.3, 0.1], [0.1, 0.4]]]).to(m)
    x = torch.tensor([-1.5, -0.3, 0.4, 1.1, 1.9], dtype=torch.float64)
    first, second, cross = C[:, 0, 0], C[:, 1, 1], C[:, 0, 1]
    distance = x[:, None] - m[:, 0]  # (N, K)
    r = (w.log() - 0.5 * first.log() - 0.5 * distance**2 / first).softmax(1)
    lines = m[:, 1] + cross / first * distance

    def blend(weights: Tensor, means: Tensor) -> Tensor:
        return (weights * means).sum(1)

    best = r.argmax(1, keepdim=True)
    by_second = (w.log() - 0.5 * second.log() - 0.5 * distance**2 / second).softmax(1)
    unscaled = (w.log() - 0.5 * distance**2 / first).softmax(1)
    unweighted = (-0.5 * first.log() - 0.5 * distance**2 / first).softmax(1)
    return compare(
        ask(answer, x, w, m, C),
        blend(r, lines),
        mistakes={
            "you kept the weights w_k: what is seen changes them to P(heap k | x_1)": blend(
                w.expand(len(x), -1), lines
            ),
            "you blended the means m_k2 alone: inside a heap x_1 also speaks, by the slope C_21 / C_11": blend(
                r, m[:, 1].expand_as(r)
            ),
            "your slope is upside down: it is C_21 / C_11": blend(r, m[:, 1] + first / cross * distance),
            "your slope divides by C_22: what is *seen* stands below, C_21 / C_11": blend(
                r, m[:, 1] + cross / second * distance
            ),
            "your slope is not divided by C_11": blend(r, m[:, 1] + cross * distance),
            "your slope has its sign flipped": blend(r, m[:, 1] - cross / first * distance),
            "you forgot to take m_k1 away from x_1": blend(r, m[:, 1] + cross / first * x[:, None]),
            "you took the most responsible heap alone: all heaps speak, by their responsibilities": lines.gather(
                1, best
            )[:, 0],
            "the weights of the heaps were found with C_22: x_1 has the variance C_11": blend(by_second, lines),
            "the factor 1/sqrt(C_11) is missing in the weights of the heaps": blend(unscaled, lines),
            "P(heap k | x_1) lacks the weights w_k it starts from": blend(unweighted, lines),
        },
        what="your conditional mean",
        why="each heap draws its own straight line, and the heaps are weighed by what they say of x_1",
    )


@exercise
def merging_log_snr(answer: Callable) -> Verdict:
    """Exercise 2.5: (a, s) -> the log-SNR at which two equal heaps, N(-a, s^2) and N(a, s^2), become one hill."""
    a = torch.tensor([1.0, 2.0, 0.8, 3.0], dtype=torch.float64)
    s = torch.tensor([0.3, 1.2, 0.5, 0.1], dtype=torch.float64)
    gap = a**2 - s**2
    return compare(
        ask(answer, a, s),
        -torch.log(gap),
        mistakes={
            "your sign is flipped: heaps far apart survive more noise, down to a lower log-SNR": torch.log(gap),
            "you left out the heaps' own width: at time t the variance of a heap is alpha^2 s^2 + sigma^2": -torch.log(
                a**2
            ),
            "you added the variances on the wrong side: a^2 - s^2, not a^2 + s^2": -torch.log(a**2 + s**2),
            "you subtracted the deviation from the distance: variances add, so a^2 - s^2": -2 * torch.log(a - s),
            "that is the SNR, alpha^2 / sigma^2: take its logarithm": 1 / gap,
            "that is log(alpha / sigma): the log-SNR is twice as large, log(alpha^2 / sigma^2)": -0.5 * torch.log(gap),
            "you let the whole distance 2 a stand against one deviation": -torch.log(4 * a**2 - s**2),
        },
        what="your log-SNR",
        why="the hills merge when alpha a = sqrt(alpha^2 s^2 + sigma^2): at noisier times p_t has one summit",
    )


def _line_of_heaps() -> tuple[Tensor, Tensor, Tensor]:
    """Three heaps on a line: weights, means and variances."""
    w = torch.tensor([0.6, 0.1, 0.3], dtype=torch.float64)
    m = torch.tensor([-0.8, 0.4, 1.5], dtype=torch.float64)
    v = torch.tensor([0.25, 1.8, 0.6], dtype=torch.float64)
    return w, m, v
