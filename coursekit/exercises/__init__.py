"""The checks behind the exercises: each says what is wrong with an answer and why, never only that it is.

A lesson's file holds one check per exercise. An answer is a number, a tensor or a function; the check
computes the truth, and the same with each mistake that people make, and compares:

    import torch

    from coursekit.exercises import Verdict, ask, compare, exercise

    @exercise
    def variance_of_noise(answer) -> Verdict:
        "Exercise 8.1: the variance of x_t given x_0, as a function of alpha_bar."
        alpha_bar = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
        return compare(
            ask(answer, alpha_bar),
            1 - alpha_bar,
            mistakes={
                "that is the standard deviation: you took a square root too many": (1 - alpha_bar).sqrt(),
                "that is the share of signal that is left, alpha_bar": alpha_bar,
            },
            what="your variance",
        )

In the notebook the learner writes `variance = lambda alpha_bar: ...` and calls `variance_of_noise(variance)`.
`exercise` answers "not tried yet" to an untouched stub and turns every exception of the learner's code into
text; `ask` calls the learner's function; `compare` finds what went wrong. A check that needs more than a
comparison returns `correct(why)` or `refuse(why)` itself. Every check has a test with its worked
solution and with at least two wrong answers.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["Verdict", "ask", "compare", "correct", "exercise", "first_refusal", "parts", "refuse"]

Status = Literal["not tried yet", "correct", "not yet"]


@dataclass(frozen=True)
class Verdict:
    """What a check thinks of an answer; its text is what the notebook shows.

    Example:
        >>> Verdict("not yet", "the sign is flipped")
        not yet: the sign is flipped
    """

    status: Status
    message: str

    def __repr__(self) -> str:
        return f"{self.status}: {self.message}"

    @property
    def passed(self) -> bool:
        """Whether the answer is right."""
        return self.status == "correct"


class _Stop(Exception):
    """Ends a check early with a verdict."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.message)
        self.verdict = verdict


NOT_TRIED = Verdict("not tried yet", "replace the ... by your answer and run both cells again")


def correct(why: str) -> Verdict:
    """The verdict on a right answer: say in a sentence what makes it right."""
    return Verdict("correct", why)


def refuse(why: str) -> Verdict:
    """The verdict on a wrong answer: say what is wrong and why."""
    return Verdict("not yet", why)


def first_refusal(*verdicts: Verdict, praise: str) -> Verdict:
    """The first verdict that is not "correct", or praise.

    Example:
        >>> first_refusal(correct("the mean"), refuse("the variance is halved"), praise="both agree")
        not yet: the variance is halved
    """
    return next((verdict for verdict in verdicts if not verdict.passed), correct(praise))


def parts(result: object, names: tuple[str, ...]) -> tuple:
    """The values that an answer returns together: a tuple, a list, or a tensor of one dimension.

    Raises:
        ValueError: if they are not as many as there are names; `exercise` turns that into a verdict.

    Example:
        >>> parts([1.0, 2.0], ("mean", "variance"))
        (1.0, 2.0)
        >>> parts(torch.tensor([1.0, 2.0]), ("mean", "variance"))
        (tensor(1.), tensor(2.))
    """
    if isinstance(result, Tensor) and result.dim() == 1:
        result = result.unbind()
    if not isinstance(result, tuple | list) or len(result) != len(names):
        found = f"{len(result)} values" if isinstance(result, tuple | list) else f"a {type(result).__name__}"
        raise ValueError(f"return {len(names)} values ({', '.join(names)}), got {found}")
    return tuple(result)


def exercise(check: Callable[..., Verdict]) -> Callable[..., Verdict]:
    """Make a function a check that never raises, whatever the learner hands in.

    Example:
        >>> @exercise
        ... def half(answer):
        ...     return compare(answer, 0.5, what="your half")
        >>> half(...)
        not tried yet: replace the ... by your answer and run both cells again
        >>> half(0.5)
        correct: your half agrees with the exact value
        >>> half("0.5")
        not yet: your half should be a number or a tensor, got the str '0.5'
    """

    @functools.wraps(check)
    def checked(*answers: Any) -> Verdict:
        if any(answer is ... for answer in answers):
            return NOT_TRIED
        try:
            return check(*answers)
        except _Stop as stop:
            return stop.verdict
        except Exception as error:  # the learner's code can fail in any way
            return refuse(f"your answer cannot be checked: {type(error).__name__}: {error}")

    return checked


