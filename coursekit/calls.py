"""What a sampler makes of a number of network calls: the same noise, the same checkpoint, the same judge.

A call is one call of the denoiser for a batch; a guided pair, with and without the label, is one call on a doubled
batch and counts as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from torch import Tensor, nn

from coursekit.data import load_animals
from coursekit.diffusion import Denoiser, LinearVP, time_grid
from coursekit.diffusion.grids import Grid, Path
from coursekit.diffusion.guidance import ClassifierFree
from coursekit.diffusion.samplers import SAMPLERS, Recorder, Sampler, sample
from coursekit.estimates import Estimate, bootstrap_interval
from coursekit.evaluation import shares
from coursekit.metrics import FrechetDistance, features_of, frechet_distance, recognised_share

__all__ = ["Drawn", "Quality", "draw_counted", "flow_distance", "quality", "steps_within"]


@dataclass(frozen=True)
class Drawn:
    """Pictures, and what they cost.

    Attributes:
        images: (N, 1, 28, 28) in [-1, 1].
        y: the classes asked for, (N,).
        calls: of the denoiser, per picture; a mean over batches if these differ.
    """

    images: Tensor
    y: Tensor
    calls: float


@dataclass(frozen=True)
class Quality:
    """What the judge says of them.

    Attributes:
        frechet: to the test split, corrected for bias.
        recognised: share in which the judge sees the class asked for.
        features: of the judge, (N, F), for a paired `frechet_difference`.
    """

    frechet: FrechetDistance
    recognised: Estimate
    features: Tensor


def steps_within(sampler: str | Sampler, calls: int) -> int:
    """The largest number of steps for which a sampler with a fixed cost asks its denoiser at most `calls` times.

    Raises:
        ValueError: if not even one step is within it, or the cost does not depend on the number of steps.

    Example:
        >>> [steps_within(name, 10) for name in ("euler", "heun", "deis")]
        [10, 5, 9]
    """
    sampler = SAMPLERS[sampler] if isinstance(sampler, str) else sampler
    within = [steps for steps in range(1, calls + 1) if _cost(sampler, steps) <= calls]
    if not within or _cost(sampler, calls + 8) == _cost(sampler, calls):
        raise ValueError(f"calls must suffice for a step, and steps decide the calls, got calls = {calls}")
    return within[-1]


def _cost(sampler: Sampler, steps: int) -> int:
    counter = count()

    def denoise(x: Tensor, t: float | Tensor) -> Tensor:
        next(counter)
        return torch.zeros_like(x)

    for _ in sampler(
        denoise, torch.ones(1, 1), Path.along(LinearVP(), time_grid(LinearVP(), steps)), torch.Generator()
    ):
        pass
    return next(counter)


def draw_counted(
    model: Denoiser,
    sampler: str | Sampler,
    steps: int | None = None,
    grid: str | Grid | Tensor = "uniform",
    number: int = 500,
    guidance: float = 1.5,
    seed: int = 0,
    batch_size: int = 250,
) -> Drawn:
    """Draw animals, the classes in equal shares: with the same seed every sampler starts from the same noise.

    Args:
        model: trained with labels.
        sampler: a name in `SAMPLERS` or such a function.
        steps: of the sampler.
        grid: as `sample` takes it.
        number: of pictures, N.
        guidance: the scale of `ClassifierFree`.
        seed: of the noise; batch b has seed + b.
        batch_size: how many are drawn at once.
    """
    recorder, parts, y = Recorder(ClassifierFree(model, guidance)), [], shares(number)
    for b, labels in enumerate(y.split(batch_size)):
        generator = torch.Generator().manual_seed(seed + b)
        parts.append(sample(recorder, (len(labels), 1, 28, 28), sampler, steps, labels, grid=grid, generator=generator))
    return Drawn(torch.cat(parts).clamp(-1, 1), y, recorder.calls / len(parts))


def quality(judge: nn.Module, drawn: Drawn, seed: int = 0) -> Quality:
    """Judge pictures by the course classifier, against the test split.

    Args:
        judge: the course classifier.
        drawn: the pictures.
        seed: of the resamples.
    """
    features, real = features_of(judge, drawn.images), features_of(judge, load_animals("test").images)
    distance = frechet_distance(features, real, generator=torch.Generator().manual_seed(seed))
    return Quality(distance, recognised_share(judge, drawn.images, drawn.y), features)


def flow_distance(drawn: Drawn, exact: Drawn) -> Estimate:
    """How far a sampler that adds no noise ends from where the flow itself leads, from the same noise.

    Returns:
        The median over pictures of the root mean square difference of their pixels, in units of [-1, 1]. A mean would
        tell of the few pictures that stood on a watershed and became another animal.

    Raises:
        ValueError: if the classes asked for differ.
    """
    if not torch.equal(drawn.y, exact.y):
        raise ValueError(f"drawn and exact must be of the same classes, got {len(drawn.y)} and {len(exact.y)} pictures")
    distances = (drawn.images - exact.images).square().flatten(1).mean(1).sqrt()
    return bootstrap_interval(distances, np.median, generator=torch.Generator().manual_seed(0))
