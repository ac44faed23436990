r"""Who covers the ring of eight: one experiment, the rules of the game being all that changes.

The generator and the discriminator are perceptrons with two hidden layers of ReLU, the data are eight small Gaussians
on a circle, and every set of rules gets the same networks, learning rate, batch and number of moves. Several seeds are
trained side by side in one game, each on rows of its own: `Replicas` deals the rows of a batch among independent
networks, whose gradients do not meet, and Adam does not care that a mean over all rows scales them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from coursekit.diffusion import fit
from coursekit.gan.game import GAN
from coursekit.gan.modes import ModeCoverage, mode_coverage
from coursekit.gan.objectives import LeastSquares, Minimax, NonSaturating, Objective, Wasserstein
from coursekit.gan.regularisers import GradientPenalty, Regulariser, spectrally_normalised, weight_clipped
from coursekit.networks import MLP
from coursekit.toys import GaussianRing

__all__ = ["RULES", "Replicas", "Rules", "cover_ring", "ring_game"]


class Replicas(nn.Module):
    """Independent networks of one kind, for a batch whose n-th row belongs to the network n modulo their number.

    Example:
        >>> Replicas([nn.Linear(2, 3) for _ in range(5)])(torch.zeros(20, 2)).shape
        torch.Size([20, 3])
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        """(N, D) -> (N, outputs), N a multiple of the number of networks."""
        rows = x.unflatten(0, (-1, len(self.networks))).unbind(1)  # each (N / R, D)
        results = [network(part) for network, part in zip(self.networks, rows, strict=True)]
        return torch.stack(results, dim=1).flatten(0, 1)


def _unbounded(network: nn.Module) -> nn.Module:
    return network


@dataclass(frozen=True)
class Rules:
    """What sets one game apart from another: objective, penalties, and the bound built into the discriminator."""

    objective: Objective
    regularisers: tuple[Regulariser, ...] = ()
    bound: Callable[[nn.Module], nn.Module] = _unbounded


RULES: dict[str, Rules] = {
    "original": Rules(Minimax()),
    "non-saturating": Rules(NonSaturating()),
    "least squares": Rules(LeastSquares()),
    "Wasserstein, clipped weights": Rules(Wasserstein(), bound=lambda network: weight_clipped(network, 0.1)),
    "Wasserstein, gradient penalty": Rules(Wasserstein(), (GradientPenalty(1.0),)),
    "spectral normalisation": Rules(NonSaturating(), bound=spectrally_normalised),
}
"""The games of the table, by name."""


def ring_game(rules: Rules, seeds: int = 1, latent: int = 2, width: int = 64, lr_scale: float = 1.0) -> GAN:
    """Games for the plane, one for each seed, side by side; their weights are drawn from torch's global generator."""
    generators = [MLP([latent, width, width, 2], nn.ReLU) for _ in range(seeds)]
    critics = [rules.bound(MLP([2, width, width, 1], nn.ReLU)) for _ in range(seeds)]
    return GAN(Replicas(generators), Replicas(critics), rules.objective, latent,
               regularisers=rules.regularisers, lr_scale=lr_scale)  # fmt: skip


def cover_ring(
    rules: Rules,
    seeds: int = 5,
    steps: int = 1000,
    lr: float = 3e-3,
    lr_scale: float = 1.0,
    betas: tuple[float, float] = (0.5, 0.99),
    batch_size: int = 128,
    samples: int = 2500,
) -> list[ModeCoverage]:
    """Train a game on the ring of eight with several seeds, and count the modes that each generator covers.

    A discriminator that learns too slowly (`lr_scale=0.3`) makes the generator chase the one place that it likes best,
    and in most games all samples end in few modes; momentum (`betas=(0.9, 0.99)`) can make both players overshoot.

    Args:
        rules: such as `RULES["original"]`.
        seeds: games side by side.
        steps: moves of each player.
        lr: learning rate of the generator.
        lr_scale: the discriminator's, in units of it.
        betas: of Adam.
        batch_size: of each game.
        samples: of each generator, to be counted.
    """
    ring = GaussianRing()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        game = ring_game(rules, seeds, lr_scale=lr_scale)
    points = ring.sample(50_000, torch.Generator().manual_seed(0))
    fit(game, points, steps=steps, batch_size=seeds * batch_size, lr=lr, betas=betas, warmup=20, decay=0.3,
        clip=None, progress=False)  # fmt: skip
    x = game.sample(seeds * samples, generator=torch.Generator().manual_seed(1)).unflatten(0, (-1, seeds))
    return [mode_coverage(part, ring.centres(), ring.std) for part in x.unbind(1)]
