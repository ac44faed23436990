r"""What keeps a discriminator from being too steep: penalties on its gradient, and bounds on its weights.

    gradient penalty:  weight E (|grad l(x_hat)| - target)^2,  x_hat = u x_real + (1 - u) x_fake,  u uniform on [0, 1]
    R1:                weight / 2 E |grad l(x_real)|^2

A penalty is added to the discriminator's loss and takes the gradient of a gradient. A bound is built into the network:
`weight_clipped` holds every weight within [-c, c], `spectrally_normalised` divides every matrix by its largest
singular value, so that a network with slopes of activations up to 1 has a slope of at most 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

__all__ = ["R1", "GradientPenalty", "Regulariser", "spectrally_normalised", "weight_clipped"]

Logits = Callable[[Tensor, Tensor | None], Tensor]
"""(x (N, ...), y (N,) or None) -> logits (N,)."""


class Regulariser(ABC):
    """A penalty on a discriminator, added to its loss."""

    @abstractmethod
    def __call__(
        self, logits: Logits, real: Tensor, fake: Tensor, y: Tensor | None, generator: torch.Generator | None
    ) -> Tensor:
        """The penalty, a scalar.

        Args:
            logits: the discriminator.
            real: (N, ...) samples of the data.
            fake: (N, ...) samples of the generator, without a graph.
            y: the labels (N,) of both, if there are any.
            generator: the source of randomness.
        """


@dataclass(frozen=True)
class GradientPenalty(Regulariser):
    """Slopes of length `target` on the lines between real and fake samples.

    Gulrajani et al., "Improved Training of Wasserstein GANs", 2017, arXiv 1704.00028, eq. 3. On these lines an optimal
    critic has slope 1 exactly, which is why the penalty has two sides.

    Args:
        weight: of the penalty.
        target: the length that costs nothing.

    Example:
        >>> x = torch.zeros(3, 2)
        >>> GradientPenalty(weight=10.0)(lambda x, y: 3 * x[:, 0], x, x + 1, None, None).item()  # 10 (3 - 1)^2
        40.0
    """

    weight: float = 10.0
    target: float = 1.0

    def __call__(
        self, logits: Logits, real: Tensor, fake: Tensor, y: Tensor | None, generator: torch.Generator | None
    ) -> Tensor:
        u = real.new_empty(len(real), *[1] * (real.ndim - 1)).uniform_(generator=generator)  # (N, 1, ...)
        between = torch.lerp(fake, real, u)
        slope = _gradient(logits, between, y).norm(dim=1)
        return self.weight * (slope - self.target).square().mean()


@dataclass(frozen=True)
class R1(Regulariser):
    """Flatness at the data: with it the Dirac-GAN, and any game near its equilibrium, converges.

    Mescheder et al., "Which Training Methods for GANs do actually Converge?", 2018, arXiv 1801.04406, eq. 9.

    Args:
        weight: gamma.
        share: of the batch on which the penalty is estimated; a quarter has the same mean and costs a quarter.

    Raises:
        ValueError: if the share is not in (0, 1].

    Example:
        >>> x = torch.zeros(4, 2)
        >>> R1(weight=2.0, share=0.5)(lambda x, y: 3 * x[:, 0], x, x, None, None).item()  # 2 / 2 * 3^2
        9.0
    """

    weight: float = 1.0
    share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share must lie in (0, 1], got {self.share}")

    def __call__(
        self, logits: Logits, real: Tensor, fake: Tensor, y: Tensor | None, generator: torch.Generator | None
    ) -> Tensor:
        n = max(1, round(self.share * len(real)))
        return 0.5 * self.weight * _gradient(logits, real[:n], None if y is None else y[:n]).square().sum(1).mean()


def _gradient(logits: Logits, x: Tensor, y: Tensor | None) -> Tensor:
    """The gradient of each sample's logit by the sample, (N, D), with a graph of its own."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(logits(x, y).sum(), x, create_graph=True)
    return gradient.float().flatten(1) if gradient.dtype in (torch.float16, torch.bfloat16) else gradient.flatten(1)


@dataclass(frozen=True)
class _Clip:
    """A hook before a network's forward pass that projects its weights; a second pass finds nothing to do."""

    limit: float

    def __call__(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for parameter in network.parameters():
            parameter.data.clamp_(-self.limit, self.limit)  # data: no step of a graph, which would refuse to change it


def weight_clipped(network: nn.Module, limit: float = 0.01) -> nn.Module:
    """Hold every weight of a network within [-limit, limit]; returns the network.

    The weights are projected at the start of each forward pass, hence after every step of any optimiser and before
    anything is computed with them: projected gradient descent. A running average stays within the bounds too, since
    they are convex. Arjovsky et al., "Wasserstein GAN", 2017, arXiv 1701.07875, algorithm 1.

    Raises:
        ValueError: if the limit is not positive.

    Example:
        >>> layer = weight_clipped(nn.Linear(50, 50), limit=0.01)
        >>> _ = layer(torch.zeros(1, 50))
        >>> layer.weight.abs().max().item() <= 0.01
        True
    """
    if not limit > 0:
        raise ValueError(f"limit must be positive, got {limit}")
    network.register_forward_pre_hook(_Clip(limit))
    return network


def spectrally_normalised(network: nn.Module, iterations: int = 1) -> nn.Module:
    """Divide the weight of every linear or convolutional layer by its largest singular value; returns the network.

    The singular value comes from a power iteration that goes on by `iterations` with every forward pass in training. A
    convolution's weight is taken as a matrix (outputs, inputs x places), as in the paper: near the layer's true norm,
    and no bound on it. Miyato et al., "Spectral Normalization for Generative Adversarial Networks", 2018, arXiv
    1802.05957, section 2.1.

    Raises:
        ValueError: if the network has no such layer.

    Example:
        >>> layer = spectrally_normalised(nn.Linear(3, 3))
        >>> round(torch.linalg.matrix_norm(layer.weight, 2).item(), 2)
        1.00
    """
    layers = [part for part in network.modules() if isinstance(part, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))]
    if not layers:
        raise ValueError(f"network must have linear or convolutional layers, got {type(network).__name__}")
    for layer in layers:
        parametrizations.spectral_norm(layer, n_power_iterations=iterations)
    return network
