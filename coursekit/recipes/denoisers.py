"""Diffusion models of the animals, and what is distilled from them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from coursekit.data import load_animals
from coursekit.diffusion import Denoiser, LogitNormal, Rectified, time_grid
from coursekit.diffusion.batches import mirror
from coursekit.diffusion.distillation import (
    ConsistencyDistillation,
    ConsistencyModel,
    FewSteps,
    ProgressiveDistillation,
)
from coursekit.diffusion.guidance import ClassifierFree
from coursekit.diffusion.latent import LatentDiffusion
from coursekit.diffusion.likelihood import CapacityTimes
from coursekit.diffusion.optimizers import muon_and_adamw
from coursekit.networks import TimeMLP, UNet
from coursekit.recipes.recipe import RECIPES, Recipe, load_released
from coursekit.vae import conv_auto_encoder

__all__: list[str] = []


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

RECIPES |= {
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
