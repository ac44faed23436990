"""Checks of lesson 05, "Generative adversarial networks".

Symbols as in the lesson: p is the density of the data and q the generator's, D the discriminator, l its logit; the
Dirac game has the real point 0, the generator at theta and the critic psi x.
"""

from collections.abc import Callable
from numbers import Real

import torch
from torch import Tensor

from coursekit.exercises import Verdict, ask, compare, correct, exercise, first_refusal, refuse
from coursekit.gan import DiracGAN, alternating, simultaneous, wasserstein_1d

__all__ = ["best_discriminator", "gradient_penalty", "least_squares_best", "spectral_radius", "wasserstein"]

FLOAT = {"dtype": torch.float64}


@exercise
def best_discriminator(answer: Callable) -> Verdict:
    """Exercise 5.1: (log_p, log_q, share of real samples) -> the best D at each point."""
    log_p, log_q = torch.tensor([0.3, 0.2, 0.05], **FLOAT).log(), torch.tensor([0.1, 0.4, 0.3], **FLOAT).log()
    share = torch.tensor(0.2, **FLOAT)
    logit = log_p - log_q + share.logit()
    verdict = compare(
        ask(answer, log_p, log_q, share),
        logit.sigmoid(),
        mistakes={
            "that is p / (p + q), the answer for as many real as drawn samples: weight p by the share of real ones": (
                log_p - log_q
            ).sigmoid(),
            "the share is on the wrong side: it belongs to the real samples": (log_p - log_q - share.logit()).sigmoid(),
            "that is the probability of 'drawn', 1 - D": (-logit).sigmoid(),
            "that is the logit of D: put it through a sigmoid": logit,
            "those are the odds D / (1 - D)": logit.exp(),
            "you added the share itself to the logit: its log-odds, log(share / (1 - share)), are what is to be "
            "added": (log_p - log_q + share).sigmoid(),
            "you weighted p by the share, but not q by what is left of it": torch.sigmoid(log_p - log_q + share.log()),
            "the densities came as logarithms: take exp of them, or better stay with logits": share
            * log_p
            / (share * log_p + (1 - share) * log_q),
        },
        what="your D",
    )
    if not verdict.passed:
        return verdict
    far = torch.tensor([-800.0, -900.0, -1.0, -900.0], **FLOAT), torch.tensor([-801.0, -897.0, -900.0, -1.0], **FLOAT)
    there = torch.as_tensor(ask(answer, *far, share), **FLOAT)
    if there.shape != far[0].shape or not bool(there.isfinite().all()):
        return refuse(
            "right where the densities are ordinary numbers, but far from the samples of either law exp gives 0 or "
            "infinity, and a quotient of two such has no value: take the sigmoid of the logit"
        )
    return compare(
        there,
        (far[0] - far[1] + share.logit()).sigmoid(),
        what="your D at densities of exp(-800)",
        why="log p - log q plus the log-odds of the share: Bayes' rule with a prior, as in lesson 01",
    )


@exercise
def least_squares_best(answer: Callable) -> Verdict:
    """Exercise 5.2: (p, q, real, fake) -> the output that minimises p (d - real)^2 + q (d - fake)^2."""
    p, q = torch.tensor([0.3, 0.2, 0.05], **FLOAT), torch.tensor([0.1, 0.4, 0.3], **FLOAT)
    real, fake = torch.tensor(1.5, **FLOAT), torch.tensor(-1.0, **FLOAT)
    best = (real * p + fake * q) / (p + q)
    return compare(
        ask(answer, p, q, real, fake),
        best,
        mistakes={
            "that is p / (p + q), the best D of the original game: the targets are missing": p / (p + q),
            "the targets are swapped: real samples, of density p, are pulled to `real`": (real * q + fake * p)
            / (p + q),
            "divide by p + q: what you have is a weighted sum, a weighted mean is wanted": real * p + fake * q,
            "the term of the drawn samples is missing: they pull to `fake`": real * p / (p + q),
            "a sign: the derivative p (d - real) + q (d - fake) is zero at a sum, not a difference": (
                real * p - fake * q
            )
            / (p + q),
            "that is the middle of the targets, the best answer only where p = q": ((real + fake) / 2).expand(3),
            "that minimises distances, not squares: it jumps to the target of the larger density": torch.where(
                p > q, real, fake
            ),
            "you put it through a sigmoid: this discriminator gives no probability": best.sigmoid(),
        },
        what="your output",
        why="a weighted mean of the targets; with targets 1 and 0 it is p / (p + q) again",
    )


