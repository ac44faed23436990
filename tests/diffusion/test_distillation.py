"""Laws of distillation, on mixtures where the teacher and the end of its path are exact."""

from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from coursekit.diffusion import (
    SCHEDULES,
    Cosine,
    Denoiser,
    ExactDenoiser,
    LinearVP,
    Rectified,
    Schedule,
    fit,
    sample,
    time_grid,
)
from coursekit.diffusion.distillation import (
    ConsistencyDistillation,
    ConsistencyModel,
    FewSteps,
    ProgressiveDistillation,
)
from coursekit.diffusion.distillation.consistency import pseudo_huber, squared
from coursekit.diffusion.distillation.progressive import ddim_step, estimate_of_step, levels, truncated_snr
from coursekit.diffusion.guidance import ClassifierFree
from coursekit.gmm import GaussianMixture
from coursekit.networks import TimeMLP

NAMES = list(SCHEDULES)
WEIGHTS, MEANS, DEVIATIONS = np.array([0.3, 0.7]), np.array([-1.0, 0.6]), np.array([0.35, 0.5])


def mixture() -> GaussianMixture:
    columns = (torch.tensor(a, dtype=torch.float64) for a in (WEIGHTS, MEANS[:, None], DEVIATIONS[:, None, None] ** 2))
    return GaussianMixture(*columns)


def cdf(x: np.ndarray, alpha: float = 1.0, sigma: float = 0.0) -> np.ndarray:
    spread = np.sqrt(alpha**2 * DEVIATIONS**2 + sigma**2)
    return (WEIGHTS * stats.norm.cdf((np.asarray(x)[..., None] - alpha * MEANS) / spread)).sum(-1)


