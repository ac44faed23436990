"""The course's own models: how each is built and trained, for the commands, the lessons and the tests alike.

A recipe names everything but the data and the budget. `save` writes a trained model as safetensors with the
recipe's name in the header, `load` builds the model again from that name; nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coursekit.bayesnet import PixelCNN
from coursekit.boltzmann import RBM, PersistentChains
from coursekit.checkpoints import read_tensors, write_tensors
from coursekit.classifiers import ConvClassifier, NoiseAwareClassifier, random_affine
from coursekit.data import find_data, load_animals
from coursekit.diffusion import Cosine, Denoiser, LogitNormal, Rectified, time_grid
from coursekit.diffusion.batches import mirror
from coursekit.diffusion.distillation.consistency import ConsistencyDistillation, ConsistencyModel
from coursekit.diffusion.distillation.progressive import FewSteps, ProgressiveDistillation
from coursekit.diffusion.guidance import ClassifierFree
from coursekit.diffusion.latent import LatentDiffusion
from coursekit.diffusion.likelihood import CapacityTimes
from coursekit.diffusion.optimizers import GradientDescent, muon_and_adamw
from coursekit.diffusion.ranks import is_main_process, whole
from coursekit.flows import image_flow
from coursekit.gan import image_gan
from coursekit.networks import TimeMLP, UNet
from coursekit.pixels import DiscretisedLogistics, binarise
from coursekit.vae import PixelLikelihood, conv_auto_encoder, hierarchical_image_vae, image_vae

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


def animals_denoiser() -> Denoiser:
    """The course's diffusion model of all ten animals: a U-Net that predicts the velocity on the straight line."""
    return Denoiser(UNet(), Rectified(), prediction="velocity", times=LogitNormal(), num_classes=10)


def small_animals_denoiser() -> Denoiser:
    """The same at half the width: the worse version of the model that `AutoGuidance` leans away from."""
    network = UNet(fine=16, coarse=32, context=64)
    return Denoiser(network, Rectified(), prediction="velocity", times=LogitNormal(), num_classes=10)


DIFFUSION_FIT: dict[str, Any] = {
    "batch_size": 128,
    "optimizer": partial(muon_and_adamw, lr=5e-3, lr_rest=3e-3, outside=("time", "label", "enter", "leave")),
    "warmup": 50,
    "decay": 0.4,
    "ema_half_life": 1000.0,
    "ema_ramp": 0.08,
    "augment": mirror,
    "clip": None,
}


def animals_likelihood_denoiser(t_min: float = 0.015) -> Denoiser:
    """The same network trained for its likelihood: where the bound looks, and weighted as it weighs."""
    times = CapacityTimes(Rectified(), t_min)
    return Denoiser(UNet(), Rectified(), "velocity", "edm", times, num_classes=10, t_min=t_min)


def begin_likelihood(model: Denoiser) -> Denoiser:
    """Take over the weights of the released model."""
    model.load_state_dict(load_released("diffusion").state_dict())
    return model


def animals_codes() -> LatentDiffusion:
    """The auto-encoder of 16 numbers, and a perceptron that predicts the velocity of its codes."""
    network = TimeMLP(16, width=256, depth=4, num_classes=10)
    denoiser = Denoiser(network, Rectified(), prediction="velocity", times=LogitNormal(), num_classes=10)
    return LatentDiffusion(conv_auto_encoder(latent=16, width=16), denoiser)


def begin_codes(model: LatentDiffusion) -> LatentDiffusion:
    """Take over the released auto-encoder, and the scale of its codes from the train split and its mirror images."""
    model.auto_encoder.load_state_dict(load_released("auto-encoder").state_dict())
    images = load_animals("train").images
    return model.standardise(torch.cat([images, images.flip(-1)]))


def animals_teacher() -> nn.Module:
    """What the fast samplers learn from: the released diffusion model with guidance 1.5."""
    return ClassifierFree(load_released("diffusion"), 1.5)


def animals_in_steps(k: int) -> FewSteps:
    """The course's diffusion network, to be asked at k times only."""
    return FewSteps(animals_denoiser(), time_grid(Rectified(), k), (1, 28, 28))


def begin_progressive(student: FewSteps) -> ProgressiveDistillation:
    """Start where the teacher is: the guided model with 8 steps, or the released student with twice as many."""
    times = time_grid(Rectified(), 2 * student.steps)
    if student.steps == 4:
        student.denoiser.load_state_dict(load_released("diffusion").state_dict())
        return ProgressiveDistillation(animals_teacher(), student, times)
    teacher = load_released(f"progressive-{2 * student.steps}")
    student.load_state_dict(teacher.state_dict())
    return ProgressiveDistillation(teacher, student, times)


def begin_consistency(student: ConsistencyModel) -> ConsistencyDistillation:
    """Start where the teacher is."""
    student.denoiser.load_state_dict(load_released("diffusion").state_dict())
    return ConsistencyDistillation(animals_teacher(), student)


PIXELCNN_FIT: dict[str, Any] = {
    "batch_size": 32,
    "optimizer": partial(
        muon_and_adamw, lr=1.5e-2, lr_rest=1e-2, outside=("label", "place", "enter_vertical", "enter_horizontal", "out")
    ),
    "warmup": 50,
    "decay": 0.5,
    "ema_half_life": 300.0,
    "ema_ramp": 0.08,
    "augment": mirror,
    "clip": None,
}

