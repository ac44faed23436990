"""Auto-encoders: codes without a law, with one (variational), of two levels, and of whole numbers."""

from coursekit.vae.aggregate import (
    AggregatedPosterior,
    RateParts,
    active_units,
    aggregated_posterior,
    kl_to_prior,
    rate_parts,
    rate_per_dimension,
)
from coursekit.vae.autoencoder import AutoEncoder, conv_auto_encoder, linear_auto_encoder
from coursekit.vae.bound import Elbo, VariationalModel
from coursekit.vae.codes import Beside, LatentModel
from coursekit.vae.gaussian import DiagonalGaussian
from coursekit.vae.hierarchical import HierarchicalVAE
from coursekit.vae.likelihoods import GaussianLikelihood, Likelihood, PixelLikelihood
from coursekit.vae.linear import LinearEncoder, fit_linear_vae, linear_log_prob, linear_vae
from coursekit.vae.presets import hierarchical_image_vae, image_vae, image_vqvae, point_vae
from coursekit.vae.quantised import VQVAE, VectorQuantiser, perplexity
from coursekit.vae.vae import VAE

__all__ = [
    "VAE",
    "VQVAE",
    "AggregatedPosterior",
    "AutoEncoder",
    "Beside",
    "DiagonalGaussian",
    "Elbo",
    "GaussianLikelihood",
    "HierarchicalVAE",
    "LatentModel",
    "Likelihood",
    "LinearEncoder",
    "PixelLikelihood",
    "RateParts",
    "VariationalModel",
    "VectorQuantiser",
    "active_units",
    "aggregated_posterior",
    "conv_auto_encoder",
    "fit_linear_vae",
    "hierarchical_image_vae",
    "image_vae",
    "image_vqvae",
    "kl_to_prior",
    "linear_auto_encoder",
    "linear_log_prob",
    "linear_vae",
    "perplexity",
    "point_vae",
    "rate_parts",
    "rate_per_dimension",
]