@exercise
def wasserstein(answer: Callable) -> Verdict:
    """Exercise 5.3: two samples of numbers, (N,) and (M,) -> their exact W_1."""
    generator = torch.Generator().manual_seed(5)
    even = [torch.randn(6, generator=generator, **FLOAT) * scale for scale in (1.0, 2.0)]
    verdict = compare(
        ask(answer, *even),
        wasserstein_1d(*even),
        mistakes=_distances(*even),
        what="your W_1 of two samples of six",
    )
    for sizes in ((4, 6), (6, 4), (5, 3)):
        if not verdict.passed:
            return verdict
        # one decimal: some values are tied
        verdict = _of_two_lengths(
            answer, *(torch.randn(n, generator=generator, **FLOAT).round(decimals=1) for n in sizes)
        )
    return verdict


def _of_two_lengths(answer: Callable, a: Tensor, b: Tensor) -> Verdict:
    """Whether W_1 is right for samples of different lengths."""
    n, m = len(a), len(b)

    def careful(a: Tensor, b: Tensor) -> object:
        try:
            return answer(a, b)
        except RuntimeError as error:
            if "size of tensor" not in str(error):
                raise
            return torch.nan

    found = ask(careful, a, b)
    if isinstance(found, float) and found != found:
        return refuse(
            f"right for samples of one length, but of {n} and {m} values you compare different numbers of parts: each "
            f"of the {n} is to be cut into {m} parts, each of the {m} into {n}"
        )
    low, high = a.sort().values, b.sort().values
    short, parts = min(n, m), (low.repeat_interleave(m) - high.repeat_interleave(n)).abs()
    return compare(
        found,
        wasserstein_1d(a, b),
        mistakes={
            "right for samples of one length, but of the longer one you left some out: each of N points weighs 1/N, "
            "each of M 1/M": (low[:short] - high[:short]).abs().mean(),
            "right for samples of one length; then you repeated each whole sample instead of each value, so that they "
            "are no longer sorted": (low.repeat(m) - high.repeat(n)).abs().mean(),
            "right for samples of one length; for others you took the mean over all pairs, a coupling, but not the "
            "best": (a[:, None] - b).abs().mean(),
            "right for samples of one length; for others each of the N M parts carries 1/(N M) of the mass, and you "
            "divided by something else": parts.sum(),
        },
        what=f"your W_1 of samples of {n} and of {m}",
        why="on a line nothing beats carrying the smallest to the smallest",
    )


