"""Checks of lesson 03, "Bayesian networks and autoregressive models".

Symbols as in the lesson: variable d has K_d values and the parents pa(d); in an order of the variables, place m_0(d)
says as which of them d comes; information is in nats.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from coursekit.exercises import Verdict, ask, compare, exercise, first_refusal, parts, refuse

__all__ = ["blind_share", "count_numbers", "made_masks", "two_causes", "weight_of_edge"]

SIDE = 28
FLOAT = {"dtype": torch.float64}


@exercise
def count_numbers(answer: Callable) -> Verdict:
    """Exercise 3.1: (states, parents) -> the number of free numbers in all tables of a network."""
    states, parents = [2, 2, 2, 3, 4], [(), (), (0, 1), (2,), (0, 3)]
    rows = [math.prod(states[u] for u in above) for above in parents]
    pairs = list(zip(states, rows, strict=True))
    added = [sum(states[u] for u in above) or 1 for above in parents]
    return compare(
        ask(answer, states, parents),
        sum((k - 1) * r for k, r in pairs),
        mistakes={
            "you counted every entry: a row of K probabilities sums to 1 and holds K - 1 free numbers": sum(
                k * r for k, r in pairs
            ),
            "you added the parents' numbers of values: combinations multiply": sum(
                (k - 1) * r for k, r in zip(states, added, strict=True)
            ),
            "you raised 2 to the number of parents: parents may have more than two values": sum(
                (k - 1) * 2 ** len(above) for k, above in zip(states, parents, strict=True)
            ),
            "a row of a table holds K - 1 numbers, you counted one a row: not all variables have two values": sum(rows),
            "a variable without parents has a table, too, with one row (the product of nothing is 1)": sum(
                (k - 1) * r for (k, r), above in zip(pairs, parents, strict=True) if above
            ),
            "that is the list of all combinations: the graph saves numbers": math.prod(states) - 1,
            "each table has a row for every combination of the parents' values, you counted one row": sum(states)
            - len(states),
        },
        what="your count",
        why="combinations of parents multiply, and each row is one number short of its length",
    )


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
    usual = torch.tensor([[0.3, 0.1, 0.05], [0.05, 0.2, 0.3]], **FLOAT)
    gap = torch.tensor([[0.5, 0.0], [0.2, 0.3]], **FLOAT)
    verdict = compare(
        ask(answer, usual),
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
    value = torch.as_tensor(ask(answer, gap), dtype=torch.float64)
    if not bool(value.isfinite().all()):
        return refuse("right until a combination never occurs: 0 log 0 counts as 0 (torch.xlogy knows)")
    praise = "symmetric, never negative, and 0 only for independent variables"
    return compare(value, _information(gap), what="your information where one combination never occurs", why=praise)


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
    return first_refusal(
        compare(
            _as_numbers(into),
            _ge(degrees, place),
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
            _as_numbers(out),
            _gt(place, degrees),
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
    widths, pairs = (1, 2, 4), SIDE**2 * (SIDE**2 - 1) / 2
    shares = torch.tensor([float(ask(answer, w)) for w in widths], **FLOAT)
    wanted, at_border, one, side = (
        torch.tensor([_unseen(bought(w), border) for w in widths], **FLOAT) / pairs
        for bought, border in ((int, 0), (int, 1), (lambda w: 1, 0), (lambda w: 2 * w + 1, 0))
    )
    verdict = compare(
        shares,
        wanted,
        mistakes={
            "a pixel just at the border, b = w a, is seen: you counted it as blind": at_border,
            "that is the share that is seen: take it from 1": 1 - wanted,
            "you divided by all 784 x 784 pairs: only earlier pixels can be blind": wanted * pairs / SIDE**4,
            "you divided by 784 x 783: each pair has one earlier pixel, so there are half as many": wanted / 2,
            "the pixels to the upper left are seen: only the right side has a blind spot": 2 * wanted,
            "that is in per cent: a share lies between 0 and 1": 100 * wanted,
            "that is a number of pairs: divide by 784 x 783 / 2": wanted * pairs,
            "a kernel of half-width w moves w columns at a time, not 2 w + 1": side,
            "wider kernels move further: a row up buys w columns, you let it buy one": one,
        },
        what="your share",
    )
    if not verdict.passed:
        return verdict
    best = next(w for w in range(1, SIDE) if _unseen(w) < 0.01 * pairs)
    return compare(
        smallest,
        best,
        mistakes={
            "your share is right, but smallest_w still leaves 1 % or more unseen: one more": best - 1,
            "your share is right, and smallest_w leaves less than 1 % unseen, but a smaller one does so too": best + 1,
            "your share is right, but smallest_w is the side of the kernel: its half-width is wanted": 2 * best + 1,
        },
        what="your smallest_w",
        why="3 x 3 kernels miss a fifth of the past, and wide ones are a dear cure: two stacks miss nothing",
    )


def _unseen(bought: int, border: int = 0) -> int:
    """Pairs in 28 x 28 that are never connected if a row up buys so many columns to the right."""
    return sum(
        max(0, SIDE - 1 - c - bought * a + border) * (SIDE - a)  # SIDE - a rows have a row that lies a above
        for a in range(1, SIDE)
        for c in range(SIDE)
    )