@cache
def quantiles(end: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    points = np.linspace(-8, 8, 400_001)
    return cdf(points, *end), points


def quantile_map(x: np.ndarray, here: tuple[float, float], end: tuple[float, float]) -> np.ndarray:
    """Where the probability-flow ODE takes x from one level to another: in one dimension it keeps quantiles."""
    return np.interp(cdf(x, *here), *quantiles(end))


class Says(nn.Module):
    """A network in x0-prediction that says what a function of (x_t, t) says."""

    def __init__(self, function: object, schedule: Schedule) -> None:
        super().__init__()
        self.function, self.schedule = function, schedule
        self.unused = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        scale = torch.hypot(self.schedule.alpha(t), self.schedule.sigma(t))
        return self.function(x * scale[:, None], t) + self.unused


def denoiser(function: object, schedule: Schedule, **settings: object) -> Denoiser:
    return Denoiser(Says(function, schedule), schedule, "x0", **settings)


def toy(schedule: Schedule, **settings: object) -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(TimeMLP(1, 64), schedule, **settings)


# --- progressive -----------------------------------------------------------------------------------------------


def progressive(name: str, k: int) -> tuple[ProgressiveDistillation, ExactDenoiser]:
    schedule = SCHEDULES[name]()
    teacher, times = ExactDenoiser(mixture(), schedule), time_grid(schedule, 2 * k, "angle")
    student = FewSteps(denoiser(lambda x, t: 0 * x, schedule), times[::2], (1,))
    return ProgressiveDistillation(teacher, student, times).double(), teacher


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("k", [1, 3])
def test_one_step_under_the_target_lands_where_two_of_ddim_do(name: str, k: int) -> None:
    """With the course's sampler as the referee, at each of the student's times, to clean data at the last."""
    distillation, teacher = progressive(name, k)
    schedule, times = teacher.schedule, distillation.times
    alpha, sigma = levels(schedule, times)
    x_T = sigma[0] * torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    path = sample(teacher, (9, 1), "ddim", 2 * k, x_T=x_T, grid="angle", trajectory=True)
    for i in range(k):
        target = distillation.target(path[2 * i], torch.full((9,), i))
        here, there = (alpha[2 * i], sigma[2 * i]), (alpha[2 * i + 2], sigma[2 * i + 2])
        torch.testing.assert_close(ddim_step(path[2 * i], target, here, there), path[2 * i + 2], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(target, path[-1], rtol=1e-5, atol=1e-5)  # the last target is the picture itself


@pytest.mark.parametrize("name", NAMES)
def test_a_student_that_takes_two_steps_at_once_has_no_loss_and_draws_as_the_teacher(name: str) -> None:
    k, schedule = 4, SCHEDULES[name]()
    distillation, teacher = progressive(name, k)

    def perfect(x: Tensor, t: Tensor) -> Tensor:
        i = (distillation.student.times - t[:, None]).abs().argmin(1)
        return distillation.target(x, i)

    student = FewSteps(denoiser(perfect, schedule), distillation.student.times, (1,)).double()
    matched = ProgressiveDistillation(teacher, student, distillation.times).double()
    x_0 = mixture().sample(64, torch.Generator().manual_seed(0))
    assert matched.loss(x_0, generator=torch.Generator().manual_seed(1)).item() < 1e-18
    assert distillation.loss(x_0, generator=torch.Generator().manual_seed(1)).item() > 0.01
    x_T = float(schedule.sigma(1.0)) * torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    drawn = student.sample(9, x_T=x_T)
    torch.testing.assert_close(drawn, sample(teacher, (9, 1), "ddim", 8, x_T=x_T, grid="angle"), rtol=1e-4, atol=1e-5)


def test_estimate_and_step_are_inverse() -> None:
    generator = torch.Generator().manual_seed(0)
    x, estimate = torch.randn(7, 3, generator=generator).double(), torch.randn(7, 3, generator=generator).double()
    for schedule in (kind() for kind in SCHEDULES.values()):
        t, s = torch.linspace(0.3, 1, 7, dtype=torch.float64), torch.linspace(0.05, 0.7, 7, dtype=torch.float64)
        here, there = (schedule.alpha(t), schedule.sigma(t)), (schedule.alpha(s), schedule.sigma(s))
        moved = ddim_step(x, estimate, here, there)
        torch.testing.assert_close(estimate_of_step(x, moved, here, there), estimate, rtol=1e-9, atol=1e-9)
        eps = (x - here[0][:, None] * estimate) / here[1][:, None]  # keeps both estimates
        torch.testing.assert_close(moved, there[0][:, None] * estimate + there[1][:, None] * eps)


def test_every_time_of_the_student_is_met_equally_often_and_the_weight_counts() -> None:
    seen = []
    schedule = Rectified()

    def spy(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return torch.zeros_like(x)

    times = time_grid(schedule, 8)
    student = FewSteps(denoiser(spy, schedule), times[::2], (1,)).double()
    x_0 = mixture().sample(400, torch.Generator().manual_seed(0))
    for weighting in (truncated_snr, lambda log_snr, log_scale: torch.zeros_like(log_snr)):
        distillation = ProgressiveDistillation(ExactDenoiser(mixture(), schedule), student, times, weighting).double()
        seen.append(distillation.loss(x_0, generator=torch.Generator().manual_seed(1)).item())
    t, weighted, _, plain = seen
    assert {value: int((t == value).sum()) for value in (1.0, 0.75, 0.5, 0.25)} == dict.fromkeys(
        (1.0, 0.75, 0.5, 0.25), 100
    )
    assert weighted > plain  # SNR(0.25) = 9, the others count 1
    assert truncated_snr(torch.tensor([-torch.inf, 0.0, 2.0]), torch.zeros(3)).tolist() == [0, 0, 2]


def test_halving_again_and_again_keeps_the_teachers_picture() -> None:
    """8 steps to 4 to 2 to 1, each student trained on the one before: a step lands where eight of the teacher do."""
    schedule, x_0 = Rectified(), mixture().sample(4000, torch.Generator().manual_seed(0)).float()
    teacher: nn.Module = ExactDenoiser(mixture().float(), schedule)
    times, x_T = time_grid(schedule, 8), torch.linspace(-2, 2, 41)[:, None]
    wanted = sample(teacher, (41, 1), "ddim", 8, x_T=x_T)
    before = (sample(teacher, (41, 1), "ddim", 1, x_T=x_T) - wanted).abs().mean().item()
    network = toy(schedule, prediction="velocity")
    for k in (4, 2, 1):
        student = FewSteps(network, times[::2], (1,))
        distillation = ProgressiveDistillation(teacher, student, times)
        fit(distillation, x_0, steps=250, batch_size=256, lr=5e-3, ema_half_life=20.0, seed=k, progress=False)
        teacher, times = student, student.times
        network = toy(schedule, prediction="velocity")
        network.load_state_dict(student.denoiser.state_dict())
    after = (teacher.sample(41, x_T=x_T) - wanted).abs().mean().item()
    assert before > 0.4
    assert after < 0.1


def test_the_teacher_is_frozen_and_stays_out_of_the_students_file() -> None:
    labelled = Denoiser(TimeMLP(1, 8, num_classes=2), Rectified(), num_classes=2).train()
    student = FewSteps(Denoiser(TimeMLP(1, 8, num_classes=2), Rectified(), num_classes=2), torch.tensor([1.0]), (1,))
    x, y = torch.zeros(8, 1), torch.arange(8) % 2
    before = [p.clone() for p in labelled.parameters()]
    for distillation in (
        ProgressiveDistillation(ClassifierFree(labelled, 1.5), student, time_grid(Rectified(), 2)),
        ConsistencyDistillation(ClassifierFree(labelled, 1.5), ConsistencyModel(student.denoiser, (1,))),
    ):
        distillation.train()
        assert not labelled.training
        assert student.denoiser.training
        distillation.loss(x, y, torch.Generator().manual_seed(0)).backward()
        trained = {id(p) for p in distillation.parameters() if p.requires_grad}
        assert trained == {id(p) for p in student.parameters()}
        assert all(p.grad is None for p in labelled.parameters())
        fit(distillation, (x, y), steps=2, batch_size=8, ema_half_life=1.0, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, labelled.parameters(), strict=True))
    assert not any("teacher" in name for name in student.state_dict())
    assert student.sample(3, torch.tensor([0, 1, 1]), torch.Generator().manual_seed(0)).shape == (3, 1)


@pytest.mark.parametrize(
    ("times", "student", "schedule", "message"),
    [
        ([1.0, 0.5], [0.9], Rectified(), "every second time"),
        ([1.0, 0.5, 0.25], [1.0, 0.25], Rectified(), "every second time"),
        ([1.0, 0.5], [1.0], LinearVP(), "must be on the teacher's"),
        ([0.5, 1.0], [0.5], Rectified(), "fall strictly"),
        ([1.0, 0.5], [], Rectified(), "fall strictly"),
    ],
)
def test_times_that_do_not_fit_are_refused(times: list, student: list, schedule: Schedule, message: str) -> None:
    def build() -> ProgressiveDistillation:
        few = FewSteps(denoiser(lambda x, t: x, schedule), torch.tensor(student), (1,))
        return ProgressiveDistillation(ExactDenoiser(mixture(), Rectified()), few, torch.tensor(times))

    with pytest.raises(ValueError, match=message):
        build()


# --- consistency -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prediction", ["x0", "v", "velocity", "edm"])
def test_the_boundary_holds_by_construction(name: str, prediction: str) -> None:
    """f(x, t_min) = x to the last bit, whatever the network says, and f moves away from x elsewhere."""
    torch.manual_seed(0)
    t_max = 0.99 if (name, prediction) == ("sigmoid", "velocity") else 1.0  # at t = 1 it is infinite, and refused
    model = ConsistencyModel(Denoiser(TimeMLP(2, 8), SCHEDULES[name](), prediction, t_max=t_max), (2,))
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(x, torch.full((5,), model.t_min)), x)
    assert not torch.allclose(model(x, torch.full((5,), 0.7)), x, atol=0.01)


class Perfect(ConsistencyModel):
    """The end of the exact ODE, by quantiles."""

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        found, t = torch.empty_like(x_t), t.expand(len(x_t))
        end = tuple(float(level) for level in self._level(torch.tensor(self.t_min).double()))
        for value in t.unique():
            here = tuple(float(level) for level in self._level(value))
            found[t == value] = torch.from_numpy(quantile_map(x_t[t == value].numpy(), here, end))
        return found + 0 * self.denoiser.network.unused


@pytest.mark.parametrize("name", ["rectified", "linear", "edm"])
def test_the_best_consistency_function_is_the_end_of_the_ode(name: str) -> None:
    """Its loss is the error of one step of the teacher, carried to the end: of second order, so it vanishes fast."""
    schedule = SCHEDULES[name]()
    student, losses, M = Perfect(denoiser(lambda x, t: x, schedule), (1,)), [], [20, 40, 80]
    x_0 = mixture().sample(160, torch.Generator().manual_seed(0))
    for intervals in M:
        distillation = ConsistencyDistillation(ExactDenoiser(mixture(), schedule), student, intervals, distance=squared)
        distillation = distillation.double().eval()
        losses.append(distillation.loss(x_0, generator=torch.Generator().manual_seed(1)).item())
    order = -np.polyfit(np.log(M), np.log(np.sqrt(losses)), 1)[0]
    assert order > 1.5, losses
    wrong = ConsistencyDistillation(
        ExactDenoiser(mixture(), schedule), ConsistencyModel(student.denoiser, (1,)), 80, distance=squared
    )
    assert wrong.double().eval().loss(x_0, generator=torch.Generator().manual_seed(1)).item() > 3 * losses[-1]


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("t_min", [1e-5, 0.3])
@pytest.mark.parametrize("name", ["rectified", "cosine", "edm"])
def test_samples_of_the_best_function_follow_the_mixture(name: str, t_min: float, steps: int) -> None:
    """In any number of calls, also where much noise is left at the end: it is added again to the right level."""
    schedule = SCHEDULES[name]()
    student = Perfect(denoiser(lambda x, t: x, schedule, t_min=t_min), (1,)).double()
    x = student.sample(8000, generator=torch.Generator().manual_seed(1), steps=steps)
    end = float(schedule.alpha(t_min)), float(schedule.sigma(t_min))
    assert stats.kstest(x[:, 0].numpy(), lambda x: cdf(x, *end)).pvalue > 1e-3


def test_the_target_is_the_following_average_after_one_step_of_the_teacher() -> None:
    schedule, teacher = Cosine(), ExactDenoiser(mixture(), Cosine())
    student = ConsistencyModel(toy(schedule), (1,))
    distillation = ConsistencyDistillation(teacher, student, intervals=8).double()
    i, x_t = torch.arange(8), torch.linspace(-1, 1, 8, dtype=torch.float64)[:, None]
    t, u = distillation.times[:-1], distillation.times[1:]
    for at in range(7):
        path = torch.tensor([float(t[at]), float(u[at])], dtype=torch.float64)
        x_0 = teacher(x_t[at : at + 1], path[:1])
        eps = (x_t[at] - schedule.alpha(path[0]) * x_0) / schedule.sigma(path[0])
        x_u = schedule.alpha(path[1]) * x_0 + schedule.sigma(path[1]) * eps
        torch.testing.assert_close(distillation.target(x_t, i)[at : at + 1], distillation.following(x_u, path[1:]))
    last = distillation.target(x_t, torch.full((8,), 7))  # at the boundary the student has no say
    nn.init.ones_(distillation.following.denoiser.network.body[-1][-1].bias)
    torch.testing.assert_close(distillation.target(x_t, torch.full((8,), 7)), last, rtol=0, atol=1e-9)


def test_the_following_average_follows_in_training_only() -> None:
    """After n losses of a student that stands still, what is left of the start is memory^n."""
    student = ConsistencyModel(toy(Rectified()), (1,))
    distillation = ConsistencyDistillation(ExactDenoiser(mixture().float(), Rectified()), student, memory=0.8)
    weight, copy = (model.denoiser.network.point.weight for model in (student, distillation.following))
    with torch.no_grad():
        weight.add_(1.0)
    x_0 = torch.zeros(16, 1)
    distillation.eval().loss(x_0)
    torch.testing.assert_close(weight - copy, torch.ones_like(weight))
    for _ in range(3):
        distillation.train().loss(x_0)
    torch.testing.assert_close(weight - copy, torch.full_like(weight, 0.8**3))
    assert not copy.requires_grad


def test_a_trained_student_maps_noise_to_where_the_ode_ends() -> None:
    schedule, x_0 = Rectified(), mixture().sample(4000, torch.Generator().manual_seed(0)).float()
    student = ConsistencyModel(toy(schedule, prediction="velocity"), (1,))
    teacher = ExactDenoiser(mixture().float(), schedule)
    x_T = torch.linspace(-2, 2, 41)[:, None]
    wanted = quantile_map(x_T[:, 0].numpy(), (0.0, 1.0), (1.0, 0.0))
    before = np.abs(sample(teacher, (41, 1), "ddim", 1, x_T=x_T)[:, 0].numpy() - wanted).mean()
    distillation = ConsistencyDistillation(teacher, student, intervals=16, memory=0.5)
    fit(distillation, x_0, steps=600, batch_size=256, lr=5e-3, ema_half_life=20.0, progress=False)
    after = np.abs(student.sample(41, x_T=x_T)[:, 0].numpy() - wanted).mean()
    assert before > 0.4
    assert after < 0.12


def test_distances() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(5, 3, 2, generator=generator).double(), torch.randn(5, 3, 2, generator=generator).double()
    lengths = (a - b).flatten(1).norm(dim=1)
    torch.testing.assert_close(squared(a, b), lengths**2 / 6)
    torch.testing.assert_close(pseudo_huber(a, b), lengths, rtol=1e-2, atol=0.0014)
    near = 1e-6 * a
    torch.testing.assert_close(
        pseudo_huber(near, 0 * a), 1e-12 * a.flatten(1).square().sum(1) / (2 * 0.00054 * 6**0.5), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"intervals": 0}, "intervals >= 1"),
        ({"memory": 1.0}, "memory < 1"),
        ({"teacher": ExactDenoiser(mixture(), LinearVP())}, "must be on the teacher's"),
    ],
)
def test_impossible_settings_are_refused(settings: dict, message: str) -> None:
    student = ConsistencyModel(toy(Rectified()), (1,))
    with pytest.raises(ValueError, match=message):
        ConsistencyDistillation(**{"teacher": ExactDenoiser(mixture(), Rectified()), "student": student} | settings)
    with pytest.raises(ValueError, match="steps must be positive, got 0"):
        student.sample(1, steps=0)
