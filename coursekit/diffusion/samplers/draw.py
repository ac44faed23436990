"""`sample`: draw with any sampler from any denoiser."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from coursekit.diffusion.grids import Path, time_grid
from coursekit.diffusion.guidance import ClassifierFree
from coursekit.diffusion.samplers.single_step import Sampler, ddim, ddpm, euler, heun

__all__ = ["SAMPLERS", "sample"]

SAMPLERS: dict[str, Sampler] = {"ddpm": ddpm, "ddim": ddim, "euler": euler, "heun": heun}
"""Every sampler by name."""


@torch.no_grad()
def sample(
    denoiser: nn.Module,
    shape: tuple[int, ...],
    sampler: str | Sampler = "heun",
    steps: int = 30,
    y: Tensor | None = None,
    guidance: float = 1.0,
    grid: str = "uniform",
    generator: torch.Generator | None = None,
    x_T: Tensor | None = None,
    trajectory: bool = False,
) -> Tensor:
    """Draw from a denoiser's model.

    Args:
        denoiser: anything with `schedule` and `forward(x_t, t, y)` = E[x_0 | x_t].
        shape: of what is drawn, (N, ...).
        sampler: a name in `SAMPLERS` or such a function, e.g. ``partial(ddim, eta=0.5)``.
        steps: of the sampler, N.
        y: (N,) labels.
        guidance: the scale of `ClassifierFree`; 1 is the plain conditional law.
        grid: the kind of `time_grid`.
        generator: source of all noise, on the denoiser's device.
        x_T: (N, ...) to start from; sigma(t_max) times normal noise if None.
        trajectory: return all (steps + 1, N, ...) states instead of the last.

    Returns:
        The samples (N, ...), not clamped to any range.

    Raises:
        ValueError: for an unknown sampler or grid, or a wrong number of labels or start values.

    Example:
        >>> from coursekit.diffusion import ExactDenoiser, LinearVP
        >>> from coursekit.gmm import GaussianMixture
        >>> point = GaussianMixture(torch.ones(1), torch.ones(1, 2), 1e-4 * torch.eye(2)[None])
        >>> sample(ExactDenoiser(point, LinearVP()), (3, 2), generator=torch.Generator().manual_seed(0)).round()
        tensor([[1., 1.],
                [1., 1.],
                [1., 1.]])
    """
    if isinstance(sampler, str) and sampler not in SAMPLERS:
        raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}")
    if y is not None and y.shape != shape[:1]:
        raise ValueError(f"y must hold one label for each of {shape[0]} samples, got shape {tuple(y.shape)}")
    if x_T is not None and x_T.shape != shape:
        raise ValueError(f"x_T must have shape {tuple(shape)}, got {tuple(x_T.shape)}")
    step = SAMPLERS[sampler] if isinstance(sampler, str) else sampler
    model = denoiser if guidance == 1 else ClassifierFree(denoiser, guidance)
    path = Path.along(denoiser.schedule, time_grid(denoiser.schedule, steps, grid, getattr(denoiser, "t_max", 1.0)))
    if x_T is None:
        x_T = path.sigma[0] * torch.randn(shape, generator=generator, device=_device(denoiser, generator))
    dtype = torch.promote_types(x_T.dtype, torch.float32)

    def denoise(x: Tensor, t: float) -> Tensor:
        return model(x, torch.full((len(x),), t, dtype=dtype, device=x.device), y)

    states = step(denoise, x_T, path, generator)
    if trajectory:
        return torch.stack([x_T, *states])
    for x in states:
        last = x
    return last


def _device(denoiser: nn.Module, generator: torch.Generator | None) -> torch.device:
    if generator is not None:
        return generator.device
    tensor = next((t for group in (denoiser.parameters(), denoiser.buffers()) for t in group), None)
    return torch.device("cpu") if tensor is None else tensor.device
