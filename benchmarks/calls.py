"""Frechet distance of the animals against network calls, for every sampler and grid: the table that lesson 10 shows.

    OMP_NUM_THREADS=1 python -m benchmarks.calls --number 1000 --slow-number 250

Up to ten calls on the uniform grid, where the quality of animals is decided, and for the nearly exact path, --number
pictures are drawn, and --slow-number everywhere else; each row says how many. Every cell starts from the same noise
(the released checkpoint, guidance 1.5) and is judged as `python -m coursekit evaluate` does; "excess" is its Frechet
distance less that of UniPC with 40 calls from the same noise, in which most of the error of both cancels. "flow" is
sharper still: how far samplers without noise end from where the flow itself leads. A guided pair counts as one call.
The table, by default data/sampler-calls.json, is written after each cell; cells that it holds already, for the same
number of pictures, are not drawn again, so a run can be broken off and taken up. In all it takes more than two hours of
one core.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from coursekit.calls import draw_counted, flow_distance, quality, steps_within
from coursekit.data import load_animals
from coursekit.diffusion import SAMPLERS
from coursekit.diffusion.grids import GRIDS
from coursekit.diffusion.samplers import adaptive
from coursekit.estimates import Estimate
from coursekit.metrics import features_of, frechet_difference
from coursekit.recipes import load_released

FEW, CALLS = (1, 2, 3), (5, 10, 20, 40)
ON_GRIDS = ("euler", "dpm++2m", "deis", "unipc")
TOLERANCES = (0.1, 0.03, 0.01)
FLOW_GRIDS = ("uniform", "angle", "karras", "log-snr")
FLOW_SAMPLERS = ("euler", "ddim", "heun", "dpm++2s", "dpm++2m", "deis", "unipc")
EXACT = ("unipc", 40)
CLAIM = (("dpm++2m", 10), ("euler", 30))
SEED, GUIDANCE = 0, 1.5


@dataclass(frozen=True)
class Cell:
    """A sampler on a grid with a number of calls, or with a tolerance."""

    sampler: str
    grid: str = "uniform"
    calls: int | None = None
    tolerance: float | None = None

    @property
    def key(self) -> dict[str, object]:
        """What tells it from the others."""
        return {"sampler": self.sampler, "grid": self.grid, "budget": self.calls, "tolerance": self.tolerance}


def cells() -> Iterator[Cell]:
    """All of them."""
    for calls in (*FEW, *CALLS):
        yield from (Cell(sampler, calls=calls) for sampler in SAMPLERS if sampler != "adaptive")
    yield Cell(CLAIM[1][0], calls=CLAIM[1][1])
    yield from (Cell("adaptive", tolerance=tolerance) for tolerance in TOLERANCES)
    grids = [kind for kind in GRIDS if kind not in ("uniform", "trailing")]  # which for this schedule are the same
    yield from (Cell(sampler, grid, calls) for calls in CALLS[:2] for grid in grids for sampler in ON_GRIDS)


def pictures(cell: Cell, number: int, slow_number: int) -> int:
    """How many are drawn for a cell."""
    few = cell.calls is not None and cell.calls <= CALLS[1]
    return number if cell.grid == "uniform" and (few or (cell.sampler, cell.calls) == EXACT) else slow_number


def measure(cell: Cell, number: int) -> tuple[dict[str, object], Tensor]:
    """The row of a cell, and the judge's features of its pictures."""
    if cell.tolerance is not None:
        sampler, steps = partial(adaptive, rtol=cell.tolerance, atol=cell.tolerance), 1
    else:
        sampler, steps = SAMPLERS[cell.sampler], steps_within(cell.sampler, cell.calls)
    drawn = draw_counted(load_released("diffusion"), sampler, steps, cell.grid, number, GUIDANCE, SEED)
    found = quality(load_released("classifier"), drawn)
    row = cell.key | {"steps": steps, "calls": drawn.calls, "number": number}
    return row | {"frechet": _numbers(found.frechet), "recognised": _numbers(found.recognised)}, found.features


