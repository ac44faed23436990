"""Schedules, denoisers, the training engine and samplers, on one noise axis x_t = alpha_t x + sigma_t eps."""

from coursekit.diffusion.chain import DiscreteChain
from coursekit.diffusion.consistency import ConsistencyDistillation, ConsistencyModel
from coursekit.diffusion.denoiser import Denoiser, ExactDenoiser
from coursekit.diffusion.foreign import from_ddpm, from_edm, from_edm_network, from_eps, from_score, from_velocity
from coursekit.diffusion.grids import time_grid
from coursekit.diffusion.guidance import ClassifierFree
from coursekit.diffusion.latent import LatentDiffusion
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
from coursekit.diffusion.progressive import FewSteps, ProgressiveDistillation
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
from coursekit.diffusion.transport import MinibatchTransport, bend
from coursekit.diffusion.views import (
    DDPMView,
    EDMView,
    FlowView,
    OnSchedule,
    Preconditioning,
    ScoreSDEView,
    expected_data,
)

__all__ = [
    "EDM",
    "SCHEDULES",
    "VE",
    "BinNoise",
    "CapacityTimes",
    "ClassifierFree",
    "ConsistencyDistillation",
    "ConsistencyModel",
    "Cosine",
    "DDPMView",
    "Denoiser",
    "DiscreteChain",
    "DiscretisedGaussian",
    "EDMView",
    "ExactDenoiser",
    "FewSteps",
    "FlowView",
    "Gaussian",
    "GaussianNoise",
    "History",
    "ImportanceSampled",
    "LatentDiffusion",
    "LearnedVariance",
    "Levels",
    "LinearVP",
    "LogitNormal",
    "MinibatchTransport",
    "OnSchedule",
    "OptimalVariance",
    "Preconditioning",
    "ProgressiveDistillation",
    "Rectified",
    "ScaledLinearVP",
    "Schedule",
    "ScoreSDEView",
    "SigmoidAlphaBar",
    "SigmoidBetaVP",
    "Solution",
    "Stratified",
    "SubVP",
    "Uniform",
    "VarianceHead",
    "bend",
    "capacity_grid",
    "chain_bound",
    "continuous_bound",
    "dequantised_log_prob",
    "expected_data",
    "fit",
    "from_ddpm",
    "from_edm",
    "from_edm_network",
    "from_eps",
    "from_score",
    "from_velocity",
    "lower_variance",
    "ode_log_prob",
    "odeint",
    "sample",
    "time_grid",
    "upper_variance",
]
