"""Straight-line flows in the plane with and without a coupling: how bent the paths are, and what few steps give.

    python -m benchmarks.couplings [--seeds 3] [--steps 1000]

Networks, learning rate, batch, steps and data are the same in every row. `bend` is the mean squared distance of a path
of 64 Heun steps from its chord; W2^2 is the squared Wasserstein distance (exact, by assignment) of 1,000 samples after
1, 2, 4 and 64 steps to 1,000 real points. Two samples of real points are `floor` apart. Mean over seeds and range.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
import ot
import torch
from torch import Tensor

from coursekit.data import TOYS
from coursekit.diffusion import Denoiser, Rectified, fit, sample
from coursekit.diffusion.transport import MinibatchTransport, bend
from coursekit.networks import TimeMLP

COUPLINGS = {"independent": None, "optimal transport": MinibatchTransport()}


def wasserstein(x: Tensor, real: Tensor) -> float:
    """W2^2 of two samples (n, 2) of one size."""
    uniform = np.full(len(x), 1 / len(x))
    return float(ot.emd2(uniform, uniform, ot.dist(x.double().numpy(), real.double().numpy()), numItermax=10_000_000))


def measure(toy: str, coupling: str, seed: int, steps: int) -> list[float]:
    """Bend and W2^2 after 1, 2, 4 and 64 steps of one trained flow, and the floor."""
    torch.manual_seed(seed)
    law, generator = TOYS[toy](), torch.Generator().manual_seed(seed)
    denoiser = Denoiser(TimeMLP(2), Rectified(), "velocity", coupling=COUPLINGS[coupling])
    fit(denoiser, law.sample(20_000, generator), steps=steps, batch_size=256, lr=3e-3, ema_half_life=100.0,
        seed=seed, progress=False)  # fmt: skip
    real, other = law.sample(1000, generator), law.sample(1000, generator)
    x_T = torch.randn(1000, 2, generator=generator)
    path = sample(denoiser.eval(), (1000, 2), "heun", 64, x_T=x_T, trajectory=True)
    few = [sample(denoiser, (1000, 2), "ddim", n, x_T=x_T) for n in (1, 2, 4)]  # on the straight line, Euler's method
    return [bend(path).mean().item(), *(wasserstein(x, real) for x in (*few, path[-1], other))]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    arguments = parser.parse_args()
    print(", ".join(f"{name} {value}" for name, value in vars(arguments).items()))
    print(f"{'':34}" + "".join(f"{name:>25}" for name in ("bend", "1 step", "2 steps", "4 steps", "64 steps", "floor")))
    for toy in ("gaussian ring", "pinwheel", "two moons"):
        for coupling in COUPLINGS:
            found = zip(
                *(measure(toy, coupling, seed, arguments.steps) for seed in range(arguments.seeds)), strict=True
            )
            cells = (f"{statistics.mean(v):.4f} ({min(v):.4f}-{max(v):.4f})" for v in found)
            print(f"{toy + ', ' + coupling:34}" + "".join(f"{cell:>25}" for cell in cells), flush=True)
