r"""What the two players of an adversarial game minimise, as functions of the discriminator's logits.

A discriminator gives a logit l(x) to every sample, D(x) = sigmoid(l(x)); p is the law of real samples, q that of the
generator's. The original game (Goodfellow et al., "Generative Adversarial Networks", 2014, arXiv 1406.2661, eq. 1) is

    min_G max_D  E_p log D(x) + E_q log(1 - D(x)),

with -log D = softplus(-l) and -log(1 - D) = softplus(l). Its successors change these two functions and nothing else,
so that an objective is two short methods. Each returns a scalar to minimise, the mean over the batch, in nats where
the logit is that of a probability.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

__all__ = ["Hinge", "LeastSquares", "Minimax", "NonSaturating", "Objective", "Wasserstein"]


class Objective(ABC):
    """A pair of losses of logits (N,), one for each player."""

    @abstractmethod
    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """What the discriminator minimises, a scalar."""

    @abstractmethod
    def generator_loss(self, fake_logits: Tensor) -> Tensor:
        """What the generator minimises, a scalar."""


@dataclass(frozen=True)
class Minimax(Objective):
    """The original zero-sum game: what one player wins, the other loses.

    The generator's slope by a logit is -sigmoid(l): where the discriminator is sure, nothing is left to learn from.

    Example:
        >>> import torch
        >>> logits = torch.zeros(4)
        >>> round(Minimax().discriminator_loss(logits, logits).item(), 4)  # log 4: no better than a coin
        1.3863
    """

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()

    def generator_loss(self, fake_logits: Tensor) -> Tensor:
        return -F.softplus(fake_logits).mean()


@dataclass(frozen=True)
class NonSaturating(Minimax):
    """The same discriminator, and a generator that minimises -E log D: its slope is -sigmoid(-l), steep where it loses.

    Goodfellow et al., 2014, arXiv 1406.2661, section 3.
    """

    def generator_loss(self, fake_logits: Tensor) -> Tensor:
        return F.softplus(-fake_logits).mean()


@dataclass(frozen=True)
class LeastSquares(Objective):
    """Real outputs are pulled to `real`, fake ones to `fake`, and the generator's to `wanted`, by squared errors.

    At the optimum the output is D = (real p + fake q) / (p + q), and not the logit of a probability. Mao et al., "Least
    Squares Generative Adversarial Networks", 2017, arXiv 1611.04076, eq. 2 and 5.
    """

    real: float = 1.0
    fake: float = 0.0
    wanted: float = 1.0

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return 0.5 * ((real_logits - self.real).square().mean() + (fake_logits - self.fake).square().mean())

    def generator_loss(self, fake_logits: Tensor) -> Tensor:
        return 0.5 * (fake_logits - self.wanted).square().mean()


@dataclass(frozen=True)
class Hinge(Objective):
    """A margin: outputs beyond 1 for real and below -1 for fake samples cost nothing more.

    Lim and Ye, "Geometric GAN", 2017, arXiv 1705.02894; Miyato et al., 2018, arXiv 1802.05957, eq. 16 and 17.
    """

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()

    def generator_loss(self, fake_logits: Tensor) -> Tensor:
        return -fake_logits.mean()


@dataclass(frozen=True)
class Wasserstein(Objective):
    """The difference of two means. For a critic whose slope is at most 1, minus its loss is at most W_1(p, q).

    Without a bound on the slope it means nothing: take `weight_clipped`, `spectrally_normalised` or `GradientPenalty`.
    Arjovsky et al., "Wasserstein GAN", 2017, arXiv 1701.07875, eq. 2.
    """

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return fake_logits.mean() - real_logits.mean()

    def generator_loss(self, fake_logits: Tensor) -> Tensor:
        return -fake_logits.mean()
