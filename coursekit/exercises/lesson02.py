"""Checks of lesson 02, "Gaussian mixtures".

Symbols as in the lesson: heap k = 1..K has the weight w_k, the mean m_k and the covariance C_k (on a line, the
variance v_k); r_nk = P(heap k | x_n) are responsibilities, (N, K); N_k is the sum of r_nk over the points.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from coursekit.exercises import Verdict, ask, compare, exercise, refuse

__all__ = ["bic", "merging_log_snr", "responsibilities", "spherical_variances", "towards_each_heap"]


@exercise
def responsibilities(answer: Callable) -> Verdict:
    """Exercise 2.1: (x (N,), w (K,), m (K,), v (K,)) -> P(heap k | x_n), (N, K), also far from every heap."""
    w, m, v = _line_of_heaps()
    x = torch.tensor([-1.4, -0.2, 0.5, 1.3, 2.2], dtype=torch.float64)
    r = ask(answer, x, w, m, v)
    if torch.as_tensor(r).shape == (len(w), len(x)):
        return refuse("your table is lying on its side: one row for each point, one column for each heap")
    if _positive_rows_without_a_sum(torch.as_tensor(r), (len(x), len(w))):
        return refuse("your rows do not sum to one: divide w_k N(x_n; m_k, v_k) by its sum over the heaps")
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


def _positive_rows_without_a_sum(r: Tensor, shape: tuple[int, int]) -> bool:
    """Whether a table of positive numbers was never divided by a sum, neither of its rows nor of its columns."""
    if r.shape != shape or not bool((r > 0).all()):
        return False
    return not any(torch.allclose(r.sum(dim), torch.ones_like(r.sum(dim)), atol=1e-3) for dim in (0, 1))


def _wrong_responsibilities(x: Tensor, w: Tensor, m: Tensor, v: Tensor) -> dict[str, Tensor]:
    """What each slip in Bayes' rule leads to."""
    right, square = _log_joint(x, w, m, v), (x[:, None] - m) ** 2
    rows = {
        "the weights w_k are missing: a heap that holds more points deserves more": right - w.log(),
        "the factor 1/sqrt(v_k) is missing: it does not cancel, since the heaps differ in width": right + 0.5 * v.log(),
        "you divided by v_k before the exponential: the density has 1/sqrt(v_k) there": right - 0.5 * v.log(),
        "the factor 1/2 in the exponent is missing": right - 0.5 * square / v,
        "you divided the squared distance by the standard deviation: divide by the variance v_k": right
        + 0.5 * square * (1 / v - 1 / v.sqrt()),
        "you took v for standard deviations: they are variances already": w.log() - v.log() - 0.5 * square / v**2,
    }
    return {slip: wrong.softmax(1) for slip, wrong in rows.items()} | {
        "you normalised over the points: each *row* must sum to one, a point belongs to one heap": right.softmax(0),
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
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(12, 3, generator=generator, dtype=torch.float64) + 1
    r = torch.randn(12, 4, generator=generator, dtype=torch.float64).softmax(1)
    counts = r.sum(0)
    means = r.T @ x / counts[:, None]
    squares = (x[:, None] - means).square().sum(2)  # (N, K)
    total, dims = (r * squares).sum(0), x.shape[1]
    about_zero = (r * x.square().sum(1, keepdim=True)).sum(0)
    about_mean = (r * (x - x.mean(0)).square().sum(1, keepdim=True)).sum(0)
    best = torch.nn.functional.one_hot(r.argmax(1), 4).to(r)  # each point wholly in one heap; none stays empty
    best_means = best.T @ x / best.sum(0)[:, None]
    hard = (best * (x[:, None] - best_means).square().sum(2)).sum(0) / (best.sum(0) * dims)
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
            "those are standard deviations: the square root is too much": (total / (counts * dims)).sqrt(),
            "you squared the responsibilities": (r**2 * squares).sum(0) / (counts * dims),
            "you measured from 0: take each heap's mean away first": about_zero / (counts * dims),
            "you measured from the mean of all points: each heap has its own mean": about_mean / (counts * dims),
            "you gave each point wholly to its most responsible heap: it counts in every heap, by r_nk": hard,
            "the distance is not squared": (r * squares.sqrt()).sum(0) / (counts * dims),
            "you left the responsibilities out: a point counts in a heap by r_nk": squares.mean(0) / dims,
        },
        what="your variance",
        why="the mean squared distance, weighted by responsibility, per coordinate",
    )


