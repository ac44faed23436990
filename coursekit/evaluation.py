"""How good the course's models are: the numbers that the commands print and that stand beside each checkpoint.

Samples are judged on the features of the course classifier, against the test split of the animals, which no
generative model of the course has trained on; the train split against the test split is the floor that a
perfect model would reach.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from coursekit.boltzmann import RestrictedMachine, annealed_importance_sampling, base_rate
from coursekit.data import from_pixels, load_animals
from coursekit.diffusion import Denoiser, sample
from coursekit.diffusion.guidance import Wrapper
from coursekit.diffusion.likelihood import Levels
from coursekit.diffusion.views import OnSchedule
from coursekit.estimates import Estimate, bootstrap_interval
from coursekit.metrics import (
    classifier_two_sample_test,
    features_of,
    frechet_distance,
    mmd,
    nearest_neighbours,
    recognised_share,
)
from coursekit.pixels import bits_per_dim

__all__ = [
    "draw_animals",
    "draws",
    "evaluate_classifier",
    "evaluate_likelihood",
    "evaluate_reconstructions",
    "evaluate_samples",
    "shares",
    "with_mirrored",
]

DENOISERS = (Denoiser, Wrapper, OnSchedule)
"""What `coursekit.diffusion.sample` draws from."""


def shares(number: int, num_classes: int = 10) -> Tensor:
    """Labels (number,), in order, with the classes in shares as equal as possible.

    Raises:
        ValueError: if the number is not positive.

    Example:
        >>> shares(5, 2).tolist()
        [0, 0, 0, 1, 1]
    """
    if number < 1:
        raise ValueError(f"number must be positive, got {number}")
    counts = torch.tensor([(number - 1 - c) // num_classes + 1 for c in range(num_classes)])
    return torch.arange(num_classes).repeat_interleave(counts)


def draws(model: nn.Module) -> bool:
    """Whether a model draws pictures: a denoiser, guided or not, or any model with `sample(n, y, generator)`."""
    return isinstance(model, DENOISERS) or hasattr(model, "sample")


def draw_animals(
    model: nn.Module, y: Tensor, generator: torch.Generator, *, batch_size: int = 250, **settings: Any
) -> Tensor:
    """Animals of the classes y (N,), (N, 1, 28, 28) clamped to [-1, 1], drawn in batches.

    Args:
        model: a `Denoiser`, one around it, or any model with `sample(n, y, generator)`.
        y: the classes.
        generator: source of the noise.
        batch_size: how many are drawn at once.
        **settings: of a denoiser: `sampler`, `steps` and `guidance` (heun and 30 if not given; 1.5 for a plain
            `Denoiser`, for one that is guided already 1); of another model: those that its `sample` takes, such as the
            `steps` of a `ConsistencyModel`.

    Raises:
        ValueError: if the model does not draw, or if settings are given that it does not have.
    """
    if not draws(model):
        raise ValueError(f"model must draw pictures, got a {type(model).__name__}")
    if isinstance(model, DENOISERS):
        settings = {"sampler": "heun", "guidance": 1.5 if isinstance(model, Denoiser) else 1.0} | settings
        parts = [
            sample(model, (len(part), 1, 28, 28), y=part, generator=generator, **settings)
            for part in y.split(batch_size)
        ]
    else:
        foreign = settings.keys() - inspect.signature(model.sample).parameters.keys()
        if foreign:
            raise ValueError(f"{', '.join(foreign)} can be set for diffusion only, not for {type(model).__name__}")
        parts = [model.sample(len(part), part, generator, **settings) for part in y.split(batch_size)]
    return torch.cat(parts).clamp(-1, 1)


def with_mirrored(images: Tensor) -> Tensor:
    """The pictures and their mirror images, (2 N, ...): what a sample of a mirrored training set could copy."""
    return torch.cat([images, images.flip(-1)])


def evaluate_classifier(model: nn.Module) -> dict[str, str]:
    """Accuracy on the test split of the animals, with its exact 95 % interval."""
    images, labels, _ = load_animals("test")
    return {"test accuracy": str(recognised_share(model, images, labels))}


def _annealed_nats(machine: RestrictedMachine, images: Tensor, generator: torch.Generator) -> Estimate:
    """Mean of F plus log Z, with the intervals of both added up."""
    log_z = annealed_importance_sampling(machine, betas=5000, base=base_rate(images), generator=generator)
    energy = bootstrap_interval(machine.free_energy(images), generator=generator)
    return Estimate(energy.value + log_z.value, energy.low + log_z.low, energy.high + log_z.high)


@torch.no_grad()
def evaluate_reconstructions(
    judge: nn.Module, model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator
) -> dict[str, str]:
    """What is left of pictures (N, 1, 28, 28) after a model with `reconstruct` has brought them through its code.

    Args:
        judge: the course classifier.
        model: an auto-encoder.
        images: as the model takes them, or uint8.
        labels: (N,).
        generator: of the resamples.

    Returns:
        The mean squared error a pixel, in units of [-1, 1], and the share that the judge still recognises.
    """
    images = from_pixels(images) if images.dtype == torch.uint8 else images
    back = torch.cat([model.reconstruct(part) for part in images.split(250)])
    errors = (back - images).square().flatten(1).mean(1)
    return {
        "test mean squared error": str(bootstrap_interval(errors, generator=generator)),
        "recognised of the reconstructions": str(recognised_share(judge, back, labels)),
    }


def _bound_settings(model: Denoiser, generator: torch.Generator) -> dict[str, Any]:
    """A decoder that knows how often each level occurs, and begins where the denoiser's training did.

    A denoiser without a t_min of its own has hardly been trained nearer to the data than 0.04.
    """
    decoder = Levels.counted(load_animals("train", dtype=torch.uint8).images)
    t_min = model.t_min if model.t_min > 1e-3 else 0.04
    return {"decoder": decoder, "t_min": t_min, "times": 12, "generator": generator}


@torch.no_grad()
def evaluate_likelihood(model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> dict[str, str]:
    """What a model with `log_prob(x, y)` or `log_prob_bound(x, y)` says of pictures; nothing for any other model.

    Returns:
        The mean of -log p(x | y) with its bootstrap interval: in nats for black and white, in bits per dimension for
        256 levels. For a Boltzmann machine it rests on an estimate of log Z, whose interval is added.
    """
    if isinstance(model, RestrictedMachine):
        return {"test -log p(x), nats, estimated by annealing": str(_annealed_nats(model, images, generator))}
    exact = hasattr(model, "log_prob")
    if not exact and not hasattr(model, "log_prob_bound"):
        return {}
    log_prob = model.log_prob if exact else model.log_prob_bound
    if isinstance(model, Denoiser):
        log_prob = partial(log_prob, **_bound_settings(model, generator))
    images = from_pixels(images) if images.dtype == torch.uint8 else images
    nats = torch.cat([log_prob(x, y) for x, y in zip(images.split(250), labels.split(250), strict=True)])
    binary = bool((images.abs() == 1).all())
    value, unit = (-nats, "nats") if binary else (bits_per_dim(nats, images[0].numel()), "bits/dim")
    kind = "exact" if exact else "at most"
    return {f"test -log p(x | y), {unit}, {kind}": str(bootstrap_interval(value, generator=generator))}


def evaluate_samples(
    judge: nn.Module,
    images: Tensor,
    labels: Tensor | None,
    generator: torch.Generator,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, str]:
    """What `judge`, the course classifier, and the real pictures say of samples (N, 1, 28, 28).

    Args:
        judge: the course classifier.
        images: the samples.
        labels: what was asked for, (N,); None of a model without labels.
        generator: of the permutations and resamples.
        prepare: what the real pictures go through before they are compared with the samples, if anything.

    Returns:
        By name: with labels the recognised share (of the test split as well), the Frechet distance and its floor, MMD
        and two-sample test against the test split, and the smallest distance to a training picture beside that of the
        test split. Intervals are 95 %.
    """
    (train, _, _), (test, test_labels, _) = load_animals("train"), load_animals("test")
    if prepare is not None:
        train, test = prepare(train), prepare(test)
    drawn, real, floor = (features_of(judge, x) for x in (images, test, train))
    test_of_two = classifier_two_sample_test(drawn, real, generator=generator)
    discrepancy = mmd(drawn, real, generator=generator)
    known = with_mirrored(train)
    near, near_real = (nearest_neighbours(x, known).distances for x in (images, test))
    shares_of_labels = (
        {}
        if labels is None
        else {
            "recognised": str(recognised_share(judge, images, labels)),
            "recognised of the real test split": str(recognised_share(judge, test, test_labels)),
        }
    )
    return {
        "samples": str(len(images)),
        **shares_of_labels,
        "Frechet distance to the test split": str(frechet_distance(drawn, real, generator=generator)),
        "Frechet distance of train to test split": str(frechet_distance(floor, real, generator=generator)),
        "MMD^2 to the test split": f"{discrepancy}, p = {discrepancy.p_value:.3g}",
        "two-sample test, accuracy of telling apart": f"{test_of_two}, p = {test_of_two.p_value:.3g}",
        "distance to the nearest training picture, smallest and median": f"{near.min():.2f}, {near.median():.2f}",
        "the same for the real test split": f"{near_real.min():.2f}, {near_real.median():.2f}",
    }
