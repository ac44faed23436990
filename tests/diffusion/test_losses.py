"""Laws of weightings and of samplers of times."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from coursekit.diffusion import (
    SCHEDULES,
    Cosine,
    Denoiser,
    ImportanceSampled,
    LogitNormal,
    Rectified,
    Stratified,
    Uniform,
)
from coursekit.diffusion.denoiser import PREDICTIONS
from coursekit.diffusion.losses import WEIGHTINGS, Times, edm, min_snr, p2, snr

CPU = torch.device("cpu")
T = torch.linspace(0.001, 0.999, 200, dtype=torch.float64)


def network_weight(prediction: str, weighting: str, schedule_name: str = "linear") -> tuple[Tensor, Tensor]:
    """The weight on the network's squared error, and the SNR, both along T."""
    schedule = SCHEDULES[schedule_name]()
    p, q = PREDICTIONS[prediction](schedule, T, 1.0)
    alpha, sigma = schedule.alpha(T), schedule.sigma(T)
    log_scale = 2 * torch.log(sigma / (alpha * q - sigma * p).abs())
    weight = torch.exp(WEIGHTINGS[weighting](schedule.log_snr(T), log_scale) + log_scale)
    return weight, torch.exp(schedule.log_snr(T))


@pytest.mark.parametrize(
    ("prediction", "formula"),
    [
        ("x0", lambda s: s.clamp(max=5.0)),
        ("eps", lambda s: s.clamp(max=5.0) / s),
        ("v", lambda s: s.clamp(max=5.0) / (s + 1)),
    ],
)
def test_min_snr_for_each_prediction(prediction: str, formula: object) -> None:
    """The three published forms (arXiv 2303.09556, section 3.4) are one weight in x_0 space."""
    weight, ratio = network_weight(prediction, "min-snr")
    torch.testing.assert_close(weight, formula(ratio), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weighting", [name for name in WEIGHTINGS if name != "simple"])
@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_a_weighting_is_one_loss_whatever_is_predicted(weighting: str, schedule: str) -> None:
    """||D - x_0||^2 = c ||F - target||^2, so weight / c must not depend on the prediction."""
    in_x0_space = []
    for prediction, function in PREDICTIONS.items():
        s = SCHEDULES[schedule]()
        p, q = function(s, T, 1.0)
        c = (s.sigma(T) / (s.alpha(T) * q - s.sigma(T) * p)) ** 2
        in_x0_space.append(network_weight(prediction, weighting, schedule)[0] / c)
    for other in in_x0_space[1:]:
        torch.testing.assert_close(other, in_x0_space[0], rtol=1e-8, atol=1e-12)


def test_published_special_cases() -> None:
    weight, ratio = network_weight("eps", "snr")
    torch.testing.assert_close(weight, torch.ones_like(weight))  # SNR weighting is the simple loss of eps
    weight, ratio = network_weight("eps", "p2")
    torch.testing.assert_close(weight, 1 / (1 + ratio))  # arXiv 2204.00227, eq. 8 with k = gamma = 1
    weight, _ = network_weight("edm", "edm", "edm")
    torch.testing.assert_close(weight, torch.ones_like(weight))  # arXiv 2206.00364, eq. 8: unit weight on F
    for prediction in PREDICTIONS:
        weight, _ = network_weight(prediction, "simple")
        torch.testing.assert_close(weight, torch.ones_like(weight))


@pytest.mark.parametrize("weighting", [snr, min_snr(), p2(), edm(0.5)])
def test_weights_are_finite_at_zero_snr(weighting: object) -> None:
    """0/0 in the textbook forms; here the weight of v at SNR 0 is 0 (EDM: its floor)."""
    log_weight = weighting(torch.tensor([-math.inf]), torch.tensor([0.0]))
    weight = torch.exp(log_weight)
    assert bool(torch.isfinite(weight).all())
    denoiser = Denoiser(lambda x, t: x, Cosine(), "v", weighting, times=lambda n, g, d: (torch.ones(n), torch.ones(n)))
    assert bool(torch.isfinite(denoiser.loss(torch.randn(4, 2), generator=torch.Generator().manual_seed(0))))


@pytest.mark.parametrize(
    "make", [lambda: min_snr(0.0), lambda: p2(k=0.0), lambda: edm(-1.0), lambda: LogitNormal(std=0.0)]
)
def test_impossible_settings_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        make()
    with pytest.raises(ValueError, match="bins >= 1"):
        ImportanceSampled(bins=0)


@pytest.mark.parametrize("times", [Uniform(), Stratified(), LogitNormal(), LogitNormal(base=Uniform())])
def test_times_lie_inside_and_follow_the_generator(times: Times) -> None:
    draws = [times(1000, torch.Generator().manual_seed(seed), CPU) for seed in (0, 0, 1)]
    assert torch.equal(draws[0][0], draws[1][0])
    assert not torch.equal(draws[0][0], draws[2][0])
    t, weight = draws[0]
    assert bool(((t >= 0) & (t <= 1)).all())
    assert torch.equal(weight, torch.ones(1000))
    assert t.dtype == torch.float32


def test_laws_of_the_times() -> None:
    generator = torch.Generator().manual_seed(0)
    assert stats.kstest(Uniform()(4000, generator, CPU)[0].numpy(), "uniform").pvalue > 0.01
    logit = torch.logit(LogitNormal(0.5, 2.0, Uniform())(4000, generator, CPU)[0].double()).numpy()
    assert stats.kstest(logit, "norm", (0.5, 2.0)).pvalue > 0.01
    strata = Stratified()(64, generator, CPU)[0]
    assert sorted((strata * 64).int().tolist()) == list(range(64))
    assert not torch.equal(strata, strata.sort().values)  # dealt out at random


def test_stratification_lowers_the_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = [
        torch.stack([(times(32, generator, CPU)[0] ** 2).mean() for _ in range(300)]).std()
        for times in (Uniform(), Stratified())
    ]
    assert spread[1] < spread[0] / 10


def test_importance_sampling_finds_the_loss_and_keeps_the_mean() -> None:
    """Loss 1 on the first half of the times and 9 on the second: times go there, the weighted mean stays 5."""
    times, generator = ImportanceSampled(bins=10, uniform=0.1, memory=0.5), torch.Generator().manual_seed(0)

    def loss(t: Tensor) -> Tensor:
        return 1 + 8 * (t > 0.5).float()

    for _ in range(30):
        t, _ = times(256, generator, CPU)
        times.update(t, loss(t))
    wanted = 0.1 + 0.9 * torch.tensor([1.0] * 5 + [9.0] * 5) / 5
    torch.testing.assert_close(times.density(), wanted, rtol=0.05, atol=0)
    draws = [times(256, generator, CPU) for _ in range(200)]
    estimates = torch.stack([(weight * loss(t)).mean() for t, weight in draws])
    assert abs(estimates.mean().item() - 5) < 4 * estimates.std().item() / math.sqrt(200) + 1e-3
    uniform = torch.stack([loss(Uniform()(256, generator, CPU)[0]).mean() for _ in range(200)])
    assert estimates.std() < 0.5 * uniform.std()


def test_denoiser_feeds_the_importance_sampler_only_in_training() -> None:
    times = ImportanceSampled(bins=4)
    denoiser = Denoiser(lambda x, t: x, Rectified(), "velocity", times=times)
    before = times.second_moment.clone()
    denoiser.eval().loss(torch.randn(64, 2), generator=torch.Generator().manual_seed(0))
    assert torch.equal(times.second_moment, before)
    denoiser.train().loss(torch.randn(64, 2), generator=torch.Generator().manual_seed(0))
    assert not torch.equal(times.second_moment, before)
