"""What a classifier says of pictures, and which pictures are nearest to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from coursekit.classifiers import evaluating
from coursekit.estimates import Estimate, accuracy_interval

__all__ = ["Neighbours", "features_of", "nearest_neighbours", "recognised_share"]


@dataclass(frozen=True)
class Neighbours:
    """The nearest pictures to each sample.

    Attributes:
        distances: Euclidean distances in pixel space, (N, k), ascending.
        indices: Rows of the neighbours, (N, k).
    """

    distances: Tensor
    indices: Tensor


def nearest_neighbours(samples: Tensor, pictures: Tensor, k: int = 1, chunk: int = 256) -> Neighbours:
    """The k nearest pictures to each sample, by Euclidean distance between pixels: is a sample a copy?

    Candidates are found by a matrix product on `chunk` samples at a time; their distances are then computed
    again from differences, so that a copy has distance exactly zero.

    Args:
        samples: Samples, (N, ...).
        pictures: Pictures to search, (M, ...), of the same shape and device.
        k: Number of neighbours.
        chunk: Samples compared at a time; memory is chunk x M numbers.

    Raises:
        ValueError: If the shapes do not fit or k is not in 1..M.

    Example:
        >>> pictures = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
        >>> nearest_neighbours(torch.tensor([[3.0, 3.0]]), pictures).distances
        tensor([[1.]])
    """
    if samples.shape[1:] != pictures.shape[1:]:
        raise ValueError(f"samples must have pictures of {tuple(pictures.shape[1:])}, got {tuple(samples.shape[1:])}")
    if not 1 <= k <= len(pictures):
        raise ValueError(f"k must lie in 1..{len(pictures)}, got {k}")
    wanted = pictures.flatten(1)
    candidates = min(k + 4, len(pictures))
    distances, indices = [], []
    for part in samples.flatten(1).split(chunk):
        rough = wanted.square().sum(dim=1) - 2 * part @ wanted.T  # (chunk, M), up to a constant of each row
        rows = rough.topk(candidates, largest=False).indices
        exact, order = (part[:, None] - wanted[rows]).norm(dim=2).sort(dim=1)
        distances.append(exact[:, :k])
        indices.append(rows.gather(1, order)[:, :k])
    return Neighbours(torch.cat(distances), torch.cat(indices))


def features_of(classifier: Any, images: Tensor, batch_size: int = 1000) -> Tensor:
    """The penultimate features of a classifier, (N, F), on the CPU: batch by batch, in evaluation mode.

    Args:
        classifier: A module with `features(x)`, such as `coursekit.classifiers.ConvClassifier`.
        images: Pictures in [-1, 1], (N, 1, H, W).
        batch_size: Pictures at a time.
    """
    device = next(classifier.parameters()).device
    with evaluating(classifier):
        return torch.cat([classifier.features(part.to(device)).cpu() for part in images.split(batch_size)])


def recognised_share(
    classifier: Any, images: Tensor, labels: Tensor, level: float = 0.95, batch_size: int = 1000
) -> Estimate:
    """Share of pictures in which a classifier sees the animal that was asked for, with its exact interval.

    Args:
        classifier: A module with `predict(x)`.
        images: Pictures in [-1, 1], (N, 1, H, W).
        labels: The classes asked for, (N,).
        level: Confidence.
        batch_size: Pictures at a time.

    Raises:
        ValueError: If the numbers of images and labels differ.
    """
    if len(images) != len(labels):
        raise ValueError(f"labels must be as many as images, {len(images)}, got {len(labels)}")
    device = next(classifier.parameters()).device
    guess = torch.cat([classifier.predict(part.to(device)).cpu() for part in images.split(batch_size)])
    return accuracy_interval(int((guess == labels.cpu()).sum()), len(labels), level)
