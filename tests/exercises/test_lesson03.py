"""The checks of lesson 03: the worked solution passes, and each plausible mistake is named."""

import math

import pytest
import torch

from coursekit.exercises import lesson03 as check


def numbers(states, parents, rows=math.prod, entries=0):
    return sum((k - 1 + entries) * rows([states[u] for u in above]) for k, above in zip(states, parents, strict=True))


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


PAIRS = 784 * 783 / 2

SOLUTIONS = {
    check.count_numbers: (numbers,),
    check.two_causes: (causes,),
    check.weight_of_edge: (information,),
    check.made_masks: (masks,),
    check.blind_share: (lambda w: unseen(w) / PAIRS, 13),
}

MISTAKES = [
    (check.count_numbers, (lambda s, p: numbers(s, p, entries=1),), "counted every entry"),
    (check.count_numbers, (lambda s, p: numbers(s, p, rows=lambda k: sum(k) or 1),), "combinations multiply"),
    (check.count_numbers, (lambda s, p: numbers(s, p, rows=lambda k: 2 ** len(k)),), "more than two values"),
    (check.count_numbers, (lambda s, p: sum(math.prod(s[u] for u in a) for a in p),), "you counted one a row"),
    (check.count_numbers, (lambda s, p: numbers(s, p, rows=lambda k: math.prod(k) if k else 0),), "has a table, too"),
    (check.count_numbers, (lambda s, p: math.prod(s) - 1,), "all combinations"),
    (check.count_numbers, (lambda s, p: sum(s) - len(s),), "every combination of the parents' values"),
    (check.count_numbers, (lambda s, p: torch.zeros(2),), "shape"),
    (check.two_causes, (lambda f, s, b: (table(f, s, b)[1].sum(), causes(f, s, b)[1]),), "divide by P(dog)"),
    (check.two_causes, (lambda f, s, b: (table(f, s, b)[1].sum() / f, causes(f, s, b)[1]),), "wrong way round"),
    (check.two_causes, (lambda f, s, b: causes(f, s, b)[::-1],), "not known yet"),
    (check.two_causes, (lambda f, s, b: (causes(f, s, b)[0],) * 2,), "ignores the storm"),
    (check.two_causes, (lambda f, s, b: causes(f, s, b.T),), "read the table the wrong way"),
    (check.two_causes, (lambda f, s, b: causes(f, torch.full_like(s, 0.5), b),), "without their probabilities"),
    (check.two_causes, (lambda f, s, b: causes(torch.full_like(f, 0.5), s, b),), "foxes are rare"),
    (check.two_causes, (lambda f, s, b: causes(f, s, 1 - b),), "quiet"),
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
    (check.made_masks, (lambda o, d: masks_with(o, d, strict_into=True),), "the sign is >="),
    (check.made_masks, (lambda o, d: masks_with(o, d, loose_out=True),), "may copy itself"),
    (check.made_masks, (lambda o, d: masks_with(o, d, places=lambda order: order),), "the order itself"),
    (check.made_masks, (lambda o, d: masks_with(o, d, start=0),), "start at 1"),
    (check.made_masks, (lambda o, d: (~masks_with(o, d, strict_into=True)[0], masks(o, d)[1]),), "turned round"),
    (check.made_masks, (lambda o, d: (masks(o, d)[0], masks(o, d)[0].T),), "out of the hidden layer is turned round"),
    (check.made_masks, (lambda o, d: tuple(mask.T for mask in masks(o, d)),), "shape"),
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
    (check.blind_share, (lambda w: unseen(w) / PAIRS, 12), "one more"),
    (check.blind_share, (lambda w: unseen(w) / PAIRS, 14), "a smaller one"),
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


def test_a_count_as_a_tensor_is_as_good():
    assert check.count_numbers(lambda s, p: torch.tensor(numbers(s, p))).passed