@exercise
def bic(answer: Callable) -> Verdict:
    """Exercise 2.3: (log_likelihood, N, K, D) -> BIC of a mixture with full covariances; the smaller, the better.

    All four are handed over as tensors without dimensions, so that `torch.log` works as well as `math.log`.
    """
    cases = ((-1234.5, 500, 3, 2), (-80.25, 60, 1, 4), (310.0, 9000, 5, 7))
    value = _one_by_one(answer, cases)

    def wrong(
        parameters: Callable = _free, sign: float = -2.0, price: Callable = math.log, per: Callable = lambda N: 1.0
    ) -> Tensor:
        scores = [sign * ll * per(N) + parameters(K, D) * price(N) for ll, N, K, D in cases]
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
            "you took the logarithm to base 2: nats want the natural one": wrong(price=math.log2),
            "you multiplied the log-likelihood by N: it is the sum over all points already": wrong(per=float),
            "you divided the log-likelihood by N: BIC wants the sum over all points": wrong(per=lambda N: 1 / N),
        },
        what="your BIC",
        why="-2 log-likelihood + P log N, with P = K D (D + 1) / 2 + K D + K - 1",
    )


def _free(K: int, D: int) -> int:
    """Free parameters of K full Gaussians in D dimensions and of their weights."""
    return K * D * (D + 1) // 2 + K * D + K - 1


def _one_by_one(answer: Callable, cases: tuple[tuple[float, ...], ...]) -> list[Tensor]:
    """Ask once for each case, with numbers as tensors without dimensions: whole numbers stay whole."""
    kinds = {int: torch.int64, float: torch.float64}
    return [
        torch.as_tensor(ask(answer, *(torch.tensor(value, dtype=kinds[type(value)]) for value in case)))
        for case in cases
    ]


@exercise
def towards_each_heap(answer: Callable) -> Verdict:
    """Exercise 2.4: (x (N,), w (K,), m (K,), v (K,), alpha, sigma) -> the derivative of log P(z = k | x_t), (N, K)."""
    w, m, v = _line_of_heaps()
    alpha, sigma = torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    x = torch.tensor([-1.4, -0.2, 0.5, 1.3, 2.2], dtype=torch.float64)
    value = ask(answer, x, w, m, v, alpha, sigma)
    if torch.as_tensor(value).shape == (len(w), len(x)):
        return refuse("your table is lying on its side: one row for each point, one column for each heap")
    if torch.as_tensor(value).shape == x.shape:
        return refuse("you have one number for each point: each of the K heaps has its own direction, (N, K)")
    verdict = compare(
        value,
        _towards(x, w, m, v, alpha, sigma),
        mistakes=_wrong_directions(x, w, m, v, alpha, sigma),
        what="your table of directions",
    )
    if not verdict.passed:
        return verdict
    far = torch.tensor([90.0, -300.0], dtype=torch.float64)
    value = torch.as_tensor(ask(answer, far, w, m, v, alpha, sigma))
    if not value.isfinite().all():
        return refuse(
            "right near the heaps, but at x = 90 every density underflows to 0, and 0/0 is no number: "
            "find the responsibilities with torch.softmax, from logarithms"
        )
    return compare(
        value,
        _towards(far, w, m, v, alpha, sigma),
        what="your table at x = 90",
        why="the pull of heap k minus the mean pull of all heaps, which is the score",
    )


def _towards(
    x: Tensor, w: Tensor, m: Tensor, v: Tensor, alpha: Tensor, sigma: Tensor, r: Tensor | None = None
) -> Tensor:
    """The derivative of log P(z = k | x_t), (N, K); `r` in place of the responsibilities of the noisy mixture."""
    noisy = alpha**2 * v + sigma**2
    pulls = (alpha * m - x[:, None]) / noisy
    r = _log_joint(x, w, alpha * m, noisy).softmax(1) if r is None else r
    return pulls - (r * pulls).sum(1, keepdim=True)


