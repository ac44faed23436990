"""Checks of lesson 06, "Auto-encoders and the VAE".

Symbols as in the lesson: a code z has L coordinates, the encoder gives their means m_j and variances s_j^2; tau is the
standard deviation of the decoder's noise, l_j an eigenvalue of the data's covariance; information is in nats.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from coursekit.diffusion import LinearVP
from coursekit.exercises import Verdict, ask, compare, correct, exercise, first_refusal, parts, refuse

__all__ = ["chain_bound", "importance_bound", "price_of_a_dimension", "product_of_gaussians", "rate"]

FLOAT = {"dtype": torch.float64}
LOG_2PI = math.log(2 * math.pi)
SPECTRUM = torch.tensor([4.0, 2.0, 0.8, 0.3, 0.15, 0.05], **FLOAT)  # of section 2


@exercise
def rate(answer: Callable) -> Verdict:
    """Exercise 6.1: means and log-variances (N, L) -> KL(q || N(0, I)) of each row, (N,)."""
    mean = torch.tensor([[0.5, -1.0, 2.0], [0.0, 0.3, -0.7]], **FLOAT)
    log_variance = torch.tensor([[-1.0, 0.4, -2.0], [0.0, -3.0, 0.7]], **FLOAT)
    square, variance = mean.square(), log_variance.exp()
    each = 0.5 * (square + variance - 1 - log_variance)
    return compare(
        ask(answer, mean, log_variance),
        each.sum(1),
        mistakes={
            "add up the dimensions, do not average them": each.mean(1),
            "a factor of one half is missing": 2 * each.sum(1),
            "log_variance is log s^2 already: you doubled it": (each - 0.5 * log_variance).sum(1),
            "exp(log_variance) is s^2: you squared it once more": (each + 0.5 * (variance.square() - variance)).sum(1),
            "exp(log_variance) is s^2: you took it for s, and its root for s^2": (
                each + 0.5 * (variance.sqrt() - variance)
            ).sum(1),
            "exp(log_variance) is s^2: you took log_variance for log s": (
                0.5 * (square + variance.square() - 1 - 2 * log_variance)
            ).sum(1),
            "the mean enters as its square": (each + 0.5 * (mean - square)).sum(1),
            "the mean is missing: a code far from 0 costs, however sharp it is": (each - 0.5 * square).sum(1),
            "the -1 is missing: for m = 0 and s = 1 the divergence must be 0": (each + 0.5).sum(1),
            "the sign of the logarithm is wrong: a sharp code costs more, not less": (each + log_variance).sum(1),
            "that is the divergence the other way round, KL(N(0, I) || q)": (
                0.5 * ((1 + square) / variance - 1 + log_variance)
            ).sum(1),
        },
        what="your rate",
        why="0 for the prior itself; far from 0 or sharp, a code costs",
    )


@exercise
def importance_bound(answer: Callable) -> Verdict:
    """Exercise 6.2: log-weights (K, N) -> log of the mean weight of each x, (N,)."""
    log_weights = torch.tensor([[-1.0, 0.5, 2.0], [0.0, -2.0, 1.5], [1.0, 0.0, -1.0], [-3.0, 0.2, 0.7]], **FLOAT)
    K = len(log_weights)
    wanted = log_weights.logsumexp(0) - math.log(K)
    verdict = compare(
        ask(answer, log_weights),
        wanted,
        mistakes={
            "that is the ELBO, the mean of the logarithms: average the weights first, then take the logarithm": (
                log_weights.mean(0)
            ),
            "you added the weights up: divide by their number K": log_weights.logsumexp(0),
            "take log K away, do not divide the logarithm by K": log_weights.logsumexp(0) / K,
            "the sign of log K is wrong": log_weights.logsumexp(0) + math.log(K),
            "that is the mean weight itself: its logarithm is wanted": wanted.exp(),
            "that is the largest weight alone": log_weights.max(0).values,
        },
        what="your bound",
    )
    if not verdict.passed:
        return verdict
    shift = torch.tensor([1000.0, 2000.0, 0.0], **FLOAT)  # each x has a largest weight of its own
    value = torch.as_tensor(ask(answer, log_weights - shift), **FLOAT)
    if not bool(value.isfinite().all()):
        return refuse(
            "right, but exp(-1000) is 0 in a computer, and log-weights of pictures are like that: "
            "take the largest of each x out first, as torch.logsumexp(log_weights, 0) does"
        )
    praise = "the logarithm of the mean weight, computed so that nothing underflows"
    return compare(value, wanted - shift, what="your bound for log-weights near -1000", why=praise)


@exercise
def price_of_a_dimension(answer: Callable) -> Verdict:
    """Exercise 6.3: eigenvalues (L,), tau and beta -> the rate of each dimension at the optimum, (L,)."""
    eigenvalues, tau, beta = torch.tensor([4.0, 2.0, 0.9, 0.3, 0.05], **FLOAT), 0.6, 3.0

    def price(level: float, factor: float = 0.5) -> Tensor:
        return factor * (eigenvalues / level).log().clamp(min=0)

    level = beta * tau**2
    return compare(
        ask(answer, eigenvalues, tau, beta),
        price(level),
        mistakes={
            "a dimension with l_j below beta tau^2 is dead and costs nothing: a rate is never negative": 0.5
            * (eigenvalues / level).log(),
            "beta is missing: it raises the threshold below which a dimension dies": price(tau**2),
            "the threshold is beta tau^2: you took tau for the variance": price(beta * tau),
            "beta stands beside tau^2, it is not squared with tau": price((beta * tau) ** 2),
            "a factor of one half is missing": price(level, 1.0),
            "that is in bits: take the natural logarithm": price(level, 0.5 / math.log(2)),
            "you divided by beta where tau^2 is multiplied by it": price(tau**2 / beta),
            "beta belongs inside the logarithm, beside tau^2: you multiplied by it outside": beta * price(tau**2),
            "beta belongs inside the logarithm, beside tau^2: you divided by it outside": price(tau**2) / beta,
            "that is what the loss pays, beta times the rate": beta * price(level),
            "that is the mean's part without the logarithm: what is left of l_j above the threshold": (
                eigenvalues - level
            ).clamp(min=0),
        },
        what="your rate",
        why="above the threshold half a log-ratio, below it nothing: the dimension has collapsed",
    )


@exercise
def product_of_gaussians(answer: Callable) -> Verdict:
    """Exercise 6.4: means and variances of two Gaussians -> mean and variance of their normalised product."""
    a, u = torch.tensor([0.0, 1.0, -2.0], **FLOAT), torch.tensor([1.0, 0.25, 2.0], **FLOAT)
    b, v = torch.tensor([2.0, -1.0, 0.5], **FLOAT), torch.tensor([0.5, 4.0, 2.0], **FLOAT)
    found = ask(answer, a, u, b, v)
    if isinstance(found, Tensor) and found.dim() == 2:
        found = found.unbind()  # stacked
    mean, variance = parts(found, ("the mean", "the variance"))
    wanted = 1 / (1 / u + 1 / v)
    return first_refusal(
        compare(
            variance,
            wanted,
            mistakes={
                "you returned the variance first: the mean comes first, then the variance": wanted * (a / u + b / v),
                "precisions add up, your variances do: two opinions together are sharper than each": u + v,
                "that is the precision: the variance is one over it": 1 / wanted,
                "you averaged the variances: the product is sharper than each factor": (u + v) / 2,
                "you multiplied the variances: divide by their sum": u * v,
                "that is the standard deviation": wanted.sqrt(),
                "twice too large: a mean of precisions is no sum": 2 * wanted,
            },
            what="your variance",
        ),
        compare(
            mean,
            wanted * (a / u + b / v),
            mistakes={
                "your mean does not look at the variances: the sharper factor has more weight": (a + b) / 2,
                "the weights of the means are swapped: the sharper factor has more weight": wanted * (a / v + b / u),
                "your mean is not normalised: multiply by the new variance": a / u + b / v,
                "means of a product are averaged, not multiplied": a * b,
                "means of a product are averaged, not added": a + b,
            },
            what="your mean",
        ),
        praise="precisions add up, and each mean counts by its precision",
    )


@exercise
def chain_bound(answer: Callable, smallest: int) -> Verdict:
    """Exercise 6.5: levels alpha, sigma (T,), eigenvalues (D,) -> the bound; the least T with a gap below 0.5 nats."""
    few, many = torch.tensor([0.25], **FLOAT), torch.tensor([2.0, 0.5, 0.1], **FLOAT)
    cases = [(*chain_levels(T, end), c) for T, end, c in ((2, -10, few), (5, -1, few), (40, -10, many))]
    found = [torch.as_tensor(ask(answer, *case)) for case in cases]
    if any(value.numel() != 1 for value in found):
        return refuse("the bound is one number: add up the coordinates")
    values = torch.tensor([float(value) for value in found], **FLOAT)
    kinds = {
        "you left out the last level: -KL(q(x_T | x_0) || N(0, 1)) belongs to the bound": {"last": False},
        "a term weighs half of the step in SNR: the half is missing": {"half": 1.0},
        "each step is weighed by the error at its noisier end, mmse_k: you took mmse_{k-1}": {"noisy": False},
        "the reconstruction is -log(2 pi e mmse_1) / 2: the e is missing, half a nat for each coordinate": {"e": False},
        "the best variance of the reconstruction is mmse_1: you took 1": {"best": False},
        "mmse_k is the posterior's variance, l sigma^2 / (alpha^2 l + sigma^2): you took the prior's, l": {
            "posterior": False
        },
        "the sum is taken away: each term is a divergence, and divergences cost": {"half": -0.5},
    }
    wanted = _bounds(cases)
    verdict = compare(
        values,
        wanted,
        mistakes={
            **{message: _bounds(cases, **kind) for message, kind in kinds.items()},
            "add up the coordinates, do not average them": wanted / torch.tensor([len(c) for *_, c in cases], **FLOAT),
            "that is the exact mean log-density, minus the entropy: the bound lies below it": torch.tensor(
                [_ceiling(c) for *_, c in cases], **FLOAT
            ),
            "that is the negative of the bound": -wanted,
        },
        what="your bound",
        rtol=1e-3,
        atol=1e-3,
    )
    if not verdict.passed:
        return verdict
    top = _ceiling(SPECTRUM)
    best = next(T for T in range(2, 10_000) if top - gaussian_chain_bound(*chain_levels(T), SPECTRUM) < 0.5)
    if not isinstance(smallest, int | float | Tensor) or float(smallest) != int(smallest):
        return refuse("your bound is right, but smallest_T should be a whole number")
    if smallest < best:
        return refuse("your bound is right, but at smallest_T the gap is still 0.5 nats or more")
    if smallest > best:
        return refuse("your bound is right, and at smallest_T the gap is below 0.5 nats, but a smaller T does it too")
    return correct("a fixed width costs little if the way to the noise has many levels")


def chain_levels(T: int, end: float = -10.0) -> tuple[Tensor, Tensor]:
    """alpha and sigma of the levels k = 1..T, equally spaced in log-SNR from 8 to the end, (T,) each."""
    t = LinearVP().time(torch.linspace(8, end, T, **FLOAT))
    return LinearVP().alpha(t), LinearVP().sigma(t)


def gaussian_chain_bound(
    alpha: Tensor,
    sigma: Tensor,
    c: Tensor,
    last: bool = True,
    half: float = 0.5,
    noisy: bool = True,
    best: bool = True,
    posterior: bool = True,
    e: bool = True,
) -> float:
    """The bound of exercise 6.5 for eigenvalues c (D,), and what becomes of it by each mistake."""
    alpha, sigma = alpha[:, None], sigma[:, None]
    snr = (alpha / sigma).square()
    mmse = c * sigma**2 / (alpha**2 * c + sigma**2) if posterior else c.expand(len(alpha), -1)
    end = 0.5 * (alpha[-1] ** 2 * c + sigma[-1] ** 2 - 1) - sigma[-1].log() if last else torch.zeros((), **FLOAT)
    steps = half * ((snr[:-1] - snr[1:]) * (mmse[1:] if noisy else mmse[:-1])).sum(0)
    variance = mmse[0] if best else torch.ones_like(mmse[0])
    squares = mmse[0] / variance if e else torch.zeros_like(variance)
    return float((-0.5 * (LOG_2PI + variance.log() + squares) - steps - end).sum())


def _bounds(cases: list[tuple[Tensor, Tensor, Tensor]], **kind: float) -> Tensor:
    return torch.tensor([gaussian_chain_bound(*case, **kind) for case in cases], **FLOAT)


def _ceiling(c: Tensor) -> float:
    """The mean log-density of N(0, diag(c)) under itself."""
    return float(-0.5 * (LOG_2PI + 1 + c.log()).sum())
