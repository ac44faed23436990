r"""Progressive distillation: a student whose one step lands where two steps of its teacher land, again and again.

With r = sigma_s / sigma_t, the deterministic step (DDIM) from time t to a cleaner time s under an estimate D of x_0 is

    x_s = alpha_s D + sigma_s (x_t - alpha_t D) / sigma_t = r x_t + (alpha_s - r alpha_t) D.

The teacher takes two of them, from t to u and from u to s, and arrives at x_s. Solving the line above for D gives the
estimate with which a single step arrives there too; it is what the student learns to say at time t:

    D* = (x_s - r x_t) / (alpha_s - r alpha_t).

The denominator is positive whenever s has less noise than t, also from pure noise (alpha_t = 0); at the last step,
alpha_s = 1 and sigma_s = 0, the target is the teacher's picture. In the student's turn it may teach one with half as
many steps: 8, 4, 2, 1. Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", 2022, arXiv
2202.00512, algorithm 2 and appendix G, there for alpha^2 + sigma^2 = 1; a guided teacher's guidance is learned along
with its steps, as in Meng et al., "On Distillation of Guided Diffusion Models", 2022, arXiv 2210.03142.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from coursekit.diffusion.chain import expand
from coursekit.diffusion.denoiser import Denoiser
from coursekit.diffusion.losses import Stratified, Weighting
from coursekit.diffusion.schedules import Schedule

__all__ = ["FewSteps", "Level", "ProgressiveDistillation", "ddim_step", "estimate_of_step", "truncated_snr"]

Level = tuple[Tensor, Tensor]
"""(alpha, sigma), each (N,) or ()."""


def ddim_step(x: Tensor, estimate: Tensor, here: Level, there: Level) -> Tensor:
    """From x (N, ...) at one noise level to the next under an estimate of x_0: arXiv 2010.02502, eq. 12, eta = 0.

    Example:
        >>> half, clean = (torch.tensor(0.5), torch.tensor(0.5)), (torch.tensor(1.0), torch.tensor(0.0))
        >>> ddim_step(torch.tensor([3.0]), torch.tensor([2.0]), half, clean)
        tensor([2.])
    """
    keep = there[1] / here[1]
    return expand(keep, x) * x + expand(there[0] - keep * here[0], x) * estimate


def estimate_of_step(x: Tensor, x_there: Tensor, here: Level, there: Level) -> Tensor:
    """The estimate of x_0 under which `ddim_step` takes x (N, ...) to x_there: D* of the module's head."""
    keep = there[1] / here[1]
    return (x_there - expand(keep, x) * x) / expand(there[0] - keep * here[0], x)


def truncated_snr(log_snr: Tensor, log_scale: Tensor) -> Tensor:
    """w = max(SNR, 1): never less than the error of x_0, never less than that of eps (arXiv 2202.00512, section 4).

    Plain SNR would not count pure noise at all, and a student with few steps meets nothing else.
    """
    return log_snr.clamp(min=0)


class FewSteps(nn.Module):
    """A denoiser that is asked at k fixed times only, with the deterministic step between them: k calls a sample.

    Args:
        denoiser: the network on its noise axis.
        times: (k,) strictly falling, the first the noisiest; from the last one a step goes to clean data.
        shape: of one sample.

    Raises:
        ValueError: if the times do not fall strictly.

    Example:
        >>> from coursekit.diffusion.schedules import Rectified
        >>> denoiser = Denoiser(lambda x, t: torch.zeros_like(x), Rectified(), prediction="x0")
        >>> FewSteps(denoiser, torch.tensor([1.0, 0.5]), (2,)).sample(3)
        tensor([[0., 0.],
                [0., 0.],
                [0., 0.]])
    """

    times: Tensor

    def __init__(self, denoiser: Denoiser, times: Tensor, shape: Sequence[int]) -> None:
        super().__init__()
        _check_times(times)
        self.denoiser, self.shape = denoiser, tuple(shape)
        self.schedule, self.t_max, self.num_classes = denoiser.schedule, denoiser.t_max, denoiser.num_classes
        self.register_buffer("times", times.float(), persistent=False)

    @property
    def steps(self) -> int:
        """k, the calls of the network for one sample."""
        return len(self.times)

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """The estimate of x_0 (N, ...) that the next step wants: E[x_0 | x_t] no longer."""
        return self.denoiser(x_t, t, y)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        y: Tensor | None = None,
        generator: torch.Generator | None = None,
        x_T: Tensor | None = None,
    ) -> Tensor:
        """n samples (n, ...), from normal noise of deviation sigma, or from x_T."""
        alpha, sigma = levels(self.schedule, self.times)
        x = x_T if x_T is not None else sigma[0] * _noise(n, self.shape, self.times, generator)
        for i in range(self.steps):
            estimate = self(x, self.times[i].expand(n), y)
            x = ddim_step(x, estimate, (alpha[i], sigma[i]), (alpha[i + 1], sigma[i + 1]))
        return x


