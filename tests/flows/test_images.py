"""Laws of the layers for pictures, of dequantisation, and of the image flow."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coursekit import flows
from coursekit.data import find_data, from_pixels, load_animals
from coursekit.diffusion import fit
from coursekit.flows.dequantise import check_levels
from coursekit.recipes import load_released

sys.path.insert(0, str(Path(__file__).parent))
import layers


def small() -> flows.ImageFlow:
    torch.manual_seed(0)
    return flows.image_flow(width=8, fine=1, coarse=1, bins=4)


@pytest.mark.parametrize("shape", [(64, 3), (16, 3, 5, 4)])
def test_actnorm_starts_from_the_first_data(shape: tuple[int, ...], generator: torch.Generator) -> None:
    layer, x = flows.ActNorm(3), 4 + 3 * torch.randn(shape, generator=generator)
    z, _ = layer.inverse(x)
    features = z.transpose(0, 1).flatten(1)
    torch.testing.assert_close(features.mean(1), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(features.std(1, correction=0), torch.ones(3), rtol=1e-4, atol=1e-4)
    before = layer.shift.clone()
    layer.inverse(x + 100)
    assert torch.equal(layer.shift, before)  # the second batch changes nothing
    again = flows.ActNorm(3)
    again.load_state_dict(layer.state_dict())
    again.inverse(x + 100)
    assert torch.equal(again.shift, before)  # nor does a batch after loading
    waiting = flows.ActNorm(3).eval()
    torch.testing.assert_close(waiting.inverse(x)[0], x)  # a model in use does not start


def test_one_by_one_convolution_starts_as_a_rotation() -> None:
    layer, z = flows.InvertibleConv1x1(6, torch.Generator().manual_seed(1)), torch.randn(2, 6, 3, 3)
    x, log_det = layer(z)
    torch.testing.assert_close(x.square().sum(1), z.square().sum(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(log_det, torch.zeros(2), rtol=0, atol=1e-4)


def test_squeeze_moves_each_square_of_places_into_channels() -> None:
    z = torch.arange(16.0).view(1, 1, 4, 4)
    x, log_det = flows.Squeeze()(z)
    assert x[0, :, 0, 0].tolist() == [0, 1, 4, 5]
    assert log_det.tolist() == [0]
    torch.testing.assert_close(flows.Unsqueeze()(x)[0], z)


def test_split_lets_the_later_channels_leave() -> None:
    z = layers.points(2, 5, 4, 4)
    inner = layers.shaken(flows.ActNorm(3, started=True)).double()
    x, log_det = flows.Split(inner)(z)
    assert torch.equal(x[:, 3:], z[:, 3:])
    torch.testing.assert_close((x[:, :3], log_det), inner(z[:, :3]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: flows.Squeeze()(torch.zeros(1, 1, 7, 8)), "z must .* even H and W"),
        (lambda: flows.Squeeze()(torch.zeros(1, 4)), "z must .* even H and W"),
        (lambda: flows.Squeeze().inverse(torch.zeros(1, 6, 4, 4)), "x must .* multiple of 4"),
        (lambda: flows.Unsqueeze()(torch.zeros(1, 6, 4, 4)), "z must .* multiple of 4"),
        (lambda: flows.Unsqueeze().inverse(torch.zeros(1, 1, 8, 7)), "x must .* even H and W"),
        (lambda: flows.Split(flows.Squeeze(), kept=4)(torch.zeros(1, 4, 2, 2)), "z must have more than 4 channels"),
        (lambda: flows.Split(flows.Squeeze(), kept=0), "kept"),
        (lambda: flows.Sigmoid(margin=0.5), "margin"),
        (lambda: check_levels(torch.full((1, 1), 0.5)), "images must hold the 256 levels"),
        (lambda: check_levels(torch.full((1, 1), 1.1)), "images must hold the 256 levels"),
        (lambda: check_levels(torch.full((1, 1), math.nan)), "images must hold the 256 levels"),
        (lambda: small().loss(torch.full((1, 1, 28, 28), 0.3001), torch.tensor([0])), "x must hold the 256 levels"),
        (lambda: small().loss(from_pixels(torch.zeros(1, 1, 14, 14)), torch.tensor([0])), "x must have shape"),
        (lambda: small().loss(torch.ones(1, 1, 28, 28), torch.tensor([10])), r"y must lie in 0\.\.9"),
        (lambda: small().log_prob_bound(torch.ones(1, 1, 28, 28), samples=0), "samples"),
    ],
)
def test_bad_arguments_are_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_whole_numbers_other_than_bytes_are_refused() -> None:
    with pytest.raises(TypeError, match="images must be uint8"):
        check_levels(torch.zeros(1, dtype=torch.int32))


def test_levels_are_found_in_bytes_and_in_floats() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(check_levels(pixels), torch.arange(256.0))
    assert torch.equal(check_levels(from_pixels(pixels)), torch.arange(256.0))


def one_pixel_flow(seed: int) -> flows.ImageFlow:
    """A flow of pictures with a single pixel, onto (0, 1)."""
    torch.manual_seed(seed)
    mix = layers.shaken(flows.Compose([flows.ActNorm(1, started=True), flows.Radial(1)]), seed=seed)
    flow = flows.Flow([_Flat(mix), flows.Sigmoid()], (1, 1, 1))
    return flows.ImageFlow(flow, flows.UniformDequantisation()).double()


class _Flat(flows.Bijection):
    """A layer of vectors for pictures of one place."""

    def __init__(self, layer: flows.Bijection) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, log_det = self.layer(z.flatten(1), context)
        return x.view(z.shape), log_det

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, log_det = self.layer.inverse(x.flatten(1), context)
        return z.view(x.shape), log_det


@pytest.mark.parametrize("seed", range(4))
def test_dequantised_bound_never_beats_the_entropy_of_known_levels(seed: int, generator: torch.Generator) -> None:
    """All 256 levels equally likely have 8 bits: no flow needs fewer, and more noises tighten its bound."""
    model = one_pixel_flow(seed)
    levels = from_pixels(torch.arange(256, dtype=torch.uint8), torch.float64).view(256, 1, 1, 1)
    with torch.no_grad():
        one, many = (
            torch.stack([model.bits_per_dim(levels, generator=generator, samples=k).mean() for _ in range(20)]).mean()
            for k in (1, 16)
        )
        u = ((torch.arange(2000).double() + 0.5) / 2000).view(1, -1)
        density = model.flow.log_prob(((torch.arange(256)[:, None] + u) / 256).view(-1, 1, 1, 1)).exp()
        exact = density.view(256, -1).mean(1) / 256
    assert exact.sum().item() == pytest.approx(1, abs=1e-3)
    truth = -exact.log2().mean().item()
    assert truth >= 8 - 1e-3
    assert one.item() > truth - 1e-3
    assert truth - 1e-2 < many.item() <= one.item()


def test_identity_onto_the_unit_interval_needs_eight_bits(generator: torch.Generator) -> None:
    """A density that is one on [0, 1] gives each level 1/256: no offset of half a bin, no change of units."""

    class Uniform(nn.Module):
        def log_prob(self, z: Tensor) -> Tensor:
            inside = ((z >= 0) & (z <= 1)).flatten(1).all(1)
            return z.new_zeros(len(z)).masked_fill(~inside, -math.inf)

    flow = flows.Flow([flows.Compose([])], (1, 2, 2), base=Uniform())
    model = flows.ImageFlow(flow, flows.UniformDequantisation())
    images = from_pixels(torch.arange(256, dtype=torch.uint8)).view(64, 1, 2, 2)
    torch.testing.assert_close(model.bits_per_dim(images, generator=generator), torch.full((64,), 8.0))


class _Levels(nn.Module):
    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return x


class _Shift(nn.Module):
    """Parameters of one moved channel from the kept channel and the levels, linearly."""

    def forward(self, h: Tensor, context: Tensor | None = None) -> Tensor:
        return torch.cat([0.4 * h + context[:, :1], 0.3 - 0.7 * h + context[:, 1:]], 1)


def test_learned_noise_has_a_density_on_the_unit_square(generator: torch.Generator) -> None:
    coupling = flows.AffineCoupling(flows.halves(2), network=_Shift())
    noise = flows.VariationalDequantisation([coupling, flows.Sigmoid()], _Levels())
    side = (torch.arange(400).double() + 0.5) / 400
    u = torch.cartesian_prod(side, side).view(-1, 2, 1, 1)
    level = torch.tensor([17.0, 211.0]).double().view(1, 2, 1, 1)
    density = noise.log_prob(u, level.expand(len(u), 2, 1, 1)).exp()
    assert density.mean().item() == pytest.approx(1, abs=1e-3)
    drawn, log_q = noise(level.float().expand(50, 2, 1, 1), generator=generator)
    assert bool(((drawn > 0) & (drawn < 1)).all())
    torch.testing.assert_close(log_q, noise.log_prob(drawn, level.float().expand(50, 2, 1, 1)), rtol=1e-4, atol=1e-4)


def test_sigmoid_reaches_a_little_beyond_the_interval() -> None:
    layer = flows.Sigmoid(margin=0.01)
    ends, _ = layer(torch.tensor([[-50.0, 50.0]]))
    torch.testing.assert_close(ends, torch.tensor([[-0.01, 0.99]]) / 0.98)


def test_image_flow_is_a_bijection_with_the_log_det_of_its_inverse() -> None:
    model = layers.shaken(small(), scale=0.05).double().eval()
    x, y = 0.05 + 0.9 * torch.rand(2, 1, 28, 28).double(), torch.tensor([1, 7])
    context = model.flow.context(y, 2)
    with torch.no_grad():
        z, log_det = model.flow.layers.inverse(x, context)
        back, log_det_back = model.flow.layers(z, context)
    torch.testing.assert_close(back, x, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(log_det_back, -log_det, rtol=1e-9, atol=1e-9)
    assert z.shape == x.shape


def test_image_flow_draws_levels_of_every_label(generator: torch.Generator) -> None:
    model = small()
    images = model.sample(10, torch.arange(10), generator)
    assert images.shape == (10, 1, 28, 28)
    assert torch.equal(from_pixels(check_levels(images).to(torch.uint8)), images)
    assert model.sample(3).shape == (3, 1, 28, 28)
    torch.testing.assert_close(model.sample(2, temperature=0.0), model.sample(2, temperature=0.0))


def test_training_lowers_the_bound_and_moves_every_parameter() -> None:
    images, labels, _ = load_animals("train", dtype=torch.uint8)
    images, labels = images[::97], labels[::97]
    model = small()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    history = fit(model, (images, labels), steps=30, batch_size=16, lr=3e-3, show_every=10, progress=False)
    assert history.losses[-1] < 0.95 * history.losses[0]
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_labels_change_the_likelihood_and_their_mean_is_the_marginal() -> None:
    model = layers.shaken(small(), scale=0.05).eval()
    images = load_animals("test", dtype=torch.uint8).images[:2]

    first, second = (torch.Generator().manual_seed(0) for _ in range(2))
    with torch.no_grad():
        each = torch.stack([model.log_prob_bound(images, torch.full((2,), c), first) for c in range(10)])
        assert not torch.allclose(each[0], each[1], rtol=1e-6)
        torch.testing.assert_close(model.log_prob_bound(images, None, second), each.logsumexp(0) - math.log(10))


def test_released_flow_needs_fewer_bits_than_grey_noise_and_more_than_none() -> None:
    path = find_data("checkpoints/animals-flow.safetensors")
    assert path.stat().st_size < 4e6
    model = load_released("flow")
    images, labels, _ = load_animals("test")
    with torch.no_grad():
        bits = model.bits_per_dim(images[::20], labels[::20], torch.Generator().manual_seed(0))
        v = (check_levels(images[:4]) + 0.5) / 256
        back = model.flow.decode(model.flow.encode(v, labels[:4]), labels[:4])
    assert 1.5 < bits.mean().item() < 2.0
    torch.testing.assert_close(back, v, rtol=0, atol=1e-4)


def test_conditioner_sees_a_neighbourhood_and_starts_at_zero() -> None:
    network = layers.conv(2, 3)
    assert torch.equal(network(torch.randn(1, 2, 5, 5)), torch.zeros(1, 3, 5, 5))
    layers.shaken(network)
    h = torch.zeros(1, 2, 9, 9, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(h)[0, 0, 4, 4], h)
    assert F.pad(gradient[0, 0, 2:7, 2:7], (2, 2, 2, 2)).ne(0).equal(gradient[0, 0].ne(0))
