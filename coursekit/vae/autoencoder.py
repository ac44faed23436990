r"""The auto-encoder: a network that must bring its input through a few numbers.

    z = f(x),   x' = g(z),        minimise E |x - x'|^2.

With linear f and g the best code spans the subspace of the first principal components, and the loss is the variance
that they leave out. The code is a vector of real numbers, as continuous as f. What it lacks is a law: nothing says
which z occur, so that g was never asked about most of them. An auto-encoder can therefore not draw: it has no `sample`.
To draw, one fits a density to the codes first, such as `coursekit.gmm.GaussianMixture`: it is that density which draws.

References: Baldi and Hornik, "Neural networks and principal component analysis: learning from examples without local
minima", Neural Networks 2, 1989; Hinton and Salakhutdinov, "Reducing the dimensionality of data with neural networks",
Science 313, 2006.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from coursekit.networks import ConvDecoder, ConvEncoder
from coursekit.vae.codes import LatentModel

__all__ = ["AutoEncoder", "conv_auto_encoder", "linear_auto_encoder"]


class AutoEncoder(LatentModel):
    """Codes without a law, learned by the mean squared error of their reconstructions.

    Args:
        encoder: f, (N, ...) -> (N, latent).
        decoder: g, (N, latent) -> (N, ...).
        latent: numbers of a code.

    Example:
        >>> model = linear_auto_encoder(5, latent=2)
        >>> x = torch.zeros(3, 5)
        >>> model.encode(x).shape, model.reconstruct(x).shape, model.interpolate(x, x + 1, steps=4).shape
        (torch.Size([3, 2]), torch.Size([3, 5]), torch.Size([3, 4, 5]))
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, latent: int) -> None:
        super().__init__(latent)
        self.encoder, self.decoder = encoder, decoder

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The code z = f(x), (N, ...) -> (N, D)."""
        self.context(y, len(x))
        return self.encoder(x)

    def _decode(self, z: Tensor, context: Tensor | None) -> Tensor:
        return self.decoder(z)

    def errors(self, x: Tensor) -> Tensor:
        """|x - g(f(x))|^2 / numbers of x: the mean squared error of each x, (N,).

        Raises:
            ValueError: if the decoder returns another shape than that of x.
        """
        found = self.decoder(self.encode(x))
        if found.shape != x.shape:
            raise ValueError(f"decoder must return the shape of x, {tuple(x.shape)}, got {tuple(found.shape)}")
        return (found - x).square().flatten(1).mean(1)

    def loss(self, x: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """The mean squared error of a batch, a scalar; labels, which data may come with, are not looked at."""
        return self.errors(x).mean()


def linear_auto_encoder(D: int, latent: int) -> AutoEncoder:
    """One linear layer in, one out: principal components by gradient descent, for points (N, D)."""
    return AutoEncoder(nn.Linear(D, latent), nn.Linear(latent, D), latent)


def conv_auto_encoder(latent: int = 16, width: int = 32) -> AutoEncoder:
    """For pictures (N, 1, 28, 28).

    Args:
        latent: numbers of a code.
        width: channels at 14 x 14, a multiple of 8.

    Example:
        >>> conv_auto_encoder(latent=2, width=8).reconstruct(torch.zeros(3, 1, 28, 28)).shape
        torch.Size([3, 1, 28, 28])
    """
    return AutoEncoder(ConvEncoder(latent, width), ConvDecoder(latent, width=width), latent)
