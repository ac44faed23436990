"""The checks of lesson 03: the worked solution passes, and each plausible mistake is named."""

import itertools
import math
import re

import pytest
import torch

from coursekit.bayesnet import DiscreteNetwork
from coursekit.exercises import lesson03 as check


def children(parents, name):
    return {v for v in parents if name in parents[v]}


def blanket(parents, name):
    couples = {u for v in children(parents, name) for u in parents[v]}
    return ({*parents[name]} | children(parents, name) | couples) - {name}


def siblings(parents, name):
    return {v for u in parents[name] for v in children(parents, u)} - {name}


def table(p_fox, p_storm, barks):
    return torch.stack([1 - p_fox, p_fox])[:, None] * torch.stack([1 - p_storm, p_storm]) * barks


def causes(p_fox, p_storm, barks):
    both = table(p_fox, p_storm, barks)
    return both[1].sum() / both.sum(), both[1, 1] / both[:, 1].sum()


def product(joint):
    return joint.sum(1, keepdim=True) * joint.sum(0)


def information(joint):
    return (torch.xlogy(joint, joint) - torch.xlogy(joint, product(joint))).sum()


def masks(order, degrees):
    place = order.argsort() + 1
    return degrees[:, None] >= place, place[:, None] > degrees


def masks_with(order, degrees, places=None, strict_into=False, loose_out=False, start=1):
    place = (order.argsort() if places is None else places(order)) + start
    into = degrees[:, None] > place if strict_into else degrees[:, None] >= place
    return into, place[:, None] >= degrees if loose_out else place[:, None] > degrees


def unseen(w, both_sides=False, border=0):
    right = sum(max(0, 27 - c - w * a + border) for r in range(28) for c in range(28) for a in range(1, r + 1))
    return right * (2 if both_sides else 1)


def middle(w):
    return sum(max(0, 13 - w * a) for a in range(1, 15)) / 406


def own(w):
    """Of each pixel that has a past, the share of it that is unseen."""
    places = [(r, c) for r in range(28) for c in range(28) if r + c]
    return [sum(max(0, 27 - c - w * a) for a in range(1, r + 1)) / (28 * r + c) for r, c in places]


def fewest(w):
    """As if each layer climbed w rows."""
    steps = [w * math.ceil(a / w) for a in range(28)]
    return sum(max(0, 27 - c - steps[a]) for r in range(28) for c in range(28) for a in range(1, r + 1))


PAIRS = 784 * 783 / 2

SOLUTIONS = {
    check.shield: (blanket,),
    check.two_causes: (causes,),
    check.weight_of_edge: (information,),
    check.made_masks: (masks,),
    check.blind_share: (lambda w: unseen(w) / PAIRS, 13),
}

