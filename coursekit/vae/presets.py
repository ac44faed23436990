"""Models ready to train: of points, and of 28 x 28 pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from coursekit.networks import MLP, ConvDecoder, ConvEncoder
from coursekit.pixels import Bernoulli
from coursekit.vae.codes import Beside
from coursekit.vae.hierarchical import HierarchicalVAE
from coursekit.vae.likelihoods import GaussianLikelihood, Likelihood, PixelLikelihood
from coursekit.vae.quantised import VQVAE, VectorQuantiser
from coursekit.vae.vae import VAE

__all__ = ["hierarchical_image_vae", "image_vae", "image_vqvae", "point_vae"]


def point_vae(
    D: int,
    latent: int = 2,
    hidden: Sequence[int] = (64, 64),
    likelihood: Likelihood | None = None,
    num_classes: int | None = None,
    context: int = 16,
    **objective: Any,
) -> VAE:
    """Perceptrons in and out, for points (N, D).

    Args:
        D: numbers of x.
        latent: numbers of a code.
        hidden: widths of the layers between.
        likelihood: of as many parameters as x has numbers; a Gaussian with a learned sigma if None.
        num_classes: labels are 0..num_classes - 1; None without labels.
        context: features of the label's embedding.
        **objective: `beta`, `free_nats` and `warmup` of `VariationalModel`.

    Example:
        >>> import torch
        >>> point_vae(2, num_classes=3).sample(5, torch.tensor([0, 1, 2, 0, 1])).shape
        torch.Size([5, 2])
    """
    extra = 0 if num_classes is None else context
    encoder = Beside(MLP([D + extra, *hidden, 2 * latent]))
    decoder = Beside(MLP([latent + extra, *hidden, D]))
    likelihood = GaussianLikelihood(learned=True) if likelihood is None else likelihood
    return VAE(encoder, decoder, likelihood, latent, num_classes=num_classes, context=context, **objective)


def image_vae(
    latent: int = 32,
    likelihood: Likelihood | None = None,
    num_classes: int | None = None,
    width: int = 32,
    context: int = 16,
    **objective: Any,
) -> VAE:
    """Convolutions in and out, for pictures (N, 1, 28, 28).

    Args:
        latent: numbers of a code.
        likelihood: of the pixels; Bernoulli, for pictures of -1 and 1, if None.
        num_classes: labels are 0..num_classes - 1; None without labels.
        width: channels at 14 x 14, a multiple of 8.
        context: features of the label's embedding.
        **objective: `beta`, `free_nats` and `warmup` of `VariationalModel`.

    Example:
        >>> image_vae(latent=2, width=8).sample(3).shape
        torch.Size([3, 1, 28, 28])
    """
    extra = 0 if num_classes is None else context
    likelihood = PixelLikelihood(Bernoulli()) if likelihood is None else likelihood
    encoder = ConvEncoder(2 * latent, width, extra)
    decoder = Beside(ConvDecoder(latent + extra, likelihood.channels, width))
    return VAE(encoder, decoder, likelihood, latent, num_classes=num_classes, context=context, **objective)


def hierarchical_image_vae(
    latents: Sequence[int] = (32, 8),
    likelihood: Likelihood | None = None,
    num_classes: int | None = None,
    width: int = 32,
    features: int = 128,
    context: int = 16,
    **objective: Any,
) -> HierarchicalVAE:
    """Two levels, for pictures (N, 1, 28, 28); arguments as of `image_vae` and `HierarchicalVAE`.

    Example:
        >>> hierarchical_image_vae(latents=(4, 2), width=8).sample(3).shape
        torch.Size([3, 1, 28, 28])
    """
    extra = 0 if num_classes is None else context
    likelihood = PixelLikelihood(Bernoulli()) if likelihood is None else likelihood
    encoder = ConvEncoder(features, width, extra)
    decoder = Beside(ConvDecoder(latents[0] + extra, likelihood.channels, width))
    objective = {"num_classes": num_classes, "context": context, **objective}
    return HierarchicalVAE(encoder, decoder, likelihood, features, latents, **objective)


def image_vqvae(
    codes: int = 64,
    features: int = 16,
    likelihood: Likelihood | None = None,
    width: int = 32,
    commitment: float = 0.25,
) -> VQVAE:
    """A map of 7 x 7 codes, for pictures (N, 1, 28, 28).

    Args:
        codes: K of the codebook.
        features: of its vectors.
        likelihood: of the pixels; Bernoulli, for pictures of -1 and 1, if None.
        width: channels at 14 x 14.
        commitment: beta, what holds the encoder near its choice.

    Example:
        >>> import torch
        >>> image_vqvae(codes=8, width=8).encode(torch.ones(3, 1, 28, 28)).shape
        torch.Size([3, 7, 7])
    """
    likelihood = PixelLikelihood(Bernoulli()) if likelihood is None else likelihood
    encoder = nn.Sequential(
        nn.PixelUnshuffle(2),
        nn.Conv2d(4, width, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
        nn.SiLU(),
        nn.Conv2d(2 * width, features, 3, padding=1),
    )
    decoder = nn.Sequential(
        nn.Conv2d(features, 2 * width, 3, padding=1),
        nn.SiLU(),
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Conv2d(2 * width, width, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(width, 4 * likelihood.channels, 3, padding=1),
        nn.PixelShuffle(2),
    )
    return VQVAE(encoder, decoder, likelihood, VectorQuantiser(codes, features), (7, 7), commitment)
