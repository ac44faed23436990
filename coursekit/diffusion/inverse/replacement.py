r"""Replacement: what was seen is put into x_t itself, at the noise level where x_t is.

After each step to (alpha, sigma), with fresh noise eps,

    x <- x + A^+ (alpha b + sigma A eps - A x):

the seen part is a diffused observation, independent of the unseen part, whose harmony with it is left to the
denoiser. Song et al., 2021, arXiv 2011.13456, section 5 and appendix I.2. Going back a few steps by diffusing x again
and repeating them lets the two parts agree: Lugmayr et al., "RePaint", 2022, arXiv 2201.09865, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from coursekit.diffusion.grids import Path
from coursekit.diffusion.inverse.operators import LinearOperator
from coursekit.diffusion.samplers import SAMPLERS, Denoise, Sampler

__all__ = ["Replacement"]


@dataclass(frozen=True)
class Replacement:
    """A sampler around a sampler: give it to `coursekit.diffusion.sample` as `sampler`.

    It acts on the state, not on the estimate, so it is no denoiser. The sampler inside is started anew at each step:
    one that remembers earlier steps forgets them. Noise in the observation goes into the samples.

    Attributes:
        operator: A.
        observation: b, (N, ...) in the shape of A x, or (1, ...) for all samples.
        sampler: a name in `SAMPLERS` or such a function.
        repeats: how often each stretch of `jump` steps is walked; 1 is plain replacement.
        jump: the steps of a stretch.

    Raises:
        ValueError: for an unknown sampler, or repeats or jump below 1.

    Example:
        >>> from coursekit.diffusion import ExactDenoiser, LinearVP, sample
        >>> from coursekit.diffusion.inverse import Mask
        >>> from coursekit.gmm import GaussianMixture
        >>> line = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.tensor([[[1.0, 0.99], [0.99, 1.0]]]))
        >>> half = Replacement(Mask(torch.tensor([True, False])), torch.tensor([[1.5]]), repeats=4)
        >>> generator = torch.Generator().manual_seed(0)
        >>> sample(ExactDenoiser(line, LinearVP()), (1, 2), half, steps=50, generator=generator)[0, 0].item()
        1.5
    """

    operator: LinearOperator
    observation: Tensor
    sampler: str | Sampler = "ddpm"
    repeats: int = 1
    jump: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.sampler, str) and self.sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {self.sampler!r}")
        if self.repeats < 1 or self.jump < 1:
            raise ValueError(f"repeats and jump must be at least 1, got {self.repeats} and {self.jump}")

    def __call__(
        self, denoise: Denoise, x: Tensor, path: Path, generator: torch.Generator | None = None
    ) -> Iterator[Tensor]:
        """x after each step of the last walk along its stretch."""
        for start in range(0, len(path), self.jump):
            end = min(start + self.jump, len(path))
            for _ in range(self.repeats - 1):
                for i in range(start, end):
                    x = self._step(denoise, x, path, i, generator)
                x = _diffused(x, path, end, start, generator)
            for i in range(start, end):
                x = self._step(denoise, x, path, i, generator)
                yield x

    def _step(self, denoise: Denoise, x: Tensor, path: Path, i: int, generator: torch.Generator | None) -> Tensor:
        """One step of the sampler inside, from level i to i + 1, and the replacement there."""
        step = SAMPLERS[self.sampler] if isinstance(self.sampler, str) else self.sampler
        rest = Path(path.schedule, path.times[i:], path.alpha[i:], path.sigma[i:])
        x = next(iter(step(denoise, x, rest, generator)))
        seen = path.alpha[i + 1] * self.observation - self.operator(x)
        if path.sigma[i + 1] > 0:
            noise = torch.empty_like(x).normal_(generator=generator)
            seen = seen + path.sigma[i + 1] * self.operator(noise)
        return x + self.operator.pseudo_inverse(seen)


def _diffused(x: Tensor, path: Path, here: int, there: int, generator: torch.Generator | None) -> Tensor:
    """A draw from q(x_there | x_here) of the forward process, from a level to a noisier one."""
    ratio = path.alpha[there] / path.alpha[here]
    variance = path.sigma[there] ** 2 - (ratio * path.sigma[here]) ** 2
    return torch.add(ratio * x, torch.empty_like(x).normal_(generator=generator), alpha=max(0.0, variance) ** 0.5)
