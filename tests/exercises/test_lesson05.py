"""The checks of lesson 05: the worked solution passes, and each plausible mistake is named."""

import numpy as np
import pytest
import torch

from coursekit.exercises import lesson05 as check


def best(log_p, log_q, share):
    return torch.sigmoid(log_p - log_q + torch.logit(share))


def weighted(p, q, real, fake):
    return (real * p + fake * q) / (p + q)


def w1(a, b):
    a, b = a.sort().values, b.sort().values
    return (a.repeat_interleave(len(b)) - b.repeat_interleave(len(a))).abs().mean()


def same_length(distance):
    """A mistake in samples of one length."""
    return lambda a, b: distance(a.sort().values, b.sort().values) if len(a) == len(b) else w1(a, b)


def penalty(critic, real, fake, u, graph=True, of=lambda slopes: (slopes.norm(dim=1) - 1).square().mean()):
    x = (u * real + (1 - u) * fake).requires_grad_()
    (slopes,) = torch.autograd.grad(critic(x).sum(), x, create_graph=graph)
    return of(slopes)


def with_other(of):
    return (lambda critic, real, fake, u: penalty(critic, real, fake, u, of=of),)


def radius(r1, lr, slope=0.5, sign=1.0, of=lambda roots: roots.abs().max()):
    step = torch.tensor([[1, sign * lr * slope], [-lr * slope, 1 - lr * r1]], dtype=torch.float64)
    return float(of(torch.linalg.eigvals(step)))


def alternating_radius(r1, lr):
    d = torch.tensor([[1.0, 0.0], [-lr / 2, 1 - lr * r1]], dtype=torch.float64)
    g = torch.tensor([[1.0, lr / 2], [0.0, 1.0]], dtype=torch.float64)
    return float(torch.linalg.eigvals(g @ d).abs().max())


def of_matrix(of, in_turn=False):
    def answer(r1, lr):
        corner = 1 - lr**2 / 4 if in_turn else 1.0
        return float(of(torch.tensor([[corner, lr / 2], [-lr / 2, 1 - lr * r1]], dtype=torch.float64)))

    return answer


def swapped_repeats(a, b):
    a, b = a.sort().values, b.sort().values
    return (a.repeat_interleave(len(a)) - b.repeat_interleave(len(b))).abs().mean()


