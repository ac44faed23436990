"""Boltzmann machines: densities p(x) = exp(-E(x)) / Z of units that are -1 or 1, whose normaliser Z is a sum too long.

From the machine whose every unit is seen to the restricted one, whose hidden units can be summed out; how they are
trained without Z (contrastive divergence and persistent chains), and how Z is found: by enumeration, or by annealed
importance sampling with an interval.
"""

from coursekit.boltzmann.annealing import LogPartition, annealed_importance_sampling, base_rate
from coursekit.boltzmann.chains import ContrastiveDivergence, NegativePhase, PersistentChains
from coursekit.boltzmann.machine import BoltzmannMachine
from coursekit.boltzmann.restricted import RBM, GaussianRBM, RestrictedMachine
from coursekit.boltzmann.tempering import Tempered, parallel_tempering
from coursekit.boltzmann.units import MAX_UNITS, draw_spins, every_state, log_2cosh

__all__ = [
    "MAX_UNITS",
    "RBM",
    "BoltzmannMachine",
    "ContrastiveDivergence",
    "GaussianRBM",
    "LogPartition",
    "NegativePhase",
    "PersistentChains",
    "RestrictedMachine",
    "Tempered",
    "annealed_importance_sampling",
    "base_rate",
    "draw_spins",
    "every_state",
    "log_2cosh",
    "parallel_tempering",
]
