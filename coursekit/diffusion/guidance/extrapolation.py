"""Guidance by a second estimate: D~ = D_0 + w (D_1 - D_0), beyond the better one for w > 1.

At each noise level D~ belongs to the score w s_1 + (1 - w) s_0, that is to the density p_1^w p_0^(1 - w) up to a
constant. It is no diffused density of any data law, so what a sampler draws with it is not the law with that density
at t = 0; see `coursekit.diffusion.guidance.exact` for both.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from coursekit.diffusion.guidance.wrapper import Wrapper, per_sample

__all__ = ["AutoGuidance", "ClassifierFree"]


class ClassifierFree(Wrapper):
    """D(x_t) + scale (D(x_t, y) - D(x_t)), both from one call of the network on a doubled batch.

    It leans harder on the label than the data do: log p~(x_t | y) = w log p(x_t | y) + (1 - w) log p(x_t) + const, one
    noise level at a time. Ho and Salimans, "Classifier-Free Diffusion Guidance", 2022, arXiv 2207.12598, eq. 6 with
    their w plus one.

    Args:
        denoiser: a `Denoiser` trained with labels, some of them hidden.
        scale: w above, in units of the difference; 1 changes nothing, 0 forgets the label.

    Raises:
        ValueError: if the denoiser knows no labels, or labels are missing when it is called.
    """

    def __init__(self, denoiser: nn.Module, scale: float) -> None:
        super().__init__(denoiser)
        if self.num_classes is None:
            raise ValueError("guidance wants a denoiser with num_classes, got one without labels")
        self.scale = scale

    def pair(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if y is None:
            raise ValueError("guidance wants a label for each sample, got y = None")
        t = per_sample(t, x_t)
        both = torch.cat([y, torch.full_like(y, self.num_classes)])
        plain, estimates = self.inner_pair(torch.cat([x_t, x_t]), torch.cat([t, t]), both)
        with_label, without = estimates.chunk(2)
        return plain[: len(x_t)], torch.lerp(without, with_label, self.scale)


class AutoGuidance(Wrapper):
    """D_worse(x_t, y) + scale (D(x_t, y) - D_worse(x_t, y)): away from the errors that a worse model makes more of.

    Both see the label, so a scale above 1 sharpens what the models disagree on, not what the label adds. Karras et al.,
    "Guiding a Diffusion Model with a Bad Version of Itself", 2024, arXiv 2406.02507, section 3. With the same denoiser
    `Unlabelled` as the worse one it is `ClassifierFree`.

    Args:
        denoiser: the better model.
        worse: a smaller or less trained one of the same data on the same schedule.
        scale: 1 is the better model alone, 0 the worse one.

    Raises:
        ValueError: if the two live on different schedules.

    Example:
        >>> from coursekit.diffusion import Denoiser, Rectified
        >>> good, bad = (Denoiser(lambda x, t, c=c: c * x, Rectified(), "x0") for c in (2.0, 1.0))
        >>> AutoGuidance(good, bad, 3.0)(torch.ones(1, 1), torch.tensor(1.0)).item()
        4.0
    """

    def __init__(self, denoiser: nn.Module, worse: nn.Module, scale: float) -> None:
        super().__init__(denoiser)
        if worse.schedule != denoiser.schedule:
            raise ValueError(f"worse must live on the schedule {denoiser.schedule}, got {worse.schedule}")
        self.worse, self.scale = worse, scale

    def pair(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        plain, better = self.inner_pair(x_t, t, y)
        return plain, torch.lerp(self.worse(x_t, t, y), better, self.scale)
