r"""Latent diffusion: an auto-encoder makes few numbers of a picture, diffusion draws the few numbers.

    z = (f(x) - m) / s,      z_0 -> z_t = alpha z_0 + sigma eps -> ... -> z_0,      x' = g(m + s z_0),

f and g the encoder and decoder of an auto-encoder that was trained before and is frozen now, m and s the mean and the
deviation of each number of its codes over the training data. The auto-encoder had no law for its codes; the diffusion
model is that law. What it draws cannot be better than what g makes of the codes of real pictures: those
reconstructions are its ceiling. Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2022,
arXiv 2112.10752; Vahdat et al., "Score-based Generative Modeling in Latent Space", 2021, arXiv 2106.05931, train both
together.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from coursekit.diffusion.denoiser import Denoiser
from coursekit.diffusion.samplers import Sampler, sample
from coursekit.vae import AutoEncoder

__all__ = ["LatentDiffusion"]


class LatentDiffusion(nn.Module):
    """A denoiser of codes between a frozen encoder and its decoder.

    Args:
        auto_encoder: pictures (N, ...) to codes (N, D) and back; it is frozen, and saved with the model.
        denoiser: of codes (N, D).

    Example:
        >>> from coursekit.diffusion.schedules import Rectified
        >>> from coursekit.networks import TimeMLP
        >>> from coursekit.vae import linear_auto_encoder
        >>> model = LatentDiffusion(linear_auto_encoder(5, latent=2), Denoiser(TimeMLP(2), Rectified()))
        >>> x = 3 + torch.randn(100, 5, generator=torch.Generator().manual_seed(0))
        >>> z = model.standardise(x).encode(x)
        >>> bool((z.mean(0).abs() < 1e-5).all() and (z.std(0) - 1 < 1e-5).all())
        True
        >>> model.sample(4).shape
        torch.Size([4, 5])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, auto_encoder: AutoEncoder, denoiser: Denoiser) -> None:
        super().__init__()
        self.auto_encoder, self.denoiser = auto_encoder.requires_grad_(False).eval(), denoiser
        self.register_buffer("mean", torch.zeros(auto_encoder.latent))
        self.register_buffer("std", torch.ones(auto_encoder.latent))

    @property
    def num_classes(self) -> int | None:
        """Of the denoiser."""
        return self.denoiser.num_classes

    def train(self, mode: bool = True) -> LatentDiffusion:
        """Only the denoiser is ever in training mode."""
        super().train(mode)
        self.auto_encoder.eval()
        return self

    @torch.no_grad()
    def standardise(self, x: Tensor, batch_size: int = 500) -> LatentDiffusion:
        """Take mean and deviation of the codes from training data (N, ...); to be called once, before training.

        Raises:
            ValueError: if some number of the codes is the same for all data.
        """
        codes = torch.cat([self.auto_encoder.encode(part) for part in x.split(batch_size)])
        std, mean = torch.std_mean(codes, dim=0)
        if not bool((std > 0).all()):
            raise ValueError(f"x must have codes that differ in every number, got deviations {std.tolist()}")
        self.mean.copy_(mean)
        self.std.copy_(std)
        return self

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """The standardised codes (N, D) of x (N, ...)."""
        return (self.auto_encoder.encode(x) - self.mean) / self.std

    def decode(self, z: Tensor) -> Tensor:
        """What standardised codes (N, D) stand for, (N, ...)."""
        return self.auto_encoder.decode(self.mean + self.std * z)

    def loss(self, x: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """The denoiser's loss on the codes of x (N, ...), a scalar."""
        return self.denoiser.loss(self.encode(x), y, generator)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        y: Tensor | None = None,
        generator: torch.Generator | None = None,
        steps: int = 30,
        guidance: float = 1.0,
        sampler: str | Sampler = "heun",
    ) -> Tensor:
        """n samples (n, ...): codes drawn by `coursekit.diffusion.sample`, whose settings these are, and decoded."""
        shape = (n, self.auto_encoder.latent)
        return self.decode(sample(self.denoiser, shape, sampler, steps, y, guidance, generator=generator))
