r"""Consistency distillation: a student that says at once where the probability-flow ODE ends.

All points of one solution x_t of the ODE share its end x_m, at the smallest time m. The consistency function
f(x_t, t) = x_m is therefore the same along a solution, and at its end it is the identity:

    f(x_t, t) = f(x_u, u) for t, u on one solution,    f(x, m) = x.

The second line holds by construction: f is the deterministic step (DDIM) from t to m under a network's estimate D,

    f(x, t) = r x + (alpha_m - r alpha_t) D(x, t),    r = sigma_m / sigma_t,    so f(x, m) = 1 x + 0 D.

The first is trained on neighbours of a grid t_0 > t_1 > ... > t_M = m: the teacher steps from x_t (data and noise) to
x_u, and f(x_t, t) learns f'(x_u, u), f' with a slowly following average of the student's weights. The truth thus
travels from the end of the grid, where f is known, to its beginning. Once there, one call draws a sample; more calls
go back to a noise level in between and ask again. Song et al., "Consistency Models", 2023, arXiv 2303.01469, eq. 4-7
and algorithms 1 and 2; the form of f for any schedule after Kim et al., 2023, arXiv 2310.02279, eq. 9.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from coursekit.diffusion.chain import expand
from coursekit.diffusion.denoiser import Denoiser
from coursekit.diffusion.distillation.progressive import Level, ddim_step
from coursekit.diffusion.losses import Stratified

__all__ = ["ConsistencyDistillation", "ConsistencyModel", "pseudo_huber", "squared"]

Distance = Callable[[Tensor, Tensor], Tensor]
"""(a (N, ...), b (N, ...)) -> how far apart they are, (N,)."""


def squared(a: Tensor, b: Tensor) -> Tensor:
    """The mean squared difference of each pair, (N,)."""
    return (a - b).square().flatten(1).mean(1)


def pseudo_huber(a: Tensor, b: Tensor) -> Tensor:
    """sqrt(|a - b|^2 + c^2) - c with c = 0.00054 sqrt(D): a length, so that no pair of a batch drowns the others.

    Song and Dhariwal, "Improved Techniques for Training Consistency Models", 2023, arXiv 2310.14189, eq. 7.
    """
    difference = (a - b).flatten(1)
    c = 0.00054 * difference.shape[1] ** 0.5
    return (difference.square().sum(1) + c**2).sqrt() - c


class ConsistencyModel(nn.Module):
    """The consistency function f of a network, and samples in one, two or more calls.

    Args:
        denoiser: the network on its noise axis; what it says is no longer E[x_0 | x_t].
        shape: of one sample.

    Example:
        >>> from coursekit.diffusion.schedules import Rectified
        >>> model = ConsistencyModel(Denoiser(lambda x, t: torch.zeros_like(x), Rectified(), "x0"), (2,))
        >>> x = torch.ones(3, 2)
        >>> torch.equal(model(x, torch.tensor(model.t_min)), x), model(x, torch.tensor(1.0)).abs().max().item() < 1e-4
        (True, True)
        >>> model.sample(3, steps=2).shape
        torch.Size([3, 2])
    """

    def __init__(self, denoiser: Denoiser, shape: Sequence[int]) -> None:
        super().__init__()
        self.denoiser, self.shape = denoiser, tuple(shape)
        self.schedule, self.num_classes = denoiser.schedule, denoiser.num_classes
        self.t_min, self.t_max = denoiser.t_min, denoiser.t_max

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """f(x_t, t) (N, ...): the end, at t_min, of the solution through x_t (N, ...) at times t (N,) or ()."""
        return ddim_step(x_t, self.denoiser(x_t, t, y), self._level(t), self._level(torch.full_like(t, self.t_min)))

    @torch.no_grad()
    def sample(
        self,
        n: int,
        y: Tensor | None = None,
        generator: torch.Generator | None = None,
        steps: int = 1,
        x_T: Tensor | None = None,
    ) -> Tensor:
        """n samples (n, ...) by `steps` calls at equally distant times from t_max down: arXiv 2303.01469, algorithm 1.

        After each call but the last, noise is added again up to the level of the next time.

        Raises:
            ValueError: if steps is not positive.
        """
        if steps < 1:
            raise ValueError(f"steps must be positive, got {steps}")
        like = next(self.denoiser.parameters(), torch.zeros(()))
        times = torch.linspace(self.t_max, self.t_min, steps + 1, device=like.device, dtype=like.dtype)[:-1]
        end = self._level(torch.full_like(times[0], self.t_min))
        x = self._level(times[0])[1] * self._noise(n, times, generator) if x_T is None else x_T
        x = self(x, times[0].expand(n), y)
        for t in times[1:]:
            alpha, sigma = self._level(t)
            keep = alpha / end[0]
            x = keep * x + (sigma**2 - (keep * end[1]) ** 2).sqrt() * self._noise(n, times, generator)
            x = self(x, t.expand(n), y)
        return x

    def _level(self, t: Tensor) -> Level:
        return self.schedule.alpha(t), self.schedule.sigma(t)

    def _noise(self, n: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
        return torch.randn(n, *self.shape, generator=generator, device=like.device, dtype=like.dtype)


class ConsistencyDistillation(nn.Module):
    """Trains a consistency model along the ODE of a teacher. `fit` takes it as a model.

    The student should begin as a copy of the teacher's network. The teacher is frozen.

    Args:
        teacher: anything with `schedule` and `forward(x_t, t, y)`: a trained denoiser or a guided one.
        student: on the same schedule.
        intervals: M, between neighbouring times of the grid, equally distant from t_max to t_min.
        memory: how much of itself the following average keeps at each step; 0 follows at once.
        distance: between f(x_t, t) and f'(x_u, u).

    Raises:
        ValueError: for another schedule than the teacher's, no interval, or a memory outside [0, 1).
    """

    times: Tensor

    def __init__(
        self,
        teacher: nn.Module,
        student: ConsistencyModel,
        intervals: int = 16,
        memory: float = 0.95,
        distance: Distance = pseudo_huber,
    ) -> None:
        super().__init__()
        if student.schedule != teacher.schedule:
            raise ValueError(f"student must be on the teacher's {teacher.schedule}, got {student.schedule}")
        if intervals < 1 or not 0 <= memory < 1:
            raise ValueError(f"intervals >= 1 and 0 <= memory < 1 are wanted, got {intervals} and {memory}")
        self.teacher, self.student = teacher.requires_grad_(False), student
        self.following = copy.deepcopy(student).requires_grad_(False)
        self.memory, self.distance = memory, distance
        self.register_buffer("times", torch.linspace(student.t_max, student.t_min, intervals + 1), persistent=False)

    def train(self, mode: bool = True) -> ConsistencyDistillation:
        """Only the student is ever in training mode."""
        super().train(mode)
        self.teacher.eval()
        self.following.eval()
        return self

    @torch.no_grad()
    def target(self, x_t: Tensor, i: Tensor, y: Tensor | None = None) -> Tensor:
        """f'(x_u, u) (N, ...) for x_t (N, ...) at the i-th times of the grid, u the next ones, i (N,) in 0..M - 1."""
        t, u = self.times[i], self.times[i + 1]
        x_u = ddim_step(x_t, self.teacher(x_t, t, y), self.student._level(t), self.student._level(u))
        return self.following(x_u, u, y)

    def loss(self, x_0: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """The mean distance between f at neighbouring times of a solution, one pair a sample; a scalar.

        In training mode a call first moves the following average towards the student.

        Args:
            x_0: (N, ...) data, to which noise is added.
            y: (N,) labels, if the networks take them.
            generator: the source of times and noise, on x_0's device.
        """
        if self.training:
            self._follow()
        M = len(self.times) - 1
        i = (M * Stratified()(len(x_0), generator, x_0.device)[0]).long().clamp(max=M - 1)
        t = self.times[i]
        alpha, sigma = self.student._level(t)
        noise = torch.empty_like(x_0).normal_(generator=generator)
        x_t = expand(alpha, x_0) * x_0 + expand(sigma, x_0) * noise
        return self.distance(self.student(x_t, t, y), self.target(x_t, i, y)).mean()

    @torch.no_grad()
    def _follow(self) -> None:
        ours, theirs = list(self.following.parameters()), list(self.student.parameters())
        torch._foreach_lerp_(ours, theirs, 1 - self.memory)
