"""The commands: `python -m coursekit train | sample | evaluate | lessons`."""

from __future__ import annotations

import contextlib
import json
import platform
import shlex
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

import coursekit
from coursekit import evaluation, plots, recipes
from coursekit.checkpoints import read_tensors
from coursekit.data import load_animals
from coursekit.diffusion import fit
from coursekit.diffusion.samplers import SAMPLERS

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

Seed = Annotated[int, typer.Option(min=0, help="Of every random number.")]
Checkpoint = Annotated[Path, typer.Argument(help="A file that `train` wrote, such as data/checkpoints/*.safetensors.")]


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Say what is wrong in one line on stderr, exit code 2, instead of a traceback."""
    try:
        yield
    except (ValueError, OSError, FloatingPointError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


@app.command()
def train(
    model: Annotated[str, typer.Argument(help=f"One of {', '.join(recipes.RECIPES)}.")],
    out: Annotated[Path, typer.Option(help="The checkpoint to write; a .json with the facts goes beside it.")],
    seconds: Annotated[float | None, typer.Option(help="Time budget; the recipe's own if neither is given.")] = None,
    steps: Annotated[int | None, typer.Option(help="Budget in optimiser steps.")] = None,
    seed: Seed = 0,
    state: Annotated[Path | None, typer.Option(help="Where to keep everything needed to go on.")] = None,
    state_every: Annotated[int, typer.Option(help="Write the state every so many steps.")] = 500,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from --state if it exists.")] = False,
) -> None:
    """Train one of the course's models on the train split of the animals."""
    with _plain_errors():
        if model not in recipes.RECIPES:
            raise ValueError(f"MODEL must be one of {', '.join(recipes.RECIPES)}, got {model!r}")
        recipe = recipes.RECIPES[model]
        if seconds is None and steps is None:
            seconds = recipe.seconds
        coursekit.seed_everything(seed)
        network = recipe.build()
        every = None if state is None else state_every
        history = fit(recipe.begin(network), recipe.pictures("train"), steps=steps, seconds=seconds, seed=seed,
                      checkpoint=state, checkpoint_every=every, resume=resume, **recipe.fit)  # fmt: skip
        recipes.save(out, model, network.cpu())
        facts = _facts(seed) | {"steps": history.total_steps, "training seconds": round(history.seconds, 1)}
        _sidecar(out).write_text(json.dumps(facts | {"metrics": {}}, indent=2) + "\n", encoding="utf-8")
        typer.echo(f"{history.total_steps} steps in {history.seconds:.0f} s; wrote {out} and {_sidecar(out)}")


@app.command()
def sample(
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Option(help="A picture (.png) or arrays (.npz: images, labels).")],
    number: Annotated[int, typer.Option(min=1, help="How many, the classes in equal shares.")] = 120,
    seed: Seed = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Diffusion only: steps of the sampler; 30.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Diffusion only: 1 is the plain conditional law; 1.5.")] = None,
    sampler: Annotated[str | None, typer.Option(help=f"Diffusion only, one of {', '.join(SAMPLERS)}; heun.")] = None,
) -> None:
    """Draw animals: float32 (N, 1, 28, 28) in [-1, 1] with their labels, or a labelled grid."""
    with _plain_errors():
        if out.suffix not in (".png", ".npz"):
            raise ValueError(f"--out must end in .png or .npz, got {out.name!r}")
        model, y = recipes.load(checkpoint), evaluation.shares(number)
        generator = coursekit.seed_everything(seed)
        settings = {"steps": steps, "guidance": guidance, "sampler": sampler}
        given = {name: value for name, value in settings.items() if value is not None}
        images = evaluation.draw_animals(model, y, generator, **given)
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".npz":
            np.savez_compressed(out, images=images.numpy(), labels=y.numpy())
        else:
            _save_grid(images, y, out)
        typer.echo(f"wrote {number} animals to {out}")


