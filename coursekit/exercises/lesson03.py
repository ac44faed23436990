"""Checks of lesson 03, "Bayesian networks and autoregressive models".

Symbols as in the lesson: variable d has the parents pa(d); in an order of the variables, place m_0(d) says as which of
them d comes; information is in nats.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from coursekit.bayesnet.discrete import DiscreteNetwork
from coursekit.exercises import Verdict, ask, compare, correct, exercise, first_refusal, parts, refuse

__all__ = ["blind_share", "made_masks", "shield", "two_causes", "weight_of_edge"]

SIDE = 28
PAIRS = SIDE**2 * (SIDE**2 - 1) // 2
FLOAT = {"dtype": torch.float64}


SAVANNAH = {
    "rain": (),
    "grass": ("rain",),
    "river": ("rain",),
    "zebras": ("grass", "river"),
    "lion": (),
    "dust": ("zebras", "lion"),
    "vultures": ("lion",),
}


@exercise
def shield(answer: Callable) -> Verdict:
    """Exercise 3.1: (parents, name) -> the smallest set of variables that separates `name` from all others."""
    network = DiscreteNetwork(SAVANNAH)
    for name in ("grass", "rain", "zebras", "lion", "dust", "river", "vultures"):
        verdict = _shields(network, name, ask(answer, dict(SAVANNAH), name))
        if not verdict.passed:
            return verdict
    return correct("parents, children, and the children's other parents, for a known child is an open collider")


def _shields(network: DiscreteNetwork, name: str, found: object) -> Verdict:
    """Whether `found` is the smallest set that separates `name` from all others."""
    if isinstance(found, str) or not isinstance(found, Iterable):
        return refuse(f"your function should return a set of names, got the {type(found).__name__} {found!r}")
    found, others = set(found), set(network.variables) - {name}
    if name in found:
        return refuse(f"your set for {name!r} holds {name!r} itself: who else must be known?")
    if strangers := sorted(map(str, found - others)):
        return refuse(f"your set for {name!r} holds {', '.join(strangers)}, which is no variable of the graph")
    for v in network.variables:  # what is outside and still tells something
        if v in others - found and not network.d_separated(name, v, found):
            known = f"given {', '.join(sorted(found))}" if found else "given nothing"
            return refuse(f"on the savannah, {known}, {v!r} still tells about {name!r}: {_way(network, name, v)}")
    for v in sorted(found):
        if all(network.d_separated(name, w, found - {v}) for w in (others - found) | {v}):
            return refuse(
                f"on the savannah, your set separates {name!r} from all others, but {v!r} can be left out: "
                "it tells nothing once the rest is known"
            )
    return correct("the smallest set")


def _way(network: DiscreteNetwork, name: str, v: str) -> str:
    """How news of v comes to `name`."""
    if v in network.parents[name]:
        return "a parent is joined to it by an arrow"
    if name in network.parents[v]:
        return "a child is joined to it by an arrow"
    if any({name, v} <= set(network.parents[child]) for child in network.variables):
        return "they have a child together, and a collider opens once it is known"
    return "some trail is open"


@exercise
def two_causes(answer: Callable) -> Verdict:
    """Exercise 3.2: (p_fox, p_storm, barks (2, 2)) -> P(fox | dog), P(fox | dog, storm)."""
    p_fox, p_storm = torch.tensor(0.15, **FLOAT), torch.tensor(0.3, **FLOAT)
    barks = torch.tensor([[0.05, 0.6], [0.7, 0.95]], **FLOAT)
    dog, both = parts(ask(answer, p_fox, p_storm, barks), ("P(fox | dog)", "P(fox | dog, storm)"))
    table = _causes(p_fox, p_storm, barks)
    given_dog, given_both = table[1].sum() / table.sum(), table[1, 1] / table[:, 1].sum()
    turned, quiet = _causes(p_fox, p_storm, barks.T), _causes(p_fox, p_storm, 1 - barks)
    flat = barks * torch.stack([1 - p_fox, p_fox])[:, None]  # the storms not weighted
    return first_refusal(
        compare(
            dog,
            given_dog,
            mistakes={
                "your P(fox | dog) is P(fox, dog): divide by P(dog)": table[1].sum(),
                "your P(fox | dog) is P(dog | fox), the wrong way round": table[1].sum() / p_fox,
                "your first value is the second one: the storm is not known yet": given_both,
                "your P(fox | dog) knows that there is no storm": table[1, 0] / table[:, 0].sum(),
                "your P(fox | dog) adds the entries of `barks` as they are: weight each by p(f) p(s)": barks[1].sum()
                / barks.sum(),
                "your P(fox | dog) adds up calm and stormy nights without their probabilities": flat[1].sum()
                / flat.sum(),
                "your P(fox | dog) forgets that foxes are rare: weight by p(f)": (table[1].sum() / p_fox)
                / (table[1].sum() / p_fox + table[0].sum() / (1 - p_fox)),
                "you read the table the wrong way: barks[f, s] has the fox first": turned[1].sum() / turned.sum(),
                "that is for a dog that is quiet": quiet[1].sum() / quiet.sum(),
            },
            what="your P(fox | dog)",
        ),
        compare(
            both,
            given_both,
            mistakes={
                "your P(fox | dog, storm) is P(fox, dog, storm): divide by P(dog, storm)": table[1, 1],
                "your P(fox | dog, storm) ignores the storm": given_dog,
                "your P(fox | dog, storm) divides by P(dog): the storm is known, so leave the calm nights out below "
                "as well": table[1, 1] / table.sum(),
                "your P(fox | dog, storm) is P(storm | dog, fox)": table[1, 1] / table[1].sum(),
                "your P(fox | dog, storm) is P(dog | fox, storm)": barks[1, 1],
                "your P(fox | dog, storm) forgets that foxes are rare: weight by p(f)": barks[1, 1] / barks[:, 1].sum(),
                "your P(fox | dog, storm) is that of a calm night": table[1, 0] / table[:, 0].sum(),
                "you read the table the wrong way: barks[f, s] has the fox first": turned[1, 1] / turned[:, 1].sum(),
            },
            what="your P(fox | dog, storm)",
        ),
        praise="the storm explains the barking away, and the fox becomes less likely again",
    )


def _causes(p_fox: Tensor, p_storm: Tensor, barks: Tensor) -> Tensor:
    """p(f, s, dog = 1), (2, 2)."""
    fox, storm = torch.stack([1 - p_fox, p_fox]), torch.stack([1 - p_storm, p_storm])
    return fox[:, None] * storm * barks


@exercise
def weight_of_edge(answer: Callable) -> Verdict:
    """Exercise 3.3: joint (A, B) -> the mutual information I(a; b) in nats."""
    usual = torch.tensor([[0.5, 0.1, 0.02], [0.03, 0.05, 0.3]], **FLOAT)
    gap = torch.tensor([[0.5, 0.0, 0.0], [0.2, 0.3, 0.0]], **FLOAT)  # the last value of b never occurs
    given = ask(answer, usual)
    verdict = compare(
        given,
        _information(usual),
        mistakes={
            "that is in bits: take the natural logarithm": _information(usual) / math.log(2),
            "that is H(a, b), the entropy of the pair: compare it with the entropies of a and of b": _entropy(usual),
            "the divergence is the other way round: weight the logarithms by p(a, b), not by p(a) p(b)": (
                _product(usual) * (_product(usual) / usual).log()
            ).sum(),
            "the logarithms must be weighted by p(a, b) before they are added": (usual / _product(usual)).log().sum(),
            "the logarithms must be weighted by p(a, b): you took their plain mean": (usual / _product(usual))
            .log()
            .mean(),
            "that is the mean of p(a, b) log ratio: the terms are added": _information(usual) / usual.numel(),
            "that is H(a) + H(b): take away the entropy of the pair": _entropy(usual.sum(0)) + _entropy(usual.sum(1)),
            "that is H(a | b): I(a; b) = H(a) - H(a | b)": _entropy(usual) - _entropy(usual.sum(0)),
            "that is H(b | a): I(a; b) = H(b) - H(b | a)": _entropy(usual) - _entropy(usual.sum(1)),
        },
        what="your information",
    )
    if not verdict.passed:
        return verdict
    if not compare(given, _information(usual), rtol=1e-9, atol=0.0).passed:
        return refuse(
            "close, but not exact: add no small number inside the logarithm, and stay in float64; "
            "where p(a, b) = 0 torch.xlogy knows that 0 log 0 counts as 0"
        )
    value = torch.as_tensor(ask(answer, gap), dtype=torch.float64)
    if not bool(value.isfinite().all()):
        return refuse(
            "right until something never occurs: 0 log 0 counts as 0 (torch.xlogy knows). If a whole row or column is "
            "0, a quotient p(a, b) / (p(a) p(b)) is 0/0: take the logarithms of numerator and denominator apart"
        )
    praise = "symmetric, never negative, and 0 only for independent variables"
    return compare(value, _information(gap), what="your information where something never occurs", why=praise)


def _entropy(p: Tensor) -> Tensor:
    return -torch.xlogy(p, p).sum()


def _product(joint: Tensor) -> Tensor:
    return joint.sum(1, keepdim=True) * joint.sum(0)


def _information(joint: Tensor) -> Tensor:
    return _entropy(joint.sum(0)) + _entropy(joint.sum(1)) - _entropy(joint)


@exercise
def made_masks(answer: Callable) -> Verdict:
    """Exercise 3.4: order (D,), degrees (units,) -> masks (units, D) and (D, units)."""
    order, degrees = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([1, 4, 2, 3, 1, 2])
    into, out = parts(ask(answer, order, degrees), ("into the hidden layer", "out of it"))
    place, wrong = order.argsort() + 1, order + 1
    late = place - 1
    into, out = _as_numbers(into), _as_numbers(out)
    first, second = _ge(degrees, place), _gt(place, degrees)
    if all(isinstance(mask, Tensor) for mask in (into, out)):
        if torch.equal(into, second) and torch.equal(out, first):
            return refuse("your masks are swapped: first the one into the hidden layer, (units, D), then the one out")
        if torch.equal(into, first.T) and torch.equal(out, second.T):
            return refuse(
                "both masks are transposed: a row for each unit that is computed, a column for each that is read"
            )
    return first_refusal(
        compare(
            into,
            first,
            mistakes={
                "into the hidden layer the sign is >=: with > a unit misses the last variable that it may see": _gt(
                    degrees, place
                ),
                "you used the order itself as places: order[k] says who comes k-th, the place of d is the inverse": _ge(
                    degrees, wrong
                ),
                "the comparison into the hidden layer is turned round: a unit sees places up to its degree": 1.0
                - _gt(degrees, place),
                "places start at 1, yours start at 0": _ge(degrees, late),
            },
            what="your mask into the hidden layer",
        ),
        compare(
            out,
            second,
            mistakes={
                "out of the hidden layer the sign is strict: with >= every pixel may copy itself": _ge(place, degrees),
                "you used the order itself as places: order[k] says who comes k-th, the place of d is the inverse": _gt(
                    wrong, degrees
                ),
                "the comparison out of the hidden layer is turned round: an output sees units of a degree below its "
                "place": _ge(degrees, place).T,
                "places start at 1, yours start at 0": _gt(late, degrees),
            },
            what="your mask out of the hidden layer",
        ),
        praise="every way from an input to an output goes from an earlier place to a later one",
    )


def _ge(a: Tensor, b: Tensor) -> Tensor:
    return (a[:, None] >= b).double()


def _gt(a: Tensor, b: Tensor) -> Tensor:
    return (a[:, None] > b).double()


def _as_numbers(mask: object) -> object:
    return mask.double() if isinstance(mask, Tensor) else mask


@exercise
def blind_share(answer: Callable, smallest: int) -> Verdict:
    """Exercise 3.5: half-width w -> the share of pairs in 28 x 28 never connected; the smallest w below 1 %."""
    for w in (1, 2, 4):
        verdict = _share(ask(answer, w), w)
        if not verdict.passed:
            return verdict
    best = next(w for w in range(1, SIDE) if _unseen(w) < 0.01 * PAIRS)
    verdict = compare(
        smallest,
        best,
        mistakes={
            "your share is right, but smallest_w is the side of the kernel: its half-width is wanted": 2 * best + 1,
        },
        what="your smallest_w",
        why="3 x 3 kernels miss a fifth of the past, and wide ones are a costly cure: two stacks miss nothing within "
        "their reach",
    )
    if verdict.passed or not isinstance(smallest, int) or smallest in (0, 2 * best + 1):
        return verdict
    left = 100 * _unseen(smallest) / PAIRS
    if smallest < best:
        return refuse(f"your share is right, but smallest_w = {smallest} still leaves {left:.2f} % of all pairs unseen")
    return refuse(f"your share is right, and smallest_w = {smallest} leaves {left:.2f} %, but a smaller one would do")


def _share(share: object, w: int) -> Verdict:
    """Whether it is the share of pairs that a kernel of half-width w never connects."""
    unseen, rows = _unseen(w), range(1, SIDE)
    fewest = sum(max(0, SIDE - 1 - c - w * -(-a // w)) * (SIDE - a) for a in rows for c in range(SIDE))
    middle = sum(max(0, SIDE - 1 - SIDE // 2 - w * a) for a in range(1, SIDE // 2 + 1)) / (SIDE**2 // 2 + SIDE // 2)
    own = [
        sum(max(0, SIDE - 1 - c - w * a) for a in range(1, r + 1)) / (SIDE * r + c)
        for r in range(SIDE)
        for c in range(SIDE)
        if r + c
    ]
    return compare(
        share,
        unseen / PAIRS,
        mistakes={
            "a pixel just at the border, b = w a, is seen: you counted it as blind": _unseen(w, 1) / PAIRS,
            "that is the share that is seen: take it from 1": 1 - unseen / PAIRS,
            "you divided by all 784 x 784 pairs: only earlier pixels can be blind": unseen / SIDE**4,
            "you divided by 784 x 783: each pair has one earlier pixel, so there are half as many": unseen / PAIRS / 2,
            "the pixels to the upper left are seen: only the right side has a blind spot": 2 * unseen / PAIRS,
            "that is in per cent: a share lies between 0 and 1": 100 * unseen / PAIRS,
            "that is a number of pairs: divide by 784 x 783 / 2": float(unseen),
            "you asked the pixel in the middle only: count the pairs of all pixels": middle,
            "you averaged each pixel's own share: count all pairs together": sum(own) / len(own),
            "your mean over pixels of each one's own share: count all pairs together": sum(own) / SIDE**2,
            "a kernel of half-width w moves w columns at a time, not 2 w + 1": _unseen(2 * w + 1) / PAIRS,
            "you let a layer climb w rows at once: one that climbs a single row may also move w columns, so more "
            "layers reach further to the right": fewest / PAIRS,
            "wider kernels move further: a row up buys w columns, you let it buy one": _unseen(1) / PAIRS,
        },
        what=f"your share for w = {w}",
    )


def _unseen(bought: int, border: int = 0) -> int:
    """Pairs in 28 x 28 that are never connected if a row up buys so many columns to the right."""
    return sum(
        max(0, SIDE - 1 - c - bought * a + border) * (SIDE - a)  # SIDE - a rows have a row that lies a above
        for a in range(1, SIDE)
        for c in range(SIDE)
    )
