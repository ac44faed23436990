"""What a recipe is, and the files that its models are kept in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coursekit.checkpoints import read_tensors, write_tensors
from coursekit.data import find_data, load_animals
from coursekit.diffusion.ranks import is_main_process, whole

__all__ = ["RECIPES", "Recipe", "load", "load_released", "save"]


@dataclass(frozen=True)
class Recipe:
    """How one of the course's models is built and trained.

    Attributes:
        build: makes the untrained model.
        fit: keywords for `coursekit.diffusion.fit`, all but the budget and the seed.
        seconds: the budget of `python -m coursekit train` if none is given, for two quiet cores.
        prepare: from pictures in [-1, 1] to what the model takes for pictures, such as `binarise`; nothing if None.
        begin: called once before training with the model; what it returns is trained in its place. Here a model
            takes over weights of other released models, or gets a teacher that is not saved with it.
    """

    build: Callable[[], nn.Module]
    fit: dict[str, Any]
    seconds: float
    prepare: Callable[[Tensor], Tensor] | None = None
    begin: Callable[[nn.Module], nn.Module] = lambda model: model

    def pictures(self, split: str) -> tuple[Tensor, Tensor]:
        """The animals of a split as this model takes them, and their labels.

        Grey pictures stay uint8, which `fit` scales to [-1, 1] batch by batch.
        """
        if self.prepare is None:
            images, labels, _ = load_animals(split, dtype=torch.uint8)
            return images, labels
        images, labels, _ = load_animals(split)
        return self.prepare(images), labels


RECIPES: dict[str, Recipe] = {}
"""Every model that `python -m coursekit train` can make, by name; `families` and `denoisers` fill it in."""


def save(path: str | Path, name: str, model: nn.Module) -> None:
    """Write a trained model of the recipe `name`; of several processes all have to call it, and the first one writes.

    Raises:
        ValueError: if there is no such recipe.
    """
    _recipe(name)
    tensors = {part: whole(tensor) for part, tensor in model.state_dict().items()}
    if is_main_process():
        write_tensors(path, tensors, {"recipe": name})


def load(path: str | Path, name: str | None = None) -> nn.Module:
    """Build the model that `save` wrote and fill in its weights; it comes in evaluation mode, on the CPU.

    Args:
        path: the file.
        name: the recipe that is wanted; any if None.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, or holds another kind of model.
    """
    tensors, header = read_tensors(path)
    found = header.get("recipe")
    if found not in RECIPES or name not in (None, found):
        raise ValueError(f"{path} must hold a model of recipe {name or ' or '.join(RECIPES)}, got {found!r}")
    model = RECIPES[found].build()
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path} holds weights of another version of {found!r}: {error}") from error
    return model.eval()


def load_released(name: str) -> nn.Module:
    """The checkpoint of recipe `name` that comes with the course, made by the command in the file beside it.

    Raises:
        ValueError: if there is no such recipe.
        FileNotFoundError: if the file is not where the course's data are.

    Example:
        >>> model = load_released("classifier")
        >>> type(model).__name__, model.training
        ('ConvClassifier', False)
    """
    _recipe(name)
    return load(find_data(f"checkpoints/animals-{name}.safetensors"), name)


def _recipe(name: str) -> Recipe:
    if name not in RECIPES:
        raise ValueError(f"name must be one of {', '.join(RECIPES)}, got {name!r}")
    return RECIPES[name]
