"""The missing half of a horse, drawn in several ways: errors, calibration, seam, recognised share and cost.

    python -m benchmarks.completion [--animal horse] [--number 16] [--draws 4] [--out data/missing-half.json]

Pictures of the test split, left half seen. Without a label, with the label, and with classifier-free guidance of scale
2 inside each method. The meaning of each column: `coursekit.completion.Judgement`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from coursekit.completion import half_hidden, half_mixture, judge, ways
from coursekit.diffusion.guidance import ClassifierFree, Unlabelled
from coursekit.recipes import load_released

COLUMNS = "mean_error", "error", "spread", "seam"


class Counted(nn.Module):
    """A denoiser that counts its calls."""

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser, self.calls = denoiser, 0
        self.schedule, self.t_max, self.num_classes = denoiser.schedule, denoiser.t_max, denoiser.num_classes

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """The estimate of the denoiser inside."""
        self.calls += 1
        return self.denoiser(x_t, t, y)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--animal", default="horse")
    parser.add_argument("--number", type=int, default=16, help="pictures")
    parser.add_argument("--draws", type=int, default=4, help="for each picture")
    parser.add_argument("--out", type=Path, help="a .json to write")
    arguments = parser.parse_args()
    problem = half_hidden(arguments.animal, arguments.number, torch.Generator().manual_seed(0))
    inner, classifier = Counted(load_released("diffusion")), load_released("classifier")
    knowledge = {"no label": Unlabelled(inner), "label": inner, "label, guidance 2": ClassifierFree(inner, 2.0)}
    rows = []
    print(" " * 36 + "  ".join(f"{name:>10}" for name in (*COLUMNS, "recognised", "seen_error", "calls", "CPU s")))
    for known, denoiser in knowledge.items():
        mixture = half_mixture(arguments.animal) if known == "label" else None
        for name, way in ways(problem, denoiser, mixture).items():
            inner.calls, start, generator = 0, time.process_time(), torch.Generator().manual_seed(1)
            drawn = torch.stack([way(generator) for _ in range(arguments.draws)])
            seconds, found = (time.process_time() - start) / arguments.draws, judge(drawn, problem, classifier)
            row = {column: round(getattr(found, column), 4) for column in (*COLUMNS, "seen_error")}
            row |= {"recognised": [round(v, 4) for v in vars(found.recognised).values()]}
            row |= {"calls": inner.calls // arguments.draws, "cpu seconds a draw of all": round(seconds, 1)}
            rows.append({"way": name, "known": known} | row)
            numbers = [row[column] for column in COLUMNS] + [row["recognised"][0], row["seen_error"]]
            print(f"{known:18}{name:18}" + "  ".join(f"{v:10.3f}" for v in numbers), end="")
            print(f"  {row['calls']:10}  {seconds:10.1f}", flush=True)
            if arguments.out:
                arguments.out.parent.mkdir(parents=True, exist_ok=True)
                facts = {"command": "python -m benchmarks.completion " + " ".join(sys.argv[1:]), "rows": rows}
                arguments.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
