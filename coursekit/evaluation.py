"""How good the course's models are: the numbers that the commands print and that stand beside each checkpoint.

Samples are judged on the features of the course classifier, against the test half of the animals, which no
generative model of the course has trained on; the train half against the test half is the floor that a
perfect model would reach.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from coursekit.data import load_animals
from coursekit.diffusion import Denoiser, sample
from coursekit.metrics import (
    classifier_two_sample_test,
    features_of,
    frechet_distance,
    mmd,
    nearest_neighbours,
    recognised_share,
)

__all__ = ["draw_animals", "evaluate_classifier", "evaluate_diffusion", "shares", "with_mirrored"]


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


def draw_animals(
    denoiser: Denoiser,
    y: Tensor,
    generator: torch.Generator,
    *,
    sampler: str = "heun",
    steps: int = 30,
    guidance: float = 1.5,
    batch_size: int = 250,
) -> Tensor:
    """Animals of the classes y (N,), (N, 1, 28, 28) clamped to [-1, 1], drawn in batches as `sample` does."""
    parts = [
        sample(denoiser, (len(part), 1, 28, 28), sampler, steps, part, guidance, generator=generator)
        for part in y.split(batch_size)
    ]
    return torch.cat(parts).clamp(-1, 1)


def with_mirrored(images: Tensor) -> Tensor:
    """The pictures and their mirror images, (2 N, ...): what a sample of a mirrored training set could copy."""
    return torch.cat([images, images.flip(-1)])


def evaluate_classifier(model: nn.Module) -> dict[str, str]:
    """Accuracy on the test half of the animals, with its exact 95 % interval."""
    images, labels, _ = load_animals("test")
    return {"test accuracy": str(recognised_share(model, images, labels))}


def evaluate_diffusion(judge: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> dict[str, str]:
    """What `judge`, the course classifier, and the real pictures say of samples (N, 1, 28, 28) with labels (N,).

    Returns:
        By name: the recognised share, the Frechet distance and its floor, MMD and two-sample test against the test
        half, and the smallest distance to a training picture beside that of the test half. Intervals are 95 %.
    """
    train, test = load_animals("train").images, load_animals("test").images
    drawn, real, floor = (features_of(judge, x) for x in (images, test, train))
    test_of_two = classifier_two_sample_test(drawn, real, generator=generator)
    discrepancy = mmd(drawn, real, generator=generator)
    known = with_mirrored(train)
    near, near_real = (nearest_neighbours(x, known).distances for x in (images, test))
    return {
        "samples": str(len(images)),
        "recognised": str(recognised_share(judge, images, labels)),
        "Frechet distance to the test half": str(frechet_distance(drawn, real, generator=generator)),
        "Frechet distance of train to test half": str(frechet_distance(floor, real, generator=generator)),
        "MMD^2 to the test half": f"{discrepancy}, p = {discrepancy.p_value:.3g}",
        "two-sample test, accuracy of telling apart": f"{test_of_two}, p = {test_of_two.p_value:.3g}",
        "distance to the nearest training picture, smallest and median": f"{near.min():.2f}, {near.median():.2f}",
        "the same for the real test half": f"{near_real.min():.2f}, {near_real.median():.2f}",
    }