@app.command()
def evaluate(
    checkpoint: Checkpoint,
    number: Annotated[int, typer.Option(min=100, help="How many animals to draw, and to score at most.")] = 2000,
    seed: Seed = 0,
    guidance: Annotated[float | None, typer.Option(help="Diffusion only: 1 is the plain conditional law; 1.5.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Diffusion only: steps of the sampler; 30.")] = None,
    sampler: Annotated[str | None, typer.Option(help=f"Diffusion only, one of {', '.join(SAMPLERS)}; heun.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Also put the numbers into the .json beside it.")] = False,
) -> None:
    """Measure a model against the test split of the animals."""
    with _plain_errors():
        model, generator = recipes.load(checkpoint), coursekit.seed_everything(seed)
        recipe = recipes.RECIPES[read_tensors(checkpoint)[1]["recipe"]]
        if hasattr(model, "reconstruct") and not evaluation.draws(model):
            judge = recipes.load_released("classifier")
            numbers = evaluation.evaluate_reconstructions(judge, model, *recipe.pictures("test"), generator)
        elif not evaluation.draws(model):
            numbers = evaluation.evaluate_classifier(model)
        else:
            given = {"guidance": guidance, "steps": steps, "sampler": sampler}
            settings = {name: value for name, value in given.items() if value is not None}
            y = evaluation.shares(number)
            labels = y if getattr(model, "num_classes", None) is not None else None
            images = evaluation.draw_animals(model, y, generator, **settings)
            judge = recipes.load_released("classifier")
            numbers = evaluation.evaluate_likelihood(
                model, *_at_most(number, *recipe.pictures("test"), seed), generator
            )
            numbers |= evaluation.evaluate_samples(judge, images, labels, generator, recipe.prepare)
            numbers |= {name: str(value) for name, value in settings.items()}
        for name, value in numbers.items():
            typer.echo(f"{name}: {value}")
        if write:
            facts = json.loads(_sidecar(checkpoint).read_text(encoding="utf-8"))
            facts["metrics" if steps is None else f"metrics, steps = {steps}"] = numbers | {"command": _command()}
            _sidecar(checkpoint).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


@app.command()
def lessons(
    names: Annotated[list[str] | None, typer.Argument(help="Such as 01 or 08_diffusion; all if none.")] = None,
    build: Annotated[Path, typer.Option(help="Where the pages go.")] = Path("build"),
    refresh: Annotated[bool, typer.Option("--refresh", help="Execute in place: renew committed outputs.")] = False,
) -> None:
    """Run the lessons from the top and leave each as a page to read."""
    from coursekit import lessons as lessons_module  # wants the extra `lab`, which the other commands do not

    with _plain_errors():
        paths = lessons_module.find_lessons(names or ())
        outcomes = lessons_module.refresh(paths) if refresh else lessons_module.run(paths, build)
    raise typer.Exit(lessons_module.conclude(outcomes))


def _at_most(number: int, images: torch.Tensor, labels: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All pictures in their order, or so many drawn at random."""
    if len(images) <= number:
        return images, labels
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:number]
    return images[chosen], labels[chosen]


def _sidecar(checkpoint: Path) -> Path:
    return checkpoint.with_suffix(".json")


def _command() -> str:
    return shlex.join(["python", "-m", "coursekit", *sys.argv[1:]])


def _facts(seed: int) -> dict[str, object]:
    packages = {name: version(name) for name in ("torch", "numpy", "accelerate", "safetensors")}
    return {
        "command": _command(),
        "seed": seed,
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **packages},
    }


def _save_grid(images: torch.Tensor, y: torch.Tensor, out: Path) -> None:
    names = load_animals("test").names
    counts = y.bincount(minlength=len(names))
    columns = int(counts.max())
    tiles = torch.full((len(names), columns, 1, 28, 28), -1.0)
    for c, part in enumerate(images.split(counts.tolist())):
        tiles[c, : len(part)] = part
    figure = plots.image_grid(tiles.flatten(0, 1), columns=columns, row_labels=names)
    figure.savefig(out, dpi=100, bbox_inches="tight")


if __name__ == "__main__":
    app()
