"""The frame of the exercises: untouched stubs, broken answers and typical mistakes each get their own words."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coursekit.exercises import Verdict, ask, compare, correct, exercise, refuse

WANTED = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)


@exercise
def variance(answer) -> Verdict:
    """The variance of x_t given x_0."""
    alpha_bar = 1 - WANTED
    return compare(
        ask(answer, alpha_bar),
        WANTED,
        mistakes={"that is the share of signal, not of noise": alpha_bar},
        what="your variance",
        why="the variance is 1 - alpha_bar",
    )


def in_place(alpha_bar):
    return alpha_bar.neg_().add_(1)


@pytest.mark.parametrize("answer", [lambda a: 1 - a, in_place, lambda a: [1 - x for x in a], lambda a: (1 - a).numpy()])
def test_right_answers_pass_in_any_form(answer):
    assert repr(variance(answer)) == "correct: the variance is 1 - alpha_bar"
    assert variance(answer).passed


def stub(alpha_bar):
    factor = ...
    return factor * alpha_bar


@pytest.mark.parametrize("answer", [..., lambda a: ..., lambda a: None, stub])
def test_an_untouched_stub_is_not_tried_and_no_error(answer):
    assert variance(answer).status == "not tried yet"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda a: a, "that is the share of signal, not of noise"),
        (lambda a: (1 - a).sqrt(), "your variance is the square root of what it should be"),
        (lambda a: (1 - a) ** 2, "a square root is missing"),
        (lambda a: a - 1, "has its sign flipped"),
        (lambda a: 1 / (1 - a), "is upside down"),
        (lambda a: 3 * (1 - a), "is 3 times what it should be, everywhere"),
        (lambda a: 1.25 - a, "is off by 0.25, everywhere"),
        (lambda a: torch.where(a < 0.2, 5.0, 1 - a), "is too large at position (2,): 5, which is off by 4.1"),
        (lambda a: torch.where(a < 0.2, -5.0, 1 - a), "is too small at position (2,)"),
        (lambda a: (1 - a).mean(), "should have shape (3,), got ()"),
        (lambda a: (1 - a).log().log(), "are not finite"),
        (lambda a: "0.1", "should be a number or a tensor, got the str '0.1'"),
        (lambda a: {"x": 1}, "should be a number or a tensor, got the dict"),
        (lambda a: a @ torch.ones(4, dtype=a.dtype), "your function raised RuntimeError"),
        (lambda: 1, "your function raised TypeError"),
        (0.5, "should be a function, got the float 0.5"),
    ],
)
def test_wrong_answers_are_refused_with_the_reason(answer, message):
    verdict = variance(answer)
    assert verdict.status == "not yet"
    assert message in verdict.message


def test_a_failure_inside_the_check_is_told_and_not_raised():
    @exercise
    def check(answer):
        return correct("yes") if answer.mean() > 0 else refuse("no")

    assert (
        repr(check("text"))
        == "not yet: your answer cannot be checked: AttributeError: 'str' object has no attribute 'mean'"
    )
    assert check(torch.ones(2)).passed
    assert repr(check(-torch.ones(2))) == "not yet: no"


def test_answers_of_several_parts():
    @exercise
    def check(mean, deviation):
        verdict = compare(mean, 1.0, what="your mean")
        return compare(deviation, 2.0, what="your deviation") if verdict.passed else verdict

    assert check(..., 2.0).status == "not tried yet"
    assert check(1.0, 4.0).message == "your deviation is the square of what it should be: a square root is missing"
    assert check(1.0, 2.0).passed


@given(wanted=st.floats(-10, 10), relative=st.floats(-1e-3, 1e-3))
def test_only_close_numbers_pass(wanted, relative):
    answer = wanted * (1 + relative)
    assert compare(answer, wanted).passed == bool(np.isclose(answer, wanted, rtol=1e-4, atol=1e-6))


def test_the_learners_arguments_are_copies():
    original = torch.ones(3)
    ask(lambda x: x.zero_(), original)
    assert original.sum() == 3


def test_answers_that_need_gradients_are_compared():
    assert compare(torch.tensor([2.0], requires_grad=True), torch.tensor([2.0])).passed
