"""Schedules, denoisers, the training engine and samplers, on one noise axis x_t = alpha_t x + sigma_t eps."""

from coursekit.diffusion.chain import DiscreteChain
from coursekit.diffusion.denoiser import Denoiser, ExactDenoiser
from coursekit.diffusion.grids import GRIDS, time_grid
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
from coursekit.diffusion.losses import ImportanceSampled, LogitNormal, Stratified, Uniform
from coursekit.diffusion.ode import Solution, odeint
from coursekit.diffusion.samplers import SAMPLERS, Recorder, sample
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
    "EDM",
    "GRIDS",
    "SAMPLERS",
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
    "Recorder",
    "Rectified",
    "Rescaled",
    "ScaledLinearVP",
    "Schedule",
    "SigmoidAlphaBar",
    "SigmoidBetaVP",
    "Solution",
    "Stratified",
    "SubVP",
    "Uniform",
    "Unlabelled",
    "fit",
    "odeint",
    "sample",
    "time_grid",
]
