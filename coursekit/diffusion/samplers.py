r"""Samplers: from noise to data along a decreasing grid of times t_0 > t_1 > ... > t_{N-1}, then clean data.

Deterministic samplers follow the probability-flow ODE (Song et al., 2021, arXiv 2011.13456, eq. 13). In polar
coordinates alpha = rho cos(phi), sigma = rho sin(phi), z = x / rho, it has one form for every schedule,

    dz/dphi = cos(phi) eps - sin(phi) x_0 = (alpha x / rho - rho D(x)) / sigma,

finite from pure noise (phi = pi/2) to the last bit of noise; D is the denoiser, eps = (x - alpha D) / sigma, and the
right-hand side is the "v" of Salimans and Ho, 2022, arXiv 2202.00512, appendix D.

A sampler is a generator function (denoise, x, path, generator) that yields x after each of the N steps,
denoise(x, i) being the estimate of x_0 at time t_i. Coefficients are computed once, in float64, as Python
numbers: a step is two or three tensor operations around the network. The last step returns the denoiser's mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from coursekit.diffusion.guidance import ClassifierFree
from coursekit.diffusion.schedules import Schedule

__all__ = ["SAMPLERS", "Path", "Sampler", "ddim", "ddpm", "euler", "heun", "sample", "time_grid"]

Denoise = Callable[[Tensor, int], Tensor]
"""(x, i) -> the estimate of x_0 at the path's i-th time."""


def time_grid(schedule: Schedule, steps: int, kind: str = "uniform", t_max: float = 1.0) -> Tensor:
    """The `steps` times at which a sampler looks, (steps,) float64, strictly falling from the noisiest.

    The i-th step goes from the i-th entry to the next one; the last goes to clean data, which is no entry.

    Args:
        schedule: the noise axis.
        steps: N.
        t_max: the noisiest time.
        kind: "uniform" in t; "angle", uniform in phi = atan2(sigma, alpha); or "karras", uniform in
            (sigma / alpha)^(1/7) from 80 to 0.002 (arXiv 2206.00364, eq. 5), as far as the schedule reaches.

    Raises:
        ValueError: for fewer than one step or an unknown kind.

    Example:
        >>> from coursekit.diffusion.schedules import Rectified
        >>> time_grid(Rectified(), 4).tolist()
        [1.0, 0.75, 0.5, 0.25]
    """
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a positive integer, got {steps!r}")
    clean_start = float(schedule.sigma(0.0)) == 0  # then t = 0 is clean data itself and not a time to look at
    if kind == "uniform":
        return _levels(t_max, 0.0, steps, clean_start)
    if kind == "angle":
        first, last = float(schedule.angle(t_max)), float(schedule.angle(0.0))
        times = schedule.time(-2 * torch.log(torch.tan(_levels(first, last, steps, clean_start))))
        times[0] = t_max
        return times
    if kind == "karras":
        first, last = (float(torch.tan(schedule.angle(t))) for t in (t_max, 0.0))
        levels = _levels(min(first, 80.0) ** (1 / 7), max(last, 0.002) ** (1 / 7), steps, False) ** 7
        return schedule.time(-2 * torch.log(levels))
    raise ValueError(f"grid must be 'uniform', 'angle' or 'karras', got {kind!r}")


def _levels(first: float, last: float, steps: int, drop_last: bool) -> Tensor:
    if steps == 1:
        return torch.tensor([first], dtype=torch.float64)
    return torch.linspace(first, last, steps + drop_last, dtype=torch.float64)[:steps]


@dataclass(frozen=True)
class Path:
    """The N times of a sampler and the N + 1 noise levels between which it steps, the last one clean.

    Attributes:
        times: (N,) float64.
        alpha, sigma: N + 1 Python numbers each, ending in 1 and 0.
    """

    times: Tensor
    alpha: tuple[float, ...]
    sigma: tuple[float, ...]

    @classmethod
    def along(cls, schedule: Schedule, times: Tensor) -> Path:
        """The path of `schedule` through `times` (strictly falling).

        Raises:
            ValueError: if the times do not fall.
        """
        times = times.detach().double().cpu()
        if times.ndim != 1 or not len(times) or bool((times.diff() >= 0).any()):
            raise ValueError(f"times must fall strictly, got {times.tolist()[:8]}")
        return cls(times, (*schedule.alpha(times).tolist(), 1.0), (*schedule.sigma(times).tolist(), 0.0))

    def __len__(self) -> int:
        return len(self.times)

    def angle_step(self, i: int) -> float:
        """phi_{i+1} - phi_i, a negative number."""
        return math.atan2(self.sigma[i + 1], self.alpha[i + 1]) - math.atan2(self.sigma[i], self.alpha[i])

    def radius(self, i: int) -> float:
        """rho_i = sqrt(alpha_i^2 + sigma_i^2)."""
        return math.hypot(self.alpha[i], self.sigma[i])


