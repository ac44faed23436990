"""Laws of the shared networks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coursekit.networks import (
    MLP,
    ConvDecoder,
    ConvEncoder,
    MaskedLinear,
    MaskedMLP,
    TimeEmbedding,
    TimeMLP,
    UNet,
    autoregressive_masks,
)
from coursekit.networks.convolutions import Attention, ResidualBlock


def batch(n: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 1, 28, 28, generator=generator), torch.rand(n, generator=generator), torch.arange(n) % 10


def shaken(network: torch.nn.Module) -> torch.nn.Module:
    """With noise on every parameter, so that layers that start at zero do something."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


def test_blocks_start_as_their_skips_and_the_network_as_zero() -> None:
    x, t, y = batch()
    h, context = torch.randn(2, 16, 7, 7), torch.randn(2, 8)
    assert torch.equal(ResidualBlock(16, 16, 8)(h, context), h)
    assert torch.equal(Attention(16)(h), h)
    assert torch.equal(UNet()(x, t, y), torch.zeros_like(x))


def test_samples_do_not_see_each_other() -> None:
    """A picture's result is the same alone and among others."""
    network, (x, t, y) = shaken(UNet()), batch()
    together = network(x, t, y)
    for i in range(len(x)):
        torch.testing.assert_close(
            network(x[i : i + 1], t[i : i + 1], y[i : i + 1])[0], together[i], rtol=1e-4, atol=1e-5
        )


def test_time_label_and_every_pixel_matter() -> None:
    network, (x, t, y) = shaken(UNet()), batch()
    base = network(x, t, y)
    assert not torch.allclose(network(x, t + 0.01, y), base)
    assert not torch.allclose(network(x, t, (y + 1) % 10), base)
    torch.testing.assert_close(network(x, t), network(x, t, torch.full_like(y, 10)))  # no label is the last row
    x = x[:1].requires_grad_()
    (gradient,) = torch.autograd.grad(network(x, t[:1], y[:1])[0, 0, 14, 14], x)
    assert bool((gradient != 0).all())  # attention reaches every place


@pytest.mark.parametrize("build", [UNet, lambda: TimeMLP(2, num_classes=10)])
def test_gradients_reach_every_parameter(build: object) -> None:
    network, (x, t, y) = shaken(build()), batch(32)
    network(x if isinstance(network, UNet) else x[:, 0, 0, :2], t, y.clamp(max=9)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_near_times_are_told_apart() -> None:
    embedding = TimeEmbedding(64)
    t = torch.linspace(0, 1, 1001)
    distance = (embedding(t[1:]) - embedding(t[:-1])).norm(dim=1)
    assert distance.min() > 0.1
    torch.testing.assert_close(embedding(t).square().sum(1), torch.full((1001,), 32.0))


def test_attention_ignores_the_order_of_places() -> None:
    attention, x = shaken(Attention(8, heads=2)), torch.randn(2, 8, 3, 3)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    shuffled = x.flatten(2)[:, :, order].view_as(x)
    torch.testing.assert_close(
        attention(shuffled).flatten(2), attention(x).flatten(2)[:, :, order], rtol=1e-4, atol=1e-5
    )


@settings(max_examples=40, deadline=None)
@given(data=st.data(), D=st.integers(1, 9), hidden=st.lists(st.integers(1, 24), max_size=3))
def test_masked_outputs_see_what_comes_before_and_nothing_else(data: st.DataObject, D: int, hidden: list[int]) -> None:
    """Over all paths: never a later variable, always the context; all earlier variables if layers are wide enough."""
    order, context = data.draw(st.permutations(range(D))), data.draw(st.integers(0, 2))
    reach = torch.eye(D + context)
    for mask in autoregressive_masks(order, hidden, outputs=2, context=context):
        reach = (mask.float() @ reach).clamp(max=1)
    place = torch.tensor(order).argsort()
    earlier = place[None, :] < place[:, None]
    seen = reach.view(D, 2, D + context).bool()
    assert torch.equal(seen[:, 0], seen[:, 1])
    assert not bool((seen[:, 0, :D] & ~earlier).any())
    assert bool(seen[..., D:].all())
    if all(width >= D for width in hidden):
        assert torch.equal(seen[:, 0, :D], earlier)


def test_masked_perceptron_is_autoregressive_by_autograd() -> None:
    order = [3, 1, 0, 2]
    network = MaskedMLP(order, [32, 32], outputs=3, context=2).double()
    jacobian = torch.autograd.functional.jacobian(network, torch.randn(6).double()).view(4, 3, 6)
    place = torch.tensor(order).argsort()
    assert torch.equal((jacobian[..., :4] != 0).all(1), place[None, :] < place[:, None])
    assert bool((jacobian[..., 4:] != 0).all())


def test_masked_weights_start_within_what_the_output_sees() -> None:
    layer = MaskedLinear(torch.arange(1000)[None, :] < torch.tensor([[1], [10], [1000]]))
    kept = (layer.weight * layer.mask).abs().max(dim=1).values
    assert bool((kept <= torch.tensor([1.0, 0.1**0.5, 0.001**0.5]) + 1e-6).all())
    assert kept[2].item() > 0.9 * 0.001**0.5


@pytest.mark.parametrize(
    "make",
    [
        lambda: autoregressive_masks([0, 2], [4]),
        lambda: autoregressive_masks([], [4]),
        lambda: autoregressive_masks([0, 1], [0]),
        lambda: autoregressive_masks([0, 1], [4], outputs=0),
        lambda: autoregressive_masks([0, 1], [4], context=-1),
        lambda: MaskedLinear(torch.ones(3)),
    ],
)
def test_impossible_masks_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match=r"order|hidden|mask"):
        make()


@pytest.mark.parametrize(
    "make", [lambda: MLP([3]), lambda: MLP([3, 0]), lambda: TimeEmbedding(3), lambda: TimeEmbedding(0)]
)
def test_impossible_sizes_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match="got"):
        make()


def test_encoder_and_decoder_treat_each_sample_alone_and_use_all_of_it() -> None:
    x, context = torch.randn(3, 1, 28, 28).requires_grad_(), torch.randn(3, 6).requires_grad_()
    encoder, decoder = ConvEncoder(5, 8, context=6), ConvDecoder(5, 2, 8)
    z = encoder(x, context)
    for gradient in torch.autograd.grad(z[1].sum(), [x, context]):
        assert bool(gradient[1].ne(0).all())
        assert not gradient[[0, 2]].any()
    z = z.detach().requires_grad_()
    pictures = decoder(z)
    assert pictures.shape == (3, 2, 28, 28)
    (gradient,) = torch.autograd.grad(pictures[1, :, 14, 14].sum(), z)
    assert bool(gradient[1].ne(0).all())
    assert not gradient[[0, 2]].any()
