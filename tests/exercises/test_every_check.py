"""Laws that the check of every exercise obeys, in every lesson."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable

import pytest

import coursekit.exercises

LESSONS = [
    importlib.import_module(f"coursekit.exercises.{m.name}") for m in pkgutil.iter_modules(coursekit.exercises.__path__)
]
CHECKS = [getattr(lesson, name) for lesson in LESSONS for name in lesson.__all__]

each_check = pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.__module__[-8:]}-{check.__name__}")


def answers(check: Callable, answer: object) -> list[object]:
    """The same answer for everything that the check asks for."""
    return [answer] * len(inspect.signature(check).parameters)


def test_every_lesson_has_three_to_five_checks() -> None:
    for lesson in LESSONS:
        assert 3 <= len(lesson.__all__) <= 5, lesson.__name__
        assert len(set(lesson.__all__)) == len(lesson.__all__)


@each_check
@pytest.mark.parametrize("untouched", [..., lambda *given: ..., lambda *given: 1 + ..., lambda *given: None])
def test_an_untouched_stub_is_not_tried_yet(check: Callable, untouched: object) -> None:
    assert check(*answers(check, untouched)).status == "not tried yet"


@each_check
def test_an_exception_is_explained(check: Callable) -> None:
    verdict = check(*answers(check, lambda *given: 1 / 0))
    assert verdict.status == "not yet"
    assert "ZeroDivisionError" in verdict.message


@each_check
@pytest.mark.parametrize("thing", [0.5, "text", [1, 2]])
def test_what_is_no_function_is_named(check: Callable, thing: object) -> None:
    verdict = check(*answers(check, thing))
    assert verdict.status == "not yet"
    assert "function" in verdict.message


@each_check
@pytest.mark.parametrize("wrong", ["text", object(), {}])
def test_a_wrong_type_is_refused_without_an_exception(check: Callable, wrong: object) -> None:
    assert check(*answers(check, lambda *given: wrong)).status == "not yet"
