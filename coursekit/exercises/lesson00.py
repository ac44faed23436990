"""The checks of lesson 00, "Start here": a variance, a batch of noise levels, a density, a time."""

import math

import torch
from torch import Tensor

from coursekit.diffusion.schedules import Cosine, LinearVP, Rectified, Schedule
from coursekit.exercises import Verdict, ask, compare, correct, exercise, refuse

__all__ = ["half_way", "log_density", "noisy_batch", "variance_on_the_axis"]


@exercise
def variance_on_the_axis(answer) -> Verdict:
    """Exercise 0.1: the variance of x_t = alpha x + sigma eps, (alpha, sigma) -> variance, where x has variance 1."""
    alpha = torch.tensor([0.9, 0.5, 0.0, 1.0], dtype=torch.float64)
    sigma = torch.tensor([0.3, 0.5, 2.0, 0.0], dtype=torch.float64)
    wanted = alpha**2 + sigma**2
    return compare(
        ask(answer, alpha, sigma),
        wanted,
        mistakes={
            "these are standard deviations added up; the variances add: square each one first": alpha + sigma,
            "you squared the sum of the standard deviations; the covariance of x and eps is 0, so there is no cross "
            "term 2 alpha sigma": (alpha + sigma) ** 2,
            "that is the standard deviation: you took a square root too many": wanted.sqrt(),
            "it is 1 only if alpha^2 + sigma^2 = 1; here alpha and sigma are any two numbers": torch.ones_like(wanted),
            "that is the variance of the noise alone; alpha x varies too": sigma**2,
            "variances of independent variables add, also when one of them is called noise": alpha**2 - sigma**2,
        },
        what="your variance",
        why="Var(alpha x + sigma eps) = alpha^2 Var(x) + sigma^2 Var(eps) = alpha^2 + sigma^2, since x and eps are "
        "independent",
    )


@exercise
def noisy_batch(answer) -> Verdict:
    """Exercise 0.2: (x, alpha, sigma, eps) -> alpha_n x_n + sigma_n eps_n for a batch, one noise level a picture."""
    for count in (28, 5):  # 28 pictures of side 28: here a wrong broadcast fits without an error
        verdict = compare(
            ask(answer, *_batch(count)),
            _levels(*_batch(count)),
            mistakes=_broken_batches(*_batch(count)) if count == 28 else None,
            what=f"your batch of {count} pictures",
            atol=1e-5,
        )
        if not verdict.passed:
            return verdict
    return correct("each picture has its own noise level, whatever the size of the batch")


