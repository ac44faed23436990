r"""Densities by the probability-flow ODE: a diffusion model read as a continuous flow.

In polar coordinates alpha = rho cos(phi), sigma = rho sin(phi), z = x / rho, the ODE has one form for every schedule,

    dz/dphi = v(z, phi) = cos(phi) E[eps | x] - sin(phi) E[x_0 | x],

finite from data (phi = 0) to pure noise (phi = pi/2). Along it d log p(z)/dphi = -tr(dv/dz), so that for x at t_min

    log p(x) = log p_T(x_T) + int_{phi_min}^{phi_max} tr(dv/dz) dphi + D log(rho_T / rho_min),

with p_T = N(0, sigma^2 I), where samplers start: the density is that of what a perfect deterministic sampler draws. For
the exact denoiser it is the density of the noisy data at t_min, as far as p_T is the law of x_T; where alpha(t_max) is
not 0 (the linear schedules, VE, EDM) it is not quite, and `base` can say so. Song et al., "Score-Based Generative
Modeling through Stochastic Differential Equations", 2021, arXiv 2011.13456, section 4.3 and eq. 39; the trace is that
of `coursekit.flows.continuous`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from coursekit.diffusion.chain import expand
from coursekit.diffusion.likelihood.capacity import ends
from coursekit.diffusion.ode import odeint
from coursekit.diffusion.schedules import Schedule
from coursekit.flows import ExactTrace, Hutchinson, quadratic_forms

__all__ = ["LogDensity", "ode_log_prob"]


@dataclass(frozen=True)
class LogDensity:
    """Log-densities of N samples and how far they may be off.

    Attributes:
        log_prob: (N,) in nats.
        solver_error: (N,) in nats, from the embedded errors of all steps added up. Cautious at tolerances of 1e-6 and
            below; at 1e-4 a long step can pass over what it should have seen.
        trace_error: (N,) in nats, the standard error of the trace over the probes; 0 for the exact trace, infinite for
            a single probe, which cannot know.
        x_T: where the samples arrive, (N, ...).
        evaluations: of the denoiser and its Jacobian, each for the whole batch.
    """

    log_prob: Tensor
    solver_error: Tensor
    trace_error: Tensor
    x_T: Tensor
    evaluations: int


def ode_log_prob(
    denoiser: nn.Module,
    x: Tensor,
    y: Tensor | None = None,
    *,
    trace: ExactTrace | Hutchinson | None = None,
    t_min: float | None = None,
    base: Callable[[Tensor], Tensor] | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    generator: torch.Generator | None = None,
) -> LogDensity:
    """log p(x) of x (N, ...) at time t_min, with a step size per sample (see `coursekit.diffusion.ode.odeint`).

    Args:
        denoiser: anything with `schedule` and `forward(x_t, t, y)` = E[x_0 | x_t], differentiable by x_t, each sample
            by itself.
        x: real numbers, not levels (see `dequantised_log_prob`).
        y: labels (N,), if the denoiser takes them.
        trace: `ExactTrace()`, which costs D backward passes, or `Hutchinson(count)`; exact if None.
        t_min: where x lies; the denoiser's own if None.
        base: log p_T in nats, (N, ...) -> (N,); N(0, sigma(t_max)^2 I) if None.
        rtol: relative tolerance of a step, of z and of the log-density.
        atol: absolute tolerance of a step.
        generator: of the probes, on x's device: drawn once and kept for the whole solve.

    Raises:
        ValueError: if no noise is left at t_min.
        RuntimeError: if the solver does not arrive.

    Example:
        >>> from coursekit.diffusion import ExactDenoiser, Rectified
        >>> from coursekit.gmm import GaussianMixture
        >>> normal = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
        >>> ode_log_prob(ExactDenoiser(normal, Rectified()), torch.zeros(1, 2)).log_prob  # -log(2 pi)
        tensor([-1.8379])
    """
    schedule, (t_min, t_max) = denoiser.schedule, ends(denoiser, t_min)
    trace = ExactTrace() if trace is None else trace
    probes = trace.probes(x, generator)
    (rho_min, phi_min), (rho_max, phi_max) = _polar(schedule, t_min), _polar(schedule, t_max)

    def field(state: tuple[Tensor, Tensor], phi: Tensor) -> tuple[Tensor, Tensor]:
        t = _time(schedule, phi).clamp(t_min, t_max)
        with torch.enable_grad():
            z = state[0].detach().requires_grad_()
            v = _velocity(denoiser, z, t, y)
            forms = quadratic_forms(v, z, probes)
        return v.detach(), (forms if trace.stochastic else forms.sum(0, keepdim=True)).T

    with torch.no_grad():
        start = (x / rho_min, x.new_zeros(len(x), len(probes) if trace.stochastic else 1))
        solution = odeint(field, start, phi_min, phi_max, rtol=rtol, atol=atol)
        (z, log_det), (z_error, log_error) = solution.x, solution.error
        x_T = rho_max * z
        log_base = _log_normal(x_T, rho_max * math.sin(phi_max)) if base is None else base(x_T)
        log_prob = log_base + log_det.sum(1) + x[0].numel() * math.log(rho_max / rho_min)
        drift = (z * z_error).flatten(1).norm(dim=1) / math.sin(phi_max) ** 2  # of log_base, errors being independent
    return LogDensity(log_prob, log_error.sum(1) + drift, _spread(log_det, trace), x_T, solution.evaluations)


def _polar(schedule: Schedule, t: float) -> tuple[float, float]:
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    return math.hypot(alpha, sigma), math.atan2(sigma, alpha)


def _time(schedule: Schedule, phi: Tensor) -> Tensor:
    """The time of an angle; float32 can put pi/2 on its far side."""
    return schedule.time(2 * (torch.log(torch.cos(phi).clamp_min(1e-30)) - torch.log(torch.sin(phi))))


def _velocity(denoiser: nn.Module, z: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
    alpha, sigma = (expand(c, z) for c in (denoiser.schedule.alpha(t), denoiser.schedule.sigma(t)))
    rho = torch.hypot(alpha, sigma)
    x_0, eps = _estimates(denoiser, rho * z, t, y, alpha, sigma)
    return (alpha * eps - sigma * x_0) / rho


def _estimates(
    denoiser: nn.Module, x: Tensor, t: Tensor, y: Tensor | None, alpha: Tensor, sigma: Tensor
) -> tuple[Tensor, Tensor]:
    """E[x_0 | x] and E[eps | x], the second from the first if the denoiser does not know it by itself."""
    if hasattr(denoiser, "estimates"):
        return denoiser.estimates(x, t, y)
    x_0 = denoiser(x, t, y)
    return x_0, (x - alpha * x_0) / sigma


def _log_normal(x: Tensor, std: float) -> Tensor:
    """log N(x; 0, std^2 I), (N,)."""
    return -0.5 * (x / std).square().flatten(1).sum(1) - x[0].numel() * math.log(std * math.sqrt(2 * math.pi))


def _spread(log_det: Tensor, trace: ExactTrace | Hutchinson) -> Tensor:
    """Standard error of the sum of the probes' shares (N, count), (N,)."""
    count = log_det.shape[1]
    if not trace.stochastic:
        return torch.zeros_like(log_det[:, 0])
    return torch.full_like(log_det[:, 0], math.inf) if count < 2 else math.sqrt(count) * log_det.std(1)
