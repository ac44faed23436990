r"""Ordinary differential equations for a batch in which every sample has its own time and its own step.

    dx/ds = f(x, s),    x (N, ...),    s (N,).

An embedded Runge-Kutta pair forms two results from the same slopes, of orders p and p - 1. The first one is kept, and
their difference e says how large the step h may be: with the scaled error

    r = RMS_d( e_d / (atol + rtol max(|x_d|, |x'_d|)) )

of one sample, a step with r <= 1 is accepted and the next one is 0.9 h r^(-1/p), at most ten times longer or five times
shorter. Denoisers take one time per sample, so s, h, r and the verdict are vectors (N,): what becomes of a sample does
not depend on its batch mates, and a sample that has arrived stays where it is. (`torchdiffeq`, which `coursekit.flows`
uses for velocities that share a time, chooses one step for the whole batch.) The last slope of a step is the first of
the next. Once per step the host looks whether all have arrived, so an accelerator is waited for.

References: Dormand and Prince, "A family of embedded Runge-Kutta formulae", 1980, J. Comput. Appl. Math. 6, table 2;
Bogacki and Shampine, "A 3(2) pair of Runge-Kutta formulas", 1989, Appl. Math. Lett. 2; Hairer, Norsett and Wanner,
"Solving Ordinary Differential Equations I", 1993, section II.4, eq. 4.11 to 4.13.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from coursekit.diffusion.chain import expand

__all__ = ["BOGACKI_SHAMPINE", "DORMAND_PRINCE", "Pair", "Solution", "odeint"]

Parts = tuple[Tensor, ...]
State = TypeVar("State", Tensor, Parts)
"""x (N, ...), or several such tensors, whose errors are measured each by itself; the largest counts."""


@dataclass(frozen=True)
class Pair:
    """An embedded pair of explicit Runge-Kutta formulae, the last slope of a step being the first of the next.

    Attributes:
        order: p, of the result that is kept.
        rows: row i holds the weights of the slopes 0..i in the state at which slope i + 1 is taken; the last of these
            states is the result.
        error: weights of all slopes in e, the result less the embedded one.
    """

    order: int
    rows: tuple[tuple[float, ...], ...]
    error: tuple[float, ...]

    def step(
        self, f: Callable[[Parts, Tensor], Parts], x: Parts, s: Tensor, h: Tensor, slope: Parts
    ) -> tuple[Parts, Parts, Parts]:
        """From x at s (N,) by h (N,), given the slope f(x, s): the result, the slope there, and e."""
        slopes, state = [slope], x
        for row in self.rows:
            state = tuple(a + b for a, b in zip(x, _combine(slopes, row, h), strict=True))
            slopes.append(f(state, s + sum(row) * h))
        return state, slopes[-1], _combine(slopes, self.error, h)


DORMAND_PRINCE = Pair(
    order=5,
    rows=(
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    error=(71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
)
"""Order 5(4), six new slopes a step."""

BOGACKI_SHAMPINE = Pair(
    order=3,
    rows=((1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    error=(-5 / 72, 1 / 12, 1 / 9, -1 / 8),
)
"""Order 3(2), three new slopes a step: cheaper where little accuracy is asked for."""


@dataclass(frozen=True)
class Solution(Generic[State]):
    """Where a batch has arrived.

    Attributes:
        x: the state at the end.
        error: the sum of |e| over the accepted steps, of the shape of x. It is the error of the embedded result if
            errors neither grow nor shrink on the way, and so a cautious estimate for the one that is kept.
        steps: accepted steps of each sample, (N,).
        evaluations: calls of f, each for the whole batch.
    """

    x: State
    error: State
    steps: Tensor
    evaluations: int


def odeint(
    f: Callable[[State, Tensor], State],
    x: State,
    start: float | Tensor,
    end: float | Tensor,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    pair: Pair = DORMAND_PRINCE,
    max_steps: int = 1000,
) -> Solution[State]:
    """Follow dx/ds = f(x, s) from s = start to s = end, with a step size per sample.

    Args:
        f: (x, s (N,)) -> dx/ds, of x's shape; s stays between start and end, both included. A sample's slope must not
            depend on the other samples.
        x: the state at the start, (N, ...), or a tuple of such tensors; float32 or float64.
        start: a number, or one for each sample (N,).
        end: likewise; it may lie below start.
        rtol: of one step, relative to the size of x; below the rounding error of x's dtype it cannot be met.
        atol: of one step, absolute, added to that.
        pair: the Runge-Kutta formulae.
        max_steps: accepted and rejected steps of one sample, at most.

    Raises:
        ValueError: for a tolerance, a number of steps or a time that is impossible, or parts of different lengths.
        RuntimeError: if a sample has not arrived after `max_steps`: a stiff or singular f, one that is not finite, or
            tolerances that rounding does not allow.

    Example:
        >>> solution = odeint(lambda x, s: -x, torch.ones(2, 1), 0.0, torch.tensor([0.0, 1.0]))
        >>> solution.x.flatten(), solution.evaluations
        (tensor([1.0000, 0.3679]), 31)
    """
    parts = x if isinstance(x, tuple) else (x,)
    first, last = _check(parts, start, end, rtol, atol, max_steps)

    def slope(state: Parts, s: Tensor) -> Parts:  # by s in [0, 1], the share of the way
        out = f(state if isinstance(x, tuple) else state[0], torch.lerp(first, last, s.clamp(max=1.0)))
        return tuple(expand(last - first, part) * part for part in (out if isinstance(x, tuple) else (out,)))

    s, steps = torch.zeros_like(first), torch.zeros_like(first, dtype=torch.long)
    error, here = tuple(torch.zeros_like(part) for part in parts), slope(parts, torch.zeros_like(first))
    h = _first_step(parts, here, rtol, atol)
    for attempt in range(max_steps):
        h = torch.where(1.01 * h >= 1 - s, 1 - s, h)  # arrive, rather than leave a hundredth of a step
        new, there, e = pair.step(slope, parts, s, h, here)
        ratio = _scaled(e, tuple(map(torch.maximum, map(torch.abs, parts), map(torch.abs, new))), rtol, atol)
        moves = (ratio <= 1) & (s < 1)  # not where the ratio is NaN
        parts, here = _where(moves, new, parts), _where(moves, there, here)
        error = _where(moves, tuple(a + b.abs() for a, b in zip(error, e, strict=True)), error)
        s = torch.where(moves, torch.where(h >= 1 - s, torch.ones_like(s), s + h), s)
        h = h * (0.9 * ratio ** (-1 / pair.order)).nan_to_num(nan=0.0).clamp(0.2, 10.0)
        steps += moves
        if bool((s >= 1).all()):  # the host's look
            x, error = (parts, error) if isinstance(x, tuple) else (parts[0], error[0])
            return Solution(x, error, steps, 1 + (attempt + 1) * len(pair.rows))
    raise RuntimeError(_stuck(torch.lerp(first, last, s), s < 1, max_steps))


def _combine(slopes: list[Parts], weights: tuple[float, ...], h: Tensor) -> Parts:
    """h times the weighted sum of the slopes, part by part."""
    sums = []
    for part in zip(*slopes, strict=True):
        total = weights[0] * part[0]
        for weight, slope in zip(weights[1:], part[1:], strict=True):
            total = total.add(slope, alpha=weight) if weight else total
        sums.append(expand(h, total) * total)
    return tuple(sums)


def _scaled(e: Parts, size: Parts, rtol: float, atol: float) -> Tensor:
    """The largest over the parts of the root mean square of e / (atol + rtol size), (N,)."""
    squares = [(a / (atol + rtol * b)).square()[..., None].flatten(1).mean(1) for a, b in zip(e, size, strict=True)]
    return torch.stack(squares).amax(0).sqrt().detach()


def _first_step(x: Parts, slope: Parts, rtol: float, atol: float) -> Tensor:
    """A hundredth of the way on which x would change by its own size, at least 1e-4 and at most 1; (N,)."""
    size = tuple(part.abs() for part in x)
    h = 0.01 * _scaled(x, size, rtol, atol) / _scaled(slope, size, rtol, atol)
    return h.nan_to_num(nan=1e-4).clamp(1e-4, 1.0)


def _where(condition: Tensor, a: Parts, b: Parts) -> Parts:
    return tuple(torch.where(expand(condition, p), p, q) for p, q in zip(a, b, strict=True))


def _check(
    x: Parts, start: float | Tensor, end: float | Tensor, rtol: float, atol: float, max_steps: int
) -> tuple[Tensor, Tensor]:
    """Refuse what cannot be solved; start and end as (N,) tensors."""
    if not x or any(len(part) != len(x[0]) or not part.is_floating_point() for part in x):
        raise ValueError(f"x must hold floats for N samples, got {[(tuple(p.shape), p.dtype) for p in x]}")
    if not (rtol >= 0 and atol > 0 and max_steps >= 1):
        raise ValueError(f"rtol >= 0, atol > 0, max_steps >= 1 are wanted, got {rtol}, {atol}, {max_steps}")
    times = [torch.as_tensor(s, dtype=x[0].dtype, device=x[0].device) for s in (start, end)]
    if any(s.shape not in ((), x[0].shape[:1]) for s in times):
        raise ValueError(f"start and end must be numbers or have shape ({len(x[0])},), got {start} and {end}")
    return times[0].expand(len(x[0])), times[1].expand(len(x[0]))


def _stuck(s: Tensor, waiting: Tensor, max_steps: int) -> str:
    return (
        f"{int(waiting.sum())} of {len(s)} samples have not reached the end after max_steps = {max_steps} steps; one "
        f"stands at s = {float(s[waiting][0]):.6g}. Is f finite there, and can its dtype meet rtol and atol?"
    )
