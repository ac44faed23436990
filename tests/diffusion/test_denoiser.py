"""Laws of the denoiser: conversions, the optimum, labels, refusals."""

import itertools

import pytest
import torch
from torch import Tensor

from coursekit.diffusion import SCHEDULES, Cosine, Denoiser, ExactDenoiser, LinearVP, Rectified
from coursekit.diffusion.denoiser import PREDICTIONS
from coursekit.diffusion.guidance import ClassifierFree
from coursekit.gmm import GaussianMixture

TIMES = torch.tensor([0.01, 0.1, 0.3, 0.5, 0.8, 0.95], dtype=torch.float64)
PAIRS = list(itertools.product(PREDICTIONS, SCHEDULES))


def mixture() -> GaussianMixture:
    means = torch.tensor([[-1.0, 0.5], [1.0, -0.2], [0.3, 1.2]], dtype=torch.float64)
    covariances = torch.stack(
        [0.1 * torch.eye(2), torch.tensor([[0.3, 0.1], [0.1, 0.2]]), 0.05 * torch.eye(2)]
    ).double()
    return GaussianMixture(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), means, covariances)


def data(n: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 2, generator=generator, dtype=torch.float64), torch.randn(n, 2, generator=generator).double()


def noisy(schedule: object, x: Tensor, eps: Tensor) -> Tensor:
    return schedule.alpha(TIMES)[:, None] * x + schedule.sigma(TIMES)[:, None] * eps


