"""A game of the animals: a convolutional generator and a discriminator that knows the label by projection.

A projection discriminator gives the logit w . phi(x) + e_y . phi(x), phi a network and e_y an embedding of the label
(Miyato and Koyama, "cGANs with Projection Discriminator", 2018, arXiv 1802.05637, eq. 5): the last layer is a row of
weights for each label, so that a network with one output for each label, of which the y-th is taken, is the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from coursekit.gan.game import GAN
from coursekit.gan.objectives import NonSaturating, Objective
from coursekit.gan.regularisers import R1, Regulariser
from coursekit.networks import ConvDecoder, ConvEncoder

__all__ = ["ImageGenerator", "Projection", "image_gan"]


class Projection(nn.Module):
    """The y-th output of a network with one output for each label.

    Example:
        >>> Projection(nn.Identity())(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1, 0])).tolist()
        [2.0, 3.0]
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(N, ...) and labels (N,) -> logits (N,)."""
        return self.network(x).gather(1, y[:, None])[:, 0]


class ImageGenerator(nn.Module):
    """Pictures in (-1, 1) from latents and, if wanted, labels, whose embedding stands beside the latent."""

    def __init__(self, latent: int, num_classes: int | None = None, width: int = 32, context: int = 32) -> None:
        super().__init__()
        self.label = None if num_classes is None else nn.Embedding(num_classes, context)
        self.decoder = ConvDecoder(latent if num_classes is None else latent + context, width=width)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """(N, latent) and labels (N,) -> (N, 1, 28, 28)."""
        return self.decoder(z if self.label is None else torch.cat([z, self.label(y)], dim=1)).tanh()


def image_gan(
    num_classes: int | None = 10,
    latent: int = 64,
    width: int = 32,
    objective: Objective | None = None,
    regularisers: Sequence[Regulariser] | None = None,
    lr_scale: float = 1.0,
) -> GAN:
    """A game of 28 x 28 pictures.

    Args:
        num_classes: labels are 0..num_classes - 1; None without labels.
        latent: numbers in z.
        width: channels at 14 x 14 of both networks, a multiple of 8.
        objective: of the players.
        regularisers: of the discriminator.
        lr_scale: the discriminator's learning rate in units of the generator's.

    Example:
        >>> image_gan(width=8).sample(2, torch.tensor([1, 7])).shape
        torch.Size([2, 1, 28, 28])
    """
    encoder = ConvEncoder(num_classes or 1, width)
    return GAN(
        ImageGenerator(latent, num_classes, width),
        encoder if num_classes is None else Projection(encoder),
        NonSaturating() if objective is None else objective,
        latent,
        num_classes,
        regularisers=(R1(1.0, share=0.25),) if regularisers is None else regularisers,
        lr_scale=lr_scale,
    )
