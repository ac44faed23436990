"""`sample`: draw with any sampler from any denoiser, along any grid."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from coursekit.diffusion.grids import Grid, Path, time_grid
from coursekit.diffusion.guidance import ClassifierFree
from coursekit.diffusion.samplers.adaptive import adaptive
from coursekit.diffusion.samplers.multistep import deis, dpmpp_2m, unipc
from coursekit.diffusion.samplers.single_step import Sampler, ddim, ddpm, dpmpp_2s, euler, heun
from coursekit.diffusion.samplers.stochastic import dpmpp_2m_sde, edm, pc
from coursekit.diffusion.transport import refuse_coupled

__all__ = ["SAMPLERS", "Recorder", "sample"]

SAMPLERS: dict[str, Sampler] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "euler": euler,
    "heun": heun,
    "dpm++2s": dpmpp_2s,
    "dpm++2m": dpmpp_2m,
    "dpm++2m-sde": dpmpp_2m_sde,
    "deis": deis,
    "unipc": unipc,
    "edm": edm,
    "pc": pc,
    "adaptive": adaptive,
}
"""Every sampler by name."""


@torch.no_grad()
def sample(
    denoiser: nn.Module,
    shape: tuple[int, ...],
    sampler: str | Sampler = "heun",
    steps: int | None = None,
    y: Tensor | None = None,
    guidance: float = 1.0,
    grid: str | Grid | Tensor = "uniform",
    generator: torch.Generator | None = None,
    x_T: Tensor | None = None,
    trajectory: bool = False,
) -> Tensor:
    """Draw from a denoiser's model.

    Args:
        denoiser: anything with `schedule` and `forward(x_t, t, y)` = E[x_0 | x_t].
        shape: of what is drawn, (N, ...).
        sampler: a name in `SAMPLERS` or such a function, e.g. ``partial(ddim, eta=0.5)``.
        steps: of the sampler; if None, 30 or as many as `grid` has entries.
        y: (N,) labels.
        guidance: the scale of `ClassifierFree`; 1 is the plain conditional law.
        grid: the times at which the sampler looks: a kind of `time_grid`, a function (schedule, steps, t_max) -> times,
            or the times themselves, falling.
        generator: source of all noise, on the denoiser's device.
        x_T: (N, ...) to start from; sigma at the first time, times normal noise, if None.
        trajectory: return all (steps + 1, N, ...) states instead of the last; of "adaptive" only both ends.

    Returns:
        The samples (N, ...), not clamped to any range.

    Raises:
        ValueError: for an unknown sampler or grid, or a wrong number of steps, labels or start values; for a sampler
            that adds noise and a denoiser with a coupling.

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
    if _adds_noise(step):
        refuse_coupled(denoiser, "a sampler that adds noise")
    steps = steps if steps is not None else len(grid) if isinstance(grid, Tensor) else 30
    path = Path.along(denoiser.schedule, time_grid(denoiser.schedule, steps, grid, getattr(denoiser, "t_max", 1.0)))
    model = denoiser if guidance == 1 else ClassifierFree(denoiser, guidance)
    if x_T is None:
        x_T = path.sigma[0] * torch.randn(shape, generator=generator, device=_device(denoiser, generator))
    dtype = torch.promote_types(x_T.dtype, torch.float32)

    def denoise(x: Tensor, t: float | Tensor) -> Tensor:
        return model(x, t if isinstance(t, Tensor) else torch.full((len(x),), t, dtype=dtype, device=x.device), y)

    states = step(denoise, x_T, path, generator)
    if trajectory:
        return torch.stack([x_T, *states])
    for x in states:
        last = x
    return last


class Recorder(nn.Module):
    """A denoiser around a denoiser, that counts the calls and can keep what was answered.

    Args:
        denoiser: a `Denoiser`, or a guided one; of a plain denoiser, a guided pair within one call counts as one.
        keep: whether to keep the times and the estimates of x_0.

    Attributes:
        calls: how often it was asked, each time for a whole batch.
        times: of each call that was kept, (N,).
        estimates: of x_0, of each call that was kept, (N, ...).

    Example:
        >>> from coursekit.diffusion import Denoiser, Rectified
        >>> recorder = Recorder(Denoiser(lambda x, t: torch.zeros_like(x), Rectified()), keep=True)
        >>> sample(recorder, (5, 2), "heun", 10).shape, recorder.calls, torch.stack(recorder.estimates).shape
        (torch.Size([5, 2]), 19, torch.Size([19, 5, 2]))
    """

    def __init__(self, denoiser: nn.Module, keep: bool = False) -> None:
        super().__init__()
        self.denoiser, self.keep, self.calls = denoiser, keep, 0
        self.schedule, self.t_max = denoiser.schedule, getattr(denoiser, "t_max", 1.0)
        self.num_classes = getattr(denoiser, "num_classes", None)
        self.times: list[Tensor] = []
        self.estimates: list[Tensor] = []

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """What the denoiser says, (N, ...)."""
        estimate, self.calls = self.denoiser(x_t, t, y), self.calls + 1
        if self.keep:
            self.times.append(t)
            self.estimates.append(estimate)
        return estimate


def _adds_noise(sampler: Sampler) -> bool:
    """Whether it draws fresh noise on the way, as far as it is one of ours; `partial` is seen through."""
    function = getattr(sampler, "func", sampler)
    if function in (ddim, edm):
        return inspect.signature(sampler).parameters["eta" if function is ddim else "churn"].default > 0
    return function in (ddpm, dpmpp_2m_sde, pc)


def _device(denoiser: nn.Module, generator: torch.Generator | None) -> torch.device:
    if generator is not None:
        return generator.device
    tensor = next((t for group in (denoiser.parameters(), denoiser.buffers()) for t in group), None)
    return torch.device("cpu") if tensor is None else tensor.device
