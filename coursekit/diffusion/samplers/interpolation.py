r"""How multi-step samplers guess the denoiser between two noise levels from what it said at others.

With r = alpha / sigma the probability-flow ODE is d(x / sigma) / dr = D, so that a step is exactly

    x_{i+1} = (sigma_{i+1} / sigma_i) x_i + (alpha_{i+1} - alpha_i sigma_{i+1} / sigma_i) M,

M the mean of D over r from r_i to r_{i+1}; with M = D_i it is the step of DDIM. A multi-step sampler takes the
polynomial through several estimates D_j as a function of a coordinate u(r), and so M = sum_j w_j D_j with
sum_j w_j = 1. Which coordinate? One in which the grid's steps are even, since a polynomial must not be followed much
farther than its nodes lie apart:

    log_snr  u = log r, of DPM-Solver++ and UniPC. It is -infinity for pure noise: such a node says nothing, two steps
             fall back to first order, and the global order suffers on grids that are dense there;
    angle    u = phi = arccot r, finite at both ends. Levels in equal steps of log r crowd at both ends of it.

`evenest` picks one of the two for a path: the angle for "uniform" and "angle", log r for "karras" and "log-snr".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from coursekit.diffusion.grids import Path

__all__ = ["Coordinate", "angle", "evenest", "log_snr", "mean_weights"]

Coordinate = Callable[[np.ndarray], np.ndarray]
"""r = alpha / sigma -> u, monotone, of the same shape."""

_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(32)


def log_snr(r: np.ndarray) -> np.ndarray:
    """Log r, half the log-SNR; -infinity for pure noise."""
    with np.errstate(divide="ignore"):
        return np.log(r)


def angle(r: np.ndarray) -> np.ndarray:
    """Arccot r = atan2(sigma, alpha)."""
    return np.arctan2(1.0, r)


def evenest(path: Path) -> Coordinate:
    """`angle` or `log_snr`: the one in which the path's steps grow least, a node at infinity counted as a doubling.

    Example:
        >>> from coursekit.diffusion import Rectified, time_grid
        >>> path = Path.along(Rectified(), time_grid(Rectified(), 10, "karras"))
        >>> evenest(path).__name__
        'log_snr'
    """
    r = np.divide(path.alpha[:-1], path.sigma[:-1])

    def growth(coordinate: Coordinate) -> float:
        u = coordinate(r)
        steps = np.abs(np.diff(u[np.isfinite(u)]))
        return float((steps[1:] / steps[:-1]).max(initial=1.0 if np.isfinite(u).all() else 2.0))

    return min((angle, log_snr), key=growth)


def mean_weights(path: Path, i: int, nodes: Sequence[int], coordinate: Coordinate) -> list[float]:
    """The weights w_j of D at the levels `nodes`, i among them, in the mean of D over the step from i to i + 1.

    Of two nodes, D at the middle of the step in u: the rule of DPM-Solver++(2M), arXiv 2211.01095, and of UniPC,
    arXiv 2302.04867. Of more, the exact mean of the polynomial, by quadrature. A node where u is infinite has weight 0;
    if it is i itself, D_i alone counts. The last of three nodes or more has weight 0 too if otherwise the |w_j| would
    add up to more than 5.5, one and a half times what they do on short equal steps: by so much would errors of D grow.
    """
    r = {j: path.alpha[j] / path.sigma[j] for j in {*nodes, i, i + 1}}
    u = {j: float(coordinate(r[j])) for j in r}
    finite = [j for j in nodes if np.isfinite(u[j])] if np.isfinite(u[i]) else [i]
    if len(finite) == 1:
        found = {i: 1.0}
    elif len(finite) == 2:
        a, b = finite
        share = ((u[i] + u[i + 1]) / 2 - u[a]) / (u[b] - u[a])
        found = {a: 1 - share, b: share}
    else:
        found = _exact_weights(r[i], r[i + 1], {j: u[j] for j in finite}, coordinate)
    if len(finite) > 2 and sum(map(abs, found.values())) > 5.5:
        return [*mean_weights(path, i, nodes[:-1], coordinate), 0.0]
    return [found.get(j, 0.0) for j in nodes]


def _exact_weights(first: float, last: float, u: dict[int, float], coordinate: Coordinate) -> dict[int, float]:
    """Means of Lagrange's polynomials over r, by Gauss and Legendre in arsinh r, in which nothing is steep."""
    ends = np.arcsinh([first, last])
    s = ends.mean() + (ends[1] - ends[0]) / 2 * _POINTS
    measure = np.cosh(s) * _WEIGHTS
    at = coordinate(np.sinh(s))
    return {
        j: float(np.prod([(at - u[k]) / (u[j] - u[k]) for k in u if k != j], axis=0) @ measure / measure.sum())
        for j in u
    }
