"""Schedules, denoisers, the training engine and samplers, on one noise axis x_t = alpha_t x + sigma_t eps."""

from coursekit.diffusion.chain import DiscreteChain
from coursekit.diffusion.consistency import ConsistencyDistillation, ConsistencyModel
from coursekit.diffusion.denoiser import Denoiser, ExactDenoiser
from coursekit.diffusion.foreign import from_ddpm, from_edm, from_edm_network, from_eps, from_score, from_velocity
from coursekit.diffusion.grids import time_grid
from coursekit.diffusion.guidance import ClassifierFree
from coursekit.diffusion.latent import LatentDiffusion
from coursekit.diffusion.losses import ImportanceSampled, LogitNormal, Stratified, Uniform
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
    "ClassifierFree",
    "ConsistencyDistillation",
    "ConsistencyModel",
    "Cosine",
    "DDPMView",
    "Denoiser",
    "DiscreteChain",
    "EDMView",
    "ExactDenoiser",
    "FewSteps",
    "FlowView",
    "History",
    "ImportanceSampled",
    "LatentDiffusion",
    "LinearVP",
    "LogitNormal",
    "MinibatchTransport",
    "OnSchedule",
    "Preconditioning",
    "ProgressiveDistillation",
    "Rectified",
    "ScaledLinearVP",
    "Schedule",
    "ScoreSDEView",
    "SigmoidAlphaBar",
    "SigmoidBetaVP",
    "Stratified",
    "SubVP",
    "Uniform",
    "bend",
    "expected_data",
    "fit",
    "from_ddpm",
    "from_edm",
    "from_edm_network",
    "from_eps",
    "from_score",
    "from_velocity",
    "sample",
    "time_grid",
]
