"""Laws of composition, of the density that a flow makes, and of labels."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from coursekit import flows
from coursekit.data import GaussianRing
from coursekit.diffusion import fit
from coursekit.flows.planar import _solve
from coursekit.gmm import GaussianMixture

sys.path.insert(0, str(Path(__file__).parent))
import layers

PRESETS = {
    "planar": flows.planar_flow,
    "radial": flows.radial_flow,
    "RealNVP": flows.real_nvp,
    "spline": flows.spline_flow,
    "masked autoregressive": flows.masked_autoregressive_flow,
    "continuous": flows.continuous_flow,
}


def test_composition_is_in_plain_order_and_adds_log_dets() -> None:
    """x = f_3(f_2(f_1(z))), and `chain` shows every station."""
    parts = [layers.make(name, 3) for name in ("planar", "affine coupling", "linear")]
    chain, z = flows.Compose(parts), layers.points(5, 3)
    x, total = z, 0
    for part in parts:
        x, log_det = part(x)
        total = total + log_det
    torch.testing.assert_close(chain(z), (x, total))
    assert torch.equal(chain.chain(z)[0], z)
    torch.testing.assert_close(chain.chain(z)[-1], x)
    assert len(chain.chain(z)) == 4
    assert chain[1] is parts[1]


def test_inverted_exchanges_the_directions() -> None:
    layer, z = layers.make("spline coupling", 3), layers.points(5, 3)
    assert torch.equal(flows.Inverted(layer)(z)[0], layer.inverse(z)[0])
    assert torch.equal(flows.Inverted(layer).inverse(z)[1], layer(z)[1])


def test_density_is_that_of_the_base_over_the_jacobian() -> None:
    """A linear layer of standard normal numbers: scipy knows the Gaussian N(0, W W^T)."""
    layer = layers.make("linear", 3)
    flow = flows.Flow([layer], [3]).double()
    W = layer(torch.eye(3).double())[0].T.detach()
    x = layers.points(20, 3)
    truth = stats.multivariate_normal(cov=(W @ W.T).numpy()).logpdf(x.numpy())
    torch.testing.assert_close(flow.log_prob(x).detach(), torch.from_numpy(truth), rtol=1e-9, atol=1e-9)


def test_base_may_be_any_density(generator: torch.Generator) -> None:
    base = GaussianMixture(torch.ones(2), torch.tensor([[-2.0, 0.0], [2.0, 0.0]]), 0.1 * torch.eye(2).expand(2, 2, 2))
    flow = flows.Flow([flows.Reverse(2)], [2], base=base)
    x = flow.sample(200, generator=generator)
    assert x[:, 1].abs().mean() > 1.5 > x[:, 0].abs().mean()
    torch.testing.assert_close(flow.log_prob(x), base.log_prob(x.flip(1)))


@pytest.mark.parametrize("name", PRESETS)
def test_samples_are_scored_as_they_were_drawn(name: str, generator: torch.Generator) -> None:
    flow = layers.shaken(PRESETS[name](2, num_classes=3), scale=0.1).double()
    if name == "continuous":
        flow.layers[0].steps = 100
    y = torch.tensor([0, 1, 2, 0])
    x, log_prob = flow.sample_with_log_prob(4, y, generator)
    torch.testing.assert_close(flow.log_prob(x, y), log_prob, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(flow.decode(flow.encode(x, y), y), x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", PRESETS)
def test_without_labels_the_density_is_the_mean_over_labels(name: str) -> None:
    flow, x = layers.shaken(PRESETS[name](2, num_classes=3), scale=0.1), torch.randn(4, 2)
    each = torch.stack([flow.log_prob(x, torch.full((4,), c)).exp() for c in range(3)])
    assert not torch.allclose(each[0], each[1], rtol=1e-3)
    torch.testing.assert_close(flow.log_prob(x).exp(), each.mean(0), rtol=1e-4, atol=1e-6)
    assert flow.sample(7).shape == (7, 2)


def test_a_generator_fixes_samples_and_points_follow_the_dtype() -> None:
    flow = layers.shaken(flows.real_nvp(2, num_classes=4)).double()
    first, second = (flow.sample(5, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.dtype == torch.float64
    assert not first.requires_grad
    assert flow.sample(0).shape == (0, 2)


@pytest.mark.parametrize("name", ["RealNVP", "spline", "masked autoregressive"])
def test_training_comes_near_a_known_entropy_and_not_below(name: str, generator: torch.Generator) -> None:
    """Nats of unseen points from a ring of Gaussians, which has an exact density."""
    toy = GaussianRing(std=0.3)
    x, unseen = toy.sample(4000, generator), toy.sample(4000, generator)
    torch.manual_seed(0)
    flow = PRESETS[name](2, layers=4, hidden=(32, 32))
    start = flow.loss(unseen).item()
    fit(flow, x, steps=120, batch_size=128, lr=5e-3, progress=False)
    gap = (toy.log_prob(unseen) - flow.log_prob(unseen)).detach()
    error = gap.std().item() / math.sqrt(len(gap))
    assert -3 * error < gap.mean().item() < 0.7 * (start + toy.log_prob(unseen).mean().item())


def test_reverse_kl_reaches_a_gaussian(generator: torch.Generator) -> None:
    """Planar layers, whose inverse costs more, learn from their own samples."""
    torch.manual_seed(0)
    flow = flows.Flow([flows.Planar(2) for _ in range(4)], [2])

    class ReverseKL(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flow = flow

        def loss(self, x: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
            x, log_prob = self.flow.sample_with_log_prob(128, generator=generator)
            return (log_prob + 0.5 * (x - 1).square().sum(1) + math.log(2 * math.pi)).mean()

    history = fit(ReverseKL(), torch.zeros(128, 1), steps=300, lr=2e-2, progress=False)
    assert -0.02 < history.losses[-1] < 0.1 < history.losses[0]


@given(c=st.floats(-0.95, 100), target=st.floats(-1000, 1000))
@settings(max_examples=200, deadline=None)
def test_planar_root_finder_reaches_every_root(c: float, target: float) -> None:
    c, target = (torch.tensor([[value]], dtype=torch.float64) for value in (c, target))
    a = _solve(target, c)
    assert (a + c * a.tanh() - target).abs().item() <= 1e-12 * (1 + target.abs().item() + c.abs().item())


def test_planar_and_radial_layers_stay_invertible_whatever_they_learn() -> None:
    """Parameters of a hundred: slopes along every line stay positive."""
    for layer in (flows.Planar(2), flows.Radial(2)):
        layers.shaken(layer.double(), scale=100.0)
        x = layer(100 * layers.points(1000, 2))
        assert bool(x[1].isfinite().all())
        assert bool((x[1] > 2 * math.log(0.04)).all())


def test_radial_layer_without_parameters_is_the_identity() -> None:
    layer, z = flows.Radial(3), torch.randn(5, 3)
    torch.nn.init.zeros_(layer.numbers.start)
    torch.testing.assert_close(layer(z), (z, torch.zeros(5)))


X, Y = torch.zeros(3, 2), torch.tensor([0, 1, 2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, g: f.log_prob(torch.zeros(3, 5)), r"x must have shape \(N, 2\)"),
        (lambda f, g: f.log_prob(torch.zeros(2)), r"x must have shape \(N, 2\)"),
        (lambda f, g: f.log_prob(X, Y), "y must be None"),
        (lambda f, g: f.decode(torch.zeros(3, 4)), "z must have shape"),
        (lambda f, g: f.sample(-1), "n must be"),
        (lambda f, g: g.log_prob(X, torch.tensor([0, 1, 3])), r"y must lie in 0\.\.2, got 0\.\.3"),
        (lambda f, g: g.log_prob(X, torch.tensor([0, -1, 2])), r"y must lie in 0\.\.2, got -1\.\.2"),
        (lambda f, g: g.log_prob(X, torch.tensor([0, 1])), "y must hold n = 3 labels"),
        (lambda f, g: g.sample(2, Y), "y must hold n = 2 labels"),
        (lambda f, g: g.encode(X), "y must hold n = 3 labels"),
        (lambda f, g: flows.Flow([], [2], num_classes=0), "num_classes"),
        (lambda f, g: flows.Flow([flows.Planar(2)], [2], num_classes=3).log_prob(X, Y), "context must have the 0"),
        (lambda f, g: flows.Flow([flows.Planar(2, 4)], [2]).log_prob(X), "context must have the 4"),
        (lambda f, g: flows.AffineCoupling(flows.halves(2))(X, X), "context must have the 0"),
        (lambda f, g: flows.MaskedAffine(2, context=3)(X, X), "context must have the 3"),
        (lambda f, g: flows.Permutation([0, 2]), "order must be a permutation"),
        (lambda f, g: flows.MaskedAffine([1, 2]), "order must be a permutation"),
        (lambda f, g: flows.AffineCoupling(torch.ones(3)), "mask must be"),
        (lambda f, g: flows.AffineCoupling(torch.zeros(3)), "mask must be"),
    ],
)
def test_bad_arguments_are_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(flows.real_nvp(2), flows.real_nvp(2, num_classes=3))
