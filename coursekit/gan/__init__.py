"""Adversarial games: one game class, the objectives and regularisers that set its rules, and what is known of it."""

from coursekit.gan.dirac import DiracGAN, alternating, simultaneous
from coursekit.gan.game import GAN, Corruption, Critic, Opponent
from coursekit.gan.images import ImageGenerator, Projection, image_gan
from coursekit.gan.modes import ModeCoverage, mode_coverage
from coursekit.gan.noise import InstanceNoise, NoiseLevels
from coursekit.gan.objectives import Hinge, LeastSquares, Minimax, NonSaturating, Objective, Wasserstein
from coursekit.gan.regularisers import R1, GradientPenalty, Regulariser, spectrally_normalised, weight_clipped
from coursekit.gan.ring import RULES, Replicas, Rules, cover_ring, ring_game
from coursekit.gan.truths import (
    game_value,
    jensen_shannon,
    non_saturating_slope,
    optimal_discriminator,
    optimal_logit,
    parallel_lines_distances,
    sample_line,
    saturating_slope,
    wasserstein_1d,
)

__all__ = [
    "GAN",
    "R1",
    "RULES",
    "Corruption",
    "Critic",
    "DiracGAN",
    "GradientPenalty",
    "Hinge",
    "ImageGenerator",
    "InstanceNoise",
    "LeastSquares",
    "Minimax",
    "ModeCoverage",
    "NoiseLevels",
    "NonSaturating",
    "Objective",
    "Opponent",
    "Projection",
    "Regulariser",
    "Replicas",
    "Rules",
    "Wasserstein",
    "alternating",
    "cover_ring",
    "game_value",
    "image_gan",
    "jensen_shannon",
    "mode_coverage",
    "non_saturating_slope",
    "optimal_discriminator",
    "optimal_logit",
    "parallel_lines_distances",
    "ring_game",
    "sample_line",
    "saturating_slope",
    "simultaneous",
    "spectrally_normalised",
    "wasserstein_1d",
    "weight_clipped",
]