def ask(answer: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """Call the learner's function; inside a check only, whose verdict it may decide.

    A function that still returns `...` or nothing, or computes with `...`, is "not tried yet". Tensors are
    handed over as copies, so that an answer that works in place spoils nothing.
    """
    if not callable(answer):
        raise _Stop(refuse(f"your answer should be a function, got the {_named(answer)}"))
    try:
        result = answer(*map(_copy, arguments), **{key: _copy(value) for key, value in keywords.items()})
    except Exception as error:
        if "ellipsis" in str(error):  # an arithmetic operation met a ... that is still there
            raise _Stop(NOT_TRIED) from None
        raise _Stop(refuse(f"your function raised {type(error).__name__}: {error}")) from None
    if result is ... or result is None:
        raise _Stop(Verdict("not tried yet", "your function returns nothing yet (or its `return` is missing)"))
    return result


def compare(
    answer: Any,
    wanted: Tensor | float,
    mistakes: Mapping[str, Tensor | float] | None = None,
    what: str = "your answer",
    why: str = "",
    rtol: float = 1e-4,
    atol: float = 1e-6,
) -> Verdict:
    """Compare numbers with the truth, and a wrong answer with the mistakes that people make.

    Args:
        answer: a number, a list, an array or a tensor.
        wanted: the exact value.
        mistakes: what each wrong value means, such as `{"you lost the square root": variance}`. After these
            the usual ones are tried: a flipped sign, a square, a root, a reciprocal, a constant factor or
            offset.
        what: how the verdict calls the answer.
        why: what a right answer is praised with; by default, that it agrees.
        rtol: relative tolerance.
        atol: absolute tolerance.

    Example:
        >>> compare([1.0, 2.0], torch.tensor([1.0, 4.0]), what="your variance")
        not yet: your variance is the square root of what it should be
        >>> compare(-3.0, 3.0)
        not yet: your answer has its sign flipped
        >>> compare(2.0, 3.0, {"you took the mean where the sum is wanted": 2.0})
        not yet: you took the mean where the sum is wanted
    """
    wanted = torch.as_tensor(wanted, dtype=torch.float64)
    value = _as_tensor(answer, what)
    if value.shape != wanted.shape:
        return refuse(f"{what} should have shape {tuple(wanted.shape)}, got {tuple(value.shape)}")
    if not value.isfinite().all():
        return refuse(f"{what} holds {int((~value.isfinite()).sum())} values that are not finite (nan or inf)")

    def same(other: Tensor | float) -> bool:
        return bool(torch.isclose(value, torch.as_tensor(other, dtype=value.dtype), rtol=rtol, atol=atol).all())

    if same(wanted):
        return correct(why or f"{what} agrees with the exact value")
    for meaning, wrong in (mistakes or {}).items():
        if torch.as_tensor(wrong).shape == wanted.shape and same(wrong):
            return refuse(meaning)
    return refuse(f"{what} {_usual_mistake(value, wanted, same)}")


def _usual_mistake(value: Tensor, wanted: Tensor, same: Callable[[Tensor], bool]) -> str:
    """Name a mistake that needs no knowledge of the exercise, or say where the difference is largest."""
    usual = {
        "has its sign flipped": -wanted,
        "is the square root of what it should be": wanted.sqrt(),
        "is the square of what it should be: a square root is missing": wanted.square(),
        "is upside down: it is one over what it should be": wanted.reciprocal(),
    }
    for meaning, wrong in usual.items():
        if wrong.isfinite().all() and same(wrong):
            return meaning
    factor, offset = _median(value / wanted), _median(value - wanted)
    if value.numel() > 1 and same(factor * wanted):
        return f"is {factor:.4g} times what it should be, everywhere"
    if value.numel() > 1 and same(wanted + offset):
        return f"is off by {offset:.4g}, everywhere"
    worst = int((value - wanted).abs().argmax())
    place = f" at position {_index(worst, wanted.shape)}" if wanted.dim() else ""
    size = "too large" if value.flatten()[worst] > wanted.flatten()[worst] else "too small"
    gap = float((value - wanted).abs().flatten()[worst])
    return f"is {size}{place}: {float(value.flatten()[worst]):.4g}, which is off by {gap:.2g}"


def _as_tensor(answer: Any, what: str) -> Tensor:
    """The answer in float64 on the CPU."""
    if answer is ...:
        raise _Stop(NOT_TRIED)
    try:
        if isinstance(answer, str | bytes | dict | set):
            raise TypeError
        if isinstance(answer, list | tuple) and any(isinstance(part, Tensor) for part in answer):
            answer = torch.stack([torch.as_tensor(part) for part in answer])
        return torch.as_tensor(answer).detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError):
        message = f"{what} should be a number or a tensor, got the {_named(answer)}"
        raise _Stop(refuse(message)) from None


def _median(values: Tensor) -> float:
    values = values[values.isfinite()]
    return float(values.median()) if values.numel() else 0.0


def _index(flat: int, shape: torch.Size) -> tuple[int, ...]:
    return tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), shape))


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _named(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:37] + '...'}"