class ProgressiveDistillation(nn.Module):
    """Trains a student of k steps on the pairs of steps that a teacher takes at 2 k times. `fit` takes it as a model.

    The student should begin as a copy of the teacher's network. The teacher is frozen.

    Args:
        teacher: anything with `schedule` and `forward(x_t, t, y)`: a trained denoiser, a guided one, or the student
            of the round before.
        student: asked at every second of the teacher's times, on the same schedule.
        times: (2 k,) the teacher's times; those of the teacher if None.
        weighting: of the squared error of x_0, by the student's time.

    Raises:
        ValueError: if the student's schedule or times are not the teacher's, or every second of them.
    """

    times: Tensor

    def __init__(
        self, teacher: nn.Module, student: FewSteps, times: Tensor | None = None, weighting: Weighting = truncated_snr
    ) -> None:
        super().__init__()
        times = teacher.times if times is None else times
        _check_times(times)
        if len(times) % 2 or not torch.equal(times[::2].float(), student.times):
            raise ValueError(
                f"student must look at every second time of the teacher, {times[::2].tolist()}, "
                f"got {student.times.tolist()}"
            )
        if student.schedule != teacher.schedule:
            raise ValueError(f"student must be on the teacher's {teacher.schedule}, got {student.schedule}")
        self.teacher, self.student, self.weighting = teacher.requires_grad_(False), student, weighting
        self.register_buffer("times", times.float(), persistent=False)

    def train(self, mode: bool = True) -> ProgressiveDistillation:
        """Only the student is ever in training mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    @torch.no_grad()
    def target(self, x_t: Tensor, i: Tensor, y: Tensor | None = None) -> Tensor:
        """D* (N, ...): what the student should say of x_t (N, ...) at its i-th time, i (N,) in 0..k - 1."""
        alpha, sigma = levels(self.student.schedule, self.times)
        x, start = x_t, 2 * i
        for j in (start, start + 1):
            estimate = self.teacher(x, self.times[j], y)
            x = ddim_step(x, estimate, (alpha[j], sigma[j]), (alpha[j + 1], sigma[j + 1]))
        return estimate_of_step(x_t, x, (alpha[start], sigma[start]), (alpha[start + 2], sigma[start + 2]))

    def loss(self, x_0: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """The weighted mean squared error between the student's estimate and D*, one time a sample; a scalar.

        Args:
            x_0: (N, ...) data, to which noise is added.
            y: (N,) labels, if the networks take them.
            generator: the source of times and noise, on x_0's device.
        """
        k, schedule = self.student.steps, self.student.schedule
        i = (k * Stratified()(len(x_0), generator, x_0.device)[0]).long().clamp(max=k - 1)
        t = self.student.times[i]
        noise = torch.empty_like(x_0).normal_(generator=generator)
        x_t = expand(schedule.alpha(t), x_0) * x_0 + expand(schedule.sigma(t), x_0) * noise
        error = (self.student(x_t, t, y) - self.target(x_t, i, y)).square().flatten(1).mean(1)
        log_snr = schedule.log_snr(t)
        return (torch.exp(self.weighting(log_snr, torch.zeros_like(log_snr))) * error).mean()


def levels(schedule: Schedule, times: Tensor) -> Level:
    """The noise levels at the times (k,) and, last, of clean data: alpha and sigma, (k + 1,) each."""
    one = times.new_ones(1)
    return torch.cat([schedule.alpha(times), one]), torch.cat([schedule.sigma(times), 0 * one])


def _check_times(times: Tensor) -> None:
    if times.ndim != 1 or not len(times) or bool((times.diff() >= 0).any()):
        raise ValueError(f"times must fall strictly, got {times.tolist()[:8]}")


def _noise(n: int, shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(n, *shape, generator=generator, device=like.device, dtype=like.dtype)
