r"""Contrastive training of an energy: down at the data, up where the model's own chains are.

    d/dtheta mean -log p(x_n) = mean_n dE(x_n)/dtheta - E_{x ~ p} dE(x)/dtheta.

The second mean is over chains of Langevin dynamics, which start where a replay buffer left them: a chain from noise
would need thousands of steps, one that goes on needs a few. Without the buffer the model learns to be right only after
as many steps as it was trained with. References: Xie et al., "A Theory of Generative ConvNet", 2016, arXiv 1602.03264;
Du and Mordatch, "Implicit Generation and Modeling with Energy-Based Models", 2019, arXiv 1903.08689; Nijkamp et al.,
"On the Anatomy of MCMC-Based Maximum Likelihood Learning of Energy-Based Models", 2019, arXiv 1903.12370.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from coursekit.energy.langevin import langevin
from coursekit.shapes import checked_shape

if TYPE_CHECKING:
    from coursekit.energy.model import EnergyModel

__all__ = ["Contrastive", "ReplayBuffer"]


class ReplayBuffer(nn.Module):
    """States of many chains, a few of which go on in each step; a share of those starts again from noise.

    The states are saved with the model. Chains that never start again end in a few deep valleys; chains that always do
    never arrive.

    Args:
        shape: of one x, or the number of variables.
        size: how many states are kept.
        reinitialise: the share of the chains that start again from noise, in [0, 1]; 1 is no replay at all.
        extent: noise is uniform in [-extent, extent].

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> buffer = ReplayBuffer(2, size=100)
        >>> places, x = buffer.draw(10)
        >>> buffer.store(places, x + 1)
        >>> x.shape, buffer.state_dict()["states"].shape
        (torch.Size([10, 2]), torch.Size([100, 2]))
    """

    states: Tensor
    unaveraged: ClassVar[tuple[str, ...]] = ("states",)

    def __init__(
        self, shape: int | Sequence[int], size: int = 4096, reinitialise: float = 0.05, extent: float = 1.0
    ) -> None:
        super().__init__()
        if size < 1 or not 0 <= reinitialise <= 1 or not extent > 0:
            wanted = "size >= 1, 0 <= reinitialise <= 1 and extent > 0 are wanted"
            raise ValueError(f"{wanted}, got {size}, {reinitialise} and {extent}")
        self.reinitialise, self.extent = reinitialise, extent
        self.register_buffer("states", torch.empty(size, *checked_shape(shape)).uniform_(-extent, extent))

    def draw(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """n different places of the buffer, (n,), and where their chains go on, (n, *shape).

        Raises:
            ValueError: if the buffer holds fewer than n states.
        """
        if n > len(self.states):
            raise ValueError(f"size must be at least the batch's {n}, got {len(self.states)}")
        places = torch.randperm(len(self.states), generator=generator, device=self.states.device)[:n]
        x = self.states[places]
        noise = torch.empty_like(x).uniform_(-self.extent, self.extent, generator=generator)
        again = torch.rand(n, generator=generator, device=x.device) < self.reinitialise
        return places, torch.where(again.view(-1, *[1] * (x.ndim - 1)), noise, x)

    @torch.no_grad()
    def store(self, places: Tensor, x: Tensor) -> None:
        """Keep the states x (n, *shape) at their places (n,)."""
        self.states.index_copy_(0, places, x.detach().to(self.states.dtype))


class Contrastive(nn.Module):
    """The objective mean E(x) - mean E(x_chain), and what keeps it from running away. Its value is no likelihood.

    Nothing holds the energy at any height, and a network can always make the difference larger by growing steeper.
    Then chains jump, their energies explode, and training with them. Each stabiliser is a number of its own:

    * `penalty` adds penalty (E(x)^2 + E(x_chain)^2): energies stay near 0. It leaves the differences between data and
      chains alone as long as these are small. Du and Mordatch, 2019, section 3.3.
    * `noise` blurs the data: the model learns p * N(0, noise^2), which is smooth even if the data lie on a surface,
      where no finite energy is right.
    * `clip` bounds the length of the gradient in a step of a chain, so that one steep place throws no chain away.
    * `temperature` below 1 gives steps with less noise than belongs to their length: chains arrive sooner, and what
      is learned is p up to that temperature, E being T times what it would be.
    * A network of layers under `torch.nn.utils.parametrizations.spectral_norm` bounds the slope of E everywhere, and
      `coursekit.diffusion.fit(clip=...)` the step of the parameters. Both are outside of this class.

    Args:
        shape: of one x, or the number of variables.
        step, steps: of the Langevin dynamics of a training step.
        buffer: where the chains start; `ReplayBuffer(shape)` if None.
        penalty, noise: 0 for none.
        clip: None for none.
        temperature: 1 for Langevin dynamics proper.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> from coursekit.energy import EnergyModel
        >>> from coursekit.networks import MLP
        >>> model = EnergyModel(MLP([2, 32, 1]), 2, Contrastive(2, step=0.05, steps=5, penalty=0.01))
        >>> model.loss(torch.zeros(16, 2)).shape
        torch.Size([])
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        step: float = 0.01,
        steps: int = 20,
        buffer: ReplayBuffer | None = None,
        penalty: float = 0.0,
        noise: float = 0.0,
        clip: float | None = None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if penalty < 0 or noise < 0:
            raise ValueError(f"penalty and noise must be at least 0, got {penalty} and {noise}")
        self.buffer = ReplayBuffer(shape) if buffer is None else buffer
        self.penalty, self.noise = penalty, noise
        self.walk = {"step": step, "steps": steps, "clip": clip, "temperature": temperature}

    def forward(self, model: EnergyModel, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The objective of a batch (N, *shape), a scalar; as many chains of the buffer move on.

        Raises:
            ValueError: if an energy is not finite.
        """
        places, start = self.buffer.draw(len(x), generator)
        chains = langevin(model, start, generator=generator, **self.walk)
        self.buffer.store(places, chains)
        if self.noise:
            x = x + self.noise * torch.empty_like(x).normal_(generator=generator)
        data, model_states = model(x), model(chains)
        height = self.penalty * (data.square().mean() + model_states.square().mean())
        return data.mean() - model_states.mean() + height
