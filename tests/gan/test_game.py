"""Laws of the game class, of its players under the engine, and of the noise axis."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from coursekit import gan, recipes
from coursekit.__main__ import app
from coursekit.checkpoints import read_tensors, write_tensors
from coursekit.diffusion import Cosine, Rectified, fit
from coursekit.diffusion.engine import Engine
from coursekit.evaluation import shares
from coursekit.networks import MLP, TimeMLP
from coursekit.toys import GaussianRing


def toy_game(objective: gan.Objective | None = None, **keywords: object) -> gan.GAN:
    torch.manual_seed(0)
    return gan.GAN(MLP([3, 16, 2]), MLP([2, 16, 1]), objective or gan.NonSaturating(), latent=3, **keywords)


def labelled_game(**keywords: object) -> gan.GAN:
    torch.manual_seed(0)
    return gan.image_gan(num_classes=4, latent=5, width=8, **keywords)


def test_losses_are_those_of_the_objective_with_no_graph_to_the_other_player() -> None:
    game, x = toy_game(), torch.randn(6, 2)
    loss = game.discriminator_loss(x, generator=torch.Generator().manual_seed(0))
    z = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    real, fake = game.discriminator(x)[:, 0], game.discriminator(game.generator(z))[:, 0]
    torch.testing.assert_close(loss, game.objective.discriminator_loss(real, fake))
    gradients = torch.autograd.grad(loss, list(game.generator.parameters()), allow_unused=True)
    assert all(gradient is None for gradient in gradients)
    loss = game.generator_loss(x, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss, game.objective.generator_loss(fake))
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(loss, list(game.generator.parameters())))


def test_each_player_moves_its_own_weights_as_often_and_as_fast_as_told() -> None:
    seen = []
    game = toy_game(repeats=3, lr_scale=4.0)
    run = Engine(game, (torch.randn(64, 2),), batch_size=8, lr=1e-3, device="cpu")
    before, step = copy.deepcopy(game.state_dict()), run._move

    def watch(index: int, seat: object, batch: tuple[Tensor, ...]) -> None:
        seen.append((seat.player.name, seat.optimizers[0].param_groups[0]["lr"]))
        step(index, seat, batch)

    run._move = watch
    run.advance(1.0)
    assert seen == [("discriminator", 4e-3)] * 3 + [("generator", 1e-3)]
    for name, tensor in game.state_dict().items():
        most = (tensor - before[name]).abs().max().item()
        assert most == pytest.approx(1e-3, rel=0.1) if name.startswith("generator") else 4e-3 < most < 12.1e-3


@pytest.mark.parametrize("player", ["discriminator", "generator"])
def test_a_diverging_game_stops_with_the_name_of_the_player(player: str) -> None:
    class Breaking(gan.Minimax):
        def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
            return super().discriminator_loss(real_logits, fake_logits) * (math.nan if player == "discriminator" else 1)

        def generator_loss(self, fake_logits: Tensor) -> Tensor:
            return super().generator_loss(fake_logits) * (math.inf if player == "generator" else 1)

    with pytest.raises(FloatingPointError, match=f"loss or gradient of '{player}' is not finite at step 0"):
        fit(toy_game(Breaking()), torch.randn(32, 2), steps=3, batch_size=8, progress=False)


def test_a_critic_without_a_bound_runs_away_until_the_engine_stops_it() -> None:
    game = toy_game(gan.Wasserstein())
    with pytest.raises(FloatingPointError, match=r"'(discriminator|generator)' is not finite"):
        fit(game, torch.randn(64, 2), steps=300, batch_size=16, clip=None, progress=False,
            optimizer=lambda module: torch.optim.SGD(module.parameters(), 1.0))  # fmt: skip
    assert all(bool(torch.isfinite(p).all()) for p in game.parameters())


@pytest.mark.parametrize("wrap", [gan.spectrally_normalised, gan.weight_clipped, lambda network: network])
def test_training_resumes_to_the_last_bit_and_weights_are_saved(wrap: object, tmp_path: Path) -> None:
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))

    def game() -> gan.GAN:
        torch.manual_seed(0)
        rules = [gan.GradientPenalty(1.0), gan.R1(1.0)]
        return gan.GAN(MLP([3, 8, 2]), wrap(MLP([2, 8, 1])), gan.NonSaturating(), 3, regularisers=rules, repeats=2)

    whole, halves = game(), game()
    keywords = {"batch_size": 16, "decay": 0.0, "progress": False, "ema_half_life": 5.0}
    fit(whole, x, steps=6, **keywords)
    fit(halves, x, steps=3, checkpoint=tmp_path / "state", **keywords)
    again = game()
    fit(again, x, steps=6, checkpoint=tmp_path / "state", resume=True, **keywords)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    write_tensors(tmp_path / "weights", whole.state_dict(), {})
    fresh = game()
    fresh.load_state_dict(read_tensors(tmp_path / "weights")[0])
    same = [one.sample(4, generator=torch.Generator().manual_seed(1)) for one in (whole, fresh, copy.deepcopy(whole))]
    assert torch.equal(same[0], same[1])
    assert torch.equal(same[0], same[2])


def test_samples_follow_their_labels_generator_type_and_number() -> None:
    game, y = labelled_game(), torch.tensor([0, 3, 3])
    first, second = (game.sample(3, y, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (3, 1, 28, 28)
    assert first.abs().max() <= 1
    assert not first.requires_grad
    assert not torch.equal(game.sample(3, y.flip(0), torch.Generator().manual_seed(0)), first)
    assert game.sample(0).shape == (0, 1, 28, 28)
    assert game.double().sample(2).dtype == torch.float64
    assert toy_game().sample(7).shape == (7, 2)


@pytest.mark.parametrize("name", ["discriminator_loss", "generator_loss"])
def test_gradients_reach_every_weight_and_samples_are_judged_alone(name: str) -> None:
    game, x, y = labelled_game(), torch.rand(8, 1, 28, 28) * 2 - 1, torch.arange(8) % 4
    module = getattr(game, name.removesuffix("_loss"))
    getattr(game, name)(x, y, torch.Generator().manual_seed(0)).backward(inputs=list(module.parameters()))
    for parameter in module.parameters():
        assert parameter.grad.abs().sum() > 0
    together = game.logits(x, y)
    torch.testing.assert_close(game.logits(x[2:3], y[2:3])[0], together[2], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(game.logits(x, (y + 1) % 4), together)


def test_a_projection_is_the_product_of_features_and_the_labels_row() -> None:
    layer, phi, y = nn.Linear(6, 4), torch.randn(5, 6), torch.tensor([3, 0, 1, 1, 2])
    found = gan.Projection(layer)(phi, y)
    torch.testing.assert_close(found, (phi * layer.weight[y]).sum(1) + layer.bias[y])


def test_noise_is_that_of_the_schedule_and_of_the_generator() -> None:
    x, schedule = torch.full((50_000, 1), 2.0, dtype=torch.float64), Cosine()
    (x_t,) = gan.InstanceNoise(schedule, 0.3)(x, torch.Generator().manual_seed(0))
    assert x_t.mean().item() == pytest.approx(2 * schedule.alpha(0.3).item(), abs=0.01)
    assert x_t.std().item() == pytest.approx(schedule.sigma(0.3).item(), rel=0.02)
    x_t, t = gan.NoiseLevels(schedule)(x, torch.Generator().manual_seed(0))
    eps = (x_t[:, 0] - 2 * schedule.alpha(t)) / schedule.sigma(t)
    assert eps.mean().item() == pytest.approx(0, abs=0.02)
    assert eps.std().item() == pytest.approx(1, rel=0.02)
    assert torch.corrcoef(torch.stack([eps, t]))[0, 1].abs().item() < 0.02
    assert t.std().item() == pytest.approx(12**-0.5, rel=0.01)


def test_a_discriminator_along_the_noise_axis_sees_real_and_fake_at_their_times() -> None:
    torch.manual_seed(0)
    game = gan.GAN(MLP([2, 16, 2]), TimeMLP(2, 16, outputs=1), gan.NonSaturating(), 2,
                   corrupt=gan.NoiseLevels(Rectified()), regularisers=[gan.R1(0.1)])  # fmt: skip
    history = fit(game, torch.randn(64, 2), steps=5, batch_size=16, progress=False)
    assert list(history.players) == ["discriminator", "generator"]
    seen = []
    game.discriminator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    game.discriminator_loss(torch.full((8, 2), 5.0))
    (x_t, t), (x_r1, t_r1) = seen
    assert x_t.shape == (16, 2)
    assert t.shape == (16,)
    assert x_r1.shape == (8, 2)
    assert not torch.equal(t[:8], t_r1)
    assert bool((x_t[:8].mean(1) - 5 * (1 - t[:8])).abs().max() < 4)


def test_two_lines_that_do_not_touch_have_a_slope_only_under_noise() -> None:
    """A well-trained discriminator leaves the original generator nothing; instance noise gives it a way back."""
    slopes = []
    for corrupt in (None, gan.InstanceNoise(Cosine(), 0.6)):
        torch.manual_seed(0)
        critic = gan.Critic(MLP([2, 32, 1]), gan.Minimax(), lambda n, g: gan.sample_line(n, 1.0, g), corrupt=corrupt)
        x = gan.sample_line(2000, 0.0, torch.Generator().manual_seed(0))
        fit(critic, x, steps=300, batch_size=64, lr=1e-2, progress=False)
        theta = torch.ones((), requires_grad=True)
        fake = x + torch.stack([theta, torch.zeros(())])
        loss = critic.objective.generator_loss(critic.logits(fake, generator=torch.Generator().manual_seed(1)))
        slopes.append(torch.autograd.grad(loss, theta)[0].item())
    assert abs(slopes[0]) < 0.02
    assert slopes[1] > 0.1  # a smaller theta is better


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: toy_game(repeats=0), "repeats must be positive, got 0"),
        (lambda: toy_game(lr_scale=0.0), r"lr_scale must be positive, got 0\.0"),
        (lambda: toy_game(num_classes=0), "num_classes must be at least 1"),
        (lambda: gan.GAN(nn.Linear(1, 1), nn.Linear(1, 1), gan.Hinge(), latent=0), "latent must be positive, got 0"),
        (lambda: toy_game().sample(-1), "n must be at least 0, got -1"),
        (lambda: toy_game().sample(2, torch.tensor([0, 1])), "y must be None"),
        (lambda: labelled_game().sample(2, torch.tensor([0, 4])), r"y must lie in 0\.\.3"),
        (lambda: labelled_game().discriminator_loss(torch.zeros(2, 1, 28, 28)), "y must hold n = 2 labels"),
        (lambda: labelled_game().generator_loss(torch.zeros(2, 1, 28, 28)), "y must hold n = 2 labels"),
        (lambda: toy_game().discriminator_loss(torch.zeros(5, 3)), r"shape of x, \(5, 3\), got \(5, 2\)"),
        (lambda: gan.GAN(nn.Linear(3, 2), nn.Linear(2, 2), gan.Hinge(), 3).logits(torch.zeros(4, 2)),
         r"discriminator must give \(4,\) or \(4, 1\) logits, got \(4, 2\)"),
        (lambda: gan.InstanceNoise(Cosine(), 0.0), r"t must lie in \(0, 1\], got 0\.0"),
        (lambda: gan.DiracGAN(r1=-1.0), "r1 and sigma must not be negative"),
        (lambda: gan.mode_coverage(torch.zeros(3, 3), GaussianRing().centres(), 0.1), r"x \(N, D\) and centres"),
        (lambda: gan.mode_coverage(torch.full((3, 2), math.nan), GaussianRing().centres(), 0.1), "x must be finite"),
        (lambda: gan.mode_coverage(torch.zeros(3, 2), GaussianRing().centres(), 0.0), "std > 0"),
    ],
)  # fmt: skip
def test_impossible_input_is_refused_by_name(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_generator_of_pictures_without_labels_draws_without_them() -> None:
    assert gan.ImageGenerator(5, width=8)(torch.zeros(2, 5)).shape == (2, 1, 28, 28)


def test_the_commands_train_and_draw_with_a_game(tmp_path: Path) -> None:
    """A model with players instead of a loss passes through recipes, its file and the sampler of the commands."""
    out, drawn = tmp_path / "gan.safetensors", tmp_path / "drawn.npz"
    for words in (("train", "gan", "--out", out, "--steps", 2), ("sample", out, "--out", drawn, "--number", 20)):
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == 0, result.output
    with np.load(drawn, allow_pickle=False) as file:
        images = torch.from_numpy(file["images"])
    assert images.shape == (20, 1, 28, 28)
    model = recipes.load(out, "gan")
    torch.testing.assert_close(images, model.sample(20, shares(20), torch.Generator().manual_seed(0)))