MISTAKES = [
    (check.shield, (lambda p, v: set(p[v]),), "a child is joined to it"),
    (check.shield, (lambda p, v: children(p, v),), "a parent is joined to it"),
    (check.shield, (lambda p, v: {*p[v]} | children(p, v),), "a collider opens once it is known"),
    (check.shield, (lambda p, v: set(p) - {v},), "'dust' can be left out"),
    (check.shield, (lambda p, v: blanket(p, v) | siblings(p, v),), "'vultures' can be left out"),
    (check.shield, (lambda p, v: {u for c in children(p, v) for u in p[c]} | children(p, v),), "itself"),
    (check.shield, (lambda p, v: {*p[v], "fox"},), "no variable of the graph"),
    (check.shield, (lambda p, v: v,), "a set of names"),
    (check.shield, (lambda p, v: 2,), "a set of names, got the int 2"),
    (check.shield, (lambda p, v: blanket(p, v) - {"rain"} | {"river"},), "given river, zebras, 'rain' still tells"),
    (check.two_causes, (lambda f, s, b: (table(f, s, b)[1].sum(), causes(f, s, b)[1]),), "divide by P(dog)"),
    (check.two_causes, (lambda f, s, b: (table(f, s, b)[1].sum() / f, causes(f, s, b)[1]),), "wrong way round"),
    (check.two_causes, (lambda f, s, b: causes(f, s, b)[::-1],), "not known yet"),
    (check.two_causes, (lambda f, s, b: (causes(f, s, b)[0],) * 2,), "ignores the storm"),
    (check.two_causes, (lambda f, s, b: causes(f, s, b.T),), "read the table the wrong way"),
    (check.two_causes, (lambda f, s, b: causes(f, torch.full_like(s, 0.5), b),), "without their probabilities"),
    (check.two_causes, (lambda f, s, b: causes(torch.full_like(f, 0.5), s, b),), "foxes are rare"),
    (check.two_causes, (lambda f, s, b: causes(f, s, 1 - b),), "quiet"),
    (check.two_causes, (lambda f, s, b: (b[1].sum() / b.sum(), b[1, 1] / b[:, 1].sum()),), "weight each by p(f) p(s)"),
    (check.two_causes, (lambda f, s, b: (causes(f, s, b)[0], table(f, s, b)[1, 1]),), "divide by P(dog, storm)"),
    (
        check.two_causes,
        (lambda f, s, b: (causes(f, s, b)[0], table(f, s, b)[1, 1] / table(f, s, b).sum()),),
        "leave the calm nights out",
    ),
    (
        check.two_causes,
        (lambda f, s, b: (causes(f, s, b)[0], table(f, s, b)[1, 1] / table(f, s, b)[1].sum()),),
        "P(storm | dog, fox)",
    ),
    (check.two_causes, (lambda f, s, b: (causes(f, s, b)[0], b[1, 1]),), "P(dog | fox, storm)"),
    (check.two_causes, (lambda f, s, b: causes(f, s, b)[0],), "return 2 values"),
    (check.weight_of_edge, (lambda j: information(j) / math.log(2),), "in bits"),
    (check.weight_of_edge, (lambda j: -information(j),), "sign flipped"),
    (check.weight_of_edge, (lambda j: -torch.xlogy(j, j).sum(),), "entropy of the pair"),
    (check.weight_of_edge, (lambda j: (product(j) * (product(j) / j).log()).sum(),), "the other way round"),
    (check.weight_of_edge, (lambda j: (j / product(j)).log().sum(),), "must be weighted"),
    (check.weight_of_edge, (lambda j: (j / product(j)).log().mean(),), "plain mean"),
    (check.weight_of_edge, (lambda j: (j * (j / product(j)).log()).mean(),), "the terms are added"),
    (check.weight_of_edge, (lambda j: (j * (j / product(j)).log()).sum(),), "0 log 0"),
    (check.weight_of_edge, (lambda j: -(j * (j / j.sum(0)).log()).sum(),), "H(a | b)"),
    (check.weight_of_edge, (lambda j: -(j * (j / j.sum(1, keepdim=True)).log()).sum(),), "H(b | a)"),
    (check.weight_of_edge, (lambda j: torch.zeros(2, 2),), "shape"),
    (check.weight_of_edge, (lambda j: (j * ((j + 1e-6) / (product(j) + 1e-6)).log()).sum(),), "close, but not exact"),
    (check.weight_of_edge, (lambda j: information(j.float()),), "stay in float64"),
    (check.weight_of_edge, (lambda j: torch.xlogy(j, j / product(j)).sum(),), "is 0/0"),
    (check.made_masks, (lambda o, d: masks_with(o, d, strict_into=True),), "the sign is >="),
    (check.made_masks, (lambda o, d: masks_with(o, d, loose_out=True),), "may copy itself"),
    (check.made_masks, (lambda o, d: masks_with(o, d, places=lambda order: order),), "the order itself"),
    (check.made_masks, (lambda o, d: masks_with(o, d, start=0),), "start at 1"),
    (check.made_masks, (lambda o, d: (~masks_with(o, d, strict_into=True)[0], masks(o, d)[1]),), "turned round"),
    (check.made_masks, (lambda o, d: (masks(o, d)[0], masks(o, d)[0].T),), "out of the hidden layer is turned round"),
    (
        check.made_masks,
        (lambda o, d: tuple(mask.T for mask in masks(o, d)),),
        "both masks are transposed",
    ),
    (check.made_masks, (lambda o, d: masks(o, d)[::-1],), "swapped"),
    (check.made_masks, (lambda o, d: masks(o, d)[0],), "return 2 values"),
    (check.blind_share, (lambda w: unseen(w, border=1) / PAIRS, 13), "just at the border"),
    (check.blind_share, (lambda w: 1 - unseen(w) / PAIRS, 13), "share that is seen"),
    (check.blind_share, (lambda w: unseen(w) / 784**2, 13), "only earlier pixels"),
    (check.blind_share, (lambda w: unseen(w) / (784 * 783), 13), "half as many"),
    (check.blind_share, (lambda w: unseen(w, both_sides=True) / PAIRS, 13), "upper left"),
    (check.blind_share, (lambda w: 100 * unseen(w) / PAIRS, 13), "per cent"),
    (check.blind_share, (lambda w: unseen(2 * w + 1) / PAIRS, 13), "not 2 w + 1"),
    (check.blind_share, (lambda w: unseen(1) / PAIRS, 13), "buys w columns"),
    (check.blind_share, (lambda w: unseen(w), 13), "number of pairs"),
    (check.blind_share, (lambda w: middle(w), 13), "the pixel in the middle only"),
    (check.blind_share, (lambda w: sum(own(w)) / 783, 13), "count all pairs together"),
    (check.blind_share, (lambda w: sum(own(w)) / 784, 13), "count all pairs together"),
    (check.blind_share, (lambda w: fewest(w) / PAIRS, 13), "more layers reach further"),
    (check.blind_share, (lambda w: unseen(w) / PAIRS if w < 4 else 0.1, 13), "your share for w = 4"),
    (check.blind_share, (lambda w: unseen(w) / PAIRS, 12), "12 still leaves 1.11 %"),
    (check.blind_share, (lambda w: unseen(w) / PAIRS, 5), "5 still leaves 4.40 %"),
    (check.blind_share, (lambda w: unseen(w) / PAIRS, 14), "a smaller one"),
    (check.blind_share, (lambda w: unseen(w) / PAIRS, 20), "a smaller one"),
    (check.blind_share, (lambda w: unseen(w) / PAIRS, 27), "side of the kernel"),
    (check.blind_share, (lambda w: unseen(w) / PAIRS, "13"), "number"),
]


