"""Losses whose minimum is known in closed form, and energies that learn their data; in float64 where it matters."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from coursekit.diffusion import VE, Cosine, LinearVP, fit
from coursekit.energy import (
    Contrastive,
    EnergyModel,
    NoiseContrastive,
    ReplayBuffer,
    ScoreModel,
    denoising_score_matching,
    diffused_score_matching,
    implicit_score_matching,
    score_of,
    sliced_score_matching,
)
from coursekit.gmm import GaussianMixture
from coursekit.networks import MLP, TimeMLP

sys.path.insert(0, str(Path(__file__).parent))
from laws import gaussian, mixture, quadratic, seeded


def best_linear_score(loss, D: int) -> tuple[Tensor, Tensor]:
    """A and b of the score x A + b at which a loss that is quadratic in them is smallest: one Newton step from 0."""
    parameters = torch.zeros(D * D + D, dtype=torch.float64)

    def of(parameters):
        A, b = parameters[: D * D].view(D, D), parameters[D * D :]
        return loss(lambda x: x @ A + b)

    gradient = torch.autograd.functional.jacobian(of, parameters)
    hessian = torch.autograd.functional.hessian(of, parameters)
    best = -torch.linalg.solve(hessian, gradient)
    return best[: D * D].view(D, D), best[D * D :]


def exact_sample(n: int, D: int) -> Tensor:
    mean, covariance, _ = gaussian(D)
    x = torch.randn(n, D, generator=seeded(17), dtype=torch.float64)  # no other stream of these tests
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / n)).T
    return mean + x @ torch.linalg.cholesky(covariance).T  # with exactly that mean and covariance


@pytest.mark.parametrize("D", [1, 3])
def test_implicit_score_matching_finds_the_score_of_a_gaussian(D):
    mean, _, precision = gaussian(D)
    A, b = best_linear_score(lambda s: implicit_score_matching(s, exact_sample(500, D)), D)
    torch.testing.assert_close(A, -precision)
    torch.testing.assert_close(b, precision @ mean)


def test_sliced_score_matching_finds_it_as_well():
    mean, _, precision = gaussian(2)
    x = exact_sample(1000, 2)
    A, b = best_linear_score(lambda s: sliced_score_matching(s, x, 20, seeded()), 2)
    torch.testing.assert_close(A + A.T, -2 * precision, rtol=0.05, atol=0.05)
    torch.testing.assert_close(b, precision @ mean, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_denoising_score_matching_finds_the_score_under_noise(sigma):
    """Of data C under noise the best linear score is that of N(m, C + sigma^2 I), not of N(m, C)."""
    mean, covariance, _ = gaussian(2)
    A, b = best_linear_score(lambda s: denoising_score_matching(s, exact_sample(200_000, 2), sigma, seeded()), 2)
    blurred = torch.linalg.inv(covariance + sigma**2 * torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(A, -blurred, rtol=0, atol=0.03)
    torch.testing.assert_close(b, blurred @ mean, rtol=0, atol=0.03)


@pytest.mark.parametrize("schedule", [LinearVP(), Cosine(), VE()], ids=["linear", "cosine", "ve"])
@pytest.mark.parametrize("t", [0.4, 0.8])
def test_diffused_score_matching_finds_the_score_at_each_time(schedule, t):
    mean, covariance, _ = gaussian(2)
    at_t = lambda n, generator, device: (torch.full((n,), t), torch.ones(n))  # noqa: E731
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    x = exact_sample(100_000, 2)
    A, b = best_linear_score(lambda s: diffused_score_matching(lambda x_t, t: s(x_t), x, schedule, at_t, seeded()), 2)
    expected = torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(A, -expected, rtol=0.03, atol=0.02)
    torch.testing.assert_close(b, alpha * expected @ mean, rtol=0.03, atol=0.03)


def test_the_exact_score_of_a_mixture_beats_every_other(generator):
    """Among the mixture's own score and disturbed ones each loss is smallest at the right one, under its noise."""
    target = mixture()
    x = target.sample(40_000, generator)
    disturbances = [lambda x: 0.4 * x, lambda x: 0.4 * x.cos(), lambda x: -0.4 * x.flip(1).sin()]
    losses = {
        0.0: lambda s: implicit_score_matching(s, x),
        0.5: lambda s: denoising_score_matching(s, x, 0.5, seeded()),
    }
    for sigma, loss in losses.items():
        right = lambda x, sigma=sigma: target.diffused_score(x, 1.0, sigma)  # noqa: E731
        best = loss(right).item()
        for other in disturbances:
            for sign in (-1, 1):
                assert loss(lambda x, o=other, c=sign, r=right: r(x) + c * o(x)).item() > best


