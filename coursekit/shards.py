"""Data larger than memory: plain .npy files, read where they lie.

    folder/index.json      what the arrays are, and how many samples each shard holds
    folder/x-00000.npy     the data of the first shard, (n, ...)
    folder/y-00000.npy     its labels, and so on for every further array and shard

`write_shards` makes such a folder from chunks that come one after the other, `Shards` is a data set for
`torch.utils.data` and for `coursekit.diffusion.fit`. Nothing is pickled. A batch maps the files that it touches into
memory, copies its rows and lets go of the maps, so that neither memory, nor open files, nor what a worker process
inherits grow with the data; the system keeps in its page cache what fits.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

__all__ = ["Shards", "write_shards"]

_INDEX, _FORMAT = "index.json", "coursekit shards 1"
_NAMES = "xyzabcdefgh"


def write_shards(folder: str | Path, chunks: Iterable[Tensor | tuple[Tensor, ...]], shard_size: int = 16_384) -> Shards:
    """Write samples that come in chunks; never more than a shard and a chunk are in memory.

    The index is written last: a folder without one was left by a run that did not finish.

    Args:
        folder: where to; made if it is missing.
        chunks: tensors (n, ...), or tuples of tensors of one length such as (images, labels), n as it comes.
        shard_size: samples in a file, the last one excepted. A batch maps one file at a time, so that this bounds the
            memory that maps take, and as many files as there are or as it has samples, 40 us each.

    Returns:
        The data set that was written.

    Raises:
        ValueError: if there are no samples, the shard size is not positive, chunks differ in dtype or shape, or the
            folder holds shards already.

    Example:
        >>> import tempfile
        >>> chunks = ((torch.full((5, 2), float(i)), torch.full((5,), i)) for i in range(3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     shards = write_shards(folder, chunks, shard_size=10)
        ...     len(shards), shards[12]
        (15, (tensor([2., 2.]), tensor(2)))
    """
    folder = Path(folder)
    if shard_size < 1:
        raise ValueError(f"shard_size must be at least 1, got {shard_size}")
    if (folder / _INDEX).exists():
        raise ValueError(f"folder must not hold shards already, got {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    sizes: list[int] = []
    arrays: list[dict[str, Any]] = []
    for shard in _cut(_checked(chunks), shard_size):
        arrays = [{"name": _NAMES[i], "dtype": part.dtype.str, "shape": part.shape[1:]} for i, part in enumerate(shard)]
        for array, part in zip(arrays, shard, strict=True):
            np.save(_file(folder, array["name"], len(sizes)), part, allow_pickle=False)
        sizes.append(len(shard[0]))
    if not sizes:
        raise ValueError("chunks must hold at least one sample, got none")
    index = {"format": _FORMAT, "arrays": arrays, "sizes": sizes}
    partial = folder / (_INDEX + ".partial")
    partial.write_text(json.dumps(index) + "\n", encoding="utf-8")
    os.replace(partial, folder / _INDEX)
    return Shards(folder)


class Shards(Dataset):
    """The samples in a folder that `write_shards` made; each is a tensor, or a tuple of tensors.

    Args:
        folder: the folder.

    Raises:
        FileNotFoundError: if there is no index, or a file is missing.
        ValueError: if the index or a file is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / _INDEX
        if not path.is_file():
            raise FileNotFoundError(f"there are no shards in {self.folder}: {_INDEX} is missing")
        try:
            index = json.loads(path.read_text(encoding="utf-8"))
            if index["format"] != _FORMAT:
                raise ValueError(f"format {index['format']!r}")
            self.ends = np.cumsum(np.array(index["sizes"], dtype=np.int64))
            self.arrays = [(a["name"], np.dtype(a["dtype"]), tuple(a["shape"])) for a in index["arrays"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged or no index of this course ({error})") from error
        self._offsets = [[self._checked_file(*array, i) for i in range(len(self.ends))] for array in self.arrays]

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Tensor | tuple[Tensor, ...]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index must lie in [{-len(self)}, {len(self)}), got {index}")
        return self.__getitems__([index % len(self)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Tensor] | list[tuple[Tensor, ...]]:
        """Many samples at once, what a `DataLoader` asks for; each shard is mapped once."""
        rows = np.asarray(indices, dtype=np.int64)
        homes = np.searchsorted(self.ends, rows, side="right")
        batch = [np.empty((len(rows), *shape), dtype) for _, dtype, shape in self.arrays]
        for home in np.unique(homes):
            here = np.flatnonzero(homes == home)
            within = rows[here] - (self.ends[home] - self._size(home))
            for number, part in enumerate(batch):
                part[here] = self._map(number, home)[within]
        samples = [torch.from_numpy(part).unbind() for part in batch]
        return list(samples[0]) if len(samples) == 1 else list(zip(*samples, strict=True))

    def _size(self, shard: int) -> int:
        return int(self.ends[shard] - (self.ends[shard - 1] if shard else 0))

    def _map(self, number: int, shard: int) -> np.memmap:
        name, dtype, shape = self.arrays[number]
        where = {"offset": self._offsets[number][shard], "shape": (self._size(shard), *shape)}
        return np.memmap(_file(self.folder, name, shard), dtype, "r", **where)

    def _checked_file(self, name: str, dtype: np.dtype, shape: tuple[int, ...], shard: int) -> int:
        """Where the numbers begin in a file that must be of this kind, in bytes."""
        path, wanted = _file(self.folder, name, shard), ((self._size(shard), *shape), dtype)
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(f"{path} is damaged ({error})") from error
        if (array.shape, array.dtype) != wanted or not array.flags.c_contiguous:
            raise ValueError(f"{path} must hold shape and dtype {wanted}, got {array.shape} and {array.dtype}")
        return array.offset


def _file(folder: Path, name: str, shard: int) -> Path:
    return folder / f"{name}-{shard:05d}.npy"


def _checked(chunks: Iterable[Tensor | tuple[Tensor, ...]]) -> Iterator[tuple[np.ndarray, ...]]:
    """The chunks as arrays, all of one kind."""
    kind = None
    for chunk in chunks:
        tensors = (chunk,) if isinstance(chunk, Tensor) else tuple(chunk)
        parts = tuple(tensor.detach().cpu().contiguous().numpy() for tensor in tensors)
        if not 1 <= len(parts) <= len(_NAMES) or len({len(part) for part in parts}) != 1:
            raise ValueError(f"a chunk must be 1 to {len(_NAMES)} tensors of one length, got {[len(p) for p in parts]}")
        found = [(part.dtype, part.shape[1:]) for part in parts]
        kind = kind or found
        if found != kind:
            raise ValueError(f"chunks must be of one kind, got {found} after {kind}")
        yield parts


def _cut(chunks: Iterable[tuple[np.ndarray, ...]], size: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Chunks of any length as pieces of one length, the last one excepted."""
    kept: list[tuple[np.ndarray, ...]] = []
    waiting = 0
    for chunk in chunks:
        while waiting + len(chunk[0]) >= size:
            take = size - waiting
            yield tuple(np.concatenate(parts) for parts in zip(*kept, tuple(p[:take] for p in chunk), strict=True))
            chunk, kept, waiting = tuple(part[take:] for part in chunk), [], 0
        kept.append(chunk)
        waiting += len(chunk[0])
    if waiting:
        yield tuple(np.concatenate(parts) for parts in zip(*kept, strict=True))
