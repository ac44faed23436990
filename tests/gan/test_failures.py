"""Laws of the toys: the Dirac-GAN by hand and in the engine, the ring of eight, and what counts as a covered mode."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from coursekit import gan
from coursekit.diffusion import fit
from coursekit.toys import GaussianRing

RING = GaussianRing()


class Line(nn.Module):
    """The generator of a Dirac-GAN: theta, whatever z is."""

    def __init__(self, theta: float) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([theta], dtype=torch.float64))

    def forward(self, z: Tensor) -> Tensor:
        return self.theta.expand(len(z), 1)


@pytest.mark.parametrize("r1", [0.0, 0.7])
@pytest.mark.parametrize("objective", [gan.Minimax(), gan.NonSaturating(), gan.Wasserstein()])
def test_the_dirac_gan_is_this_game_trained_by_this_engine(objective: gan.Objective, r1: float) -> None:
    """`fit` with plain gradient descent walks along the path computed by hand, alternating."""
    slope = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(slope.weight, 0.8)
    game = gan.GAN(Line(0.5), slope, objective, latent=1, regularisers=[gan.R1(r1)] if r1 else [])
    path = gan.DiracGAN(objective, r1).path(gan.alternating, lr=0.2, steps=9, start=(0.5, 0.8))
    fit(game, torch.zeros(8, 1, dtype=torch.float64), steps=9, batch_size=4, warmup=0, decay=0.0, clip=None,
        optimizer=lambda module: torch.optim.SGD(module.parameters(), 0.2), progress=False)  # fmt: skip
    found = torch.stack([game.generator.theta[0], slope.weight[0, 0]]).detach()
    torch.testing.assert_close(found, path[-1])


@pytest.mark.parametrize("lr", [0.1, 0.5])
def test_the_dirac_gan_turns_and_a_penalty_or_noise_draws_it_in(lr: float) -> None:
    """Eigenvalues by hand, and what they promise near the equilibrium."""
    c = 0.5  # the slope of both losses at logit 0
    plain = gan.DiracGAN()
    assert plain.eigenvalues(gan.simultaneous, lr).abs().tolist() == pytest.approx(2 * [math.hypot(1, lr * c)])
    assert plain.eigenvalues(gan.alternating, lr).abs().tolist() == pytest.approx([1, 1])
    for game in (plain, gan.DiracGAN(r1=0.5), gan.DiracGAN(sigma=1.0), gan.DiracGAN(gan.NonSaturating(), r1=1.5)):
        damping = game.r1 + game.sigma**2 / 2  # the second derivative of both softplus at 0 is 1/4 each
        matrix = torch.tensor([[1, lr * c], [-lr * c, 1 - lr * damping]], dtype=torch.float64)
        by_hand = torch.linalg.eigvals(matrix).abs().sort().values
        torch.testing.assert_close(game.eigenvalues(gan.simultaneous, lr).abs().sort().values, by_hand)
        for move in (gan.simultaneous, gan.alternating):
            radius = game.eigenvalues(move, lr).abs().max().item()
            path = game.path(move, lr, steps=60, start=(1e-3, 1e-3)).norm(dim=1)
            rate = (path[-1] / path[0]).item() ** (1 / 60)
            assert rate == pytest.approx(radius, abs=0.012)
            assert (radius < 1 - 1e-6) == (game is not plain)


def test_minimax_goes_round_in_a_circle_and_simultaneous_steps_leave_it() -> None:
    game, start = gan.DiracGAN(), (1.0, 0.5)
    fine = game.path(gan.simultaneous, 5e-3, 800, start).norm(dim=1)
    assert fine.max().item() == pytest.approx(fine[0].item(), rel=5e-3)
    coarse = game.path(gan.simultaneous, 0.5, 100, start).norm(dim=1)
    assert bool((coarse.diff() > 0).all())
    assert gan.DiracGAN(sigma=1.0).path(gan.simultaneous, 0.5, 100, start)[-1].norm().item() < 1e-3


def test_replicas_are_independent_games() -> None:
    """Seeds side by side learn what each would learn alone: no weight of one feels another's rows."""
    torch.manual_seed(0)
    rules = gan.RULES["Wasserstein, gradient penalty"]
    game = gan.ring_game(rules, seeds=3, width=8)
    x = torch.randn(12, 2)
    alone = gan.GAN(game.generator.networks[1], game.discriminator.networks[1], rules.objective, 2)
    rows = torch.arange(1, 12, 3)
    torch.testing.assert_close(game.discriminator(x)[rows], alone.discriminator(x[rows]))
    game.logits(x)[rows].sum().backward()
    for name, parameter in game.discriminator.named_parameters():
        assert bool(parameter.grad.any()) == name.startswith("networks.1.")


def test_the_ring_experiment_learns_and_does_not_touch_the_global_generator() -> None:
    before = torch.get_rng_state()
    found = gan.cover_ring(gan.RULES["Wasserstein, gradient penalty"], seeds=1, steps=500)
    assert torch.equal(before, torch.get_rng_state())
    untrained = gan.cover_ring(gan.RULES["original"], seeds=1, steps=1)
    assert min(one.covered for one in found) >= 6
    assert max(one.covered for one in untrained) == 0


@settings(max_examples=25, deadline=None)
@given(kept=st.sets(st.integers(0, 7), min_size=1), junk=st.integers(0, 300), seed=st.integers(0, 99))
def test_modes_that_are_drawn_are_the_modes_that_are_counted(kept: set[int], junk: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    x, y = RING.sample_labelled(2000, g)
    drawn = x[torch.isin(y, torch.tensor(sorted(kept)))]
    found = gan.mode_coverage(torch.cat([drawn, torch.zeros(junk, 2)]), RING.centres(), RING.std)
    assert set(found.counts.nonzero()[:, 0].tolist()) == kept
    assert found.covered == len(kept)
    inside = 1 - math.exp(-4.5)  # of a round Gaussian within three standard deviations
    assert found.good == pytest.approx(inside * len(drawn) / (len(drawn) + junk), abs=0.03)
    assert found.kl == pytest.approx(math.log(8 / len(kept)), abs=0.05)


def test_coverage_at_its_ends() -> None:
    centres = RING.centres()
    none = gan.mode_coverage(torch.zeros(50, 2), centres, RING.std)
    assert (none.covered, none.good, none.kl) == (0, 0, math.inf)
    at = centres[:1].repeat(20, 1)
    assert gan.mode_coverage(at, centres, RING.std).covered == 1
    assert gan.mode_coverage(at[:19], centres, RING.std).covered == 0
    assert gan.mode_coverage(at[:19], centres, RING.std, least=19).covered == 1
    edge = centres[:1] + torch.tensor([[3 * RING.std, 0.0]])
    assert gan.mode_coverage(0.999 * (edge - centres[:1]) + centres[:1], centres, RING.std).good == 1
    assert gan.mode_coverage(1.001 * (edge - centres[:1]) + centres[:1], centres, RING.std).good == 0
