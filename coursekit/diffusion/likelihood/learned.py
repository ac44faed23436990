r"""Learned variance: a small network says, pixel by pixel, how sure a step back may be.

    log s^2 = w log beta_k + (1 - w) log v_k,    w = (1 + h(x_k, D(x_k), t)) / 2,

a network h that starts at zero, half-way between the extremes (Nichol and Dhariwal, 2021, arXiv 2102.09672, eq. 15).
It learns from the variational bound, which must not move the mean: D is a constant there, and a denoiser that still
learns does so by its own loss (the hybrid objective, eq. 16 there),

    L = L_simple + weight * L_vlb,    L_vlb in nats per dimension.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coursekit.diffusion.chain import DiscreteChain
from coursekit.diffusion.likelihood.capacity import chain_through
from coursekit.diffusion.likelihood.variances import Step, lower_variance, upper_variance
from coursekit.diffusion.losses import Stratified
from coursekit.networks import TimeEmbedding

__all__ = ["LearnedVariance", "VarianceHead"]


class LearnedVariance(nn.Module):
    """A `ReverseVariance` with parameters: what `fit` trains.

    Args:
        denoiser: a `Denoiser`. If its parameters require no gradient, the loss is the bound alone; else the hybrid one.
        network: h above, (N, 2 C, ...) -> (N, C, ...), called as network([x_k, D(x_k)], t), joined along dimension 1.
        times: (T,), falling, of the chain whose bound is minimised.
        weight: of the bound in the hybrid loss.

    Example:
        >>> from coursekit.diffusion import ExactDenoiser, Rectified, time_grid
        >>> from coursekit.gmm import GaussianMixture
        >>> from coursekit.networks import TimeMLP
        >>> exact = ExactDenoiser(GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None]), Rectified())
        >>> model = LearnedVariance(exact, TimeMLP(4, outputs=2), time_grid(Rectified(), 10))
        >>> model.loss(torch.zeros(8, 2)).shape
        torch.Size([])
    """

    times: Tensor

    def __init__(self, denoiser: nn.Module, network: nn.Module, times: Tensor, weight: float = 1e-3) -> None:
        super().__init__()
        if not weight > 0:
            raise ValueError(f"weight must be positive, got {weight}")
        if len(times) < 2:
            raise ValueError(f"times must hold at least 2 steps, for the last is the decoder's, got {len(times)}")
        self.denoiser, self.network, self.weight = denoiser, network, weight
        self.chain: DiscreteChain
        self.chain, times = chain_through(denoiser.schedule, times)
        self.register_buffer("times", times.float(), persistent=False)

    def forward(self, step: Step) -> Tensor:
        """log s^2, (N, C, ...)."""
        h = self.network(torch.cat([step.x_k, step.estimate], 1), step.t)
        lower, upper = lower_variance(step), upper_variance(step)
        return lower + 0.5 * (1 + h.to(lower.dtype)) * (upper - lower)

    def loss(self, x: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """L_vlb of one random step for each sample of x (N, C, ...), or the hybrid loss; a scalar."""
        u, _ = Stratified()(len(x), generator, x.device)
        k = 2 + ((self.chain.T - 1) * u).long().clamp(max=self.chain.T - 2)
        noise = torch.empty_like(x).normal_(generator=generator)
        x_k, t = self.chain.add_noise(x, k, noise), self.times[k].to(x.dtype)
        with torch.no_grad():  # the bound does not move the mean
            step = Step(self.chain, k, t, x_k, self.denoiser(x_k, t, y), y)
        bound = (self.chain.T - 1) * step.divergence(x, self(step)).mean() / x[0].numel()
        if not any(parameter.requires_grad for parameter in self.denoiser.parameters()):
            return bound
        return self.denoiser.loss(x, y, generator) + self.weight * bound


class VarianceHead(nn.Module):
    """h for pictures: three convolutions on squares of 2 x 2 pixels, told the time; starts at zero.

    Example:
        >>> VarianceHead()(torch.zeros(2, 2, 28, 28), torch.zeros(2)).shape
        torch.Size([2, 1, 28, 28])
    """

    def __init__(self, channels: int = 1, width: int = 32) -> None:
        super().__init__()
        self.time = nn.Sequential(TimeEmbedding(32), nn.Linear(32, width))
        self.enter = nn.Conv2d(8 * channels, width, 3, padding=1)
        self.middle = nn.Conv2d(width, width, 3, padding=1)
        self.leave = nn.Conv2d(width, 4 * channels, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, pair: Tensor, t: Tensor) -> Tensor:
        """(N, 2 C, H, W) and times (N,) -> (N, C, H, W)."""
        h = F.silu(self.enter(F.pixel_unshuffle(pair, 2)) + self.time(t)[..., None, None])
        return F.pixel_shuffle(self.leave(F.silu(self.middle(h))), 2)
