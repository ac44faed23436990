r"""Continuous flows: the map is the solution of a differential equation, its log-determinant an integral.

With dx/dt = v(x, t), and time as everywhere in the course (t = 0 is data, t = 1 is the base), a point's log-density
changes by minus the divergence of v, the instantaneous change of variables:

    d log p_t(x_t) / dt = -tr(dv/dx),    log p_X(x_0) = log p_Z(x_1) + int_0^1 tr(dv/dx)(x_t, t) dt.

The trace costs D backward passes through v, or one if it is estimated: for a probe e with E[e e^T] = I, drawn once and
kept for the whole solve, E[e^T (dv/dx) e] = tr(dv/dx). References: Chen et al., "Neural Ordinary Differential
Equations", 2018, arXiv 1806.07366, eq. 8; Grathwohl et al., "FFJORD", 2019, arXiv 1810.01367, eq. 6 to 8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from coursekit.flows.base import Bijection
from coursekit.networks import MLP, TimeEmbedding

__all__ = ["ContinuousFlow", "ExactTrace", "Hutchinson", "Velocity", "VelocityMLP", "quadratic_forms"]

Velocity = Callable[..., Tensor]
"""v(x (N, ...), t (N,)) -> (N, ...); a velocity that depends on a context takes it as a third argument."""


@dataclass(frozen=True)
class ExactTrace:
    """The trace from the diagonal of the Jacobian, one backward pass a dimension."""

    stochastic = False

    def probes(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The unit vectors, (D, N, D)."""
        D = x[0].numel()
        return torch.eye(D, dtype=x.dtype, device=x.device)[:, None].expand(-1, len(x), -1).reshape(D, *x.shape)