def _distances(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """What is often mistaken for W_1 of two samples of one length."""
    (low, _), (high, _) = a.sort(), b.sort()
    gap = low - high
    return {
        "you compared the values in the order in which they came: sort both first": (a - b).abs().mean(),
        "that is the distance of the means: values that go left and right must not cancel, so take absolute values "
        "before the mean": gap.mean().abs(),
        "that is the difference of the means, which cancels and may be negative": -gap.mean().abs(),
        "that is the sum of the distances: each point carries 1/N of the mass": gap.abs().sum(),
        "that is the sum over all N M parts: each carries 1/(N M) of the mass": gap.abs().sum() * len(a),
        "you squared the distances: that is W_2^2": gap.square().mean(),
        "you squared the distances and took the root: that is W_2": gap.square().mean().sqrt(),
        "that is the largest distance, not the mean one": gap.abs().max(),
        "that is the mean over all pairs, a coupling, but not the best": (a[:, None] - b).abs().mean(),
        "one of the two is sorted downwards: that carries everything as far as possible": (low - high.flip(0))
        .abs()
        .mean(),
    }


@exercise
def gradient_penalty(answer: Callable) -> Verdict:
    """Exercise 5.4: (critic, real, fake, u (N, 1)) -> the mean of (slope - 1)^2 at u real + (1 - u) fake."""
    generator = torch.Generator().manual_seed(5)
    real, fake = (torch.randn(7, 2, generator=generator, **FLOAT) for _ in range(2))
    u = torch.rand(7, 1, generator=generator, **FLOAT)
    scale = torch.tensor(0.7, requires_grad=True, **FLOAT)

    def critic(x: Tensor) -> Tensor:
        return scale * (x[:, 0] ** 2 + torch.sin(x[:, 1])) + 0.2 * x[:, 0]

    def slopes(x: Tensor) -> Tensor:
        return torch.stack([2 * scale * x[:, 0] + 0.2, scale * torch.cos(x[:, 1])], dim=1).detach()

    found = ask(answer, critic, real, fake, u)
    between, turned = (torch.lerp(*ends, u) for ends in ((fake, real), (real, fake)))
    gradient = slopes(between)
    length = gradient.norm(dim=1)
    verdict = compare(
        found.detach() if isinstance(found, Tensor) else found,
        (length - 1).square().mean(),
        mistakes={
            "u and 1 - u are exchanged: u belongs to the real samples": (slopes(turned).norm(dim=1) - 1)
            .square()
            .mean(),
            "you took the slope at the real samples: points between real and drawn are wanted": (
                slopes(real).norm(dim=1) - 1
            )
            .square()
            .mean(),
            "you took the slope at the drawn samples: points between real and drawn are wanted": (
                slopes(fake).norm(dim=1) - 1
            )
            .square()
            .mean(),
            "you took the length of the whole batch's gradient: each sample has a slope of its own, norm(dim=1)": (
                gradient.norm() - 1
            ).square(),
            "the square root is lost: you compared the squared length with 1": (length.square() - 1).square().mean(),
            "you took the mean of the slopes first: each of them has to be 1, not their mean": (
                length.mean() - 1
            ).square(),
            "that is a sum over the samples where the mean is wanted": (length - 1).square().sum(),
            "that pulls slopes to 0, as R1 does: their target is 1": length.square().mean(),
            "that is the one-sided penalty: slopes below 1 cost too": (length - 1).clamp(min=0).square().mean(),
            "you compared each coordinate of the gradient with 1, not its length": (gradient - 1).square().mean(),
            "absolute values where squares are wanted": (length - 1).abs().mean(),
        },
        what="your penalty",
    )
    if not verdict.passed:
        return verdict
    if not isinstance(found, Tensor) or not found.requires_grad:
        return refuse(
            "the number is right, but it has no graph: the critic cannot learn from it. Ask autograd.grad for "
            "create_graph=True"
        )
    (by_scale,) = torch.autograd.grad(found, scale)
    by_hand = 2 * (length - 1) * (gradient * _by_scale(between)).sum(1) / length
    return compare(
        by_scale,
        by_hand.mean(),
        what="the number is right, but the gradient of your penalty by the critic's weights",
        why="the gradient of a gradient: the critic learns where it is too steep and where it is too flat",
    )


def _by_scale(x: Tensor) -> Tensor:
    """The derivative of the critic's gradient by its scale."""
    return torch.stack([2 * x[:, 0], torch.cos(x[:, 1])], dim=1)


@exercise
def spectral_radius(answer: Callable, best_r1: float) -> Verdict:
    """Exercise 5.5: (r1, lr) -> the largest modulus of an eigenvalue of a step; the r1 for the largest lr."""
    cases = [(0.0, 0.5), (0.25, 0.3), (0.5, 1.5), (1.0, 2.0), (1.5, 0.5), (2.0, 2.0)]
    values = [float(ask(answer, r1, lr)) for r1, lr in cases]

    def truth(game: Callable[[float], DiracGAN], move: Callable, of: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.stack([of(game(r1).eigenvalues(move, lr)) for r1, lr in cases])

    def penalised(r1: float) -> DiracGAN:
        return DiracGAN(r1=r1)

    def largest(roots: Tensor) -> Tensor:
        return roots.abs().max()

    def radius(step: Tensor) -> Tensor:
        return largest(torch.linalg.eigvals(step))

    verdict = compare(
        torch.tensor(values, **FLOAT),
        truth(penalised, simultaneous, largest),
        mistakes={
            "those are the radii of alternating steps: here both players answer to the same state": truth(
                penalised, alternating, largest
            ),
            "the penalty does nothing in your matrix: r1 psi is its slope": truth(
                lambda r1: DiracGAN(), simultaneous, largest
            ),
            "the penalty is twice as strong in your matrix: r1 / 2 psi^2 has the slope r1 psi": truth(
                lambda r1: DiracGAN(r1=2 * r1), simultaneous, largest
            ),
            "the penalty is half as strong in your matrix: r1 / 2 psi^2 has the slope r1 psi": truth(
                lambda r1: DiracGAN(r1=r1 / 2), simultaneous, largest
            ),
            "you took the real parts of the eigenvalues: their moduli count": truth(
                penalised, simultaneous, lambda roots: roots.real.max()
            ),
            "that is the smallest modulus: the slowest direction decides": truth(
                penalised, simultaneous, lambda roots: roots.abs().min()
            ),
            "that is the determinant: for a conjugate pair the squared modulus, for real eigenvalues neither of them": (
                _of_matrices(cases, torch.linalg.det)
            ),
            "that is the root of the determinant: the modulus of a conjugate pair, but real eigenvalues differ": (
                _of_matrices(cases, lambda step: torch.linalg.det(step).abs().sqrt())
            ),
            "that is the largest singular value: how far one step can lead away, not how far many do": _of_matrices(
                cases, lambda step: torch.linalg.matrix_norm(step, 2)
            ),
            "you put the penalty into the matrix of steps in turn: here both players answer to the same state": (
                _of_matrices(cases, radius, in_turn=True)
            ),
            "those are squared moduli": truth(penalised, simultaneous, lambda roots: roots.abs().square().max()),
            "your matrix couples the players by lr, as if the sigmoid were 1 at 0: it is 1/2": _of_matrices(
                cases, radius, slope=1.0
            ),
            "your matrix has the same sign at both couplings, as if the players wanted the same": _of_matrices(
                cases, radius, sign=-1.0
            ),
        },
        what="your radius, at (r1, lr) = " + ", ".join(f"({r1:g}, {lr:g})" for r1, lr in cases) + ",",
    )
    return first_refusal(
        verdict,
        _best(best_r1),
        praise="the penalty damps the circle; beyond r1 = 1 the eigenvalues are real, and one soon passes -1",
    )


def _of_matrices(
    cases: list[tuple[float, float]],
    of: Callable[[Tensor], Tensor],
    slope: float = 0.5,
    sign: float = 1.0,
    in_turn: bool = False,
) -> Tensor:
    """Numbers of steps with another slope of the losses by the logit, another sign of the generator's, or in turn."""
    numbers = []
    for r1, lr in cases:
        corner = 1 - (lr * slope) ** 2 if in_turn else 1.0
        numbers.append(of(torch.tensor([[corner, lr * slope * sign], [-lr * slope, 1 - lr * r1]], **FLOAT)))
    return torch.stack(numbers)


def _best(r1: object) -> Verdict:
    """Whether the weight allows the largest learning rate."""
    if isinstance(r1, bool) or not isinstance(r1, Real | Tensor) or not float(r1) >= 0:
        return refuse(f"your radius is right; best_r1 should be a number that is not negative, got {r1!r}")
    value = float(r1)
    if abs(value - 1) < 0.05:
        return correct("the best weight")
    limit = 4 * value if value < 1 else 4 * (value - (value**2 - 1) ** 0.5)
    side = "larger" if value < 1 else "smaller"
    return refuse(
        f"your radius is right, but with r1 = {value:g} steps converge up to lr = {limit:.2f} only: a {side} weight "
        "allows more"
    )
