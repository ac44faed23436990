"""Schedules, denoisers, the training engine and samplers, on one noise axis x_t = alpha_t x + sigma_t eps."""

from coursekit.diffusion.chain import DiscreteChain
from coursekit.diffusion.denoiser import Denoiser, ExactDenoiser
from coursekit.diffusion.grids import time_grid
from coursekit.diffusion.guidance import ClassifierFree
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
    "EDM",
    "SCHEDULES",
    "VE",
    "BinNoise",
    "CapacityTimes",
    "ClassifierFree",
    "Cosine",
    "Denoiser",
    "DiscreteChain",
    "DiscretisedGaussian",
    "ExactDenoiser",
    "Gaussian",
    "GaussianNoise",
    "History",
    "ImportanceSampled",
    "LearnedVariance",
    "Levels",
    "LinearVP",
    "LogitNormal",
    "OptimalVariance",
    "Rectified",
    "ScaledLinearVP",
    "Schedule",
    "SigmoidAlphaBar",
    "SigmoidBetaVP",
    "Solution",
    "Stratified",
    "SubVP",
    "Uniform",
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
