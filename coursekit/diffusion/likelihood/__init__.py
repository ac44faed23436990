"""Likelihoods of diffusion models; `density` and `variational` say how."""

from coursekit.diffusion.likelihood.bound import Bound
from coursekit.diffusion.likelihood.capacity import (
    CapacityTimes,
    capacity,
    capacity_grid,
    chain_through,
    time_of_capacity,
)
from coursekit.diffusion.likelihood.decoders import Decoder, DiscretisedGaussian, Gaussian, Levels, log_normal_bin
from coursekit.diffusion.likelihood.density import LogDensity, ode_log_prob
from coursekit.diffusion.likelihood.dequantised import BinNoise, Dequantisation, GaussianNoise, dequantised_log_prob
from coursekit.diffusion.likelihood.learned import LearnedVariance, VarianceHead
from coursekit.diffusion.likelihood.variances import (
    OptimalVariance,
    ReverseVariance,
    Step,
    lower_variance,
    upper_variance,
)
from coursekit.diffusion.likelihood.variational import chain_bound, continuous_bound

__all__ = [
    "BinNoise",
    "Bound",
    "CapacityTimes",
    "Decoder",
    "Dequantisation",
    "DiscretisedGaussian",
    "Gaussian",
    "GaussianNoise",
    "LearnedVariance",
    "Levels",
    "LogDensity",
    "OptimalVariance",
    "ReverseVariance",
    "Step",
    "VarianceHead",
    "capacity",
    "capacity_grid",
    "chain_bound",
    "chain_through",
    "continuous_bound",
    "dequantised_log_prob",
    "log_normal_bin",
    "lower_variance",
    "ode_log_prob",
    "time_of_capacity",
    "upper_variance",
]
