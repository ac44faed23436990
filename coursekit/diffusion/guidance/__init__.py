"""Guidance: a denoiser around a denoiser, which leans an estimate of x_0 towards what is wanted.

    ClassifierGuidance   D + w (sigma^2 / alpha) grad log p(y | x_t)          a classifier of noisy pictures
    ClassifierFree       D(x_t) + w (D(x_t, y) - D(x_t))                      one network with and without the label
    AutoGuidance         D_worse + w (D - D_worse)                            a worse version of the same network
    IntervalLimited      the guided estimate at middling noise, else the plain one
    Rescaled             the guided estimate with the plain one's deviation
    DynamicThreshold     the guided estimate within [-1, 1]
    Unlabelled           D(x_t), the label withheld

Each is a module with `forward(x_t, t, y)` = an estimate of x_0 and can be given to `coursekit.diffusion.sample`, with
any sampler, or to another one: ``DynamicThreshold(IntervalLimited(ClassifierFree(denoiser, 3.0), 0.3, 5.0))``.
"""

from coursekit.diffusion.guidance.classifier import ClassifierGuidance
from coursekit.diffusion.guidance.exact import (
    ExactClassifier,
    ExactConditional,
    LabelledMixture,
    guided_gaussian,
    tilted_gaussian,
)
from coursekit.diffusion.guidance.extrapolation import AutoGuidance, ClassifierFree
from coursekit.diffusion.guidance.restraints import DynamicThreshold, IntervalLimited, Rescaled
from coursekit.diffusion.guidance.wrapper import Unlabelled, Wrapper

__all__ = [
    "AutoGuidance",
    "ClassifierFree",
    "ClassifierGuidance",
    "DynamicThreshold",
    "ExactClassifier",
    "ExactConditional",
    "IntervalLimited",
    "LabelledMixture",
    "Rescaled",
    "Unlabelled",
    "Wrapper",
    "guided_gaussian",
    "tilted_gaussian",
]
