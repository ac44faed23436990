"""How many bits per dimension the animals' diffusion models need, by every road, beside the other families.

    python -m benchmarks.likelihoods [--pictures 250] [--flow-pictures 100] [--models diffusion diffusion-likelihood]

Pictures are a seeded subset of the test split, the same for all rows; every number is an upper bound on -log2 P(x | y)
per pixel (of the ODE: in the mean over its noise), with Student's interval for the mean over pictures. Writes
`data/likelihoods.json`, which lesson 12 shows. It takes about ten minutes of one quiet core.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coursekit.data import load_animals
from coursekit.diffusion import Denoiser, fit, time_grid
from coursekit.diffusion.likelihood import (
    BinNoise,
    DiscretisedGaussian,
    GaussianNoise,
    LearnedVariance,
    Levels,
    OptimalVariance,
    VarianceHead,
    capacity,
    capacity_grid,
    chain_bound,
    continuous_bound,
    dequantised_log_prob,
    lower_variance,
    upper_variance,
)
from coursekit.estimates import Estimate, mean_interval
from coursekit.flows import Hutchinson
from coursekit.pixels import bits_per_dim
from coursekit.recipes import load_released

OUT = Path(__file__).parent.parent / "data" / "likelihoods.json"
DIMS = 784
Row = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What every measurement of one model needs."""

    model: Denoiser
    x: Tensor
    y: Tensor
    train: tuple[Tensor, Tensor]
    decoder: Levels
    few: int  # pictures for the ODE
    head_steps: int

    @property
    def t_min(self) -> float:
        """Where decoding begins: not nearer to the data than the model was trained."""
        return self.model.t_min if self.model.t_min > 1e-3 else 0.04

    def integrals(self) -> Iterator[Row]:
        """The continuous bound, for several ends and for the decoder that knows no prior."""
        for t_min in (0.05, 0.04, 0.03, 0.02, 0.015, 0.01, 0.003):
            for name, decoder in (("counted levels", self.decoder), ("flat levels", Levels())):
                if name == "flat levels" and t_min > 0.01:
                    continue
                settings = {"decoder": decoder, "t_min": t_min, "times": 24, "generator": seeded(1)}
                bound = continuous_bound(self.model, self.x, self.y, **settings)
                yield {"method": "continuous", "t_min": t_min, "decoder": name} | parts(bound.summary())

    def chains(self) -> Iterator[Row]:
        """Few to many steps, each variance; equal steps of capacity, and DDPM's own way."""
        optimal = OptimalVariance.measured(self.model, *self.train, generator=seeded(2))
        variances = {"lower": lower_variance, "upper": upper_variance, "optimal": optimal}
        for T in (10, 25, 100, 1000):
            times = capacity_grid(self.model.schedule, T, self.t_min)
            learned = {"learned": self.head(times)} if T <= 25 else {}
            for name, variance in (variances | learned).items():
                terms = None if T <= 25 else 33
                yield {
                    "method": "chain",
                    "T": T,
                    "t_min": self.t_min,
                    "grid": "capacity",
                    "variance": name,
                } | self.chain(times, variance, self.decoder, terms)
        times = time_grid(self.model.schedule, 1000)
        yield {"method": "chain", "T": 1000, "t_min": 0.001, "grid": "uniform", "variance": "lower"} | self.chain(
            times, lower_variance, DiscretisedGaussian(), 100
        )

    def chain(self, times: Tensor, variance: Any, decoder: Any, terms: int | None) -> Row:
        """One chain; the noise is the same for every variance."""
        settings = {"times": times, "variance": variance, "decoder": decoder, "terms": terms, "generator": seeded(3)}
        name = "counted levels" if decoder is self.decoder else "discretised Gaussian"
        return {"decoder": name} | parts(chain_bound(self.model, self.x, self.y, **settings).summary())

    def head(self, times: Tensor) -> LearnedVariance:
        """A variance head of the frozen denoiser, trained on the train split."""
        torch.manual_seed(0)
        learned = LearnedVariance(self.model.requires_grad_(False), VarianceHead(), times)
        pictures = load_animals("train", dtype=torch.uint8)
        settings = {"batch_size": 64, "lr": 3e-3, "ema_half_life": 20.0, "progress": False}
        fit(learned, (pictures.images, pictures.labels), steps=self.head_steps, **settings)
        return learned.eval()

    def flows(self) -> Iterator[Row]:
        """The ODE with Hutchinson's trace: on the diffusion's own noise, and on uniform noise within the bins."""
        ends = [(GaussianNoise(self.decoder), t) for t in (0.04, 0.015)] + [(BinNoise(), t) for t in (0.015, 0.005)]
        for noise, t_min in ends:
            settings = {"t_min": t_min, "trace": Hutchinson(1), "rtol": 1e-4, "atol": 1e-4, "generator": seeded(4)}
            x, y = self.x[: self.few], self.y[: self.few]
            found = dequantised_log_prob(self.model, x, y, dequantisation=noise, **settings)
            error = bits_per_dim(-found.solver_error.mean(), DIMS).item()
            yield {
                "method": "ode",
                "t_min": t_min,
                "dequantisation": type(noise).__name__,
                "bits": interval(mean_interval(bits_per_dim(found.log_prob, DIMS))),
                "solver error": error,
                "evaluations": found.evaluations,
                "pictures": len(x),
            }

    def curve(self) -> list[list[float]]:
        """[capacity, time, (1 + SNR) E|x - D|^2 per dimension] at 30 noise levels: what the bound integrates."""
        s = self.model.schedule
        t = capacity_grid(s, 30, 0.002)
        optimal = OptimalVariance.measured(self.model, self.x, self.y, generator=seeded(5))
        c = capacity(s, t)
        rate = torch.exp(2 * c) * optimal.error(c.float()).double()
        return torch.stack([c, t, rate], 1).tolist()