def twelve_quantiles(a, b):
    at = [(torch.arange(12) * len(x)) // 12 for x in (a, b)]
    return (a.sort().values[at[0]] - b.sort().values[at[1]]).abs().mean()


SOLUTIONS = {
    check.best_discriminator: (best,),
    check.least_squares_best: (weighted,),
    check.wasserstein: (w1,),
    check.gradient_penalty: (penalty,),
    check.spectral_radius: (radius, 1.0),
}

MISTAKES = [
    (check.best_discriminator, (lambda p, q, s: torch.sigmoid(p - q),), "weight p by the share"),
    (check.best_discriminator, (lambda p, q, s: best(p, q, 1 - s),), "wrong side"),
    (check.best_discriminator, (lambda p, q, s: 1 - best(p, q, s),), "probability of 'drawn'"),
    (check.best_discriminator, (lambda p, q, s: torch.logit(best(p, q, s)),), "through a sigmoid"),
    (check.best_discriminator, (lambda p, q, s: best(p, q, s) / (1 - best(p, q, s)),), "odds"),
    (check.best_discriminator, (lambda p, q, s: torch.sigmoid(p - q + s),), "log-odds"),
    (check.best_discriminator, (lambda p, q, s: s * p.exp() / (s * p.exp() + q.exp()),), "what is left of it"),
    (check.best_discriminator, (lambda p, q, s: s * p / (s * p + (1 - s) * q),), "came as logarithms"),
    (check.best_discriminator, (lambda p, q, s: s * p.exp() / (s * p.exp() + (1 - s) * q.exp()),), "has no value"),
    (check.best_discriminator, (lambda p, q, s: best(p.clamp(min=-50), q.clamp(min=-50), s),), "exp(-800)"),
    (
        check.best_discriminator,
        (lambda p, q, s: s * (p - q).exp() / (s * (p - q).exp() + 1 - s),),
        "has no value",
    ),
    (check.least_squares_best, (lambda p, q, r, f: p / (p + q),), "targets are missing"),
    (check.least_squares_best, (lambda p, q, r, f: weighted(q, p, r, f),), "swapped"),
    (check.least_squares_best, (lambda p, q, r, f: r * p + f * q,), "divide by p + q"),
    (check.least_squares_best, (lambda p, q, r, f: r * p / (p + q),), "drawn samples is missing"),
    (check.least_squares_best, (lambda p, q, r, f: weighted(p, q, r, -f),), "a sum, not a difference"),
    (check.least_squares_best, (lambda p, q, r, f: (r + f) / 2 + 0 * p,), "middle of the targets"),
    (check.least_squares_best, (lambda p, q, r, f: torch.where(p > q, r, f),), "distances, not squares"),
    (check.least_squares_best, (lambda p, q, r, f: weighted(p, q, r, f).sigmoid(),), "no probability"),
    (check.wasserstein, (lambda a, b: (a - b).abs().mean() if len(a) == len(b) else w1(a, b),), "sort both first"),
    (check.wasserstein, (lambda a, b: (a.mean() - b.mean()).abs(),), "must not cancel"),
    (check.wasserstein, (lambda a, b: -(a.mean() - b.mean()).abs(),), "may be negative"),
    (check.wasserstein, (same_length(lambda a, b: (a - b).abs().sum()),), "1/N of the mass"),
    (check.wasserstein, (same_length(lambda a, b: (a - b).square().mean()),), "W_2^2"),
    (check.wasserstein, (same_length(lambda a, b: (a - b).square().mean().sqrt()),), "that is W_2"),
    (check.wasserstein, (same_length(lambda a, b: (a - b).abs().max()),), "largest distance"),
    (check.wasserstein, (lambda a, b: (a[:, None] - b).abs().mean(),), "all pairs"),
    (check.wasserstein, (same_length(lambda a, b: (a - b.flip(0)).abs().mean()),), "sorted downwards"),
    (check.wasserstein, (lambda a, b: (a.sort().values[: len(b)] - b.sort().values[: len(a)]).abs().mean(),), "left"),
    (
        check.wasserstein,
        (lambda a, b: (a.sort().values.repeat(len(b)) - b.sort().values.repeat(len(a))).abs().mean(),),
        "whole sample instead of each value",
    ),
    (check.wasserstein, (lambda a, b: w1(a, b) if len(a) == len(b) else (a[:, None] - b).abs().mean(),), "not the be"),
    (check.wasserstein, (lambda a, b: w1(a, b) * len(a) * len(b),), "over all N M parts"),
    (check.wasserstein, (lambda a, b: w1(a, b) * (1 if len(a) == len(b) else len(a) * len(b)),), "something else"),
    (check.wasserstein, (swapped_repeats,), "is to be cut into 6 parts"),
    (check.wasserstein, (lambda a, b: w1(a, b) if len(a) <= len(b) else w1(a[: len(b)], b),), "of 6 and of 4"),
    (check.wasserstein, (twelve_quantiles,), "of 5 and of 3"),
    (check.gradient_penalty, (lambda c, r, f, u: penalty(c, f, r, u),), "exchanged"),
    (check.gradient_penalty, (lambda c, r, f, u: penalty(c, r, f, torch.ones_like(u)),), "at the real samples"),
    (check.gradient_penalty, (lambda c, r, f, u: penalty(c, r, f, torch.zeros_like(u)),), "at the drawn samples"),
    (check.gradient_penalty, with_other(lambda s: (s.norm() - 1).square()), "whole batch"),
    (check.gradient_penalty, with_other(lambda s: (s.square().sum(1) - 1).square().mean()), "square root is lost"),
    (check.gradient_penalty, with_other(lambda s: (s.norm(dim=1).mean() - 1).square()), "not their mean"),
    (check.gradient_penalty, with_other(lambda s: (s.norm(dim=1) - 1).square().sum()), "a sum over the samples"),
    (check.gradient_penalty, with_other(lambda s: s.square().sum(1).mean()), "as R1 does"),
    (check.gradient_penalty, with_other(lambda s: (s.norm(dim=1) - 1).clamp(min=0).square().mean()), "one-sided"),
    (check.gradient_penalty, with_other(lambda s: (s - 1).square().mean()), "each coordinate"),
    (check.gradient_penalty, with_other(lambda s: (s.norm(dim=1) - 1).abs().mean()), "absolute values"),
    (check.gradient_penalty, (lambda c, r, f, u: penalty(c, r, f, u, graph=False),), "has no graph"),
    (check.gradient_penalty, (lambda c, r, f, u: penalty(c, r, f, u).item(),), "has no graph"),
    (
        check.gradient_penalty,
        with_other(lambda s: 2 * (s.norm(dim=1) - 1).square().mean() - (s.norm(dim=1) - 1).square().mean().detach()),
        "gradient of your penalty",
    ),
    (check.spectral_radius, (alternating_radius, 1.0), "alternating"),
    (check.spectral_radius, (lambda r1, lr: radius(0.0, lr), 1.0), "does nothing"),
    (check.spectral_radius, (lambda r1, lr: radius(2 * r1, lr), 1.0), "twice as strong"),
    (check.spectral_radius, (lambda r1, lr: radius(r1 / 2, lr), 1.0), "half as strong"),
    (check.spectral_radius, (lambda r1, lr: radius(r1, lr, of=lambda z: z.real.max()), 1.0), "real parts"),
    (check.spectral_radius, (lambda r1, lr: radius(r1, lr, of=lambda z: z.abs().min()), 1.0), "smallest modulus"),
    (check.spectral_radius, (lambda r1, lr: radius(r1, lr) ** 2, 1.0), "squared moduli"),
    (check.spectral_radius, (lambda r1, lr: radius(r1, lr, slope=1.0), 1.0), "it is 1/2"),
    (check.spectral_radius, (lambda r1, lr: radius(r1, lr, sign=-1.0), 1.0), "wanted the same"),
    (check.spectral_radius, (of_matrix(torch.linalg.det), 1.0), "that is the determinant"),
    (check.spectral_radius, (of_matrix(lambda m: m.det().abs().sqrt()), 1.0), "root of the determinant"),
    (check.spectral_radius, (of_matrix(lambda m: torch.linalg.matrix_norm(m, 2)), 1.0), "singular value"),
    (check.spectral_radius, (of_matrix(lambda m: torch.linalg.eigvals(m).abs().max(), True), 1.0), "in turn"),
    (check.spectral_radius, (lambda r1, lr: radius(r1, lr) + 0.1 * (r1 == 2), 1.0), "(r1, lr) = (0, 0.5)"),
    (check.spectral_radius, (radius, float("nan")), "should be a number"),
    (check.spectral_radius, (radius, 0.25), "up to lr = 1.00 only: a larger weight"),
    (check.spectral_radius, (radius, 2.0), "a smaller weight"),
    (check.spectral_radius, (radius, "1"), "should be a number"),
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
    assert check.spectral_radius(radius, ...).status == "not tried yet"


@pytest.mark.parametrize("r1", [0.97, 1, torch.tensor(1.02), np.float32(1), np.int64(1)])
def test_the_best_weight_need_not_be_exact(r1):
    assert check.spectral_radius(radius, r1).passed


def test_the_limits_that_a_verdict_names_are_where_steps_stop_to_converge():
    for r1, limit in ((0.25, 1.0), (0.5, 2.0), (1.0, 4.0), (2.0, 4 * (2 - 3**0.5))):
        assert radius(r1, 0.99 * limit) < 1 < radius(r1, 1.01 * limit)
