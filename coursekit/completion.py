"""The missing half: pictures of which the left half is seen, and ways to draw the right one.

Every way draws x given b = A x, A the left half's pixels, from a model that was never trained to: a Gaussian mixture
by its formula (lesson 02), and one diffusion model through `coursekit.diffusion.inverse`. What is drawn is compared
with the hidden truth. A good posterior sampler is not the one whose draws are nearest to the truth: for the exact
posterior truth and draws are exchangeable, so two draws lie as far apart as a draw and the truth do.
`Judgement.spread` is that ratio.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from coursekit.data import load_animals
from coursekit.diffusion import sample
from coursekit.diffusion.inverse import DPS, Mask, MomentMatching, PiGDM, Projected, Replacement
from coursekit.diffusion.samplers import Sampler
from coursekit.estimates import Estimate
from coursekit.gmm import GaussianMixture, LowRank
from coursekit.metrics import recognised_share

__all__ = ["HalfHidden", "Judgement", "Way", "half_hidden", "half_mixture", "judge", "ways"]

Way = Callable[[torch.Generator], Tensor]
"""(generator) -> completed pictures (N, 1, 28, 28) in [-1, 1], one draw for each."""


@dataclass(frozen=True)
class HalfHidden:
    """Pictures of one animal whose right half is to be found.

    Attributes:
        pictures: the truth, (N, 1, 28, 28) in [-1, 1].
        labels: (N,), all the same.
        seen: A, the pixels of the left half.
    """

    pictures: Tensor
    labels: Tensor
    seen: Mask

    @property
    def observation(self) -> Tensor:
        """b, (N, 392)."""
        return self.seen(self.pictures)

    @property
    def shown(self) -> Tensor:
        """The pictures with the hidden half in middle grey, 0."""
        return self.seen.pseudo_inverse(self.observation)


def half_hidden(animal: str = "horse", number: int = 8, generator: torch.Generator | None = None) -> HalfHidden:
    """Some test pictures of an animal, chosen at random, with the right half hidden.

    Raises:
        ValueError: for an unknown animal, or more pictures than there are.

    Example:
        >>> horses = half_hidden("horse", 3, torch.Generator().manual_seed(0))
        >>> horses.observation.shape
        torch.Size([3, 392])
    """
    images, labels, names = load_animals("test")
    if animal not in names:
        raise ValueError(f"animal must be one of {', '.join(names)}, got {animal!r}")
    label = names.index(animal)
    images = images[labels == label]
    if not 1 <= number <= len(images):
        raise ValueError(f"number must lie in 1..{len(images)}, got {number}")
    chosen = torch.randperm(len(images), generator=generator)[:number]
    left = (torch.arange(28) < 14).expand(1, 28, 28)
    return HalfHidden(images[chosen], torch.full((number,), label), Mask(left))


def half_mixture(animal: str = "horse", K: int = 4, rank: int = 8, seed: int = 0) -> GaussianMixture:
    """K factor analysers of one animal's training pictures, in all 784 pixels: lesson 02's model, a second of EM."""
    images, _, _ = load_animals("train", classes=[animal])
    generator = torch.Generator().manual_seed(seed)
    return GaussianMixture.fit(images.flatten(1), K, LowRank.of_rank(rank), steps=15, tol=0.0, floor=1e-3,
                               generator=generator)[0]  # fmt: skip


def ways(
    problem: HalfHidden, denoiser: nn.Module, mixture: GaussianMixture | None = None, steps: int = 60
) -> dict[str, Way]:
    """Ways to draw the hidden half, by name, with settings that work on the animals.

    Five of them differ in kind: "mixture", "RePaint", "projection", "DPS" and "moment matching"; "replacement" is
    "RePaint" without its repeats and "PiGDM" a cheaper "moment matching".

    Args:
        problem: what is seen.
        denoiser: of the animals; it is told the label if it takes one, and may be guided.
        mixture: of flattened pictures; without it the first way is left out.
        steps: of the sampler; RePaint takes two thirds of them five times.
    """
    A, b, shape = problem.seen, problem.observation, tuple(problem.pictures.shape)

    def draw(model: nn.Module, generator: torch.Generator, sampler: str | Sampler = "ddpm", n: int = steps) -> Tensor:
        return sample(model, shape, sampler, n, problem.labels, generator=generator).clamp(-1, 1)

    def fill_in(generator: torch.Generator) -> Tensor:
        seen = torch.zeros(784, dtype=torch.bool).index_fill(0, A.index, True)
        return mixture.fill_in(problem.pictures.flatten(1), seen, generator).view(shape).clamp(-1, 1)

    by_network: dict[str, Way] = {
        "replacement": partial(draw, denoiser, sampler=Replacement(A, b)),
        "RePaint": partial(draw, denoiser, sampler=Replacement(A, b, repeats=5, jump=5), n=max(1, 2 * steps // 3)),
        "projection": partial(draw, Projected(denoiser, A, b)),
        "DPS": partial(draw, DPS(denoiser, A, b, zeta=2.0)),
        "PiGDM": partial(draw, PiGDM(denoiser, A, b)),
        "moment matching": partial(draw, MomentMatching(denoiser, A, b)),
    }
    return by_network if mixture is None else {"mixture": fill_in} | by_network


@dataclass(frozen=True)
class Judgement:
    """What completions are worth; squared errors are means over the pixels of the hidden half.

    Attributes:
        mean_error: of the mean of all draws of a picture.
        error: of one draw.
        spread: mean squared distance of two draws divided by that of a draw from the truth; 1 for the exact posterior,
            less for one that is too sure.
        seam: mean squared jump between the columns on both sides of the seam, divided by the truth's.
        recognised: share of draws in which the judge sees the animal.
        seen_error: mean squared change of the half that was shown.
    """

    mean_error: float
    error: float
    spread: float
    seam: float
    recognised: Estimate
    seen_error: float


def judge(draws: Tensor, problem: HalfHidden, classifier: nn.Module) -> Judgement:
    """Compare draws (R, N, 1, 28, 28), R > 1 for each picture, with the truth.

    Raises:
        ValueError: for fewer than two draws, or draws of another shape.
    """
    truth = problem.pictures
    if draws.shape[1:] != truth.shape or len(draws) < 2:
        raise ValueError(f"draws must have shape (R > 1, {', '.join(map(str, truth.shape))}), got {tuple(draws.shape)}")
    hidden, seen = draws[..., 14:], draws[..., :14]
    error = float((hidden - truth[..., 14:]).square().mean())
    jump = [float((x[..., 14] - x[..., 13]).square().mean()) for x in (draws, truth)]
    return Judgement(
        mean_error=float((hidden.mean(0) - truth[..., 14:]).square().mean()),
        error=error,
        spread=2 * float(hidden.var(0).mean()) / error,
        seam=jump[0] / jump[1],
        recognised=recognised_share(classifier, draws.flatten(0, 1), problem.labels.repeat(len(draws))),
        seen_error=float((seen - truth[..., :14]).square().mean()),
    )