@pytest.mark.parametrize(("prediction", "schedule"), PAIRS)
@pytest.mark.parametrize("sigma_data", [1.0, 0.5])
def test_the_right_answer_gives_data_and_noise_back(prediction: str, schedule: str, sigma_data: float) -> None:
    """A network that outputs its target exactly: x_0, eps, score and velocity follow, for every pair."""
    s, (x, eps) = SCHEDULES[schedule](), data()
    p, q = PREDICTIONS[prediction](s, TIMES, sigma_data)
    target = p[:, None] * x + q[:, None] * eps
    denoiser = Denoiser(lambda *_: target, s, prediction, sigma_data=sigma_data, t_max=0.95)
    x_t = noisy(s, x, eps)
    torch.testing.assert_close(denoiser(x_t, TIMES), x, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(denoiser.eps(x_t, TIMES), eps, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(denoiser.score(x_t, TIMES), -eps / s.sigma(TIMES)[:, None], rtol=1e-6, atol=1e-6)
    moving = s.d_alpha(TIMES)[:, None] * x + s.d_sigma(TIMES)[:, None] * eps
    torch.testing.assert_close(denoiser.velocity(x_t, TIMES), moving, rtol=1e-6, atol=1e-6)


def test_targets_are_those_of_the_papers() -> None:
    s, (x, eps) = LinearVP(), data()
    alpha, sigma = s.alpha(TIMES)[:, None], s.sigma(TIMES)[:, None]
    targets = {
        name: p[:, None] * x + q[:, None] * eps
        for name, (p, q) in ((name, function(s, TIMES, 0.5)) for name, function in PREDICTIONS.items())
    }
    torch.testing.assert_close(targets["x0"], x)
    torch.testing.assert_close(targets["eps"], eps)
    torch.testing.assert_close(targets["v"], alpha * eps - sigma * x)
    torch.testing.assert_close(targets["score"], -eps / sigma)
    t = TIMES.clone().requires_grad_()  # dx_t/dt at fixed data and noise
    for i in range(2):
        path = s.alpha(t) * x[:, i] + s.sigma(t) * eps[:, i]
        (speed,) = torch.autograd.grad(path.sum(), t)
        torch.testing.assert_close(targets["velocity"][:, i], speed, rtol=1e-8, atol=1e-8)


def test_edm_preconditioning_is_karras_table() -> None:
    """With alpha = 1 and r^2 = sigma^2 + s^2: c_skip = s^2 / r^2, c_out = sigma s / r, c_in = 1 / r."""
    s, (x_t, raw), scale, seen = SCHEDULES["edm"](), data(), 0.5, {}

    def network(x: Tensor, t: Tensor) -> Tensor:
        seen["input"] = x
        return raw

    got = Denoiser(network, s, "edm", sigma_data=scale)(x_t, TIMES)
    sigma = s.sigma(TIMES)[:, None]
    total = sigma**2 + scale**2
    torch.testing.assert_close(got, scale**2 / total * x_t + sigma * scale / total.sqrt() * raw, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(seen["input"], x_t / total.sqrt(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_exact_denoiser_against_autograd(schedule: str) -> None:
    """Denoiser, score and velocity of the best model, from the gradient of the exact log-density."""
    s, truth = SCHEDULES[schedule](), mixture()
    x_t = noisy(s, *data()).requires_grad_()
    alpha, sigma = s.alpha(TIMES), s.sigma(TIMES)
    (score,) = torch.autograd.grad(truth.diffused_log_prob(x_t, alpha, sigma).sum(), x_t)
    x_0 = (x_t + sigma[:, None] ** 2 * score) / alpha[:, None]
    torch.testing.assert_close(ExactDenoiser(truth, s)(x_t, TIMES), x_0, rtol=1e-7, atol=1e-7)

    best = Denoiser(lambda x, t: x_0.detach(), s, "x0")
    torch.testing.assert_close(best.score(x_t, TIMES).detach(), score, rtol=1e-6, atol=1e-6)
    f, g = s.drift(TIMES)[:, None], s.diffusion(TIMES)[:, None]  # the probability-flow ODE of the SDE
    flow = f * x_t - 0.5 * g**2 * score
    torch.testing.assert_close(best.velocity(x_t, TIMES).detach(), flow.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("prediction", list(PREDICTIONS))
def test_no_denoiser_has_a_lower_loss_than_the_posterior_mean(prediction: str) -> None:
    truth, s, x = mixture(), LinearVP(), mixture().sample(4000, torch.Generator().manual_seed(0)).float()

    class Oracle(torch.nn.Module):
        """Turns the exact x_0 into the asked-for prediction, plus an offset that should only hurt."""

        def __init__(self, offset: float) -> None:
            super().__init__()
            self.offset = offset

        def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
            alpha, sigma = s.alpha(t)[:, None], s.sigma(t)[:, None]
            x_0 = truth.float().denoise(x_t, s.alpha(t), s.sigma(t)) + self.offset
            p, q = (c[:, None] for c in PREDICTIONS[prediction](s, t, 1.0))
            return p * x_0 + q * (x_t - alpha * x_0) / sigma

    losses = [
        Denoiser(Oracle(offset), s, prediction, "snr", t_min=0.01)
        .loss(x, generator=torch.Generator().manual_seed(1))
        .item()
        for offset in (0.0, -0.05, 0.05)
    ]
    assert losses[0] == min(losses)


@pytest.mark.parametrize("prediction", ["eps", "score"])
@pytest.mark.parametrize("schedule", ["cosine", "sigmoid", "rectified"])
def test_noise_prediction_at_zero_snr_is_refused(prediction: str, schedule: str) -> None:
    with pytest.raises(ValueError, match="leaves no signal"):
        Denoiser(lambda x, t: x, SCHEDULES[schedule](), prediction)
    Denoiser(lambda x, t: x, SCHEDULES[schedule](), prediction, t_max=0.99)


def test_a_velocity_that_is_infinite_at_the_last_time_is_refused() -> None:
    """There q x_t / d is zero times infinity: every sample would be NaN."""
    with pytest.raises(ValueError, match="'velocity' has no finite target at t_max"):
        Denoiser(lambda x, t: x, SCHEDULES["sigmoid"](), "velocity")
    for target in ((torch.inf, 1.0), (1.0, torch.inf)):  # of own predictions, either coefficient
        with pytest.raises(ValueError, match="no finite target"):
            Denoiser(lambda x, t: x, Rectified(), lambda schedule, t, s, at=target: tuple(t * c for c in at))
    early = Denoiser(lambda x, t: x, SCHEDULES["sigmoid"](), "velocity", t_max=0.999)
    assert bool(early(torch.randn(3, 2), torch.tensor(0.999)).isfinite().all())


@pytest.mark.parametrize("prediction", ["x0", "v", "velocity", "edm"])
@pytest.mark.parametrize("schedule", ["cosine", "rectified"])
def test_pure_noise_can_be_denoised(prediction: str, schedule: str) -> None:
    """At t = 1, where alpha = 0, every estimate of x_0 is finite and depends on the network alone."""
    denoiser = Denoiser(lambda x, t: torch.ones_like(x), SCHEDULES[schedule](), prediction)
    x_0 = denoiser(torch.randn(3, 2), torch.ones(3))
    assert bool(torch.isfinite(x_0).all())


def test_coefficients_stay_float32_in_half_precision() -> None:
    denoiser = Denoiser(lambda x, t: torch.zeros_like(x), LinearVP(), "eps")
    x_0 = denoiser(torch.ones(2, 3, dtype=torch.bfloat16), torch.tensor([0.001, 0.002], dtype=torch.bfloat16))
    assert x_0.dtype == torch.float32
    assert denoiser.loss(torch.ones(8, 3, dtype=torch.bfloat16)).dtype == torch.float32


def test_labels_are_hidden_at_the_asked_rate_and_none_means_no_label() -> None:
    seen: list[Tensor] = []

    def network(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        seen.append(y)
        return x

    denoiser = Denoiser(network, Rectified(), num_classes=10, label_dropout=0.25)
    y = torch.arange(8000) % 10
    denoiser.loss(torch.zeros(8000, 1), y, torch.Generator().manual_seed(0))
    hidden = (seen[-1] == 10).float().mean().item()
    assert abs(hidden - 0.25) < 4 * (0.25 * 0.75 / 8000) ** 0.5
    assert bool(((seen[-1] == y) | (seen[-1] == 10)).all())
    denoiser(torch.zeros(3, 1), torch.tensor(0.5))
    assert seen[-1].tolist() == [10, 10, 10]


@pytest.mark.parametrize("scale", [0.0, 1.0, 1.5, 3.0])
def test_guidance_is_the_line_through_two_estimates(scale: float) -> None:
    calls = 0

    def network(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return x * (1 + y[:, None].float())

    denoiser = Denoiser(network, LinearVP(), num_classes=10)
    x_t, t, y = torch.randn(4, 2), torch.full((4,), 0.3), torch.tensor([1, 2, 3, 4])
    with_label, without = denoiser(x_t, t, y), denoiser(x_t, t)
    calls = 0
    guided = ClassifierFree(denoiser, scale)(x_t, t, y)
    assert calls == 1
    torch.testing.assert_close(guided, without + scale * (with_label - without))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"prediction": "noise"}, "prediction must be one of x0, eps, v"),
        ({"weighting": "snr5"}, "weighting must be one of"),
        ({"t_min": 0.5, "t_max": 0.4}, "t_min"),
        ({"t_max": 1.2}, "t_max"),
        ({"label_dropout": 1.5}, "label_dropout"),
        ({"sigma_data": 0.0}, "sigma_data"),
    ],
)
def test_impossible_settings_are_refused(keywords: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Denoiser(lambda x, t: x, LinearVP(), **keywords)


def test_guidance_without_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="num_classes"):
        ClassifierFree(Denoiser(lambda x, t: x, LinearVP()), 2.0)
    guided = ClassifierFree(Denoiser(lambda x, t, y: x, Cosine(), num_classes=3), 2.0)
    with pytest.raises(ValueError, match="label for each"):
        guided(torch.zeros(1, 1), torch.ones(1))
