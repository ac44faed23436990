"""One noise axis x_t = alpha_t x + sigma_t eps: schedules, denoisers, the training engine and samplers.

What is here serves every lesson. What builds on it has a module of its own, from which it is imported:

    guidance       towards a label: classifier, classifier-free and their kin
    inverse        samples that fit an observation b = A x: inpainting and other linear problems
    likelihood     bits per dimension: bounds of the chain and of its limit, and the density of the flow
    views          one trained network as a score SDE, a DDPM, a flow or an EDM; `foreign` builds ours from theirs
    transport      couplings of noise and data by optimal transport
    latent         diffusion of the codes of an auto-encoder
    distillation   students that need 4, 2 or 1 calls
    ode            the adaptive solver behind some of these
"""

from coursekit.diffusion.chain import DiscreteChain
from coursekit.diffusion.denoiser import Denoiser, ExactDenoiser
from coursekit.diffusion.grids import GRIDS, time_grid
from coursekit.diffusion.losses import ImportanceSampled, LogitNormal, Stratified, Uniform
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
    "Cosine",
    "Denoiser",
    "DiscreteChain",
    "ExactDenoiser",
    "History",
    "ImportanceSampled",
    "LinearVP",
    "LogitNormal",
    "Recorder",
    "Rectified",
    "ScaledLinearVP",
    "Schedule",
    "SigmoidAlphaBar",
    "SigmoidBetaVP",
    "Stratified",
    "SubVP",
    "Uniform",
    "fit",
    "sample",
    "time_grid",
]