def test_implicit_is_the_fisher_divergence_less_a_constant(generator):
    """J(s) = E |s - s_p|^2 / 2 = implicit + E |s_p|^2 / 2, for scores that are no gradients as well."""
    target = mixture()
    x = target.sample(200_000, generator)
    exact = target.score(x)
    constant = 0.5 * exact.square().sum(1)
    for s in (lambda x: -x, lambda x: x.sin() - 0.5 * x.flip(1), lambda x: -(x**3) / 4):
        fisher = 0.5 * (s(x) - exact).square().sum(1)
        each = fisher - constant - 0.5 * s(x).square().sum(1)  # -s . s_p, whose mean is that of the trace
        error = each.std().item() / math.sqrt(len(x))
        implicit = implicit_score_matching(s, x).item()
        assert abs((fisher - constant).mean().item() - implicit) < 5 * error


def test_sliced_is_implicit_on_average_and_exact_where_the_jacobian_is_diagonal(generator):
    x = torch.randn(300, 3, dtype=torch.float64, generator=generator)
    matrix = torch.randn(3, 3, dtype=torch.float64, generator=generator)
    score = lambda x: x.sin() @ matrix  # noqa: E731
    exact, sliced = implicit_score_matching(score, x), sliced_score_matching(score, x, 2000, generator)
    torch.testing.assert_close(sliced, exact, rtol=0, atol=0.02)
    diagonal = lambda x: x.sin()  # noqa: E731
    torch.testing.assert_close(sliced_score_matching(diagonal, x), implicit_score_matching(diagonal, x))


def test_energies_are_matched_through_their_second_derivative():
    """For E = x^T P x / 2 + ... the trace is that of the Hessian; gradients reach the parameters."""
    mean, _, precision = gaussian(3)
    scale = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    energy = quadratic(mean, precision)
    x = exact_sample(400, 3)
    loss = implicit_score_matching(score_of(lambda x: scale * energy(x)), x)
    expected = 0.5 * scale**2 * precision.trace() - scale * precision.trace()  # E |P (x - m)|^2 = tr P
    torch.testing.assert_close(loss, expected)
    (slope,) = torch.autograd.grad(loss, scale)
    torch.testing.assert_close(slope, (scale.detach() - 1) * precision.trace())


# --- noise-contrastive estimation ---------------------------------------------------------------------------


class Quadratic(nn.Module):
    """E(x) = x^T L L^T x / 2 - b x: a Gaussian whose log Z is known."""

    def __init__(self, D: int) -> None:
        super().__init__()
        self.L, self.b = nn.Parameter(torch.eye(D)), nn.Parameter(torch.zeros(D))

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * (x @ self.L).square().sum(1) - x @ self.b

    def log_partition(self) -> float:
        P = self.L.detach() @ self.L.detach().T
        square = self.b.detach() @ torch.linalg.solve(P, self.b.detach())
        return 0.5 * (square + len(P) * math.log(2 * math.pi) - torch.logdet(P)).item()


@pytest.mark.parametrize(("D", "ratio"), [(1, 4), (2, 1)])
def test_noise_contrastive_estimation_learns_the_normaliser(D, ratio):
    x = exact_sample(20_000, D)
    mean, covariance, precision = gaussian(D)
    noise = GaussianMixture(torch.ones(1, dtype=torch.float64), torch.zeros(1, D, dtype=torch.float64),
                            3 * torch.eye(D, dtype=torch.float64)[None])  # fmt: skip
    model = EnergyModel(Quadratic(D), D, NoiseContrastive(noise, ratio)).double()
    fit(model, x, steps=800, batch_size=500, lr=0.02, progress=False)
    learned, network = model.objective.log_partition.item(), model.network
    assert learned == pytest.approx(network.log_partition(), abs=0.08)
    exact = torch.distributions.MultivariateNormal(mean, covariance)
    error = model.objective.log_prob(model, x[:2000]) - exact.log_prob(x[:2000])
    assert error.abs().mean() < 0.12
    torch.testing.assert_close((network.L @ network.L.T).detach(), precision, rtol=0.2, atol=0.1)


