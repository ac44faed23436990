"""Batches: which samples the engine sees at which step.

Data that fits stays on the device, images as uint8, and batches are gathered there by index. The order is
a pure function of (seed, step): epoch after epoch, each a fresh permutation, nothing left out and nothing
kept but the step's number. So a resumed run sees what the uninterrupted one would have seen, and the
ranks of a distributed run share the global batch without talking to each other.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Augment", "Batches", "mirror"]

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
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self._epoch, self._order = -1, torch.empty(0)

    def __len__(self) -> int:
        return len(self.data[0])

    def order(self, epoch: int) -> Tensor:
        """The permutation of 0..N-1 that is this epoch's order, (N,), drawn on the CPU: the same on every device."""
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
            order = torch.randperm(len(self), generator=generator)
            self._epoch, self._order = epoch, order.to(self.data[0].device, non_blocking=True)
        return self._order

    def at(self, step: int) -> tuple[Tensor, ...]:
        """This process's share of the step-th batch; images as float32 in [-1, 1], channels last in memory."""
        start, n = step * self.batch_size, len(self)
        end = start + self.batch_size
        pieces = []
        while start < end:  # a batch may reach into the next epoch
            epoch, offset = divmod(start, n)
            pieces.append(self.order(epoch)[offset : min(n, offset + end - start)])
            start += len(pieces[-1])
        index = torch.cat(pieces)[self.rank :: self.world]
        x, *labels = (tensor[index] for tensor in self.data)
        x = x.float().div_(127.5).sub_(1) if x.dtype == torch.uint8 else x
        return (x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x, *labels)


def _check(data: tuple[Tensor, ...], batch_size: int, world: int) -> None:
    if not data or not all(isinstance(tensor, Tensor) for tensor in data):
        raise TypeError(f"data must be a tensor or a tuple of tensors, got {[type(d).__name__ for d in data]}")
    lengths = [len(tensor) for tensor in data]
    if min(lengths) != max(lengths) or not lengths[0]:
        raise ValueError(f"data must hold tensors of one length >= 1, got lengths {lengths}")
    if not isinstance(batch_size, int) or batch_size < world:
        raise ValueError(f"batch_size must be an integer of at least {world}, got {batch_size!r}")
    for i, tensor in enumerate(data):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).reshape(len(tensor), -1).any(1).nonzero()[0])
            raise ValueError(f"data must be finite, got NaN or infinity in tensor {i}, first in sample {bad}")
