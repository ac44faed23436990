"""The order in which samples are seen: a pure function of (seed, step, rank, number of ranks).

    pi_0, pi_1, ...   one permutation of 0..N-1 for each epoch
    batch k           positions kB, ..., kB + B - 1 in pi_0 pi_1 pi_2 ..., for all ranks together
    rank r of W       every W-th of them, from the r-th on

Nothing is kept but the step's number, so a resumed run sees what the uninterrupted one would have seen, on any number
of ranks, and the ranks share a batch without talking to each other. Up to `DRAWN` samples an epoch's permutation is
drawn and kept. Beyond, that would cost 8 N bytes on every rank, and pi(i) is computed, a block of positions at a time,
by a Feistel network: with positions of a + b bits, halves u of a bits and v of b bits, and a hash h of 64 bits,

    u <- u xor h(v, key_1) mod 2^a,   v <- v xor h(u, key_2) mod 2^b,   and so on;

each line can be undone, so the whole permutes 0..2^(a+b)-1, whatever h is. A number of N or more is sent through again
until it falls below N, which makes a permutation of 0..N-1. Luby & Rackoff, "How to construct pseudorandom permutations
from pseudorandom functions", 1988; Black & Rogaway, "Ciphers with arbitrary finite domains", 2002, section 5 (cycle
walking); h is the finaliser of Steele, Lea & Flood, "Fast splittable pseudorandom number generators", 2014.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["DRAWN", "Order", "scattered"]

DRAWN = 2**18
"""Up to so many samples (2 MB) an epoch's permutation is drawn and kept."""

_COMPUTED = 2**16  # positions at a time otherwise
_ROUNDS = 8


class Order:
    """Which samples this process sees at which step.

    Args:
        n: how many samples there are.
        batch_size: of all processes together.
        seed: of the order.
        device: where the indices are wanted.
        rank: of this process.
        world: how many processes there are.

    Example:
        >>> order = Order(6, batch_size=4, seed=0)
        >>> sorted(torch.cat([order.at(0), order.at(1), order.at(2)]).tolist())  # two epochs
        [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    """

    def __init__(
        self, n: int, batch_size: int, seed: int, device: torch.device | str = "cpu", rank: int = 0, world: int = 1
    ) -> None:
        self.n, self.batch_size, self.seed, self.device = n, batch_size, seed, device
        self.rank, self.world = rank, world
        self._block_size = n if n <= DRAWN else _COMPUTED
        self._made, self._indices = (-1, -1), torch.empty(0)

    def at(self, step: int) -> Tensor:
        """The samples of this process in the step-th batch, indices (about batch_size / world,)."""
        start, pieces = step * self.batch_size, []
        end = start + self.batch_size
        while start < end:  # a batch may reach into the next epoch, or the next block of this one
            epoch, offset = divmod(start, self.n)
            number, first = divmod(offset, self._block_size)
            pieces.append(self._block(epoch, number)[first : first + end - start])
            start += len(pieces[-1])
        return torch.cat(pieces)[self.rank :: self.world]

    def _block(self, epoch: int, number: int) -> Tensor:
        """A block of this epoch's order, made on the CPU: the same on every device."""
        if (epoch, number) != self._made:
            block = self._drawn(epoch) if self.n <= DRAWN else self._computed(epoch, number)
            self._made, self._indices = (epoch, number), block.to(self.device, non_blocking=True)
        return self._indices

    def _drawn(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        return torch.randperm(self.n, generator=generator)

    def _computed(self, epoch: int, number: int) -> Tensor:
        start = number * self._block_size
        positions = np.arange(start, min(self.n, start + self._block_size))
        return torch.from_numpy(scattered(positions, self.n, (self.seed, epoch)))


def scattered(positions: np.ndarray, n: int, key: tuple[int, ...]) -> np.ndarray:
    """Where a pseudo-random permutation of 0..n-1 sends positions, int64 of the same shape; needs no memory of size n.

    Args:
        positions: whole numbers in [0, n).
        n: at least 1.
        key: names the permutation; non-negative integers.

    Example:
        >>> sorted(scattered(np.arange(10), 10, (0,)).tolist())
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    bits = max(2, (n - 1).bit_length())
    keys = np.random.SeedSequence([part % 2**64 for part in key]).generate_state(_ROUNDS, np.uint64)
    places = _feistel(positions.astype(np.uint64), bits, keys)
    outside = np.flatnonzero(places >= n)
    while len(outside):
        places[outside] = _feistel(places[outside], bits, keys)
        outside = outside[places[outside] >= n]
    return places.astype(np.int64)


def _feistel(x: np.ndarray, bits: int, keys: np.ndarray) -> np.ndarray:
    """A permutation of 0..2^bits - 1, element by element."""
    low = np.uint64(bits // 2)
    masks = np.uint64(2 ** (bits - bits // 2) - 1), np.uint64(2 ** (bits // 2) - 1)
    u, v = x >> low, x & masks[1]
    for first, second in keys.reshape(-1, 2):
        u = u ^ (_mixed(v ^ first) & masks[0])
        v = v ^ (_mixed(u ^ second) & masks[1])
    return (u << low) | v


def _mixed(x: np.ndarray) -> np.ndarray:
    """A hash of 64 bits that scatters nearby numbers; products wrap around."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
