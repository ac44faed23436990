"""Laws of the objectives, and of what keeps a discriminator from being steep."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from scipy import integrate, optimize, stats
from torch import Tensor, nn

from coursekit import gan
from coursekit.diffusion import fit
from coursekit.networks import MLP, ConvEncoder

OBJECTIVES = [gan.Minimax(), gan.NonSaturating(), gan.LeastSquares(), gan.Hinge(), gan.Wasserstein()]


def logits(n: int = 7) -> Tensor:
    return torch.linspace(-30, 30, n, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_the_discriminator_raises_real_and_lowers_fake_and_the_generator_raises_fake(objective: gan.Objective) -> None:
    real, fake = (torch.zeros(4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    slope_real, slope_fake = torch.autograd.grad(objective.discriminator_loss(real + 0.1, fake + 0.1), [real, fake])
    assert bool((slope_real < 0).all())
    assert bool((slope_fake > 0).all())
    (slope,) = torch.autograd.grad(objective.generator_loss(fake + 0.1), fake)
    assert bool((slope < 0).all())
    torch.testing.assert_close(slope, slope[:1].expand(4))  # a mean: every sample counts alike


@pytest.mark.parametrize("objective", [gan.Minimax(), gan.LeastSquares(real=0.9, fake=-0.4)])
def test_the_best_output_at_a_point_is_the_known_one(objective: gan.Objective) -> None:
    """Minimise p l_real + q l_fake by one number with scipy, at one point where p and q are known."""
    p, q = 0.7, 0.2

    def loss(output: float) -> float:
        one, far = torch.tensor([output], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        both, nothing = objective.discriminator_loss, objective.discriminator_loss(far, far)
        return float(p * (both(one, far) - nothing) + q * (both(far, one) - nothing))

    best = optimize.minimize_scalar(loss, bounds=(-5, 5), method="bounded", options={"xatol": 1e-9}).x
    wanted = math.log(p / q) if isinstance(objective, gan.Minimax) else (0.9 * p - 0.4 * q) / (p + q)
    assert best == pytest.approx(wanted, abs=1e-5)


def test_what_one_wins_the_other_loses() -> None:
    """The generator's slope in the original game is minus the discriminator's, for every logit."""
    fake, real = logits(), torch.zeros(1, dtype=torch.float64)
    (a,) = torch.autograd.grad(gan.Minimax().generator_loss(fake), fake)
    (b,) = torch.autograd.grad(gan.Minimax().discriminator_loss(real, fake), fake)
    torch.testing.assert_close(a, -b)


def test_slopes_are_those_of_log_probabilities() -> None:
    """The stable forms against log(1 - D) and log D written out, where doubles can say 1 - D."""
    fake = torch.linspace(-12, 12, 9, dtype=torch.float64, requires_grad=True)
    for objective, loss, slope in (
        (gan.Minimax(), torch.log(1 - fake.sigmoid()).mean(), gan.saturating_slope(fake)),
        (gan.NonSaturating(), -torch.log(fake.sigmoid()).mean(), gan.non_saturating_slope(fake)),
    ):
        torch.testing.assert_close(objective.generator_loss(fake), loss)
        (gradient,) = torch.autograd.grad(objective.generator_loss(fake), fake)
        torch.testing.assert_close(gradient, slope.detach() / 9)
    assert gan.saturating_slope(logits())[0].abs().item() < 1e-12  # a fake that is found out teaches nothing
    assert gan.non_saturating_slope(logits())[0].item() == pytest.approx(-1)
    assert bool(torch.isfinite(gan.NonSaturating().generator_loss(1e4 * logits())))


def test_hinge_stops_at_its_margin_and_wasserstein_is_a_difference_of_means() -> None:
    real, fake = torch.tensor([1.5, 1.0, 3.0]), torch.tensor([-1.0, -7.0, -2.0])
    assert gan.Hinge().discriminator_loss(real, fake).item() == 0
    assert gan.Hinge().discriminator_loss(-real, fake).item() == pytest.approx((2.5 + 2 + 4) / 3)
    assert gan.Wasserstein().discriminator_loss(real, fake).item() == pytest.approx(fake.mean() - real.mean())


def test_gradient_penalty_is_the_mean_over_the_line_between_a_pair() -> None:
    """For l = |x|^2 on the line from a to b in one dimension the slope is 2 |x|: an integral by quadrature."""
    a, b, n = 0.2, 1.7, 200_000
    fake, real = (torch.full((n, 1), v, dtype=torch.float64) for v in (a, b))
    found = gan.GradientPenalty(3.0)(lambda x, y: x.square().sum(1), real, fake, None, torch.Generator().manual_seed(0))
    truth = integrate.quad(lambda u: 3 * (2 * (a + u * (b - a)) - 1) ** 2, 0, 1)[0]
    assert found.item() == pytest.approx(truth, rel=0.01)


def test_penalties_are_exact_for_a_line_and_pass_a_gradient() -> None:
    w = torch.tensor([3.0, -4.0], dtype=torch.float64, requires_grad=True)
    x, g = torch.randn(6, 2, dtype=torch.float64), torch.Generator().manual_seed(0)
    for penalty, value, slope in (
        (gan.GradientPenalty(2.0), 2 * 16.0, 2 * 2 * 4 * w / 5),
        (gan.R1(0.5), 0.25 * 25, 0.5 * w),
        (gan.R1(0.5, share=0.5), 0.25 * 25, 0.5 * w),
    ):
        found = penalty(lambda x, y: x @ w, x, x + 1, None, g)
        assert found.item() == pytest.approx(value)
        torch.testing.assert_close(torch.autograd.grad(found, w)[0], slope.detach())


def test_r1_looks_at_real_samples_with_their_labels_only() -> None:
    seen = []

    def logits(x: Tensor, y: Tensor) -> Tensor:
        seen.append((x.detach(), y))
        return x.square().sum(1) * y

    real, y = torch.randn(8, 3), torch.arange(8.0)
    found = gan.R1(2.0, share=0.25)(logits, real, torch.full((8, 3), math.nan), y, None)
    assert torch.equal(seen[0][0], real[:2])
    assert torch.equal(seen[0][1], y[:2])
    assert found.item() == pytest.approx(((2 * real[:2] * y[:2, None]) ** 2).sum(1).mean().item())


def test_a_flat_critic_has_a_penalty_with_a_gradient_that_is_no_nan() -> None:
    w = torch.zeros(2, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        gan.GradientPenalty()(lambda x, y: x @ w, torch.ones(3, 2), torch.zeros(3, 2), None, None), w
    )
    assert bool(torch.isfinite(gradient).all())


def test_clipped_weights_stay_within_the_limit_whoever_moves_them() -> None:
    torch.manual_seed(0)
    critic = gan.weight_clipped(MLP([2, 16, 1]), limit=0.05)
    game = gan.GAN(MLP([2, 16, 2]), critic, gan.Wasserstein(), latent=2)
    for keywords in ({}, {"ema_half_life": 3.0}, {"optimizer": lambda m: torch.optim.SGD(m.parameters(), 5.0)}):
        fit(game, torch.randn(64, 2), steps=10, batch_size=16, lr=0.1, progress=False, **keywords)
        weights = torch.cat([p.detach().flatten() for p in critic.parameters()])
        assert weights.abs().max().item() <= 0.05 + 1e-8
        assert weights.abs().gt(0.0499).float().mean().item() > 0.2  # and the limit is what holds them
    unclipped = MLP([2, 16, 1])
    fit(gan.GAN(MLP([2, 16, 2]), unclipped, gan.Wasserstein(), 2), torch.randn(64, 2), steps=10, lr=0.1, progress=False)
    assert max(p.abs().max().item() for p in unclipped.parameters()) > 0.05


def test_clipping_is_a_projection_of_each_step() -> None:
    """Against gradient descent with a projection, written out; a clamp inside the graph would stop at the limit."""
    layer = gan.weight_clipped(nn.Linear(1, 1, bias=False).double(), limit=0.5)
    nn.init.constant_(layer.weight, 0.4)
    optimizer, w = torch.optim.SGD(layer.parameters(), lr=0.1), 0.4
    for target in (2.0, 2.0, -2.0, -2.0, -2.0):
        optimizer.zero_grad()
        x = torch.ones(1, 1, dtype=torch.float64)
        (layer(x) * layer(x) / 2 - target * layer(x)).sum().backward()  # two passes of one graph
        optimizer.step()
        w = min(max(w, -0.5), 0.5)
        w -= 0.1 * (w - target)
        assert layer.weight.item() == pytest.approx(w)


@pytest.mark.parametrize("build", [lambda: MLP([3, 20, 20, 1], nn.ReLU), lambda: ConvEncoder(1, 8, activation=nn.ReLU)])
def test_spectrally_normalised_matrices_have_norm_one(build: object, generator: torch.Generator) -> None:
    """Also after training, in evaluation, in a copy, after loading and as a running average."""
    torch.manual_seed(0)
    network = gan.spectrally_normalised(build(), iterations=3)
    picture = isinstance(network, ConvEncoder)
    x = torch.randn(64, 1, 28, 28, generator=generator) if picture else torch.randn(64, 3, generator=generator)
    critic = gan.Critic(network, gan.Wasserstein(), lambda n, g: 1 + torch.randn(n, *x.shape[1:], generator=g))
    fit(critic, x, steps=40, batch_size=16, lr=2e-4, ema_half_life=4.0, progress=False)
    again = gan.spectrally_normalised(build())
    again.load_state_dict(network.state_dict())
    for copied in (network.eval(), copy.deepcopy(network).eval(), again.eval()):
        layers = [part for part in copied.modules() if isinstance(part, (nn.Linear, nn.Conv2d))]
        assert len(layers) >= 3
        for layer in layers:
            assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.03)
        torch.testing.assert_close(copied(x), network(x))


def test_a_normalised_perceptron_is_no_steeper_than_one(generator: torch.Generator) -> None:
    network = gan.spectrally_normalised(MLP([2, 32, 32, 1], nn.ReLU).double(), iterations=50)
    network(torch.zeros(1, 2, dtype=torch.float64))
    a, b = (3 * torch.randn(5000, 2, dtype=torch.float64, generator=generator) for _ in range(2))
    assert ((network(a) - network(b)).norm(dim=1) / (a - b).norm(dim=1)).max().item() <= 1 + 1e-6


def test_an_objective_has_both_losses() -> None:
    class Half(gan.Objective):
        def generator_loss(self, fake_logits: Tensor) -> Tensor:
            return fake_logits.mean()

    with pytest.raises(TypeError, match="discriminator_loss"):
        Half()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gan.R1(share=0.0), "share must lie in"),
        (lambda: gan.R1(share=1.5), "share must lie in"),
        (lambda: gan.weight_clipped(nn.Linear(1, 1), 0.0), "limit must be positive, got 0.0"),
        (lambda: gan.spectrally_normalised(nn.ReLU()), "network must have linear or convolutional layers, got ReLU"),
    ],
)
def test_impossible_settings_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_scipy_agrees_that_log_four_is_the_value_of_a_coin() -> None:
    half = torch.zeros(1, dtype=torch.float64)
    coin = stats.bernoulli(0.5).entropy()
    assert gan.Minimax().discriminator_loss(half, half).item() == pytest.approx(2 * coin)
