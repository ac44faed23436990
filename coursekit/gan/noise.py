r"""Instance noise: a game moved along the noise axis, x_t = alpha_t x + sigma_t eps, for real and fake samples alike.

Two laws that do not touch are told apart with certainty, and then the generator's slope is zero. Under noise both have
densities p_t and q_t that overlap, the best discriminator p_t / (p_t + q_t) has a gradient everywhere, and p_t = q_t
only if p = q (Sonderby et al., "Amortised MAP Inference for Image Super-resolution", 2017, arXiv 1610.04490; Arjovsky
and Bottou, "Towards Principled Methods for Training Generative Adversarial Networks", 2017, arXiv 1701.04862).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from coursekit.diffusion.chain import expand
from coursekit.diffusion.losses import Stratified, Times
from coursekit.diffusion.schedules import Schedule

__all__ = ["InstanceNoise", "NoiseLevels"]


@dataclass(frozen=True)
class InstanceNoise:
    """The `corrupt` of a game at one noise level: the discriminator sees x_t and nothing else.

    Args:
        schedule: the noise axis.
        t: the time in (0, 1]; lower it between runs of `fit` to anneal.

    Raises:
        ValueError: if t is not in (0, 1].

    Example:
        >>> from coursekit.diffusion import Rectified
        >>> (x_t,) = InstanceNoise(Rectified(), t=0.5)(torch.ones(1000, 1), torch.Generator().manual_seed(0))
        >>> abs(x_t.mean().item() - 0.5) < 0.05, abs(x_t.std().item() - 0.5) < 0.05
        (True, True)
    """

    schedule: Schedule
    t: float

    def __post_init__(self) -> None:
        if not 0 < self.t <= 1:
            raise ValueError(f"t must lie in (0, 1], got {self.t}")

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor]:
        """x (N, ...) -> (x_t,)."""
        eps = torch.empty_like(x).normal_(generator=generator)
        return (float(self.schedule.alpha(self.t)) * x + float(self.schedule.sigma(self.t)) * eps,)


@dataclass(frozen=True)
class NoiseLevels:
    """The `corrupt` of a game at all noise levels: the discriminator sees x_t and t, each sample at a time of its own.

    Args:
        schedule: the noise axis.
        times: draws the times; stratified uniform unless given. Their weights are left out: here they say where to
            look, not what to minimise.

    Example:
        >>> from coursekit.diffusion import Rectified
        >>> x_t, t = NoiseLevels(Rectified())(torch.ones(4, 2))
        >>> x_t.shape, t.shape
        (torch.Size([4, 2]), torch.Size([4]))
    """

    schedule: Schedule
    times: Times = field(default_factory=Stratified)

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """x (N, ...) -> (x_t, t (N,))."""
        t, _ = self.times(len(x), generator, x.device)
        t = t.to(x.dtype)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        eps = torch.empty_like(x).normal_(generator=generator)
        return expand(alpha, x) * x + expand(sigma, x) * eps, t
