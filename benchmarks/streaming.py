"""Peak memory of training on pictures that are streamed from disk, for data sets from ten thousand to a million.

    python -m benchmarks.streaming [--sizes 10000 100000 1000000] [--batch-size 256] [--workers 0] [--resident]

Pictures of 28 x 28 bytes are generated into a temporary folder, which is removed in the end: 784 MB for a million. Each
row is one process, which does as many steps as one epoch of the largest set has, with a model so small that reading is
what is measured. Linux only. Columns, in MB:

    data     the bytes on disk
    before   all that the process holds when training begins, without the data
    peak     the most that it held at any time, pages of mapped files included (VmHWM)
    private  the most of its own, without pages of files, which the system takes back when it needs them (RssAnon)
    files    the most pages of mapped files, those of libraries included (RssFile)
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from coursekit.diffusion import fit
from coursekit.shards import Shards, write_shards

HELD = ("VmRSS", "VmHWM", "RssAnon", "RssFile")


class Scale(nn.Module):
    """One number to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def loss(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The mean square of the scaled pictures."""
        return (self.scale * x).square().mean()


def chunks(n: int, size: int = 10_000) -> Iterator[Tensor]:
    """n pictures of noise, some at a time."""
    generator = torch.Generator().manual_seed(0)
    for start in range(0, n, size):
        yield torch.randint(0, 256, (min(size, n - start), 1, 28, 28), dtype=torch.uint8, generator=generator)


def held() -> dict[str, float]:
    """What this process holds, in MB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) * 1024 / 1e6 for name in HELD}


class Watch(threading.Thread):
    """Looks a hundred times a second and keeps the largest of each."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.done = held(), threading.Event()

    def run(self) -> None:
        """Until `done` is set."""
        while not self.done.wait(0.01):
            self.most = {name: max(value, self.most[name]) for name, value in held().items()}


def in_memory(shards: Shards) -> Tensor:
    """All pictures as one tensor."""
    data = torch.empty(len(shards), 1, 28, 28, dtype=torch.uint8)
    for start in range(0, len(shards), 1000):
        part = data[start : start + 1000]
        torch.stack(shards.__getitems__(range(start, start + len(part))), out=part)
    return data


def train(folder: str, steps: int, batch_size: int, workers: int, resident: bool) -> None:
    """One row, without its first column."""
    fit(Scale(), torch.zeros(2, 1, 28, 28), steps=1, batch_size=2, progress=False, device="cpu")  # imports are done
    before, watch, start = held(), Watch(), time.perf_counter()
    watch.start()
    shards = Shards(folder)
    data = in_memory(shards) if resident else shards
    fit(Scale(), data, steps=steps, batch_size=batch_size, progress=False, device="cpu",
        **({} if resident else {"workers": workers}))  # fmt: skip
    watch.done.set()
    rate = steps * batch_size / (time.perf_counter() - start)
    numbers = before["VmRSS"], held()["VmHWM"], watch.most["RssAnon"], watch.most["RssFile"]
    print("".join(f"{number:9.1f}" for number in numbers) + f"{rate:14,.0f}", flush=True)


def main() -> None:
    """Write the data and start a process for each row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=0, help="processes that read ahead; their memory is not counted")
    parser.add_argument("--resident", action="store_true", help="also with all pictures in memory")
    arguments = parser.parse_args()
    steps = max(arguments.sizes) // arguments.batch_size
    print(f"{steps} steps of {arguments.batch_size}, {arguments.workers} workers, {torch.get_num_threads()} threads")
    print(" pictures          data   before     peak  private    files    pictures/s")
    for n in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_shards(folder, chunks(n))
            for kind in ["streamed", "resident"] if arguments.resident else ["streamed"]:
                print(f"{n:9,} {kind} {n * 784 / 1e6:7.1f}", end="", flush=True)
                words = [folder, steps, arguments.batch_size, arguments.workers, int(kind == "resident")]
                subprocess.run([sys.executable, "-m", "benchmarks.streaming", "row", *map(str, words)], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["row"]:
        folder, *numbers = sys.argv[2:]
        train(folder, *map(int, numbers))
    else:
        main()
