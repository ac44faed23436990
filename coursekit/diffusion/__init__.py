"""One noise axis x_t = alpha_t x + sigma_t eps: schedules, denoisers, the training engine, samplers and steering.

Guidance towards a label is in `coursekit.diffusion.guidance`, samples that fit an observation are in
`coursekit.diffusion.inverse`.
"""

from coursekit.diffusion.chain import DiscreteChain
from coursekit.diffusion.denoiser import Denoiser, ExactDenoiser
from coursekit.diffusion.grids import time_grid
from coursekit.diffusion.guidance import (
    AutoGuidance,
    ClassifierFree,
    ClassifierGuidance,
    DynamicThreshold,
    ExactClassifier,
    ExactConditional,
    IntervalLimited,
    LabelledMixture,
    Rescaled,
    Unlabelled,
)
from coursekit.diffusion.inverse import DPS, MomentMatching, PiGDM, Projected, Replacement
from coursekit.diffusion.losses import ImportanceSampled, LogitNormal, Stratified, Uniform
from coursekit.diffusion.samplers import sample
from coursekit.diffusion.schedules import (
    EDM,
    SCHEDULES,
    VE,
    Cosine,
    LinearVP,
    Rectified,
    ScaledLinearVP,
    Schedule,
    SigmoidAlphaBar,
    SigmoidBetaVP,
    SubVP,
)
from coursekit.diffusion.training import History, fit

__all__ = [
    "DPS",
    "EDM",
    "SCHEDULES",
    "VE",
    "AutoGuidance",
    "ClassifierFree",
    "ClassifierGuidance",
    "Cosine",
    "Denoiser",
    "DiscreteChain",
    "DynamicThreshold",
    "ExactClassifier",
    "ExactConditional",
    "ExactDenoiser",
    "History",
    "ImportanceSampled",
    "IntervalLimited",
    "LabelledMixture",
    "LinearVP",
    "LogitNormal",
    "MomentMatching",
    "PiGDM",
    "Projected",
    "Rectified",
    "Replacement",
    "Rescaled",
    "ScaledLinearVP",
    "Schedule",
    "SigmoidAlphaBar",
    "SigmoidBetaVP",
    "Stratified",
    "SubVP",
    "Uniform",
    "Unlabelled",
    "fit",
    "sample",
    "time_grid",
]
