"""The failures of each adversarial game on the ring of eight Gaussians, over seeds: which modes are covered.

    python -m benchmarks.modes [--seeds 5] [--steps 1000] [--lr-scale 1]

Networks, learning rates, batch, steps and data are the same for every row; see `coursekit.gan.ring`. A mode counts as
covered with 20 samples of 2,500 within three standard deviations, where an exact sampler would draw 309.
`--lr-scale 0.3` lets the discriminator learn too slowly, and most games collapse, not all: least squares survives in
some seeds.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from coursekit.gan import RULES, ModeCoverage, cover_ring


def row(name: str, found: list[ModeCoverage], seconds: float) -> str:
    """One line of the table."""
    covered = [one.covered for one in found]
    good, kl = (statistics.mean(values) for values in ([one.good for one in found], [one.kl for one in found]))
    each = " ".join(map(str, covered))
    return f"{name:30} {statistics.mean(covered):4.1f}  ({each})  {good:6.1%}  {kl:5.2f}  {seconds:5.1f} s"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--lr-scale", type=float, default=1.0, help="the discriminator's learning rate, relatively")
    arguments = parser.parse_args()
    print(", ".join(f"{name} {value}" for name, value in vars(arguments).items()), end="; ")
    print(f"{torch.get_num_threads()} threads")
    print("rules of the game: modes covered of 8 (by seed), samples within 3 std, KL of modes to uniform, time")
    for name, rules in RULES.items():
        start = time.perf_counter()
        found = cover_ring(rules, arguments.seeds, arguments.steps, lr_scale=arguments.lr_scale)
        print(row(name, found, time.perf_counter() - start), flush=True)
