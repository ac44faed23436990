"""The models of the animals that are no diffusion: classifiers, pixels one by one, energies, games, flows, latents."""

from __future__ import annotations

from functools import partial
from typing import Any

from coursekit.bayesnet import PixelCNN
from coursekit.boltzmann import RBM, PersistentChains
from coursekit.classifiers import ConvClassifier, NoiseAwareClassifier, random_affine
from coursekit.diffusion import Cosine
from coursekit.diffusion.batches import mirror
from coursekit.diffusion.optimizers import GradientDescent, muon_and_adamw
from coursekit.flows import image_flow
from coursekit.gan import image_gan
from coursekit.pixels import DiscretisedLogistics, binarise
from coursekit.recipes.recipe import RECIPES, Recipe
from coursekit.vae import PixelLikelihood, conv_auto_encoder, hierarchical_image_vae, image_vae

__all__: list[str] = []

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

RECIPES |= {
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
    "vae": Recipe(lambda: image_vae(num_classes=10, width=16), VAE_FIT, seconds=90, prepare=binarise),
    "vae-levels": Recipe(
        lambda: hierarchical_image_vae(likelihood=PixelLikelihood(DiscretisedLogistics(3)), num_classes=10, width=16),
        VAE_FIT,
        seconds=300,
    ),
}
