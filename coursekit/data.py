"""The data of the course: animals, digits and two-dimensional toys.

Pictures are labelled pairs (x, y) from an unknown density p(x, y): x of shape (N, 1, H, W) with pixels in
[-1, 1], where -1 is empty and 1 is full, and y of shape (N,) with whole numbers that index a list of class
names. Toys live in `coursekit.toys` and are repeated here; most of them know their own log-density.

The split into halves depends on the pictures alone (the order of their hashes within a class), never on a
random state, so that every lesson, command and machine trains and tests on the same pictures.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn import datasets
from torch import Tensor

from coursekit.toys import (
    TOYS,
    Checkerboard,
    GaussianRing,
    Pinwheel,
    Rings,
    Spiral,
    Toy,
    TwoGaussians,
    TwoMoons,
)

__all__ = [
    "ANIMALS_SHA256",
    "TOYS",
    "Checkerboard",
    "GaussianRing",
    "Pictures",
    "Pinwheel",
    "Rings",
    "Spiral",
    "Toy",
    "TwoGaussians",
    "TwoMoons",
    "find_data",
    "first_copies",
    "from_pixels",
    "in_test_split",
    "load_animals",
    "load_digits",
    "picture_keys",
    "to_pixels",
]

ANIMALS_SHA256 = "377f415e233daf656386240e3fb071997de04b562e2391d364661436ad9968e5"
SPLITS = ("train", "test", "all")


class Pictures(NamedTuple):
    """Labelled pictures: what the loaders return.

    Attributes:
        images: Pictures, (N, 1, H, W), in [-1, 1], or the raw uint8 pixels.
        labels: Class of each picture, (N,), int64; indexes into `names`.
        names: Class names, in the order of the labels.
    """

    images: Tensor
    labels: Tensor
    names: list[str]


def load_animals(
    split: str = "train", classes: Sequence[str] | None = None, dtype: torch.dtype = torch.float32
) -> Pictures:
    """Load the silhouettes of ten animals, 28 x 28, without duplicates.

    Args:
        split: "train" (80 % of each class), "test" (20 %) or "all".
        classes: Names to keep; they are relabelled 0, 1, ... in the order given here. All ten if None.
        dtype: Floating type of the pixels in [-1, 1], or `torch.uint8` for the raw ones in 0..255.

    Returns:
        Images (N, 1, 28, 28), labels (N,) and class names.

    Raises:
        ValueError: If a split or a class is unknown, or if the file is not the one that the course was
            written with.
        FileNotFoundError: If `animals.npz` is neither in a clone, nor in the installed package, nor where the
            environment variable COURSEKIT_DATA points.

    Source: PyPI package animal-mnist 0.4 (MIT licence); see the data card, `data/README.md`.

    Example:
        >>> images, labels, names = load_animals("test", classes=("bird", "horse"))
        >>> images.shape[1:], labels.unique().tolist(), names
        (torch.Size([1, 28, 28]), [0, 1], ['bird', 'horse'])
    """
    path = find_data("animals.npz")
    images, labels, names = _read_animals(path, path.stat().st_mtime_ns)
    pictures = _select(
        images, labels, list(names) if classes is None else _checked_classes(classes, names), names, split
    )
    return pictures._replace(images=from_pixels(pictures.images, dtype))


def load_digits(split: str = "train", dtype: torch.dtype = torch.float32) -> Pictures:
    """Load scikit-learn's handwritten digits, 8 x 8, split by the same rule as the animals.

    Args:
        split: "train" (80 % of each class), "test" (20 %) or "all".
        dtype: Floating type of the pixels in [-1, 1], or `torch.uint8` for the raw ones in 0..16.

    Returns:
        Images (N, 1, 8, 8), labels (N,) and the names "0" to "9".

    Raises:
        ValueError: If the split is unknown.

    Source: Alpaydin & Kaynak, Optical Recognition of Handwritten Digits, UCI 1998, as shipped by
        scikit-learn.

    Example:
        >>> load_digits("test").images.shape[1:]
        torch.Size([1, 8, 8])
    """
    raw = datasets.load_digits()
    names = [str(digit) for digit in range(10)]
    pictures = _select(raw.images.astype(np.uint8), raw.target.astype(np.int64), names, names, split)
    return pictures._replace(images=from_pixels(pictures.images, dtype, largest=16))


def from_pixels(pixels: Tensor, dtype: torch.dtype = torch.float32, largest: int = 255) -> Tensor:
    """Scale whole pixels 0..largest linearly to [-1, 1]; `dtype=torch.uint8` leaves them as they are.

    Raises:
        ValueError: If `dtype` is neither a floating type nor uint8.

    Example:
        >>> from_pixels(torch.tensor([0, 255], dtype=torch.uint8))
        tensor([-1.,  1.])
    """
    if dtype == torch.uint8:
        return pixels
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating type or torch.uint8, got {dtype}")
    return pixels.to(dtype).mul_(2 / largest).sub_(1)


def to_pixels(images: Tensor, largest: int = 255) -> Tensor:
    """Round images in [-1, 1] to whole pixels 0..largest, uint8; what lies outside is clamped.

    Example:
        >>> to_pixels(torch.tensor([-1.5, -1.0, 0.999, 1.0]))
        tensor([  0,   0, 255, 255], dtype=torch.uint8)
    """
    return images.float().add(1).mul(largest / 2).round().clamp(0, largest).to(torch.uint8)


def find_data(name: str) -> Path:
    """Find a file of the course's data: in COURSEKIT_DATA if set, else in the package, else in the clone.

    Args:
        name: Path below the data directory, such as "animals.npz". COURSEKIT_DATA names that directory, or a
            single file with the same ending as `name`; when it is set, nowhere else is searched.

    Raises:
        FileNotFoundError: If there is no such file; the message lists the places searched.

    Example:
        >>> find_data("animals.npz").name
        'animals.npz'
    """
    package = Path(__file__).resolve().parent
    candidates = [package / "data_files" / name, package.parent / "data" / name]
    if override := os.environ.get("COURSEKIT_DATA"):
        path = Path(override).expanduser()
        candidates = [path if path.suffix == Path(name).suffix else path / name]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    places = ", ".join(str(candidate) for candidate in candidates)
    raise FileNotFoundError(
        f"{name} not found; searched {places}. Run from a complete clone, reinstall the package, or set the "
        f"environment variable COURSEKIT_DATA to the directory that holds {name}"
        + (f" (it is now {override!r})" if override else "")
    )


@lru_cache(maxsize=1)
def _read_animals(path: Path, modified: int) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Read and verify the archive: images (10000, 28, 28) uint8, labels (10000,) int64 and names."""
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != ANIMALS_SHA256:
        raise ValueError(
            f"{path} is damaged or another file: its sha256 must be {ANIMALS_SHA256}, got {found}. "
            "Restore it, for example with `git checkout -- data/animals.npz`"
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return archive["images"], archive["labels"].astype(np.int64), tuple(map(str, archive["names"]))


def _checked_classes(classes: Sequence[str], known: Sequence[str]) -> list[str]:
    if isinstance(classes, str):
        raise TypeError(f'classes must be a sequence of names such as ("bird", "horse"), got the string {classes!r}')
    classes = list(classes)
    if not classes or len(set(classes)) < len(classes):
        raise ValueError(f"classes must hold at least one name and none twice, got {classes}")
    if unknown := [name for name in classes if name not in known]:
        raise ValueError(f"classes must be among {', '.join(known)}, got {unknown}")
    return classes


def _select(images: np.ndarray, labels: np.ndarray, classes: list[str], names: Sequence[str], split: str) -> Pictures:
    """Drop duplicates, keep one split and the wanted classes, in the order of the file; raw pixels."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    first = first_copies(images)
    images, labels = images[first], labels[first]
    relabelled = np.array([classes.index(name) if name in classes else -1 for name in names])[labels]
    in_test = in_test_split(images, labels)
    rows = {"train": ~in_test, "test": in_test, "all": np.ones_like(in_test)}[split] & (relabelled >= 0)
    return Pictures(torch.from_numpy(images[rows][:, None]), torch.from_numpy(relabelled[rows]), classes)


def first_copies(images: np.ndarray) -> np.ndarray:
    """Rows of the first copy of each picture, ascending, whatever the labels say.

    A picture that occurs twice with two labels keeps the first one: no picture can reach both halves of a
    split.

    Args:
        images: Pictures, (N, H, W), uint8.

    Example:
        >>> first_copies(np.array([[[7]], [[3]], [[7]]], dtype=np.uint8))
        array([0, 1])
    """
    seen = {picture.tobytes(): row for row, picture in reversed(list(enumerate(images)))}
    return np.array(sorted(seen.values()))


def picture_keys(images: np.ndarray) -> np.ndarray:
    """A number for each picture, (N,) uint64, from the SHA-256 of its pixels; its mirror image has the same.

    Args:
        images: Pictures, (N, H, W), uint8.

    Example:
        >>> keys = picture_keys(np.array([[[0, 1]], [[1, 0]], [[1, 1]]], dtype=np.uint8))
        >>> bool(keys[0] == keys[1]), bool(keys[0] == keys[2])
        (True, False)
    """
    pairs = ((picture.tobytes(), picture[:, ::-1].tobytes()) for picture in images)
    digests = b"".join(hashlib.sha256(min(pair)).digest()[:8] for pair in pairs)
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)


def in_test_split(images: np.ndarray, labels: np.ndarray, share: float = 0.2) -> np.ndarray:
    """Mark the test split: in each class, the `share` of pictures whose keys come first, (N,) bool.

    A picture and its mirror image have one key and go to the same split, so that training on mirrored pictures
    shows nothing of the test split. The rule uses pixels and labels alone: neither a seed nor the order of the
    file matters.

    Args:
        images: Pictures without duplicates, (N, H, W), uint8.
        labels: Classes, (N,).
        share: Part of each class to mark, in [0, 1].

    Example:
        >>> in_test_split(np.arange(10, dtype=np.uint8)[:, None, None], np.zeros(10)).sum().item()
        2
    """
    keys = picture_keys(images)
    marked = np.zeros(len(images), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if count := round(share * len(rows)):
            marked[rows] = keys[rows] <= np.sort(keys[rows])[count - 1]
    return marked
