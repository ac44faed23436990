"""Checks of lesson 07, "Flows: change of variables".

Symbols as in the lesson: z is drawn from the base density p_Z, x = f(z) has the density p_X, and
log p_X(x) = log p_Z(z) - log |det J_f(z)|.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from coursekit.exercises import Verdict, ask, compare, exercise, first_refusal, refuse

__all__ = ["planar_log_prob", "realnvp_log_prob", "softplus_log_prob", "uniform_gap"]

LOG_2PI = math.log(2 * math.pi)


def _normal(z: Tensor) -> Tensor:
    """log N(z; 0, 1), elementwise."""
    return -0.5 * z**2 - 0.5 * LOG_2PI


@exercise
def softplus_log_prob(answer: Callable) -> Verdict:
    """Exercise 7.1: x > 0 -> log p_X(x) for x = log(1 + exp(z)), z ~ N(0, 1)."""
    x = torch.tensor([0.2, 0.5, 1.0, 1.7, 3.0], dtype=torch.float64)
    z = torch.log(torch.expm1(x))
    slope = torch.sigmoid(z)  # f'(z)
    right = _normal(z) - slope.log()
    usual = compare(
        ask(answer, x),
        right,
        mistakes={
            "that is log p_Z(f^-1(x)): the derivative is lost": _normal(z),
            "the derivative enters with the wrong sign: where f stretches, the density falls": _normal(z) + slope.log(),
            "that is log p_Z(x): the base density belongs at f^-1(x)": _normal(x),
            "you evaluate the base density at x instead of f^-1(x)": _normal(x) - slope.log(),
            "you evaluate the derivative f' at x: it belongs at z = f^-1(x)": _normal(z) - torch.sigmoid(x).log(),
            "you used f where its inverse is wanted: z = log(exp(x) - 1)": _normal(torch.log1p(x.exp()))
            - torch.sigmoid(torch.log1p(x.exp())).log(),
            "the constant -log(2 pi) / 2 of the normal density is lost": right + 0.5 * LOG_2PI,
            "that is the density itself: its logarithm is wanted": right.exp(),
            "you subtract the derivative, not its logarithm": _normal(z) - slope,
        },
        what="your log-density",
    )
    if not usual.passed:
        return usual
    far = torch.tensor([1e-18, 1000.0], dtype=torch.float64)
    z = far + torch.log(-torch.expm1(-far))
    small, large = _normal(z) - torch.nn.functional.logsigmoid(z)
    return first_refusal(
        _still(ask(answer, far[1:]), large, "x = 1000: exp(x) overflows; z = x + log(1 - exp(-x)) is the same number"),
        _still(ask(answer, far[:1]), small, "x = 1e-18: exp(x) - 1 is rounded to 0; torch.expm1 keeps its digits"),
        praise="dz/dx = 1 / (1 - exp(-x)) is above 1: f shrinks, so the density rises; and tiny and large x work too",
    )


def _still(value: object, wanted: Tensor, advice: str) -> Verdict:
    """Whether a formula that is right elsewhere survives at one extreme point."""
    verdict = compare(value, wanted[None], what="your log-density")
    return verdict if verdict.passed else refuse(f"right for moderate x, but not for {advice}")


@exercise
def realnvp_log_prob(answer: Callable) -> Verdict:
    """Exercise 7.2: x (N, 2) and K functions, (N,) -> s, t -> log p_X(x), (N,); layer k keeps column (k - 1) mod 2."""
    x = torch.tensor([[0.4, -1.0], [-1.3, 0.6], [0.9, 1.1], [0.1, -0.5]], dtype=torch.float64)
    networks = [lambda kept, a=a: (0.5 * torch.tanh(kept + a), torch.sin(a * kept) - 0.3 * a) for a in _SHIFTS]
    return compare(
        ask(answer, x, networks),
        _scored(x, networks),
        mistakes={meaning: _scored(x, networks, **slip) for meaning, slip in _NVP_SLIPS.items()},
        what="your log-density",
        why="last layer first, no network inverted, and the sum of all s is all that the determinants need",
    )


_SHIFTS = (0.4, -0.7, 1.1, 0.9)
_NVP_SLIPS: dict[str, dict[str, object]] = {
    "you undid the first layer first: the way back from x begins with the last": {"order": 1},
    "the columns are exchanged: layer 1 keeps the first column, layer 2 the second, also on the way back": {"keeps": 1},
    "every layer of yours keeps the first column: they take turns": {"keeps": None},
    "s and t must be computed from the column that stays": {"see": "moved"},
    "you went forward, z exp(s) + t: undo the shift, then the scale": {"undo": lambda x, s, t: x * s.exp() + t},
    "you divide before you subtract: the shift was added last, so it goes first": {
        "undo": lambda x, s, t: x * torch.exp(-s) - t
    },
    "you multiply by exp(s) where you must divide by it": {"undo": lambda x, s, t: (x - t) * s.exp()},
    "you divide by s: the scale is exp(s)": {"undo": lambda x, s, t: (x - t) / s},
    "the log-determinants enter with the wrong sign: (7.14) subtracts those of the forward maps": {"sign": 1.0},
    "the log-determinants are missing: that is log p_Z(z)": {"sign": 0.0},
    "only the last layer's log-determinant is counted": {"count": lambda s: s[0]},
    "only the first layer's log-determinant is counted": {"count": lambda s: s[-1]},
    "you took the mean over the layers: log-determinants add": {"count": lambda s: s.mean(0)},
    "you summed the log-determinants over the points: each point has its own": {"count": lambda s: s.sum().expand(4)},
    "you subtract determinants: their logarithms, s, are wanted": {"count": lambda s: s.exp().prod(0)},
    "you evaluated the base at x: it belongs at the z that you found": {"base": "x"},
    "you took the mean over the coordinates of z: their log-densities add": {"coordinates": 0.5},
    "the base has two coordinates: its constant is -log(2 pi)": {"constant": 0.5 * LOG_2PI},
    "the constant of the base is lost: -log(2 pi) for two coordinates": {"constant": LOG_2PI},
}


def _scored(
    x: Tensor,
    networks: Sequence[Callable],
    order: int = -1,
    keeps: int | None = 0,
    see: str = "kept",
    undo: Callable = lambda x, s, t: (x - t) * torch.exp(-s),
    count: Callable = lambda s: s.sum(0),
    sign: float = -1.0,
    base: str = "z",
    coordinates: float = 1.0,
    constant: float = 0.0,
) -> Tensor:
    """log p_X of the chain of couplings, with a slip where a keyword is given."""
    columns, scales = list(x.unbind(1)), []
    for k in range(len(networks))[::order]:
        kept = 0 if keeps is None else (k + keeps) % 2
        s, t = networks[k](columns[kept if see == "kept" else 1 - kept])
        columns[1 - kept] = undo(columns[1 - kept], s, t)
        scales.append(s)
    z = torch.stack(columns, 1) if base == "z" else x
    return coordinates * _normal(z).sum(1) + sign * count(torch.stack(scales)) + constant


@exercise
def planar_log_prob(answer: Callable) -> Verdict:
    """Exercise 7.3: x (N, D), free u (D,), w (D,), b -> log p_X(x), (N,), for the planar layer with the u of (7.21)."""
    x = torch.tensor([[0.2, -0.5, 1.0], [1.1, 0.3, -0.7], [-0.9, 0.8, 0.4], [2.0, -1.0, 0.1]], dtype=torch.float64)
    u, w = (torch.tensor(v, dtype=torch.float64) for v in ([0.7, -0.4, 1.2], [0.9, 0.5, 0.6]))
    b = torch.tensor(-0.2, dtype=torch.float64)

    def verdict(u: Tensor, begin: str) -> Verdict:
        mistakes = {begin + meaning: _planar(x, u, w, b, **slip) for meaning, slip in _PLANAR_SLIPS.items()}
        found = compare(ask(answer, x, u, w, b), _planar(x, u, w, b), mistakes, what="your log-density", atol=1e-5)
        return found if found.passed or found.message.startswith(begin) else refuse(begin + found.message)

    easy = verdict(u, "")
    if not easy.passed:
        return easy
    return first_refusal(
        verdict(-1.5 * u, "right for w^T u = 1.15, but for w^T u = -1.73, where the free layer folds: "),
        praise="u moved so that the layer can be undone, one number a point found by search, one inner product for "
        "the determinant, where a general one would cost D^3",
    )


_PLANAR_SLIPS: dict[str, dict[str, object]] = {
    "you used the free u as it is: (7.21) moves it, whatever w^T u is": {"moved": lambda u, w: u},
    "m(c) = -1 + log(1 + e^c): the -1 is lost": {"moved": lambda u, w: _moved(u, w, minus=0.0)},
    "u is moved along w / |w|^2: the |w|^2 is lost": {"moved": lambda u, w: _moved(u, w, square=False)},
    "h'(a) belongs at the a that solves (7.19), not at w^T x + b": {"slope_at": "x"},
    "h stands where its derivative belongs: h' = 1 - tanh^2": {"slope": lambda h: h},
    "the derivative of tanh is 1 - tanh^2, not 1 - tanh": {"slope": lambda h: 1 - h},
    "the log-determinant is that of f: it is subtracted": {"sign": 1.0},
    "the log-determinant is missing: that is log p_Z(z)": {"sign": 0.0},
    "you subtract the determinant: its logarithm is wanted": {"log": lambda d: d},
    "the 1 of the identity is lost: det(I + u v^T) = 1 + v^T u": {"one": 0.0},
    "you evaluated the base at x: it belongs at z = x - u h(a)": {"base": "x"},
    "you went forward once more: z = x - u h(a)": {"back": -1.0},
    "you took h(w^T x + b) for h(a): solve (7.19) for a first": {"solve": False},
    "the constant of the base is lost: -D/2 log(2 pi)": {"constant": 1.5 * LOG_2PI},
    "you took the mean over the coordinates of z: their log-densities add": {"coordinates": 1 / 3},
}


def _moved(u: Tensor, w: Tensor, minus: float = 1.0, square: bool = True) -> Tensor:
    """The u of (7.21)."""
    wanted = torch.nn.functional.softplus(w @ u) - minus
    return u + (wanted - w @ u) * w / (w @ w if square else 1.0)


def _planar(
    x: Tensor,
    u: Tensor,
    w: Tensor,
    b: Tensor,
    moved: Callable = _moved,
    solve: bool = True,
    slope_at: str = "a",
    slope: Callable = lambda h: 1 - h**2,
    one: float = 1.0,
    log: Callable = lambda d: d.abs().log(),
    sign: float = -1.0,
    base: str = "z",
    back: float = 1.0,
    constant: float = 0.0,
    coordinates: float = 1.0,
) -> Tensor:
    """log p_X of a planar layer, with a slip where a keyword is given."""
    u, target = moved(u, w), x @ w + b
    product = w @ u
    low, high = target - product.abs(), target + product.abs()  # |tanh| < 1
    for _ in range(60):
        middle = (low + high) / 2
        below = middle + product * middle.tanh() < target
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    a = low if solve else target
    z = x - back * u * a.tanh()[:, None] if base == "z" else x
    det = one + slope((a if slope_at == "a" else target).tanh()) * product
    return coordinates * _normal(z).sum(1) + sign * log(det) + constant


@exercise
def uniform_gap(gap: Callable, smallest_scale: object) -> Verdict:
    """Exercise 7.4: (m, s) -> E_{v ~ P}[log P(v) - uniform bound] in nats; the s from which on it is <= 0.1 bits."""
    models = ((0.5, 1.0), (0.2, 0.5), (0.0, 0.3))  # m, s
    found, cases = [ask(gap, m, s) for m, s in models], [_gaps(m, s) for m, s in models]
    values = {name: torch.stack([case[name] for case in cases]) for name in cases[0]}
    mistakes = {meaning: values[name] for name, meaning in _GAP_MISTAKES.items()}
    narrow = compare(found, values["right"], mistakes, what="your gap", rtol=1e-3, atol=1e-5)
    if not narrow.passed:
        return narrow
    if not compare(ask(gap, 3.0, 16.0), _gaps(3.0, 16.0)["right"], rtol=1e-2).passed:
        return refuse("your gap is right for s <= 1, but not for m = 3, s = 16: a wide peak needs more values v")
    return _judge_scale(smallest_scale)


def _judge_scale(scale: object) -> Verdict:
    """Refuses a scale with the gap that it has."""
    nats = 0.1 * math.log(2)
    verdict = compare(
        scale,
        math.ceil(100 * _scale_at(nats)) / 100,
        mistakes={"that is the gap of 0.1 bits in nats: the scale s is asked for": nats},
        what="your scale",
        why="a peak with a standard deviation below 0.80 of a cell costs uniform noise more than a tenth of a bit; for "
        "wide peaks the gap is close to 1 / (24 s^2)",
        rtol=0,
        atol=0.002,
    )
    if verdict.passed or not isinstance(scale, int | float) or not 0.1 <= scale <= 10:
        return verdict
    gap = float(_gaps(0.0, scale)["right"])
    if abs(gap - 0.1) < 0.004:
        return refuse("your scale has a gap of 0.1 nats: 0.1 bits are 0.1 log 2 = 0.069 nats")
    side = "still above 0.1" if gap > nats else "and 0.1 are allowed: a smaller s will do"
    return refuse(f"at s = {scale:g} the gap is {gap / math.log(2):.4f} bits, {side}")


_GAP_MISTAKES = {
    "flipped": "the sign is flipped: the gap is log P(v) minus the bound, never negative",
    "no twelfth": "the variance of the noise is lost: E (v + u - m)^2 = (v + 1/2 - m)^2 + 1/12",
    "left end": "the noise has mean 1/2: E (v + u - m)^2 = (v + 1/2 - m)^2 + 1/12",
    "twelfth unscaled": "the 1/12 is a part of the square: it is divided by 2 s^2 as well",
    "unweighted": "weigh each v by P(v): an average over v ~ P is wanted, not a plain sum",
    "plain mean": "weigh each v by P(v): an average over v ~ P is wanted, not a plain mean",
    "density": "log P(v) is the logarithm of a difference of distribution functions, not the density at the middle",
    "bits": "your gap is in bits: nats are asked for",
}


def _gaps(m: float, s: float) -> dict[str, Tensor]:
    """The gap of N(m, s^2), and the same with each slip."""
    v = torch.arange(-200, 201, dtype=torch.float64)
    normal = torch.distributions.Normal(torch.tensor(m, dtype=v.dtype), torch.tensor(s, dtype=v.dtype))
    P = normal.cdf(v + 1) - normal.cdf(v)
    keep = P > 1e-12
    v, P = v[keep], P[keep]
    constant = -math.log(s) - 0.5 * LOG_2PI

    def gap(square: Tensor, log_p: Tensor | None = None, extra: float = 0.0) -> Tensor:
        log_p = P.log() if log_p is None else log_p
        return (P * (log_p - constant + square / (2 * s**2) + extra)).sum()

    middle = (v + 0.5 - m) ** 2
    right = gap(middle + 1 / 12)
    differences = P.log() - constant + (middle + 1 / 12) / (2 * s**2)
    return {
        "right": right,
        "flipped": -right,
        "no twelfth": gap(middle),
        "left end": gap((v - m) ** 2 + 1 / 12),
        "twelfth unscaled": gap(middle, extra=1 / 12),
        "unweighted": differences.sum(),
        "plain mean": differences.mean(),
        "density": gap(middle + 1 / 12, log_p=normal.log_prob(v + 0.5)),
        "bits": right / math.log(2),
    }


def _scale_at(nats: float) -> float:
    """The s at which the gap of N(0, s^2) is so many nats, by bisection: the gap falls as s grows."""
    low, high = 0.05, 5.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if float(_gaps(0.0, middle)["right"]) > nats else (low, middle)
    return low