@dataclass(frozen=True)
class Hutchinson:
    """The trace from `probes` random signs (Rademacher), or from Gaussian numbers if `gaussian`.

    With signs the estimate is exact where the Jacobian is diagonal.
    """

    count: int = 1
    gaussian: bool = False
    stochastic = True

    def probes(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(count, N, ...), scaled so that the sum of the quadratic forms is the mean over probes."""
        e = x.new_empty(self.count, *x.shape).normal_(generator=generator)
        return (e if self.gaussian else torch.where(e < 0, -1.0, 1.0).to(x.dtype)) / self.count**0.5


class ContinuousFlow(Bijection):
    """The flow of dx/dt = v(x, t) from t = 1, the base, to t = 0, the data; `inverse` goes from t_0 to t_1.

    The velocity may be a network that learns, or any function: the probability-flow velocity of an exact diffused
    mixture gives that mixture's log-density. The solver fetches its times and step sizes from the device, so unlike the
    other layers this one waits for an accelerator. An adaptive solver chooses its steps for the whole batch, so a
    point's result depends on its batch mates, within the accuracy asked for.

    Args:
        velocity: v(x, t) or, with a context, v(x, t, context); a module's parameters are learned.
        trace: `ExactTrace()` or `Hutchinson()`.
        start: t of the data.
        end: t of the base.
        solver: of torchdiffeq, adaptive ("dopri5", ...) or of fixed steps ("rk4", "midpoint", "euler").
        steps: of a solver with fixed steps.
        rtol, atol: of an adaptive solver.

    Raises:
        ValueError: if start and end are equal, or steps is not positive.

    Example:
        >>> layer = ContinuousFlow(lambda x, t: x)  # x_1 = e x_0
        >>> z, log_det = layer.inverse(torch.ones(1, 2, dtype=torch.float64))
        >>> z.round(decimals=5).tolist(), log_det.round(decimals=5).tolist()
        ([[2.71828, 2.71828]], [2.0])
    """

    def __init__(
        self,
        velocity: Velocity,
        trace: ExactTrace | Hutchinson | None = None,
        *,
        start: float = 0.0,
        end: float = 1.0,
        solver: str = "dopri5",
        steps: int = 20,
        rtol: float = 1e-6,
        atol: float = 1e-7,
    ) -> None:
        super().__init__()
        if start == end or steps < 1:
            raise ValueError(f"start != end and steps >= 1 are wanted, got {start}, {end} and {steps}")
        self.velocity, self.trace = velocity, ExactTrace() if trace is None else trace
        self.start, self.end, self.solver, self.steps, self.rtol, self.atol = start, end, solver, steps, rtol, atol
        self.stochastic = self.trace.stochastic

    def forward(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return self._solve(z, self.end, self.start, context, generator)

    def inverse(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return self._solve(x, self.start, self.end, context, generator)

    def path(self, points: Tensor, times: Tensor, context: Tensor | None = None) -> Tensor:
        """Where points (N, ...) that start at times[0] are at each time, (len(times), N, ...); no log-determinants."""

        def field(t: Tensor, x: Tensor) -> Tensor:
            return self._velocity(x, t, context)

        return odeint(field, points, times.to(points), method=self.solver, **self._accuracy(times))

    def _solve(
        self, points: Tensor, start: float, end: float, context: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        probes = self.trace.probes(points, generator)  # drawn once, so that the solver sees one smooth function
        learning = torch.is_grad_enabled()

        def field(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                x = state[0] if state[0].requires_grad else state[0].detach().requires_grad_()
                v = self._velocity(x, t, context)
                trace = quadratic_forms(v, x, probes, learning).sum(0)
            return (v, trace) if learning else (v.detach(), trace.detach())

        times = torch.linspace(start, end, 2, dtype=points.dtype, device=points.device)
        state = (points, points.new_zeros(len(points)))
        x, log_det = odeint(field, state, times, method=self.solver, **self._accuracy(times))
        return x[-1], log_det[-1]

    def _velocity(self, x: Tensor, t: Tensor, context: Tensor | None) -> Tensor:
        t = t.to(x.dtype).expand(len(x))
        return self.velocity(x, t) if context is None else self.velocity(x, t, context)

    def _accuracy(self, times: Tensor) -> dict[str, object]:
        if self.solver in ("euler", "midpoint", "heun2", "heun3", "rk4"):
            return {"options": {"step_size": abs(self.end - self.start) / self.steps}}
        # steps end at the times asked for: a velocity need not exist beyond the interval
        return {"rtol": self.rtol, "atol": self.atol, "options": {"step_t": times}}


def quadratic_forms(v: Tensor, x: Tensor, probes: Tensor, create_graph: bool = False) -> Tensor:
    """e^T (dv/dx) e for each sample and probe, (count, N): their sum is the trace, or its estimate.

    Args:
        v: (N, ...) computed from x, each sample by itself; zero if it does not depend on x.
        x: (N, ...), which requires a gradient.
        probes: (count, N, ...) of `ExactTrace` or `Hutchinson`.
        create_graph: whether the forms are to be differentiated themselves.

    Example:
        >>> x = torch.ones(1, 2, requires_grad=True)
        >>> quadratic_forms(3 * x, x, ExactTrace().probes(x))
        tensor([[3.],
                [3.]])
    """
    return torch.stack([(_product(v, x, e, create_graph) * e).flatten(1).sum(1) for e in probes])


def _product(v: Tensor, x: Tensor, e: Tensor, create_graph: bool) -> Tensor:
    """e^T dv/dx, (N, ...); zero where v does not depend on x."""
    if not v.requires_grad:
        return torch.zeros_like(x)
    (product,) = torch.autograd.grad(v, x, e, create_graph=create_graph, retain_graph=True, allow_unused=True)
    return torch.zeros_like(x) if product is None else product


class VelocityMLP(nn.Module):
    """A perceptron v(x, t, context) for points (N, D): sums of a layer for each argument, then hidden layers.

    Example:
        >>> VelocityMLP(2)(torch.zeros(5, 2), torch.zeros(5)).shape
        torch.Size([5, 2])
    """

    def __init__(self, features: int, width: int = 64, depth: int = 2, context: int = 0) -> None:
        super().__init__()
        self.time = nn.Sequential(TimeEmbedding(16, max_frequency=10.0), nn.Linear(16, width))
        self.point = nn.Linear(features, width)
        self.context = nn.Linear(context, width, bias=False) if context else None
        self.body = nn.Sequential(nn.Tanh(), MLP([*[width] * depth, features], nn.Tanh))

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        """(N, D) points at times (N,) with a context (N, C) -> velocities (N, D)."""
        h = self.point(x) + self.time(t)
        return self.body(h if self.context is None else h + self.context(context))
