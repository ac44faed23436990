"""Drawing animals with PixelCNN: each layer's work done once, against a whole pass of the network for each pixel.

    python -m benchmarks.autoregressive [--number 100]

All of it is measured in one run with the threads that torch takes. The naive way needs 784 equal passes; some of them
are timed and the rest is reckoned. That both ways draw the same pictures from the same noise is checked on a picture
in float64 (and by the tests).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from coursekit.bayesnet import PixelCNN
from coursekit.recipes import load_released

PASSES = 7  # timed, of the 784 that the naive way needs


def seconds(function: Callable[[], object], rounds: int) -> float:
    """The median time of a call, after one to warm up."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def same_pictures(model: PixelCNN) -> bool:
    """Whether both ways draw the same picture from the same noise, in float64."""
    y, model = torch.tensor([7]), model.double()
    ours, naive = (draw(1, y, torch.Generator().manual_seed(0)) for draw in (model.sample, model.sample_naive))
    model.float()
    return torch.equal(ours, naive)


@torch.no_grad()
def compare(name: str, number: int) -> None:
    """Print the time of both ways for one of the course's models."""
    model = load_released(name)
    y = torch.arange(number) % 10
    x = model.sample(number, y, torch.Generator().manual_seed(0))
    reuse = seconds(lambda: model.sample(number, y), rounds=3)
    naive = model.dims * seconds(lambda: model(x, y), PASSES)
    print(f"{name}: {number} animals in {reuse:.2f} s with reuse")
    print(f"{name}: in {naive:.0f} s with a pass for each pixel (reckoned from {PASSES} of {model.dims} passes)")
    print(f"{name}: ratio {naive / reuse:.0f}")
    print(f"{name}: both ways draw the same picture from the same noise: {same_pictures(model)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=100, help="how many animals to draw")
    number = parser.parse_args().number
    print(f"{torch.get_num_threads()} threads")
    for name in ("pixelcnn", "pixelcnn-levels"):
        compare(name, number)