Sampler = Callable[[Denoise, Tensor, Path, "torch.Generator | None"], Iterator[Tensor]]


def ddim(
    denoise: Denoise, x: Tensor, path: Path, generator: torch.Generator | None = None, eta: float = 0.0
) -> Iterator[Tensor]:
    """Keep the estimates of x_0 and eps, move to the next noise level, replace a part of the noise by fresh noise.

    eta = 0 is deterministic and of first order; eta = 1 is ancestral sampling (`ddpm`). Song et al., "Denoising
    Diffusion Implicit Models", 2020, arXiv 2010.02502, eq. 12 and 16, for any alpha and sigma.

    Raises:
        ValueError: if eta lies outside [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
    for i in range(len(path)):
        alpha, sigma, alpha_next, sigma_next = path.alpha[i], path.sigma[i], path.alpha[i + 1], path.sigma[i + 1]
        posterior = (sigma_next / sigma) ** 2 * max(0.0, sigma**2 - (alpha / alpha_next * sigma_next) ** 2)
        fresh = eta**2 * posterior  # variance of the new noise
        a = math.sqrt(max(0.0, sigma_next**2 - fresh)) / sigma
        estimate = denoise(x, i)
        x = torch.add(x * a, estimate, alpha=alpha_next - a * alpha)
        if fresh > 0:
            x = x.add_(torch.empty_like(x).normal_(generator=generator), alpha=math.sqrt(fresh))
        yield x


ddpm = partial(ddim, eta=1.0)
"""Ancestral sampling: x_{i+1} ~ q(x_{i+1} | x_i, x_0 = D(x_i)). Ho et al., 2020, arXiv 2006.11239, algorithm 2."""


def euler(denoise: Denoise, x: Tensor, path: Path, generator: torch.Generator | None = None) -> Iterator[Tensor]:
    """Euler's method on dz/dphi: one call of the denoiser a step, first order."""
    for i in range(len(path) - 1):
        ratio, step = path.radius(i + 1) / path.radius(i), path.angle_step(i)
        a = ratio * (1 + step * path.alpha[i] / path.sigma[i])
        b = -ratio * step * path.radius(i) ** 2 / path.sigma[i]
        x = torch.add(x * a, denoise(x, i), alpha=b)
        yield x
    yield denoise(x, len(path) - 1)


def heun(denoise: Denoise, x: Tensor, path: Path, generator: torch.Generator | None = None) -> Iterator[Tensor]:
    """Heun's method on dz/dphi: two calls a step (one for the last), second order.

    As algorithm 1 of Karras et al., 2022, arXiv 2206.00364, in the angle instead of sigma.
    """

    def slope(x: Tensor, i: int) -> Tensor:
        rho = path.radius(i)
        return torch.add(x * (path.alpha[i] / (rho * path.sigma[i])), denoise(x, i), alpha=-rho / path.sigma[i])

    for i in range(len(path) - 1):
        step, rho = path.angle_step(i), path.radius(i + 1)
        z, here = x / path.radius(i), slope(x, i)
        there = slope(rho * torch.add(z, here, alpha=step), i + 1)
        x = rho * torch.add(z, here + there, alpha=step / 2)
        yield x
    yield denoise(x, len(path) - 1)


SAMPLERS: dict[str, Sampler] = {"ddpm": ddpm, "ddim": ddim, "euler": euler, "heun": heun}


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
    times = path.times.to(x_T.device, torch.promote_types(x_T.dtype, torch.float32))

    states = step(lambda x, i: model(x, times[i].expand(len(x)), y), x_T, path, generator)
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
