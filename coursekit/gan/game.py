r"""Adversarial games: a generator x = G(z), z ~ N(0, I), against a discriminator with logits l(x).

    discriminator:  min_l  objective.discriminator_loss(l(x), l(G(z))) + penalties
    generator:      min_G  objective.generator_loss(l(G(z)))

Goodfellow et al., "Generative Adversarial Networks", 2014, arXiv 1406.2661, algorithm 1. With labels y both players see
them (Mirza and Osindero, "Conditional Generative Adversarial Nets", 2014, arXiv 1411.1784). `coursekit.diffusion.fit`
moves the players in turn; a game that diverges stops there with the name of the player.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from coursekit.diffusion.engine import Player
from coursekit.gan.objectives import Objective
from coursekit.gan.regularisers import Regulariser
from coursekit.labels import check_labels, check_num_classes

__all__ = ["GAN", "Corruption", "Critic", "Opponent"]

Corruption = Callable[[Tensor, "torch.Generator | None"], tuple[Tensor, ...]]
"""(x (N, ...), generator) -> what the discriminator is shown in the place of x, such as (x_t,) or (x_t, t)."""

Opponent = Callable[[int, "torch.Generator | None"], Tensor]
"""(n, generator) -> n samples of a fixed law, such as `toy.sample`."""


class _Side(nn.Module):
    """The discriminator's side of a game; see `GAN` for the arguments."""

    def __init__(
        self,
        discriminator: nn.Module,
        objective: Objective,
        regularisers: Sequence[Regulariser] = (),
        corrupt: Corruption | None = None,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        check_num_classes(num_classes)
        self.discriminator, self.objective, self.regularisers = discriminator, objective, tuple(regularisers)
        self.corrupt, self.num_classes = corrupt, num_classes

    def logits(self, x: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """The discriminator's logits (N,) for samples (N, ...), which are corrupted first if the game says so.

        Raises:
            ValueError: if the discriminator does not give one number a sample.
        """
        shown = (x,) if self.corrupt is None else self.corrupt(x, generator)
        logits = self.discriminator(*shown) if y is None else self.discriminator(*shown, y)
        if logits.numel() != len(x):
            raise ValueError(f"discriminator must give ({len(x)},) or ({len(x)}, 1) logits, got {tuple(logits.shape)}")
        return logits.reshape(len(x))

    def _against(self, real: Tensor, fake: Tensor, y: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """The discriminator's loss between real and fake samples that share their labels, a scalar."""
        if fake.shape != real.shape:
            raise ValueError(f"fake samples must have the shape of x, {tuple(real.shape)}, got {tuple(fake.shape)}")
        labels = None if y is None else torch.cat([y, y])
        logits = self.logits(torch.cat([real, fake]), labels, generator)
        loss = self.objective.discriminator_loss(*logits.chunk(2))
        for penalty in self.regularisers:
            loss = loss + penalty(lambda x, y: self.logits(x, y, generator), real, fake, y, generator)
        return loss


class Critic(_Side):
    """A discriminator alone, against samples of a law that stands still: it learns to tell two densities apart.

    For real samples of p and an opponent that draws from q the optimum is known (`coursekit.gan.truths`): the logit
    log p - log q for `Minimax`, and minus the loss is then -log 4 + 2 JS(p, q). With `Wasserstein` and a bound on the
    slope, minus the loss rises to W_1(p, q).

    Args:
        discriminator: x (N, ...) -> logits (N,) or (N, 1).
        objective: the game's.
        opponent: draws from q.
        regularisers: penalties on the discriminator.
        corrupt: what is done to both kinds of samples before the discriminator sees them.

    Example:
        >>> from coursekit.gan import Minimax
        >>> critic = Critic(nn.Linear(2, 1), Minimax(), opponent=lambda n, generator: torch.ones(n, 2))
        >>> critic.loss(torch.zeros(5, 2)).shape
        torch.Size([])
    """

    def __init__(
        self,
        discriminator: nn.Module,
        objective: Objective,
        opponent: Opponent,
        regularisers: Sequence[Regulariser] = (),
        corrupt: Corruption | None = None,
    ) -> None:
        super().__init__(discriminator, objective, regularisers, corrupt)
        self.opponent = opponent

    def loss(self, x: Tensor, y: None = None, generator: torch.Generator | None = None) -> Tensor:
        """The discriminator's loss between x (N, ...) and as many samples of the opponent, a scalar."""
        check_labels(y, len(x), None)
        return self._against(x, self.opponent(len(x), generator).to(x), None, generator)


class GAN(_Side):
    """A game of two players: a generator, which draws, and a discriminator, which tells real from drawn.

    Args:
        generator: z (N, latent) -> samples (N, ...); with labels (z, y) -> samples.
        discriminator: samples -> logits (N,) or (N, 1); with labels (x, y) -> logits. Real and fake samples come in
            one batch, so a layer must not mix samples, as normalisation over the batch does.
        objective: what each player minimises.
        latent: numbers in z.
        num_classes: labels are 0..num_classes - 1; None without labels.
        regularisers: penalties on the discriminator.
        corrupt: what is done to real and fake samples before the discriminator sees them, such as `InstanceNoise`.
        repeats: moves of the discriminator for each one of the generator.
        lr_scale: the discriminator's learning rate in units of the generator's: two time scales, after Heusel et al.,
            "GANs Trained by a Two Time-Scale Update Rule", 2017, arXiv 1706.08500.

    Raises:
        ValueError: if a number is not positive.

    Example:
        >>> from coursekit.gan import NonSaturating
        >>> gan = GAN(nn.Linear(3, 2), nn.Linear(2, 1), NonSaturating(), latent=3)
        >>> [player.name for player in gan.players()], gan.sample(5).shape
        (['discriminator', 'generator'], torch.Size([5, 2]))
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        objective: Objective,
        latent: int,
        num_classes: int | None = None,
        *,
        regularisers: Sequence[Regulariser] = (),
        corrupt: Corruption | None = None,
        repeats: int = 1,
        lr_scale: float = 1.0,
    ) -> None:
        super().__init__(discriminator, objective, regularisers, corrupt, num_classes)
        for name, value in (("latent", latent), ("repeats", repeats), ("lr_scale", lr_scale)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        self.generator, self.latent = generator, latent
        self.repeats, self.lr_scale = repeats, lr_scale

    def players(self) -> list[Player]:
        """Both sides in the order in which they move, for `coursekit.diffusion.fit`."""
        return [
            Player("discriminator", self.discriminator, self.discriminator_loss, self.repeats, self.lr_scale),
            Player("generator", self.generator, self.generator_loss),
        ]

    def discriminator_loss(
        self, x: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """What the discriminator minimises on real samples (N, ...) and as many fake ones, a scalar.

        Raises:
            ValueError: if labels or the shapes of samples do not fit.
        """
        check_labels(y, len(x), self.num_classes)
        with torch.no_grad():  # the generator's move comes later, no graph is wanted through it
            fake = self._generate(len(x), y, x, generator)
        return self._against(x, fake, y, generator)

    def generator_loss(self, x: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """What the generator minimises, a scalar; of x only the number, the device and the labels matter."""
        check_labels(y, len(x), self.num_classes)
        return self.objective.generator_loss(self.logits(self._generate(len(x), y, x, generator), y, generator))

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """n samples (n, ...), of the labels y (n,) if they are given, else of labels drawn evenly.

        Raises:
            ValueError: if n is negative, or the labels do not fit.
        """
        if n < 0:
            raise ValueError(f"n must be at least 0, got {n}")
        like = next(self.generator.parameters())
        if self.num_classes is not None and y is None:
            y = torch.randint(self.num_classes, (n,), generator=generator, device=like.device)
        check_labels(y, n, self.num_classes)
        return self._generate(n, y, like, generator)

    def _generate(self, n: int, y: Tensor | None, like: Tensor, generator: torch.Generator | None) -> Tensor:
        z = torch.empty(n, self.latent, dtype=like.dtype, device=like.device).normal_(generator=generator)
        return self.generator(z) if y is None else self.generator(z, y)