def _batch(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    x = torch.rand(count, 1, 28, 28, generator=generator) * 2 - 1
    alpha = torch.linspace(0.95, 0.1, count)
    return x, alpha, torch.sqrt(1 - alpha**2), torch.randn(x.shape, generator=generator)


def _levels(x: Tensor, alpha: Tensor, sigma: Tensor, eps: Tensor) -> Tensor:
    return alpha[:, None, None, None] * x + sigma[:, None, None, None] * eps


def _broken_batches(x: Tensor, alpha: Tensor, sigma: Tensor, eps: Tensor) -> dict[str, Tensor]:
    """What people hand in, by what it means."""
    return {
        "alpha of shape (28,) was matched with the last axis, the pixel columns: each picture fades from left to "
        "right. Give alpha and sigma the shape (N, 1, 1, 1)": alpha * x + sigma * eps,
        "alpha[:, None] was matched with the pixel rows: each picture fades from top to bottom. Give alpha and "
        "sigma the shape (N, 1, 1, 1)": alpha[:, None] * x + sigma[:, None] * eps,
        "alpha and sigma are swapped: alpha = 1 must leave a picture as it is": _levels(x, sigma, alpha, eps),
        "that is alpha^2 x + sigma^2 eps; the squares belong to the variance": _levels(x, alpha**2, sigma**2, eps),
        "the noise is missing: that is alpha x": alpha[:, None, None, None] * x,
        "the noise is not scaled: sigma must multiply eps": alpha[:, None, None, None] * x + eps,
        "the picture is not scaled: alpha must multiply x": x + sigma[:, None, None, None] * eps,
    }


@exercise
def log_density(answer) -> Verdict:
    """Exercise 0.3: (x, a, b) -> log p_X(x), in nats, where x = a z + b and z is standard normal."""
    x = torch.tensor([-1.2, 0.0, 0.7, 2.5], dtype=torch.float64)
    for a, b in ((2.0, 1.0), (0.25, 0.5), (-3.0, 0.5)):
        value = ask(_nan_for_the_log_of_a_negative(answer), x, a, b)
        if a < 0 and _has_nan(value):
            return refuse(
                f"your log-density does not exist for a = {a}: a may be negative, and has no logarithm then. A density "
                "is stretched by |a|, so take log |a|"
            )
        verdict = compare(
            value, _log_normal((x - b) / a) - math.log(abs(a)), _broken_densities(x, a, b), f"your log p_X for a = {a}"
        )
        if not verdict.passed:
            return verdict
    return correct("log p_X(x) = log p_Z((x - b) / a) - log |a|: where the map stretches, the density falls")


def _nan_for_the_log_of_a_negative(answer: object) -> object:
    """The learner's function, but `math.log` of a negative number gives nan, as `torch.log` does."""
    if not callable(answer):
        return answer

    def guarded(x: Tensor, a: float, b: float) -> object:
        try:
            return answer(x, a, b)
        except ValueError:
            if a < 0:
                return torch.full_like(x, math.nan)
            raise

    return guarded


def _log_normal(z: Tensor) -> Tensor:
    return -0.5 * z**2 - 0.5 * math.log(2 * math.pi)


def _has_nan(value: object) -> bool:
    return isinstance(value, Tensor) and bool(value.isnan().any())


def _broken_densities(x: Tensor, a: float, b: float) -> dict[str, Tensor]:
    """What people hand in, by what it means."""
    z, stretch = (x - b) / a, math.log(abs(a))
    wanted = _log_normal(z) - stretch
    return {
        "that is log p_Z(f^{-1}(x)): the stretching is missing. It is the mistake of one symbol for two densities, and "
        "its integral over x is |a|, not 1": _log_normal(z),
        "the stretching has the wrong sign: you added log |a|, but where the map spreads points apart they lie less "
        "densely": _log_normal(z) + stretch,
        "you evaluated p_Z at x; it wants the z from which x came, f^{-1}(x) = (x - b) / a": _log_normal(x) - stretch,
        "the inverse of x = a z + b is (x - b) / a; you divided first": _log_normal(x / a - b) - stretch,
        "that is f(x) = a x + b where the inverse f^{-1}(x) = (x - b) / a is wanted": _log_normal(a * x + b) - stretch,
        "you subtracted |a| itself; of the logarithm of a product the logarithm is left, log |a|": (
            _log_normal(z) - abs(a)
        ),
        "that is the density, not its logarithm": wanted.exp(),
        "the normalising constant is missing: log p_Z(z) = -z^2/2 - log(2 pi)/2": -0.5 * z**2 - stretch,
    }


@exercise
def half_way(answer) -> Verdict:
    """Exercise 0.4: schedule -> the time t at which alpha_t = sigma_t, to three decimals."""
    schedules: tuple[Schedule, ...] = (Cosine(), LinearVP(), Rectified())
    return compare(
        torch.stack([_scalar(ask(answer, schedule)) for schedule in schedules]),
        _times(schedules, 0.0),
        mistakes={
            "your time is where alpha_t = 1/2; that is not where alpha_t = sigma_t, since alpha^2 + sigma^2 = 1 on the "
            "cosine and on the linear schedule": torch.stack([*_times(schedules[:2], -math.log(3)), torch.tensor(0.5)]),
            "your time is where sigma_t = 1/2; alpha_t is larger there on two of the schedules": torch.stack(
                [*_times(schedules[:2], math.log(3)), torch.tensor(0.5)]
            ),
            "your time is where alpha_t^2 = 1/2: right if alpha^2 + sigma^2 = 1, but the rectified schedule has "
            "alpha + sigma = 1": torch.stack([*_times(schedules[:2], 0.0), torch.tensor(1 - math.sqrt(0.5))]),
            "your time is where the log-SNR is 1; alpha_t = sigma_t means an SNR of 1, whose logarithm is 0": _times(
                schedules, 1.0
            ),
            "0.5 is half of the time; how much noise there is by then depends on the schedule": torch.full((3,), 0.5),
        },
        what="your list of times for the cosine, the linear and the rectified schedule",
        why="alpha_t = sigma_t where the log-SNR is 0: after a quarter of the time on the linear schedule, near the "
        "middle on the other two",
        rtol=0.0,
        atol=6e-4,
    )


def _scalar(value: object) -> Tensor:
    """The learner's time as a number, so that three of them can be stacked."""
    return torch.as_tensor(value, dtype=torch.float64).reshape(())


def _times(schedules: tuple[Schedule, ...], log_snr: float) -> Tensor:
    return torch.stack([schedule.time(log_snr) for schedule in schedules])
