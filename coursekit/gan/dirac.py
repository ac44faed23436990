r"""The Dirac-GAN: the smallest game that does not converge, solved by hand.

Real data are the point 0, the generator draws the point theta, and the discriminator is the line l(x) = psi x. Gradient
descent of both players' losses,

    theta <- theta - lr dL_G/dtheta,    psi <- psi - lr dL_D/dpsi,

has its equilibrium at theta = psi = 0. Near it a step is a matrix, and the game converges if its eigenvalues lie inside
the unit circle. Without a regulariser they do not: in continuous time the players of `Minimax` circle at a constant
distance, of which simultaneous steps make a spiral outwards. A gradient penalty at the data, or noise on real and fake
points, draws them in. Mescheder et al., "Which Training Methods for GANs do actually Converge?", 2018, arXiv
1801.04406, sections 2 to 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from coursekit.gan.objectives import Minimax, Objective

__all__ = ["DiracGAN", "alternating", "simultaneous"]


@dataclass(frozen=True)
class DiracGAN:
    """The game, exact and without chance, in float64.

    Args:
        objective: of the players.
        r1: weight of the penalty r1 / 2 psi^2, which is `R1`'s: the slope of the discriminator is psi everywhere.
        sigma: standard deviation of the noise on real and fake points; means over it are Gauss-Hermite sums.

    Raises:
        ValueError: if a number is negative.

    Example:
        >>> DiracGAN().path(simultaneous, lr=0.1, steps=500)[::250].norm(dim=1).round(decimals=2).tolist()
        [1.41, 1.85, 2.18]
        >>> DiracGAN(r1=1.0).path(simultaneous, lr=0.1, steps=500)[::250].norm(dim=1).round(decimals=2).tolist()
        [1.41, 0.00, 0.00]
    """

    objective: Objective = field(default_factory=Minimax)
    r1: float = 0.0
    sigma: float = 0.0

    def __post_init__(self) -> None:
        if not (self.r1 >= 0 and self.sigma >= 0):
            raise ValueError(f"r1 and sigma must not be negative, got {self.r1} and {self.sigma}")

    def losses(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """The generator's and the discriminator's loss, scalars, for a state (theta, psi), (2,)."""
        theta, psi = state
        nodes, weights = _gauss_hermite() if self.sigma else (state.new_zeros(1), state.new_ones(1))
        real, fake = psi * self.sigma * nodes, psi * (theta + self.sigma * nodes)
        mean_g = torch.vmap(self.objective.generator_loss)(fake) @ weights
        mean_d = torch.vmap(self.objective.discriminator_loss)(real, fake) @ weights
        return mean_g, mean_d + 0.5 * self.r1 * psi.square()

    def slopes(self, state: Tensor) -> Tensor:
        """dL_G/dtheta and dL_D/dpsi, (2,): each player's slope of its own loss by its own number."""
        by_state = torch.func.jacrev(lambda s: torch.stack(self.losses(s)))(state)  # (2 losses, 2 numbers)
        return by_state.diagonal()

    def path(self, move: Move, lr: float, steps: int, start: tuple[float, float] = (1.0, 1.0)) -> Tensor:
        """The states (theta, psi) from the start on, (steps + 1, 2).

        Args:
            move: `simultaneous` or `alternating`.
            lr: learning rate of both players.
            steps: how many.
            start: theta and psi.
        """
        states = [torch.tensor(start, dtype=torch.float64)]
        for _ in range(steps):
            states.append(move(self, states[-1], lr))
        return torch.stack(states)

    def eigenvalues(self, move: Move, lr: float) -> Tensor:
        """Of the Jacobian of a step at the equilibrium, (2,) complex: all inside the circle, nearby steps converge.

        With c the slope of the losses by the logit at 0 (1/2 for `Minimax`) and no regulariser, they are
        1 +- i lr c for simultaneous steps, outside the circle, and of modulus 1 for alternating ones.

        Example:
            >>> DiracGAN().eigenvalues(simultaneous, lr=0.2).abs().tolist()  # sqrt(1 + 0.01)
            [1.00499, 1.00499]
        """
        origin = torch.zeros(2, dtype=torch.float64)
        return torch.linalg.eigvals(torch.func.jacrev(lambda state: move(self, state, lr))(origin))


Move = Callable[[DiracGAN, Tensor, float], Tensor]
"""(game, state (2,), lr) -> the state after one step of both players."""


def simultaneous(game: DiracGAN, state: Tensor, lr: float) -> Tensor:
    """Both players answer to the same state."""
    return state - lr * game.slopes(state)


def alternating(game: DiracGAN, state: Tensor, lr: float) -> Tensor:
    """The discriminator moves first and the generator answers: what `coursekit.diffusion.fit` does."""
    psi = state[1] - lr * game.slopes(state)[1]
    theta = state[0] - lr * game.slopes(torch.stack([state[0], psi]))[0]
    return torch.stack([theta, psi])


def _gauss_hermite(nodes: int = 40) -> tuple[Tensor, Tensor]:
    """Nodes and weights of E f(eps), eps ~ N(0, 1), (nodes,) float64."""
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    return torch.from_numpy(x), torch.from_numpy(w / w.sum())
