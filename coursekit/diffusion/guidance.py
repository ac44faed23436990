"""Guidance: a denoiser around a denoiser.

Classifier-free guidance draws from a law that leans harder on the label than the data do:
log p~(x_t | y) = w log p(x_t | y) + (1 - w) log p(x_t) + const, one noise level at a time, hence
D~ = D(x_t) + w (D(x_t, y) - D(x_t)); w = 1 is the plain conditional law. Ho and Salimans,
"Classifier-Free Diffusion Guidance", 2022, arXiv 2207.12598, eq. 6 with their w plus one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from coursekit.diffusion.denoiser import Denoiser

__all__ = ["ClassifierFree"]


class ClassifierFree(nn.Module):
    """D(x_t) + scale (D(x_t, y) - D(x_t)), both from one call of the network on a doubled batch.

    Args:
        denoiser: a `Denoiser` trained with labels, some of them hidden.
        scale: w above, in units of the difference; 1 changes nothing, 0 forgets the label.

    Raises:
        ValueError: if the denoiser knows no labels, or labels are missing when it is called.
    """

    def __init__(self, denoiser: Denoiser, scale: float) -> None:
        super().__init__()
        if denoiser.num_classes is None:
            raise ValueError("guidance wants a denoiser with num_classes, got one without labels")
        self.denoiser, self.scale = denoiser, scale
        self.schedule, self.t_max = denoiser.schedule, denoiser.t_max

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """The guided estimate of x_0, (N, ...)."""
        if y is None:
            raise ValueError("guidance wants a label for each sample, got y = None")
        t = t.expand(len(x_t)) if t.ndim == 0 else t
        both = torch.cat([y, torch.full_like(y, self.denoiser.num_classes)])
        with_label, without = self.denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
        return torch.lerp(without, with_label, self.scale)
