"""Batches: which samples the engine sees at which step.

Data that fits stays on the device, images as uint8, and batches are gathered there by index. Data that does not fit is
read from where it lies by a `DataLoader`. Both see the samples in the same order, `coursekit.diffusion.order`, so the
same seed trains the same model from either, to the last bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, default_collate

from coursekit.diffusion.order import Order

__all__ = ["Augment", "Batches", "StreamedBatches", "mirror"]

Augment = Callable[[Tensor, "torch.Generator | None"], Tensor]
"""(x (N, ...), generator) -> x (N, ...): a change that leaves the meaning alone."""


def mirror(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Mirror each picture (N, C, H, W) left to right with probability one half.

    Example:
        >>> pictures = torch.tensor([[[[0.0, 1.0]]]]).expand(100, 1, 1, 2)
        >>> sorted({tuple(p.flatten().tolist()) for p in mirror(pictures, torch.Generator().manual_seed(0))})
        [(0.0, 1.0), (1.0, 0.0)]
    """
    flip = torch.rand(len(x), generator=generator, device=x.device) < 0.5
    return torch.where(flip[:, None, None, None], x.flip(-1), x)


class Batches:
    """The batches of a data set that lies on one device.

    Args:
        data: tensors of one length N. The first is the data: floats, or uint8 pictures, which become floats in
            [-1, 1] batch by batch; a second one holds labels.
        batch_size: the global one. rank, world: this process takes every world-th sample of it.
        seed: of the order.

    Raises:
        ValueError: if there are no samples, lengths differ, floats are not finite, or the batch is too small to share.

    Example:
        >>> batches = Batches((torch.arange(6.0)[:, None],), batch_size=3, seed=0, device="cpu")
        >>> sorted(torch.cat([batches.at(0)[0], batches.at(1)[0]]).flatten().tolist())
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    """

    def __init__(
        self,
        data: tuple[Tensor, ...],
        batch_size: int,
        seed: int,
        device: torch.device | str,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        _check(data, batch_size, world)
        self.data = tuple(tensor.to(device) for tensor in data)
        self.device, self.pictures = self.data[0].device, self.data[0].ndim == 4
        self.order = Order(len(self), batch_size, seed, self.device, rank, world)

    def __len__(self) -> int:
        return len(self.data[0])

    def at(self, step: int) -> tuple[Tensor, ...]:
        """This process's share of the step-th batch; images as float32 in [-1, 1], channels last in memory."""
        index = self.order.at(step)
        return _ready(tuple(tensor[index] for tensor in self.data))


class StreamedBatches:
    """The same batches of a map-style data set, such as `coursekit.shards.Shards`: read by a `DataLoader` when wanted.

    A sample is a tensor or a tuple of tensors and numbers, as in `Batches`. The order is that of `Batches`. Random
    changes belong into `fit(..., augment=...)`: those in the data set do not follow the seed.

    Args:
        data: has a length and `__getitem__`, or `__getitems__` for many samples at once.
        batch_size: the global one. rank, world: this process reads every world-th sample of it, and no other.
        seed: of the order.
        device: where the batches are wanted.
        workers: processes that read ahead; 0 reads in this one.

    Raises:
        TypeError: if the data set cannot be indexed, or a sample is something else.
        ValueError: if there are no samples, or the batch is too small to share.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> data = (torch.arange(6.0)[:, None], torch.arange(6))
        >>> streamed = StreamedBatches(TensorDataset(*data), batch_size=3, seed=0, device="cpu")
        >>> resident = Batches(data, batch_size=3, seed=0, device="cpu")
        >>> all(torch.equal(a, b) for a, b in zip(streamed.at(5), resident.at(5)))
        True
    """

    def __init__(
        self,
        data: Dataset,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
    ) -> None:
        if isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
            raise TypeError(f"data must have a length and be indexed by number, got a {type(data).__name__}")
        _check_sizes(len(data), batch_size, world)
        first = _parts(default_collate([data[0]]))
        if not all(isinstance(part, Tensor) for part in first):
            raise TypeError(f"a sample must be a tensor or a tuple of tensors, got {type(data[0]).__name__}")
        self.dataset, self.workers = data, workers
        self.device, self.pictures = torch.empty(0, device=device).device, first[0].ndim == 4
        self.order = Order(len(data), batch_size, seed, "cpu", rank, world)
        self._next, self._loaded = -1, iter(())

    def __len__(self) -> int:
        return self.order.n

    def at(self, step: int) -> tuple[Tensor, ...]:
        """This process's share of the step-th batch, as `Batches.at`; one after the other is fast."""
        if step != self._next:
            self._loaded = iter(self._loader(step))
        self._next = step + 1
        parts = _parts(next(self._loaded))
        return _ready(tuple(part.to(self.device, non_blocking=True) for part in parts))

    def _loader(self, start: int) -> DataLoader:
        return DataLoader(
            self.dataset,
            batch_sampler=_From(self.order, start),
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator().manual_seed(0),  # the global random state is left alone
        )


@dataclass(frozen=True)
class _From(Sampler[list[int]]):
    """The batches of an order from a step on, without end."""

    order: Order
    start: int

    def __iter__(self) -> Iterator[list[int]]:
        return (self.order.at(step).tolist() for step in itertools.count(self.start))


def _parts(batch: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    return (batch,) if isinstance(batch, Tensor) else tuple(batch)


def _ready(batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A batch as a loss wants it: floats, pictures with channels last in memory."""
    x, *labels = batch
    x = x.float().div_(127.5).sub_(1) if x.dtype == torch.uint8 else x
    return (x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x, *labels)


def _check(data: tuple[Tensor, ...], batch_size: int, world: int) -> None:
    if not data or not all(isinstance(tensor, Tensor) for tensor in data):
        raise TypeError(f"data must be a tensor or a tuple of tensors, got {[type(d).__name__ for d in data]}")
    lengths = [len(tensor) for tensor in data]
    if min(lengths) != max(lengths) or not lengths[0]:
        raise ValueError(f"data must hold tensors of one length >= 1, got lengths {lengths}")
    _check_sizes(lengths[0], batch_size, world)
    for i, tensor in enumerate(data):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).reshape(len(tensor), -1).any(1).nonzero()[0])
            raise ValueError(f"data must be finite, got NaN or infinity in tensor {i}, first in sample {bad}")


def _check_sizes(n: int, batch_size: int, world: int) -> None:
    if n < 1:
        raise ValueError(f"data must hold at least one sample, got {n}")
    if not isinstance(batch_size, int) or batch_size < world:
        raise ValueError(f"batch_size must be an integer of at least {world}, got {batch_size!r}")
