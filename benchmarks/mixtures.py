"""Time and memory of an EM iteration for full covariances, against scikit-learn and pomegranate.

    python -m benchmarks.mixtures

Everything is measured in one run, in turns, from one start: a run of many iterations minus a run of few, so that what
happens once cancels; of several rounds the fastest counts. Times differ between machines, ratios differ less.
Peak memory (on Linux) is that of a process of its own with its imports and data, and what the fit alone adds to it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

FLOOR = 1e-6
FEW, MANY, ROUNDS = 1, 5, 3


@dataclass(frozen=True)
class Problem:
    """N points in D dimensions around K centres, the same in each library."""

    N: int = 100_000
    D: int = 16
    K: int = 32
    dtype: str = "float32"

    def data(self) -> np.ndarray:
        """The points (N, D)."""
        rng = np.random.default_rng(0)
        centres, k = 2 * rng.normal(size=(self.K, self.D)), rng.integers(self.K, size=self.N)
        stretch = 0.5 + rng.random(size=(self.K, self.D))
        x = np.empty((self.N, self.D), self.dtype)
        for rows in np.array_split(np.arange(self.N), max(1, self.N // 10_000)):
            x[rows] = centres[k[rows]] + stretch[k[rows]] * rng.normal(size=(len(rows), self.D))
        return x

    def start(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Equal weights (K,), the first K points as means (K, D), the data's variances in matrices (K, D, D)."""
        variances = np.diag(x.var(0))
        return (
            np.full(self.K, 1 / self.K, self.dtype),
            x[: self.K],
            np.broadcast_to(variances, (self.K, *variances.shape)),
        )


def ours(x: np.ndarray, start: tuple[np.ndarray, ...]) -> Callable[[int], float]:
    """A function of the number of iterations that fits and returns the mean log-likelihood."""
    import torch

    from coursekit.gmm import GaussianMixture

    points, first = torch.from_numpy(x), GaussianMixture(*(torch.from_numpy(part.copy()) for part in start))

    def fit(steps: int) -> float:
        return GaussianMixture.fit(points, len(first.means), start=first, steps=steps, tol=0, floor=FLOOR)[
            1
        ].log_likelihood[-1]

    return fit


def scikit_learn(x: np.ndarray, start: tuple[np.ndarray, ...]) -> Callable[[int], float]:
    """Likewise."""
    from sklearn.mixture import GaussianMixture as Theirs

    weights, means, covariances = start
    settings = {"weights_init": weights, "means_init": means, "precisions_init": np.linalg.inv(covariances)}

    def fit(steps: int) -> float:
        return Theirs(len(means), max_iter=steps, tol=0, reg_covar=FLOOR, **settings).fit(x).score(x)

    return fit


def pomegranate(x: np.ndarray, start: tuple[np.ndarray, ...]) -> Callable[[int], float]:
    """Likewise."""
    import torch
    from pomegranate.distributions import Normal
    from pomegranate.gmm import GeneralMixtureModel

    weights, means, covariances = start
    points = torch.from_numpy(x)

    def fit(steps: int) -> float:
        parts = [Normal(m.copy(), c.copy()) for m, c in zip(means, covariances, strict=True)]
        model = GeneralMixtureModel(parts, priors=weights.copy(), max_iter=steps, tol=-np.inf).fit(points)
        return float(model.log_probability(points).mean())

    return fit


LIBRARIES: dict[str, Callable[..., Callable[[int], float]]] = {
    "ours": ours,
    "scikit-learn": scikit_learn,
    "pomegranate": pomegranate,
}


def seconds(problem: Problem, names: list[str]) -> dict[str, float]:
    """Seconds of one iteration for each library, measured in turns."""
    x = problem.data()
    fits = {name: LIBRARIES[name](x, problem.start(x)) for name in names}
    fastest = {(name, steps): float("inf") for name in names for steps in (FEW, MANY)}
    for _ in range(ROUNDS):
        for name, steps in fastest:
            fastest[name, steps] = min(fastest[name, steps], _timed(lambda name=name, steps=steps: fits[name](steps)))
    return {name: (fastest[name, MANY] - fastest[name, FEW]) / (MANY - FEW) for name in names}


def _timed(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def peak(problem: Problem, name: str) -> dict[str, float]:
    """Peak memory of this process in MB, before and after a fit, and the log-likelihood that it reached."""
    x = problem.data()
    fit = LIBRARIES[name](x, problem.start(x))
    before = _peak_megabytes()
    return {"log_likelihood": float(fit(10)), "before": before, "after": _peak_megabytes()}


def _peak_megabytes() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def in_own_process(problem: Problem, name: str) -> dict[str, float]:
    """`peak`, measured in a new process."""
    command = [sys.executable, "-m", "benchmarks.mixtures", "--peak", name, "--dtype", problem.dtype]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_times(problem: Problem) -> None:
    """How long an iteration takes for the same problem and for larger and smaller ones."""
    print(
        f"{'seconds an EM iteration':36}"
        + "".join(f"{name:>14}" for name in LIBRARIES)
        + f"{'scikit-learn / ours':>22}"
    )
    variants = [replace(problem, dtype=dtype) for dtype in ("float32", "float64")]
    changed = [{"N": 25_000}, {"N": 50_000}, {"N": 200_000}, {"D": 8}, {"D": 32}, {"K": 16}, {"K": 64}]
    for each in variants + [replace(problem, **change) for change in changed]:
        names = list(LIBRARIES) if each in variants else ["ours", "scikit-learn"]
        found = seconds(each, names)
        cells = "".join(f"{found[name]:14.3f}" if name in found else f"{'':14}" for name in LIBRARIES)
        label = f"N={each.N:,} D={each.D} K={each.K} {each.dtype}"
        print(f"{label:36}{cells}{found['scikit-learn'] / found['ours']:22.1f}", flush=True)


def print_memory(problem: Problem) -> None:
    """Peak memory and the log-likelihood after ten iterations."""
    print(f"\n{'peak memory, MB: process (fit alone)':36}{'':14}{'':14}{'log-likelihood after 10 iterations':>42}")
    for dtype in ("float32", "float64"):
        for name in LIBRARIES:
            found = in_own_process(replace(problem, dtype=dtype), name)
            alone = found["after"] - found["before"]
            print(f"{name + ' ' + dtype:36}{found['after']:14.0f}{f'({alone:.0f})':>14}{found['log_likelihood']:42.6f}")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peak", choices=list(LIBRARIES), help="measure the memory of one library in this process")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # none of the libraries has converged after four iterations, as they will say
    if arguments.peak:
        print(json.dumps(peak(Problem(dtype=arguments.dtype), arguments.peak)))
    else:
        print_times(Problem())
        print_memory(Problem())


if __name__ == "__main__":
    main()