def seeded(seed: int) -> torch.Generator:
    """A generator for one measurement."""
    return torch.Generator().manual_seed(seed)


def interval(estimate: Estimate) -> list[float]:
    """[value, low, high], rounded."""
    return [round(number, 4) for number in (estimate.value, estimate.low, estimate.high)]


def parts(summary: dict[str, Estimate]) -> Row:
    """The total as "bits", the parts by name."""
    return {("bits" if name == "total" else name): interval(estimate) for name, estimate in summary.items()}


@torch.no_grad()
def others(x: Tensor, y: Tensor) -> Iterator[Row]:
    """What the other families' released checkpoints need for the same pictures."""
    for name in ("pixelcnn-levels", "flow", "vae-levels"):
        model = load_released(name)
        exact = hasattr(model, "log_prob")
        nats = model.log_prob(x, y) if exact else model.log_prob_bound(x, y, generator=seeded(6))
        bits = interval(mean_interval(bits_per_dim(nats, DIMS)))
        yield {"model": name, "pictures": len(x), "method": "exact" if exact else "bound", "bits": bits}


def subset(split: str, number: int) -> tuple[Tensor, Tensor]:
    """Pictures of a split in [-1, 1] and their labels, drawn with seed 0."""
    images, labels, _ = load_animals(split)
    chosen = torch.randperm(len(images), generator=seeded(0))[:number]
    return images[chosen], labels[chosen]


def main() -> None:
    """Measure, print each row as it comes, write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=250)
    parser.add_argument("--flow-pictures", type=int, default=100)
    parser.add_argument("--head-steps", type=int, default=200)
    parser.add_argument("--models", nargs="+", default=["diffusion", "diffusion-likelihood"])
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    decoder = Levels.counted(load_animals("train").images)
    make = partial(Bench, train=subset("train", 500), decoder=decoder, few=arguments.flow_pictures)
    x, y = subset("test", arguments.pictures)
    rows, curves, start = list(others(x, y)), {}, time.perf_counter()
    for name in arguments.models:
        bench = make(model=load_released(name), x=x, y=y, head_steps=arguments.head_steps)
        curves[name] = bench.curve()
        for measure in (bench.integrals, bench.chains, bench.flows):
            for row in measure():
                rows.append({"model": name, "pictures": len(x)} | row)
                print(f"{time.perf_counter() - start:6.0f} s  {rows[-1]}", flush=True)
    facts = {
        "command": shlex.join(["python", "-m", "benchmarks.likelihoods", *sys.argv[1:]]),
        "split": "test, subset drawn with seed 0",
        "unit": "bits per dimension of 8-bit pictures; [mean, low, high], 95 %",
        "rows": rows,
        "curves": curves,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
