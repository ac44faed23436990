"""The failures of each adversarial game on the ring of eight Gaussians, over seeds: which modes are covered.

    python -m benchmarks.modes [--seeds 5] [--steps 1000]

Networks, learning rate, batch, steps and data are the same for every row; see `coursekit.gan.ring`. A mode counts as
covered with 20 samples of 2,500 within three standard deviations, 309 of which an exact sampler would draw.
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
    arguments = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, {arguments.seeds} seeds, {arguments.steps} steps of each player")
    print("rules of the game: modes covered of 8 (by seed), samples within 3 std, KL of modes to uniform, time")
    for name, rules in RULES.items():
        start = time.perf_counter()
        found = cover_ring(rules, arguments.seeds, arguments.steps)
        print(row(name, found, time.perf_counter() - start), flush=True)