def test_the_contrastive_loss_is_smallest_at_the_density(generator):
    """With the right c, no c nearby is better; the loss is that of scikit-learn's logistic regression."""
    from sklearn.metrics import log_loss

    target = mixture()
    noise = GaussianMixture(torch.ones(1, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64),
                            2 * torch.eye(2, dtype=torch.float64)[None])  # fmt: skip
    x = target.sample(50_000, generator)
    model = EnergyModel(nn.Identity(), 2, NoiseContrastive(noise, 2)).double()
    model.network = Wrapped(lambda x: 1.3 - target.log_prob(x))
    losses = []
    for c in (-1.3 - 0.2, -1.3, -1.3 + 0.2):
        model.objective.log_partition.data.fill_(c)
        losses.append(model.loss(x, generator=seeded()).item())
    assert losses[1] == min(losses)
    model.objective.log_partition.data.fill_(-1.3)
    drawn = noise.sample(100_000, seeded())
    data = torch.cat([x, drawn])
    odds = target.log_prob(data) - noise.log_prob(data) - math.log(2)
    truth = [1] * 50_000 + [0] * 100_000
    assert losses[1] == pytest.approx(3 * log_loss(truth, torch.sigmoid(odds).numpy()), rel=1e-9)


class Wrapped(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


# --- contrastive training -----------------------------------------------------------------------------------


def test_the_buffer_goes_on_and_starts_again(generator):
    buffer = ReplayBuffer(2, size=1000, reinitialise=0.25, extent=0.5)
    assert bool((buffer.states.abs() <= 0.5).all())
    buffer.states.fill_(7.0)
    places, x = buffer.draw(800, generator)
    assert len(places.unique()) == 800
    again = (x != 7).any(1)
    assert again.float().mean().item() == pytest.approx(0.25, abs=0.08)
    assert bool((x[again].abs() <= 0.5).all())
    buffer.store(places, x + 1)
    torch.testing.assert_close(buffer.states[places], x + 1)
    assert (buffer.states == 7).all(1).sum() == 200
    with pytest.raises(ValueError, match="size must be at least the batch's 1001, got 1000"):
        buffer.draw(1001)


def gaussian_model(**settings) -> EnergyModel:
    return EnergyModel(Quadratic(2), 2, Contrastive(2, **settings))


def test_contrastive_gradient_is_the_difference_of_means():
    model = gaussian_model(step=0.05, steps=4)
    x = torch.randn(64, 2, generator=seeded())
    model.loss(x, generator=seeded()).backward()
    chains = model.objective.buffer.states[torch.randperm(4096, generator=seeded())[:64]]
    torch.testing.assert_close(model.network.b.grad, chains.mean(0) - x.mean(0))


def test_the_penalty_adds_the_squares_of_the_energies():
    torch.manual_seed(0)
    plain, x = gaussian_model(step=0.05, steps=3), torch.randn(32, 2)
    held = gaussian_model(step=0.05, steps=3, penalty=0.5)
    held.load_state_dict(plain.state_dict())
    more = held.loss(x, generator=seeded()) - plain.loss(x, generator=seeded())
    chains = held.objective.buffer.states[torch.randperm(4096, generator=seeded())[:32]]
    torch.testing.assert_close(more, 0.5 * (held(x).square().mean() + held(chains).square().mean()))


def test_noise_on_data_widens_what_is_learned():
    torch.manual_seed(0)
    model, x = gaussian_model(step=0.05, steps=0, noise=0.5), torch.zeros(4000, 2)
    plain = gaussian_model(step=0.05, steps=0)
    plain.load_state_dict(model.state_dict())
    more = model.loss(x, generator=seeded()) - plain.loss(x, generator=seeded())
    assert more.item() == pytest.approx(0.5 * 2 * 0.25, abs=0.02)  # E |noise|^2 / 2


def test_contrastive_training_learns_a_gaussian():
    """Mean and precision, within what short chains with a step of 0.1 allow."""
    torch.manual_seed(0)
    mean, _, precision = gaussian(2)
    x = exact_sample(5000, 2).float()
    model = gaussian_model(step=0.1, steps=20, buffer=ReplayBuffer(2, 2000, extent=3.0))
    fit(model, x, steps=300, batch_size=500, lr=0.03, progress=False)
    P = (model.network.L @ model.network.L.T).detach().double()
    biased = P - 0.05 * P @ P  # the inverse of what chains with that step have for covariance
    torch.testing.assert_close(biased, precision, rtol=0.15, atol=0.12)
    torch.testing.assert_close(torch.linalg.solve(P, model.network.b.detach().double()), mean, rtol=0, atol=0.1)


def test_a_diverging_training_stops_with_a_name():
    """Steps that are too long without a bound: the energy is refused, or the engine names the player."""
    torch.manual_seed(0)
    model = EnergyModel(MLP([2, 32, 1]), 2, Contrastive(2, step=1e6, steps=50))
    model.network[0].weight.data.mul_(1e10)
    with pytest.raises((ValueError, FloatingPointError), match="finite"):
        fit(model, 1e20 * torch.randn(256, 2), steps=50, lr=1.0, progress=False, show_every=1)


def test_chains_of_the_buffer_are_saved_and_not_averaged(tmp_path):
    def run(**settings):
        torch.manual_seed(0)
        model = gaussian_model(step=0.05, steps=3)
        fit(model, exact_sample(200, 2).float(), batch_size=32, warmup=0, decay=0, progress=False,
            ema_half_life=3.0, **settings)  # fmt: skip
        return model.state_dict()

    whole = run(steps=8)
    run(steps=4, checkpoint=tmp_path / "half.safetensors")
    resumed = run(steps=8, checkpoint=tmp_path / "half.safetensors", resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


# --- models -------------------------------------------------------------------------------------------------


def test_an_energy_model_trained_by_denoising_draws_its_data():
    torch.manual_seed(0)
    x = mixture().sample(4000, seeded()).float()
    objective = lambda model, x, generator: denoising_score_matching(model.score, x, 0.3, generator)  # noqa: E731
    model = EnergyModel(MLP([2, 64, 64, 1]), 2, objective)
    fit(model, x, steps=400, batch_size=500, lr=5e-3, progress=False)
    blurred = mixture().diffused(1.0, 0.3)
    probe = blurred.sample(2000, seeded(1))
    with torch.no_grad():
        error = model.score(probe.float()).double() - blurred.score(probe)
    assert error.square().sum(1).mean() < 0.1 * blurred.score(probe).square().sum(1).mean()
    drawn = model.sample(2000, generator=seeded(), step=0.03, steps=300)
    assert drawn.shape == (2000, 2)
    assert float((drawn.double().mean(0) - blurred.weights @ blurred.means).abs().max()) < 0.3


def test_a_score_model_learns_all_levels_and_draws():
    torch.manual_seed(0)
    target = mixture()
    model = ScoreModel(TimeMLP(2), LinearVP(), 2)
    fit(model, target.sample(4000, seeded()).float(), steps=600, batch_size=500, lr=3e-3, progress=False)
    drawn = model.sample(2000, generator=seeded(), steps=8)
    left = (target.component_log_prob(drawn.double()).argmax(1) == 0).double().mean().item()
    assert left == pytest.approx(0.3, abs=0.08)
    assert float((drawn.double().mean(0) - target.weights @ target.means).abs().max()) < 0.2


def test_score_models_work_in_double():
    model = ScoreModel(TimeMLP(2), LinearVP(), 2).double()
    model.loss(torch.zeros(4, 2, dtype=torch.float64)).backward()
    assert model.sample(3, generator=seeded(), levels=3, steps=1).dtype == torch.float64


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: EnergyModel(MLP([2, 1]), 0), "shape must hold positive numbers, got 0"),
        (lambda: EnergyModel(MLP([2, 1]), 2)(torch.zeros(3, 4)), r"x must have shape \(N, 2\), got \(3, 4\)"),
        (lambda: EnergyModel(MLP([2, 2]), 2)(torch.zeros(3, 2)), r"network must return shape \(3,\) or \(3, 1\)"),
        (lambda: EnergyModel(MLP([2, 1]), 2).sample(0), "n must be at least 1, got 0"),
        (lambda: EnergyModel(MLP([2, 1]), 2).score(torch.full((1, 2), math.inf)), "energy must be finite"),
        (lambda: ReplayBuffer(2, size=0), "size >= 1, 0 <= reinitialise <= 1 and extent > 0 are wanted, got 0"),
        (lambda: ReplayBuffer(2, reinitialise=1.5), "got 4096, 1.5 and 1.0"),
        (lambda: Contrastive(2, penalty=-1.0), "penalty and noise must be at least 0, got -1.0 and 0"),
        (lambda: NoiseContrastive(mixture(), ratio=0), "ratio must be at least 1, got 0"),
        (lambda: denoising_score_matching(lambda x: x, torch.zeros(1, 2), 0.0), "sigma must be positive, got 0.0"),
        (lambda: sliced_score_matching(lambda x: x, torch.zeros(1, 2), 0), "projections must be at least 1, got 0"),
        (lambda: ScoreModel(TimeMLP(2), VE(), 2, t_min=0.0), r"t_min must lie in \(0, 1\), got 0.0"),
        (lambda: ScoreModel(TimeMLP(2), VE(), 2).sample(0), "n must be at least 1, got 0"),
        (lambda: ScoreModel(TimeMLP(2), VE(), 2).loss(torch.zeros(3)), r"x must have shape \(N, 2\), got \(3,\)"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