@pytest.mark.parametrize("exercise", SOLUTIONS)
def test_the_solution_passes(exercise):
    verdict = exercise(*SOLUTIONS[exercise])
    assert verdict.passed, verdict


@pytest.mark.parametrize(("exercise", "answers", "named"), MISTAKES)
def test_a_mistake_is_named(exercise, answers, named):
    verdict = exercise(*answers)
    assert verdict.status == "not yet"
    assert named in verdict.message


def test_half_an_investigation_is_not_tried_yet():
    assert check.blind_share(lambda w: unseen(w) / PAIRS, ...).status == "not tried yet"


@pytest.mark.parametrize("mask", [lambda m: m.float(), lambda m: m.int()])
def test_masks_of_numbers_are_as_good(mask):
    assert check.made_masks(lambda o, d: tuple(map(mask, masks(o, d)))).passed


@pytest.mark.parametrize("kind", [list, tuple, frozenset])
def test_a_shield_may_be_any_collection(kind):
    assert check.shield(lambda p, v: kind(blanket(p, v))).passed


def test_the_shield_on_the_savannah_separates_and_none_smaller_does():
    graph = DiscreteNetwork(check.SAVANNAH)
    for v in graph.variables:
        others = set(graph.variables) - {v}
        enough = [
            set(known)
            for size in range(len(others) + 1)
            for known in itertools.combinations(sorted(others), size)
            if all(graph.d_separated(v, u, known) for u in others - set(known))
        ]
        assert enough[0] == blanket(check.SAVANNAH, v)
        assert all(known >= enough[0] for known in enough)


def test_two_probabilities_in_a_tensor_are_as_good():
    assert check.two_causes(lambda *given: torch.stack(causes(*given))).passed


@pytest.mark.parametrize("w", [*range(1, 13), *range(14, 28)])
def test_no_wrong_width_is_told_the_right_one(w):
    verdict = check.blind_share(lambda v: unseen(v) / PAIRS, w)
    assert verdict.status == "not yet"
    assert not re.search(r"(?<![.\d])13(?![.\d])|off by", verdict.message)