def _wrong_directions(x: Tensor, w: Tensor, m: Tensor, v: Tensor, alpha: Tensor, sigma: Tensor) -> dict[str, Tensor]:
    """What each slip in the derivative of Bayes' rule under noise leads to."""
    right, one, none = _towards(x, w, m, v, alpha, sigma), torch.ones_like(alpha), torch.zeros_like(sigma)
    noisy = alpha**2 * v + sigma**2
    log_joint, distance = _log_joint(x, w, alpha * m, noisy), alpha * m - x[:, None]
    r, pulls = log_joint.softmax(1), distance / noisy
    score = (r * pulls).sum(1, keepdim=True)

    def blend(pulls: Tensor, r: Tensor) -> Tensor:
        return pulls - (r * pulls).sum(1, keepdim=True)

    def with_variance(wrong: Tensor) -> Tensor:
        return blend(distance / wrong, _log_joint(x, w, alpha * m, wrong).softmax(1))

    return {
        "that is the pull of each heap alone: P(z = k | x) has p_t(x) below, so take the score away": pulls,
        "that is the score of the whole mixture, for each heap: the pull of heap k is missing": score.expand_as(r),
        "you added the score: it comes from the denominator of Bayes' rule, so it is taken away": pulls + score,
        "your signs are flipped: x is pulled from where it is towards the mean, alpha m_k - x": -right,
        "that is the gradient of P(z = k | x) itself: of its logarithm it is 1 / P times that": r * right,
        "you took the mean of the pulls: the score weighs them by responsibilities": pulls - pulls.mean(1, True),
        "you weighed the pulls by w_k: at x each heap counts by its responsibility": blend(pulls, w),
        "you left out the noise: heap k now has the mean alpha m_k and the variance alpha^2 v_k + sigma^2": _towards(
            x, w, m, v, one, none
        ),
        "your means are not scaled: under noise heap k sits at alpha m_k": blend(
            (m - x[:, None]) / noisy, _log_joint(x, w, m, noisy).softmax(1)
        ),
        "alpha is missing in the variance: it is alpha^2 v_k + sigma^2": with_variance(v + sigma**2),
        "alpha is not squared in the variance: it is alpha^2 v_k + sigma^2": with_variance(alpha * v + sigma**2),
        "sigma is not squared in the variance: it is alpha^2 v_k + sigma^2": with_variance(alpha**2 * v + sigma),
        "neither alpha nor sigma is squared in the variance": with_variance(alpha * v + sigma),
        "you took v for standard deviations: they are variances already": with_variance(alpha**2 * v**2 + sigma**2),
        "the responsibilities are those of the clean mixture: use alpha m_k and alpha^2 v_k + sigma^2": blend(
            pulls, _log_joint(x, w, m, v).softmax(1)
        ),
        "the responsibilities lack the weights w_k": blend(pulls, (log_joint - w.log()).softmax(1)),
        "the responsibilities lack the factor 1/sqrt(variance)": blend(
            pulls, (log_joint + 0.5 * noisy.log()).softmax(1)
        ),
        "a pull is not divided by its variance: that is one heap's (alpha m_k - x) / variance": blend(distance, r),
        "you divided a pull by the standard deviation: divide by the variance": blend(distance / noisy.sqrt(), r),
    }


@exercise
def merging_log_snr(answer: Callable) -> Verdict:
    """Exercise 2.5: (a, s) -> the log-SNR at which two equal heaps, N(-a, s^2) and N(a, s^2), share one summit.

    Both are handed over as tensors without dimensions, so that `torch.log` works as well as `math.log`.
    """
    cases = ((1.0, 0.3), (2.0, 1.2), (0.8, 0.5), (3.0, 0.1))
    a, s = torch.tensor(cases, dtype=torch.float64).T
    gap = a**2 - s**2
    return compare(
        _one_by_one(answer, cases),
        -torch.log(gap),
        mistakes={
            "your sign is flipped: heaps far apart survive more noise, down to a lower log-SNR": torch.log(gap),
            "you left out the heaps' own width: at time t the variance of a heap is alpha^2 s^2 + sigma^2": -torch.log(
                a**2
            ),
            "you added the variances on the wrong side: a^2 - s^2, not a^2 + s^2": -torch.log(a**2 + s**2),
            "you subtracted the standard deviation from the distance: variances add, so a^2 - s^2": -2
            * torch.log(a - s),
            "the squares are missing: variances add, so a^2 - s^2": -torch.log(a - s),
            "you left s^2 unscaled: at time t the variance of a heap is alpha^2 s^2 + sigma^2": torch.log(
                (1 + s**2) / gap
            ),
            "that is the SNR, alpha^2 / sigma^2: take its logarithm": 1 / gap,
            "that is log(alpha / sigma): the log-SNR is twice as large, log(alpha^2 / sigma^2)": -0.5 * torch.log(gap),
            "you let the whole distance 2 a stand against one standard deviation": -torch.log(4 * a**2 - s**2),
        },
        what="your log-SNR",
        why="the summits merge when alpha a = sqrt(alpha^2 s^2 + sigma^2): at noisier times p_t has one summit",
    )


def _line_of_heaps() -> tuple[Tensor, Tensor, Tensor]:
    """Three heaps on a line: weights, means and variances."""
    w = torch.tensor([0.6, 0.1, 0.3], dtype=torch.float64)
    m = torch.tensor([-0.8, 0.4, 1.5], dtype=torch.float64)
    v = torch.tensor([0.25, 1.8, 0.6], dtype=torch.float64)
    return w, m, v
