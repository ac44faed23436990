"""Guidance on the animals: recognised share, Frechet distance and diversity for each kind and scale.

    python -m benchmarks.guidance [--number 400] [--steps 20] [--out data/guidance-sweep.json]

Every setting draws from the same noise, the ten classes in equal shares, and is judged by the course classifier against
the test split; so differences between rows are known better than the intervals of each row say. The classifier that
guides and the one that judges are different networks, trained on the same pictures. Overshoot is the mean of what
pixels exceed [-1, 1] by, before they are clamped. It takes about 12 minutes of one quiet core.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from coursekit.data import load_animals
from coursekit.diffusion import sample
from coursekit.evaluation import shares
from coursekit.metrics import features_of, frechet_distance, recognised_share
from coursekit.recipes import load_released
from coursekit.steering import GUIDES, diversity

SCALES = {
    "classifier": (0.0, 1.0, 3.0, 5.0, 10.0),
    "classifier and label": (2.0, 3.0, 5.0),
    "classifier-free": (1.0, 1.5, 2.0, 3.0, 5.0),
    "interval": (2.0, 3.0, 5.0),
    "rescaled": (3.0, 5.0),
    "threshold": (3.0, 5.0),
    "auto": (1.5, 2.0, 3.0, 5.0),
}
Row = dict[str, str | float | list[float]]


class Table:
    """Draws and judges one setting after the other."""

    def __init__(self, number: int, steps: int) -> None:
        self.models = tuple(load_released(n) for n in ("diffusion", "noise-aware-classifier", "diffusion-small"))
        self.judge, self.steps = load_released("classifier"), steps
        test, self.test_labels, _ = load_animals("test")
        self.real = features_of(self.judge, test)
        self.y = shares(number)
        self.x_T = torch.randn(number, 1, 28, 28, generator=torch.Generator().manual_seed(0))

    def row(self, kind: str, scale: float) -> Row:
        """The numbers of one kind of guidance at one scale."""
        model, start = GUIDES[kind](*self.models, scale), time.process_time()
        parts = zip(self.x_T.split(100), self.y.split(100), strict=True)
        drawn = [sample(model, tuple(x.shape), steps=self.steps, y=y, x_T=x) for x, y in parts]
        seconds, images = time.process_time() - start, torch.cat(drawn)
        overshoot = float((images.abs() - 1).clamp(min=0).mean())
        images = images.clamp(-1, 1)
        features = features_of(self.judge, images)
        share = recognised_share(self.judge, images, self.y)
        distance = frechet_distance(features, self.real, generator=torch.Generator().manual_seed(0))
        return {
            "guidance": kind,
            "scale": scale,
            "recognised": [round(v, 4) for v in (share.value, share.low, share.high)],
            "frechet": [round(v, 4) for v in (distance.value, distance.low, distance.high)],
            "diversity": round(diversity(features, self.y, self.real, self.test_labels), 4),
            "overshoot": round(overshoot, 4),
            "cpu seconds": round(seconds, 1),
        }


def show(row: Row) -> str:
    """One line of the table."""
    recognised, frechet = row["recognised"], row["frechet"]
    return (
        f"{row['guidance']:22} {row['scale']:5.1f}   {recognised[0]:.3f} [{recognised[1]:.3f}, {recognised[2]:.3f}]   "
        f"{frechet[0]:6.3f} [{frechet[1]:6.3f}, {frechet[2]:6.3f}]   {row['diversity']:9.3f} "
        f"{row['overshoot']:9.3f} {row['cpu seconds']:6.1f} s"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=400, help="samples a setting")
    parser.add_argument("--steps", type=int, default=20, help="of Heun's method")
    parser.add_argument("--out", type=Path, help="a .json to write")
    arguments = parser.parse_args()
    table, rows = Table(arguments.number, arguments.steps), []
    print("guidance               scale   recognised             Frechet distance          diversity overshoot    CPU")
    for kind, scales in SCALES.items():
        for scale in scales:
            rows.append(table.row(kind, scale))
            print(show(rows[-1]), flush=True)
            if arguments.out:
                arguments.out.parent.mkdir(parents=True, exist_ok=True)
                facts = {"command": "python -m benchmarks.guidance " + " ".join(sys.argv[1:]), "rows": rows}
                arguments.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
