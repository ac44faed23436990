r"""Score matching: a score is fitted to data without the normaliser, and without drawing from the model.

The Fisher divergence J(s) = E_p |s(x) - grad log p(x)|^2 / 2 contains the unknown score of the data. Three ways round:

    implicit     E_p [|s|^2 / 2 + tr(ds/dx)]                      = J(s) - E_p |grad log p|^2 / 2, by parts
    sliced       E_p E_v [|s|^2 / 2 + v^T (ds/dx) v]              the same, the trace estimated along random v
    denoising    E |s(x~) - (x - x~) / sigma^2|^2 / 2             x~ = x + sigma eps: the score of the blurred data

References: Hyvarinen, "Estimation of Non-Normalized Statistical Models by Score Matching", 2005, theorem 1; Song et
al., "Sliced Score Matching", 2019, arXiv 1905.07088, eq. 8 with the variance reduced as in its section 3.2; Vincent, "A
Connection Between Score Matching and Denoising Autoencoders", 2011, eq. 9. With many noise levels: Song and Ermon,
"Generative Modeling by Estimating Gradients of the Data Distribution", 2019, arXiv 1907.05600, eq. 5 and 6.

Each function returns a mean over the batch, a scalar whose gradient by the score's parameters is recorded. A score by
autograd, such as `EnergyModel.score`, will do.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from coursekit.diffusion.chain import expand
from coursekit.diffusion.losses import Stratified, Times
from coursekit.diffusion.schedules import Schedule
from coursekit.energy.scores import Score

__all__ = [
    "denoising_score_matching",
    "diffused_score_matching",
    "implicit_score_matching",
    "sliced_score_matching",
]


def implicit_score_matching(score: Score, x: Tensor) -> Tensor:
    """Mean of |s|^2 / 2 + tr(ds/dx), the trace exact: as many backward passes as x has dimensions.

    Args:
        score: s, (N, ...) -> (N, ...), differentiable.
        x: data (N, ...).

    Example:
        >>> x = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
        >>> implicit_score_matching(lambda x: -x, x).item()  # |x|^2 / 2 - 2
        -1.0
    """
    x = x.detach().requires_grad_()
    s = score(x).flatten(1)  # (N, D)
    trace = 0.0
    for i in range(s.shape[1]):
        (row,) = torch.autograd.grad(s[:, i].sum(), x, create_graph=True)
        trace = trace + row.flatten(1)[:, i]
    return (0.5 * s.square().sum(1) + trace).mean()


def sliced_score_matching(
    score: Score, x: Tensor, projections: int = 1, generator: torch.Generator | None = None
) -> Tensor:
    """Mean of |s|^2 / 2 + v^T (ds/dx) v over random v of -1 and 1: two backward passes in any dimension.

    Args:
        score: s, (N, ...) -> (N, ...), differentiable.
        x: data (N, ...).
        projections: of v for each point.
        generator: source of v.

    Raises:
        ValueError: if there is no projection.

    Example:
        >>> x = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
        >>> sliced_score_matching(lambda x: -x, x).item()  # exact, since ds/dx is diagonal
        -1.0
    """
    if projections < 1:
        raise ValueError(f"projections must be at least 1, got {projections}")
    x = x.detach().repeat(projections, *[1] * (x.ndim - 1)).requires_grad_()
    s = score(x)
    v = torch.empty_like(s).uniform_(-1, 1, generator=generator).sign()
    (along,) = torch.autograd.grad((s * v).sum(), x, create_graph=True)  # (ds/dx)^T v
    return (0.5 * s.square() + along * v).flatten(1).sum(1).mean()


def denoising_score_matching(score: Score, x: Tensor, sigma: float, generator: torch.Generator | None = None) -> Tensor:
    """Mean of |s(x~) - (x - x~) / sigma^2|^2 / 2 with x~ = x + sigma eps: learns the score of the data under noise.

    Args:
        score: s, (N, ...) -> (N, ...).
        x: data (N, ...).
        sigma: of the noise. The smaller, the nearer to the data's own score, and the noisier the estimate, whose
            targets are of size 1 / sigma.
        generator: source of the noise.

    Raises:
        ValueError: if sigma is not positive.

    Example:
        >>> denoising_score_matching(lambda x: -x, torch.zeros(9, 2), sigma=1.0).item()  # the exact score of the noise
        0.0
    """
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    eps = torch.empty_like(x).normal_(generator=generator)
    return 0.5 * (score(x + sigma * eps) + eps / sigma).square().flatten(1).sum(1).mean()


def diffused_score_matching(
    score: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    schedule: Schedule,
    times: Times | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean of |sigma_t s(x_t, t) + eps|^2 / 2 with x_t = alpha_t x + sigma_t eps: all noise levels at once.

    That is denoising score matching at each t, weighted by sigma_t^2, which makes the levels count alike.

    Args:
        score: s, called as s(x_t (N, ...), t (N,)).
        x: data (N, ...).
        schedule: of alpha and sigma.
        times: draws t; stratified uniform if None.
        generator: source of times and noise.

    Example:
        >>> from coursekit.diffusion import VE
        >>> schedule = VE()
        >>> exact = lambda x_t, t: -x_t / schedule.sigma(t)[:, None] ** 2
        >>> round(diffused_score_matching(exact, torch.zeros(9, 2), schedule).item(), 6)
        0.0
    """
    t, weight = (Stratified() if times is None else times)(len(x), generator, x.device)
    eps = torch.empty_like(x).normal_(generator=generator)
    alpha, sigma = (expand(part.to(x.dtype), x) for part in (schedule.alpha(t), schedule.sigma(t)))
    error = sigma * score(alpha * x + sigma * eps, t) + eps
    return (weight.to(x.dtype) * 0.5 * error.square().flatten(1).sum(1)).mean()