VAE_FIT: dict[str, Any] = {
    "batch_size": 64,
    "optimizer": partial(muon_and_adamw, lr=1e-2, lr_rest=3e-3, outside=("label",)),
    "warmup": 50,
    "decay": 0.5,
    "ema_half_life": 200.0,
    "ema_ramp": 0.08,
    "augment": mirror,
    "clip": None,
}

DISTILLATION_FIT: dict[str, Any] = {
    "batch_size": 64,
    "optimizer": partial(muon_and_adamw, lr=2e-3, lr_rest=1e-3, outside=("time", "label", "enter", "leave")),
    "warmup": 20,
    "decay": 0.8,
    "ema_half_life": 100.0,
    "ema_ramp": 0.08,
    "augment": mirror,
    "clip": None,
}

RECIPES: dict[str, Recipe] = {
    "diffusion": Recipe(animals_denoiser, DIFFUSION_FIT, seconds=900),
    "diffusion-small": Recipe(small_animals_denoiser, DIFFUSION_FIT, seconds=90),
    "diffusion-likelihood": Recipe(
        animals_likelihood_denoiser,
        DIFFUSION_FIT
        | {
            "optimizer": partial(muon_and_adamw, lr=3e-3, lr_rest=1.8e-3, outside=("time", "label", "enter", "leave")),
            "decay": 0.6,
            "ema_half_life": 300.0,
        },
        seconds=300,
        begin=begin_likelihood,
    ),
    "classifier": Recipe(
        ConvClassifier,
        {
            "batch_size": 128,
            "lr": 2e-3,
            "weight_decay": 0.05,
            "warmup": 100,
            "decay": 0.9,
            "ema_half_life": 140.0,
            "augment": random_affine,
        },
        seconds=180,
    ),
    "noise-aware-classifier": Recipe(
        lambda: NoiseAwareClassifier(Cosine()),
        {
            "batch_size": 128,
            "lr": 2e-3,
            "weight_decay": 0.05,
            "warmup": 100,
            "decay": 0.9,
            "ema_half_life": 100.0,
            "augment": random_affine,
        },
        seconds=180,
    ),
    "pixelcnn": Recipe(lambda: PixelCNN(channels=32, num_classes=10), PIXELCNN_FIT, seconds=600, prepare=binarise),
    "pixelcnn-levels": Recipe(
        lambda: PixelCNN(DiscretisedLogistics(), channels=32, num_classes=10), PIXELCNN_FIT, seconds=600
    ),
    "rbm": Recipe(
        lambda: RBM((1, 28, 28), hidden=400, negative=PersistentChains((1, 28, 28), number=128)),
        {
            "batch_size": 128,
            "optimizer": lambda machine: GradientDescent(machine.parameters(), lr=1e-2),
            "warmup": 0,
            "decay": 0.9,
            "ema_half_life": 200.0,
            "augment": mirror,
            "clip": None,
        },
        seconds=150,
        prepare=binarise,
    ),
    "flow": Recipe(
        image_flow,
        {
            "batch_size": 64,
            "lr": 2e-3,
            "warmup": 100,
            "decay": 0.5,
            "ema_half_life": 200.0,
            "augment": mirror,
        },
        seconds=900,
    ),
    "gan": Recipe(
        image_gan,
        {
            "batch_size": 32,
            "lr": 2e-3,
            "betas": (0.0, 0.99),
            "warmup": 20,
            "decay": 0.5,
            "ema_half_life": 400.0,
            "augment": mirror,
            "clip": None,
        },
        seconds=120,
    ),
    "auto-encoder": Recipe(lambda: conv_auto_encoder(latent=16, width=16), VAE_FIT, seconds=60),
    "latent-diffusion": Recipe(
        animals_codes,
        {
            "batch_size": 256,
            "optimizer": partial(muon_and_adamw, lr=3e-3, lr_rest=2e-3, outside=("time", "label", "point")),
            "warmup": 50,
            "decay": 0.5,
            "ema_half_life": 300.0,
            "ema_ramp": 0.08,
            "augment": mirror,
            "clip": None,
        },
        seconds=120,
        begin=begin_codes,
    ),
    "vae": Recipe(lambda: image_vae(num_classes=10, width=16), VAE_FIT, seconds=90, prepare=binarise),
    "vae-levels": Recipe(
        lambda: hierarchical_image_vae(likelihood=PixelLikelihood(DiscretisedLogistics(3)), num_classes=10, width=16),
        VAE_FIT,
        seconds=300,
    ),
    **{
        f"progressive-{k}": Recipe(partial(animals_in_steps, k), DISTILLATION_FIT, seconds=300, begin=begin_progressive)
        for k in (4, 2, 1)
    },
    "consistency": Recipe(
        lambda: ConsistencyModel(animals_denoiser(), (1, 28, 28)),
        DISTILLATION_FIT,
        seconds=300,
        begin=begin_consistency,
    ),
}
"""Every model that `python -m coursekit train` can make, by name."""


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