def difference(first: Tensor, second: Tensor) -> list[float]:
    """The Frechet distance of the first pictures less that of the second, by their features, with its interval."""
    real = features_of(load_released("classifier"), load_animals("test").images)
    return _numbers(frechet_difference(first, second, real, 400, generator=torch.Generator().manual_seed(SEED)))


def _numbers(estimate: Estimate) -> list[float]:
    return [round(x, 5) for x in (estimate.value, estimate.low, estimate.high)]


def judged(table: dict, number: int, slow_number: int, save: Callable[[], None]) -> None:
    """Fill in the rows that are missing."""

    def known(cell: Cell) -> bool:
        wanted = cell.key | {"number": pictures(cell, number, slow_number)}
        return any(wanted.items() <= row.items() for row in table["rows"])

    @cache
    def exact(count: int) -> Tensor:
        return measure(Cell(EXACT[0], calls=EXACT[1]), count)[1]

    for cell in cells():
        if known(cell):
            continue
        count = pictures(cell, number, slow_number)
        row, features = measure(cell, count)
        table["rows"] = [other for other in table["rows"] if not cell.key.items() <= other.items()]
        table["rows"].append(row | {"excess": difference(features, exact(count))})
        print(table["rows"][-1], flush=True)
        save()


def claim(number: int) -> dict[str, object]:
    """The Frechet distance of DPM-Solver++ 2M at 10 calls less that of Euler at 30."""
    first, second = (measure(Cell(sampler, calls=calls), number)[1] for sampler, calls in CLAIM)
    return {"of": CLAIM, "number": number, "frechet difference": difference(first, second)}


def flow(table: dict, number: int, save: Callable[[], None]) -> None:
    """The distances of samplers without noise to the flow, from the same noise."""
    model = load_released("diffusion")
    exact = draw_counted(model, "deis", 100, "angle^2", number, GUIDANCE, SEED)
    check = draw_counted(model, "heun", 60, "angle", number, GUIDANCE, SEED)
    table["flow"] = {"number": number, "two nearly exact ones": _numbers(flow_distance(check, exact)), "rows": []}
    for grid in FLOW_GRIDS:
        for sampler in FLOW_SAMPLERS:
            for calls in CALLS:
                drawn = draw_counted(model, sampler, steps_within(sampler, calls), grid, number, GUIDANCE, SEED)
                row = Cell(sampler, grid, calls).key | {"calls": drawn.calls}
                table["flow"]["rows"].append(row | {"distance": _numbers(flow_distance(drawn, exact))})
            print(table["flow"]["rows"][-len(CALLS) :], flush=True)
            save()


def main() -> None:
    """Fill the table and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=1000, help="pictures up to ten calls on the uniform grid")
    parser.add_argument("--slow-number", type=int, default=250, help="pictures in each other cell")
    parser.add_argument("--claim-number", type=int, default=1000, help="pictures behind the claim of the course")
    parser.add_argument("--flow-number", type=int, default=50, help="pictures whose distance to the flow is measured")
    parser.add_argument("--out", type=Path, default=Path("data/sampler-calls.json"))
    arguments = parser.parse_args()
    table = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {"rows": []}
    table |= {
        "command": " ".join(["python -m benchmarks.calls", *sys.argv[1:]]),
        "guidance": GUIDANCE,
        "exact": EXACT,
        "seed": SEED,
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": version("torch")},
    }

    def save() -> None:
        arguments.out.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")

    judged(table, arguments.number, arguments.slow_number, save)
    if table.get("flow", {}).get("number") != arguments.flow_number:
        flow(table, arguments.flow_number, save)
    if table.get("claim", {}).get("number") != arguments.claim_number:
        table["claim"] = claim(arguments.claim_number)
        print(table["claim"], flush=True)
        save()


if __name__ == "__main__":
    main()
