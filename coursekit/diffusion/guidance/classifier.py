r"""Classifier guidance: Bayes' rule at each noise level.

    log p(x_t | y) = log p(x_t) + log p(y | x_t) + const,  hence with Tweedie's formula
    E[x_0 | x_t, y] = E[x_0 | x_t] + (sigma^2 / alpha) grad log p(y | x_t),

the gradient taken at x_t itself. Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis", 2021,
arXiv 2105.05233, section 4; Song et al., 2021, arXiv 2011.13456, section 5.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from coursekit.diffusion.guidance.wrapper import Wrapper, latest_time, matched, per_sample, slope, tweedie
from coursekit.diffusion.transport import refuse_coupled

__all__ = ["ClassifierGuidance"]


class ClassifierGuidance(Wrapper):
    """D(x_t, y) + scale (sigma^2 / alpha) grad log p(y | x_t), for a classifier that knows noise.

    The classifier may have learned on another schedule. What x_t says of x_0 depends on alpha / sigma alone, so the
    classifier is asked at the time t' where its log-SNR is that of t, about x' = (rho' / rho) x_t, rho the radius
    sqrt(alpha^2 + sigma^2). By the chain rule grad_x = (rho' / rho) grad_x', and sigma^2 / alpha = (rho / rho')
    sigma'^2 / alpha': the correction is (sigma'^2 / alpha') grad_x' log p(y | x'), all on the classifier's own axis.

    Scale 1 on a denoiser without labels is the conditional denoiser, if both are exact. The classifier is kept in
    evaluation mode: batch normalisation would let a sample depend on its batch mates.

    Args:
        denoiser: asked with the label if it takes labels; make it `Unlabelled` for the classifier to be the only one to
            know.
        classifier: (x_t, t) -> logits (N, C) with an attribute `schedule`, such as
            `coursekit.classifiers.NoiseAwareClassifier`.
        scale: how much the label counts; log p(y | x_t) is multiplied by it.
        floor: points with a smaller alpha / sigma count as having this one, for the classifier and for the factor:
            towards pure noise the correction has a limit, sigma^2 / alpha has none.

    Raises:
        TypeError: if the classifier has no schedule.
        ValueError: if floor is not positive, if the denoiser has a coupling, which leaves it no score to add to, or if
            labels are missing when it is called.
    """

    def __init__(self, denoiser: nn.Module, classifier: nn.Module, scale: float, floor: float = 0.01) -> None:
        super().__init__(denoiser)
        if not hasattr(classifier, "schedule"):
            raise TypeError(f"classifier must have a schedule, got {type(classifier).__name__}")
        refuse_coupled(denoiser, "classifier guidance")
        self.classifier, self.scale = classifier.eval(), scale
        self.latest = latest_time(classifier.schedule, floor)

    def train(self, mode: bool = True) -> Self:
        """Set the denoiser's mode; the classifier stays in evaluation mode."""
        super().train(mode)
        self.classifier.eval()
        return self

    def pair(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if y is None:
            raise ValueError("guidance wants a label for each sample, got y = None")
        plain, estimate = self.inner_pair(x_t, t, y)
        return plain, torch.add(estimate, self._correction(x_t, per_sample(t, x_t), y), alpha=self.scale)

    def _correction(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        there = self.classifier.schedule
        x, t = matched(self.schedule, there, t, x_t, self.latest)
        gradient = slope(lambda x: torch.log_softmax(self.classifier(x, t), dim=1).gather(1, y[:, None]), x)
        return tweedie(there, t, x) * gradient
