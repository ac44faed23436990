"""Checks of lesson 11, "Diffusion IV: steering".

Symbols as in the lesson: x_t = alpha x_0 + sigma eps; D is the denoiser, V = (sigma^2 / alpha) dD/dx_t the covariance
of x_0 given x_t; w is the scale of guidance; p(x | y) = N(m, s^2) and p(x) = N(m_0, s_0^2) on a line; an observation is
b = A x_0 + tau n.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from coursekit.diffusion.schedules import LinearVP
from coursekit.exercises import Verdict, ask, compare, correct, exercise, first_refusal, refuse

__all__ = ["ancestral_deviation", "auto_scale", "carried_slope", "guided_estimate", "moment_matched"]

S, S_0 = 0.5, 1.0  # deviations of the class and of all data in exercise 11.5
LIMIT = math.sqrt(28 / 256)  # of ancestral sampling with w = 2: the integral in the lesson's solution


@exercise
def guided_estimate(answer: Callable) -> Verdict:
    """Exercise 11.1: (x_t, alpha, sigma, w, m, s, m_0, s_0) -> the guided estimate of x_0 for two Gaussians."""
    x = torch.linspace(-2, 3, 6, dtype=torch.float64)
    verdicts = []
    for alpha, sigma, w in ((0.8, 0.6, 3.0), (0.3, 0.9, 2.0), (0.9, 0.2, 1.0), (0.6, 0.8, 0.0)):
        given = (x, alpha, sigma, w, 1.2, 0.4, -0.3, 1.1)
        what = f"your estimate for w = {w:g}, alpha = {alpha}, sigma = {sigma}"
        verdicts.append(compare(ask(answer, *given), _guided(*given), _wrong_guided(*given), what))
    return first_refusal(
        *verdicts,
        praise="w = 1 gives the class's denoiser, w = 0 the plain one, w > 1 goes on in the same direction; no law of "
        "x_0 has this denoiser at all noise levels",
    )


@exercise
def carried_slope(answer: Callable) -> Verdict:
    """Exercise 11.2: (x_t, alpha, sigma, alpha_there, sigma_there, slope) -> what the classifier adds to D(x_t)."""
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)
    verdicts = []
    for alpha, sigma, c in ((0.6, 0.4, 1.4), (0.2, 0.8, 1.2), (0.9, 0.1, 1.1)):
        given = (x, alpha, sigma, c * alpha, c * sigma, _slope)
        what = f"your correction at alpha = {alpha}, sigma = {sigma}"
        wanted = (c * sigma) ** 2 / (c * alpha) * _slope(c * x)
        verdicts.append(compare(ask(answer, *given), wanted, _wrong_carried(x, alpha, sigma, c), what))
    return first_refusal(
        *verdicts,
        praise="rescale the state, ask, multiply by sigma'^2 / alpha': all on the classifier's own axis (11.4)",
    )


@exercise
def moment_matched(answer: Callable) -> Verdict:
    """Exercise 11.3: (D (N, 3), slope (N, 3, 3), alpha, sigma, A (2, 3), b (N, 2), tau) -> (11.18), (N, 3)."""
    generator = torch.Generator().manual_seed(11)
    root = torch.randn(4, 3, 3, generator=generator, dtype=torch.float64)
    D = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    b = torch.randn(4, 2, generator=generator, dtype=torch.float64)
    A = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, -1.0]], dtype=torch.float64)
    alpha, sigma, tau = 0.7, 0.4, 0.3
    slope = root @ root.mT * alpha / sigma**2
    value = ask(_with_shapes(answer), D, slope, alpha, sigma, A, b, tau)
    if torch.as_tensor(value).shape == b.shape:
        return refuse("that has the shape of the observation: the gain leads back to all coordinates of x_0, by V A^T")
    return compare(
        value,
        _matched(D, root @ root.mT, A, b, tau**2),
        _wrong_matched(D, slope, alpha, sigma, A, b, tau),
        what="your estimate",
        why="a surprise in b moves every coordinate that hangs together with what was seen, as far as V says",
    )


@exercise
def auto_scale(answer: Callable) -> Verdict:
    """Exercise 11.4: (s^2, e^2, e'^2) -> the scale of auto-guidance that draws the right width."""
    verdicts = []
    for s2, e2, e2_worse in ((1.0, 0.5, 1.0), (0.0225, 0.01125, 0.0225), (2.0, 0.1, 0.5), (0.3, 0.3, 2.0)):
        gap, log = math.log((s2 + e2_worse) / (s2 + e2)), math.log
        wanted = log((s2 + e2_worse) / s2) / gap
        mistakes = {
            "that is the answer for small errors, e'^2 / (e'^2 - e^2): it is the logarithms of the deviations that "
            "are mixed": e2_worse / (e2_worse - e2),
            "that mixes precisions, as the tilted law does: what is drawn follows (11.10)": (
                (1 / s2 - 1 / (s2 + e2_worse)) / (1 / (s2 + e2) - 1 / (s2 + e2_worse))
            ),
            "better and worse are exchanged: w multiplies the better model": 1 - wanted,
            "your w counts from the better model, D + w (D - D'): in the lesson it counts from the worse one": wanted
            - 1,
            "the errors come as variances, e^2 and e'^2: you squared them again": (
                log(1 + e2_worse**2 / s2) / log((s2 + e2_worse**2) / (s2 + e2**2))
            ),
            "you compared the errors without the data's variance: the models see s^2 + e^2 and s^2 + e'^2": (
                log(e2_worse / s2) / log(e2_worse / e2)
            ),
        }
        what = f"your scale for s^2 = {s2}, e^2 = {e2}, e'^2 = {e2_worse}"
        verdicts.append(compare(float(ask(answer, s2, e2, e2_worse)), wanted, mistakes, what))
    return first_refusal(
        *verdicts,
        praise="for Gaussians one scale cancels the error completely; for small errors it is e'^2 / (e'^2 - e^2)",
    )


@exercise
def ancestral_deviation(answer: Callable, limit: float) -> Verdict:
    """Exercise 11.5: (w, T) -> the deviation that guided ancestral sampling draws, and its limit for w = 2.

    The class is N(m, 0.25), all data are N(m_0, 1), alpha and sigma are those of LinearVP at t = k/T.
    """
    for w, T in ((2.0, 50), (3.0, 200), (1.0, 20)):
        verdict = compare(
            float(ask(answer, w, T)),
            _deviation(w, T),
            _wrong_deviations(w, T),
            f"your deviation for w = {w:g}, T = {T}",
        )
        if not verdict.passed:
            return verdict
    limit = float(limit)
    for meaning, wrong in {
        "is that of the tilted law": (2 / S**2 - 1 / S_0**2) ** -0.5,
        "is that of the ODE, s^w s_0^(1 - w)": S**2 / S_0,
        "is a variance: the deviation is its root": LIMIT**2,
    }.items():
        if abs(limit / wrong - 1) < 0.01:
            return refuse(f"your deviations are right, but the limit that you give {meaning}")
    if not abs(limit / LIMIT - 1) < 0.01:
        return refuse(
            f"your deviations are right, but {limit:.4g} is not the limit to 1 %: how does the distance "
            "to the limit shrink when T doubles?"
        )
    return correct(
        "0.331: wider than what the ODE draws, 0.250, narrower than the tilted law, 0.378: one guided score, three laws"
    )


def _denoised(x: Tensor, alpha: float, sigma: float, mean: float, deviation: float) -> Tensor:
    """E[x_0 | x_t] for data N(mean, deviation^2)."""
    variance = deviation**2
    return mean + alpha * variance / (alpha**2 * variance + sigma**2) * (x - alpha * mean)


def _guided(x: Tensor, alpha: float, sigma: float, w: float, m: float, s: float, m_0: float, s_0: float) -> Tensor:
    plain, of_class = _denoised(x, alpha, sigma, m_0, s_0), _denoised(x, alpha, sigma, m, s)
    return plain + w * (of_class - plain)


def _wrong_guided(
    x: Tensor, alpha: float, sigma: float, w: float, m: float, s: float, m_0: float, s_0: float
) -> dict[str, Tensor]:
    """What common mistakes would give instead of `_guided`."""
    plain, of_class = _denoised(x, alpha, sigma, m_0, s_0), _denoised(x, alpha, sigma, m, s)
    guided = plain + w * (of_class - plain)
    precision = w / s**2 + (1 - w) / s_0**2
    mean = (w * m / s**2 + (1 - w) * m_0 / s_0**2) / precision
    return {
        "you counted w from the class's denoiser, as Ho and Salimans do: here w = 1 is the class itself": (
            of_class + w * (of_class - plain)
        ),
        "that is the denoiser of the tilted law (11.7): tilting and adding noise do not commute, guidance tilts the "
        "noisy densities": _denoised(x, alpha, sigma, mean, precision**-0.5),
        "you added w times the class's estimate, not w times the difference": plain + w * of_class,
        "class and data are exchanged": of_class + w * (plain - of_class),
        "that is the guided score: an estimate of x_0 is wanted, (x_t + sigma^2 score) / alpha": (
            (alpha * guided - x) / sigma**2
        ),
        "alpha is missing in front of a variance: Cov(x_0, x_t) = alpha s^2": _mixed(
            w, plain + (1 / alpha - 1) * (plain - m_0), of_class + (1 / alpha - 1) * (of_class - m)
        ),
        "you put a deviation where its square, the variance, belongs": _mixed(
            w, _denoised(x, alpha, sigma, m_0, s_0**0.5), _denoised(x, alpha, sigma, m, s**0.5)
        ),
        "the mean of x_t is alpha m: an alpha is missing in x_t - alpha m": _mixed(
            w,
            _denoised(x + (alpha - 1) * m_0, alpha, sigma, m_0, s_0),
            _denoised(x + (alpha - 1) * m, alpha, sigma, m, s),
        ),
    }


def _mixed(w: float, plain: Tensor, of_class: Tensor) -> Tensor:
    return (1 - w) * plain + w * of_class


def _slope(x: Tensor) -> Tensor:
    """A gradient of log P(y | x') that is not linear in x'."""
    return torch.sigmoid(1 - 2 * x)


def _wrong_carried(x: Tensor, alpha: float, sigma: float, c: float) -> dict[str, Tensor]:
    factor = sigma**2 / alpha
    return {
        "you asked the classifier about x_t itself: its own pictures of this log-SNR are larger by sigma'/sigma": (
            c * factor * _slope(x)
        ),
        "you neither rescaled the state nor the slope: that is (11.2) with a classifier of another axis": factor
        * _slope(x),
        "the chain rule is missing: the slope by x' must be multiplied by dx'/dx_t = sigma'/sigma": factor
        * _slope(c * x),
        "you applied the chain rule twice: sigma'^2 / alpha' holds it already": c**2 * factor * _slope(c * x),
        "you divided by sigma'/sigma where the chain rule multiplies": factor / c * _slope(c * x),
        "you rescaled the state the wrong way round: multiply by sigma'/sigma": c * factor * _slope(x / c),
        "you took sigma'/alpha': a sigma is lost": sigma / alpha * _slope(c * x),
        "that is the slope alone: Tweedie's factor sigma'^2 / alpha' is missing": _slope(c * x),
    }


def _with_shapes(answer: Callable) -> Callable:
    """The same function, with shapes in the message where matrices do not fit."""

    def asked(*given: object) -> object:
        try:
            return answer(*given)
        except RuntimeError as error:
            raise RuntimeError(
                f"{error}. For batches the residual is a column, (b - D @ A.T)[..., None] of shape (N, M, 1); "
                "V @ A.T @ column is (N, d, 1), and [..., 0] makes it (N, d) again"
            ) from None

    return asked if callable(answer) else answer


def _matched(D: Tensor, V: Tensor, A: Tensor, b: Tensor, noise: float | Tensor, inner: Tensor | None = None) -> Tensor:
    """D + V A^T (A `inner` A^T + noise I)^{-1} (b - A D), with `inner` = V if it is None."""
    bracket = A @ (V if inner is None else inner) @ A.T + noise * torch.eye(len(A), dtype=A.dtype)
    return D + (V @ A.T @ torch.linalg.solve(bracket, (b - D @ A.T)[..., None]))[..., 0]


def _wrong_matched(
    D: Tensor, slope: Tensor, alpha: float, sigma: float, A: Tensor, b: Tensor, tau: float
) -> dict[str, Tensor]:
    V, one = sigma**2 / alpha * slope, torch.eye(3, dtype=D.dtype)
    return {
        "you took the slope itself for the covariance: V = (sigma^2 / alpha) slope": _matched(D, slope, A, b, tau**2),
        "you took sigma / alpha times the slope: V = (sigma^2 / alpha) slope": _matched(
            D, sigma / alpha * slope, A, b, tau**2
        ),
        "1/alpha is missing: V = (sigma^2 / alpha) slope": _matched(D, sigma**2 * slope, A, b, tau**2),
        "you replaced V by the identity: then hidden and seen do not hang together": _matched(D, one, A, b, tau**2),
        "you turned the factor round: V = (sigma^2 / alpha) slope": _matched(D, alpha / sigma**2 * slope, A, b, tau**2),
        "you added tau where tau^2 belongs": _matched(D, V, A, b, tau),
        "the noise of the observation, tau^2, is missing": _matched(D, V, A, b, 0.0),
        "the bracket lacks A V A^T: with tau^2 alone, the mean D is taken for x_0 itself": _matched(
            D, V, A, b, tau**2, 0 * V
        ),
        "that is projection: V is missing, so what is hidden does not move with what was seen": D
        + (A.T @ torch.linalg.solve(A @ A.T, (b - D @ A.T)[..., None]))[..., 0],
        "V is missing on the left of the bracket": D
        + (A.T @ torch.linalg.solve(A @ V @ A.T + tau**2 * torch.eye(2, dtype=D.dtype), (b - D @ A.T)[..., None]))[
            ..., 0
        ],
        "V is missing inside the bracket": _matched(D, V, A, b, tau**2, one),
        "the residual has the wrong sign: it is b - A D": 2 * D - _matched(D, V, A, b, tau**2),
        "you returned the correction without D": _matched(D, V, A, b, tau**2) - D,
    }


def _slopes(alpha: Tensor, sigma: Tensor, *deviations: float) -> tuple[Tensor, Tensor]:
    """The slope of the best guess for the class and for all data, of these deviations."""
    of_class, plain = (alpha * d**2 / (alpha**2 * d**2 + sigma**2) for d in deviations or (S, S_0))
    return of_class, plain


def _deviation(
    w: float,
    T: int,
    change: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda slope, plain, of_class: slope,
    slopes: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = _slopes,
    noise: Callable[[Tensor, Tensor], Tensor] = lambda beta, shrink: beta * shrink,
) -> float:
    """The deviation of x_0 after T ancestral steps from N(0, 1) with the guided denoiser of two Gaussians."""
    t = torch.arange(T + 1, dtype=torch.float64) / T
    alpha, sigma = LinearVP().alpha(t), LinearVP().sigma(t)
    variance = torch.ones((), dtype=torch.float64)
    for k in range(T, 0, -1):
        of_class, plain = slopes(alpha[k], sigma[k])
        slope = change(plain + w * (of_class - plain), plain, of_class)
        keep = alpha[k] / alpha[k - 1]
        beta, shrink = sigma[k] ** 2 - keep**2 * sigma[k - 1] ** 2, sigma[k - 1] ** 2 / sigma[k] ** 2
        factor = alpha[k - 1] * beta / sigma[k] ** 2 * slope + keep * shrink
        variance = factor**2 * variance + noise(beta, shrink)
    return float(variance.sqrt())


def _wrong_deviations(w: float, T: int) -> dict[str, float]:
    wanted = _deviation(w, T)
    return {
        "that is a variance: its root is wanted": wanted**2,
        "you forgot the noise v_k that each step adds": _deviation(w, T, noise=lambda beta, shrink: 0 * beta),
        "you added the noise beta_k of a forward step: a step back adds v_k": _deviation(
            w, T, noise=lambda beta, shrink: beta
        ),
        "you put deviations where variances belong: the slope has s^2 and s_0^2": _deviation(
            w, T, slopes=lambda *given: _slopes(*given, S**0.5, S_0**0.5)
        ),
        "that follows the denoiser of the tilted law, a true posterior: guidance mixes the two denoisers instead": (
            _deviation(1.0, T, slopes=lambda *given: _slopes(*given, (w / S**2 + (1 - w) / S_0**2) ** -0.5, S_0))
        ),
        "that is the class alone, without guidance": _deviation(1.0, T),
        "you counted w from the class's denoiser: here w = 1 is the class itself": _deviation(w + 1, T),
        "class and data are exchanged: w multiplies the class's estimate": _deviation(1 - w, T),
        "you added w times the class's slope, not w times the difference": _deviation(
            w, T, lambda slope, plain, of_class: plain + w * of_class
        ),
        "that is what the ODE draws, s^w s_0^(1 - w)": S**w * S_0 ** (1 - w),
        "that is the tilted law's": (w / S**2 + (1 - w) / S_0**2) ** -0.5,
    }
