r"""From densities to probabilities: pictures of 8 bits under the probability-flow ODE.

A density says nothing of whole levels until noise has filled the gaps between them. For noise x_t ~ q(x_t | x) at t_min

    log P(x) >= E_q[log p(x_t) + log P(x | x_t) - log q(x_t | x)],

p the density of `ode_log_prob`, P(x | x_t) a decoder. The levels are x = k / 127.5 - 1, so a bin is 2/255 wide; that
width, and not 1/256 or 1, is what turns a density of x into a probability. Two kinds of noise:

    BinNoise        x_t = alpha (x + u), u uniform on a bin: x is certain given x_t, and log q = -D log(alpha 2/255)
    GaussianNoise   x_t = alpha x + sigma eps, what the denoiser was trained on: p meets what it knows

References: Theis et al., "A note on the evaluation of generative models", 2016, arXiv 1511.01844, section 3.1; Zheng et
al., "Improved Techniques for Maximum Likelihood Estimation for Diffusion ODEs", 2023, arXiv 2305.03935, section 3.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from coursekit.diffusion.likelihood.capacity import ends
from coursekit.diffusion.likelihood.decoders import Decoder, Levels
from coursekit.diffusion.likelihood.density import LogDensity, ode_log_prob
from coursekit.flows.dequantise import check_levels
from coursekit.pixels import HALF_BIN

__all__ = ["BinNoise", "Dequantisation", "GaussianNoise", "dequantised_log_prob"]


class Dequantisation(Protocol):
    """Levels x (N, ...), alpha, sigma, generator -> x_t of that shape and log P(x | x_t) - log q(x_t | x), (N,)."""

    def __call__(
        self, x: Tensor, alpha: float, sigma: float, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class BinNoise:
    """Uniform noise on the bin of each level, from 1/255 below it to 1/255 above.

    Example:
        >>> x_t, log_weight = BinNoise()(torch.zeros(1, 2), 1.0, 0.0, None)
        >>> bool((x_t.abs() <= 1 / 255).all()), round(log_weight.item(), 4)  # 2 log(2 / 255)
        (True, -9.6962)
    """

    def __call__(
        self, x: Tensor, alpha: float, sigma: float, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        u = torch.empty_like(x).uniform_(-HALF_BIN, HALF_BIN, generator=generator)
        return alpha * (x + u), x.new_full((len(x),), x[0].numel() * math.log(alpha * 2 * HALF_BIN))


@dataclass(frozen=True)
class GaussianNoise:
    """The noise of the diffusion at t_min, and a decoder that takes it away again.

    Attributes:
        decoder: one that asks no denoiser, such as `Levels`.
    """

    decoder: Decoder

    def __call__(
        self, x: Tensor, alpha: float, sigma: float, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        eps = torch.empty_like(x).normal_(generator=generator)
        x_t, levels = alpha * x + sigma * eps, (x.new_full((len(x),), c) for c in (alpha, sigma))
        entropy = 0.5 * eps.square().flatten(1).sum(1) + x[0].numel() * math.log(sigma * math.sqrt(2 * math.pi))
        return x_t, self.decoder(x, x_t, x, *levels) + entropy


def dequantised_log_prob(
    denoiser: nn.Module,
    x: Tensor,
    y: Tensor | None = None,
    *,
    dequantisation: Dequantisation | None = None,
    t_min: float | None = None,
    generator: torch.Generator | None = None,
    **settings: Any,
) -> LogDensity:
    """A bound from below on log P(x), in nats, for pictures with the 256 levels; unbiased in the noise's mean.

    Args:
        denoiser: see `ode_log_prob`.
        x: (N, ...) with the 256 levels in [-1, 1].
        y: labels (N,), if the denoiser takes them.
        dequantisation: `GaussianNoise(Levels())` if None.
        t_min: where x_t lies; the denoiser's own if None.
        generator: of the noise and the probes.
        **settings: of `ode_log_prob`.

    Raises:
        ValueError: if a pixel is not one of the levels.
    """
    check_levels(x, "x")
    t_min, _ = ends(denoiser, t_min)
    dequantisation = GaussianNoise(Levels().to(x)) if dequantisation is None else dequantisation
    alpha, sigma = float(denoiser.schedule.alpha(t_min)), float(denoiser.schedule.sigma(t_min))
    x_t, log_weight = dequantisation(x, alpha, sigma, generator)
    found = ode_log_prob(denoiser, x_t, y, t_min=t_min, generator=generator, **settings)
    return replace(found, log_prob=found.log_prob + log_weight)
