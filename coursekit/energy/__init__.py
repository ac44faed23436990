"""Energy-based models: densities p(x) = exp(-E(x)) / Z with any network for E, drawn by following its gradient.

Samplers of any energy (Langevin, its adjusted form, Hamiltonian), and three ways round the unknown Z: contrastive
training with a replay buffer, score matching, and noise-contrastive estimation.
"""

from coursekit.energy.annealed import ScoreModel, annealed_langevin
from coursekit.energy.contrastive import Contrastive, ReplayBuffer
from coursekit.energy.hamiltonian import hmc, leapfrog
from coursekit.energy.langevin import langevin, langevin_by_score, mala
from coursekit.energy.matching import (
    denoising_score_matching,
    diffused_score_matching,
    implicit_score_matching,
    sliced_score_matching,
)
from coursekit.energy.model import EnergyModel, Objective
from coursekit.energy.moves import Chains
from coursekit.energy.noise_contrastive import NoiseContrastive
from coursekit.energy.scores import Energy, Score, energy_and_score, score_of

__all__ = [
    "Chains",
    "Contrastive",
    "Energy",
    "EnergyModel",
    "NoiseContrastive",
    "Objective",
    "ReplayBuffer",
    "Score",
    "ScoreModel",
    "annealed_langevin",
    "denoising_score_matching",
    "diffused_score_matching",
    "energy_and_score",
    "hmc",
    "implicit_score_matching",
    "langevin",
    "langevin_by_score",
    "leapfrog",
    "mala",
    "score_of",
    "sliced_score_matching",
]
