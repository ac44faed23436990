"""One noise axis x_t = alpha_t x + sigma_t eps: schedules, denoisers, the training engine, samplers and steering.

Guidance towards a label is in `coursekit.diffusion.guidance`, samples that fit an observation are in
`coursekit.diffusion.inverse`.
"""

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
from coursekit.diffusion.inverse import DPS, MomentMatching, PiGDM, Projected, Replacement
from coursekit.diffusion.likelihood import (
    BinNoise,
    CapacityTimes,
    DiscretisedGaussian,
    Gaussian,
    GaussianNoise,
    LearnedVariance,
    Levels,
    OptimalVariance,
    VarianceHead,
    capacity_grid,
    chain_bound,
    continuous_bound,
    dequantised_log_prob,
    lower_variance,
    ode_log_prob,
    upper_variance,
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
    "DPS",
    "EDM",
    "GRIDS",
    "SAMPLERS",
    "SCHEDULES",
    "VE",
    "AutoGuidance",
    "BinNoise",
    "CapacityTimes",
    "ClassifierFree",
    "ClassifierGuidance",
    "Cosine",
    "Denoiser",
    "DiscreteChain",
    "DiscretisedGaussian",
    "DynamicThreshold",
    "ExactClassifier",
    "ExactConditional",
    "ExactDenoiser",
    "Gaussian",
    "GaussianNoise",
    "History",
    "ImportanceSampled",
    "IntervalLimited",
    "LabelledMixture",
    "LearnedVariance",
    "Levels",
    "LinearVP",
    "LogitNormal",
    "MomentMatching",
    "OptimalVariance",
    "PiGDM",
    "Projected",
    "Recorder",
    "Rectified",
    "Replacement",
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
    "VarianceHead",
    "capacity_grid",
    "chain_bound",
    "continuous_bound",
    "dequantised_log_prob",
    "fit",
    "lower_variance",
    "ode_log_prob",
    "odeint",
    "sample",
    "time_grid",
    "upper_variance",
]
