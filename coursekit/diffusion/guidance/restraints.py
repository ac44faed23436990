"""Restraints on guidance: where it applies, and what it may do to the brightness of a picture."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from coursekit.diffusion.chain import expand
from coursekit.diffusion.guidance.wrapper import Wrapper

__all__ = ["DynamicThreshold", "IntervalLimited", "Rescaled"]


class IntervalLimited(Wrapper):
    """Guidance at middling noise only: the guided estimate where low < sigma / alpha <= high, else the plain one.

    At high noise guidance throws away modes, at low noise it does nothing but cost. Where no sample is inside, the
    guided estimate is not computed. (On an accelerator times cannot be looked at without a wait: there both are
    computed and chosen from, unless t is a number.) Kynkäänniemi et al., "Applying Guidance in a Limited
    Interval Improves Sample and Distribution Quality in Diffusion Models", 2024, arXiv 2404.07724, section 3.

    Args:
        denoiser: a guided denoiser, such as `ClassifierFree`.
        low, high: noise-to-signal ratios sigma / alpha = exp(-log_snr / 2), which is sigma in EDM's terms; high may be
            infinite.

    Raises:
        ValueError: unless 0 <= low < high.

    Example:
        >>> from coursekit.diffusion import Denoiser, Rectified
        >>> from coursekit.diffusion.guidance import ClassifierFree
        >>> denoiser = Denoiser(lambda x, t, y: 1.0 * (y[:, None] < 4), Rectified(), "x0", num_classes=4)
        >>> guided = IntervalLimited(ClassifierFree(denoiser, 3.0), 0.5, 2.0)
        >>> guided(torch.zeros(3, 1), torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0, 1, 2])).flatten().tolist()
        [1.0, 3.0, 1.0]
    """

    def __init__(self, denoiser: nn.Module, low: float, high: float) -> None:
        super().__init__(denoiser)
        if not 0 <= low < high:
            raise ValueError(f"0 <= low < high is wanted, got low = {low}, high = {high}")
        self.low, self.high = low, high

    def pair(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        ratio = self.schedule.sigma(t) / self.schedule.alpha(t)
        inside = (ratio > self.low) & (ratio <= self.high)
        if inside.device.type == "cpu" and not bool(inside.any()):
            plain = self.plain(x_t, t, y)
            return plain, plain
        plain, guided = self.inner_pair(x_t, t, y)
        return plain, torch.where(expand(inside, x_t), guided, plain)


class Rescaled(Wrapper):
    """The guided estimate with its deviation brought back towards the plain one's, picture by picture.

    With s the standard deviation over all values of one sample, D~ <- (strength s(D) / s(D~) + 1 - strength) D~. Lin et
    al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", 2023, arXiv 2305.08891, section 3.4, where the
    values are the network's outputs; here they are estimates of x_0. A sample without deviation stays as it is.

    Args:
        denoiser: a guided denoiser, such as `ClassifierFree`.
        strength: 0 leaves the guided estimate, 1 gives it the plain one's deviation.

    Raises:
        ValueError: if strength lies outside [0, 1].

    Example:
        >>> from coursekit.diffusion import Denoiser, Rectified
        >>> from coursekit.diffusion.guidance import ClassifierFree
        >>> denoiser = Denoiser(lambda x, t, y: x * (y[:, None] < 4), Rectified(), "x0", num_classes=4)
        >>> x_t, t, y = torch.tensor([[1.0, -1.0]]), torch.tensor(0.5), torch.tensor([0])
        >>> rescaled = Rescaled(ClassifierFree(denoiser, 3.0), 1.0)(x_t, t, y)
        >>> torch.allclose(rescaled.std(), denoiser(x_t, t, y).std())
        True
    """

    def __init__(self, denoiser: nn.Module, strength: float = 0.7) -> None:
        super().__init__(denoiser)
        if not 0 <= strength <= 1:
            raise ValueError(f"strength must lie in [0, 1], got {strength}")
        self.strength = strength

    def pair(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        plain, guided = self.inner_pair(x_t, t, y)
        wanted, found = (x.flatten(1).var(1, correction=0) for x in (plain, guided))
        flat = found <= torch.finfo(found.dtype).tiny
        ratio = torch.where(flat, 1.0, wanted / torch.where(flat, 1.0, found)).sqrt()
        return plain, guided * expand(1 + self.strength * (ratio - 1), guided)


class DynamicThreshold(Wrapper):
    """Keep estimates in [-1, 1] without flattening them: clamp to the s-th percentile of |D~|, then divide by it.

    For each picture s is the given quantile of its absolute values, or 1 if that is smaller: then it is a plain clamp.
    Saharia et al., "Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding" (Imagen), 2022,
    arXiv 2205.11487, section 2.3. For pictures in [-1, 1] only.

    Args:
        denoiser: a guided denoiser.
        quantile: the share of values that are not clamped; 1 divides by the largest.

    Raises:
        ValueError: if quantile lies outside (0, 1].

    Example:
        >>> from coursekit.diffusion import Denoiser, Rectified
        >>> limited = DynamicThreshold(Denoiser(lambda x, t: x, Rectified(), "x0"), 0.75)
        >>> limited(torch.tensor([[4.0, -2.0, 1.0, 0.0]]), torch.tensor(1.0)).tolist()
        [[1.0, -1.0, 0.5, 0.0]]
    """

    def __init__(self, denoiser: nn.Module, quantile: float = 0.995) -> None:
        super().__init__(denoiser)
        if not 0 < quantile <= 1:
            raise ValueError(f"quantile must lie in (0, 1], got {quantile}")
        self.quantile = quantile

    def pair(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        plain, guided = self.inner_pair(x_t, t, y)
        values = guided.flatten(1).abs().sort(dim=1).values
        limit = values[:, math.ceil(self.quantile * values.shape[1]) - 1].clamp(min=1.0)
        limit = expand(limit, guided)
        return plain, guided.clamp(-limit, limit) / limit
