"""Laws that every layer obeys, in float64 against autograd, finite differences and quadrature."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from coursekit import flows
from coursekit.checkpoints import read_tensors, write_tensors

sys.path.insert(0, str(Path(__file__).parent))
import layers

names = pytest.mark.parametrize("name", layers.VECTOR_LAYERS)
picture_names = pytest.mark.parametrize("name", layers.PICTURE_LAYERS)
BLIND = {"actnorm", "linear", "permutation", "reverse", "split"}  # to a context
C = layers.CONTEXT


def check_round_trip(layer: flows.Bijection, z: Tensor, c: Tensor | None, tolerance: float) -> None:
    with torch.no_grad():
        x, log_det = layer(z, c)
        back, log_det_back = layer.inverse(x, c)
        y, log_det_inverse = layer.inverse(z, c)
        there, log_det_there = layer(y, c)
    torch.testing.assert_close(back, z, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(there, z, rtol=tolerance, atol=tolerance)
    assert log_det.shape == log_det_inverse.shape == (len(z),)
    torch.testing.assert_close(log_det_back, -log_det, rtol=10 * tolerance, atol=10 * tolerance)
    torch.testing.assert_close(log_det_there, -log_det_inverse, rtol=10 * tolerance, atol=10 * tolerance)


@names
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000), D=st.integers(2, 6), spread=st.floats(0.1, 3), conditional=st.booleans())
def test_inverse_undoes_forward(name: str, seed: int, D: int, spread: float, conditional: bool) -> None:
    """To 1e-10 in float64, and log-determinants cancel, for points and parameters of moderate size."""
    D, context = min(D, 3) if name == "continuous" else D, C if conditional else 0
    layer, z = layers.make(name, D, context, seed, scale=0.1), spread * layers.points(20, D, seed=seed)
    check_round_trip(layer, z, layers.points(20, C, seed=seed + 1) if conditional else None, 1e-10)


@names
def test_inverse_undoes_forward_in_single_precision(name: str) -> None:
    layer, z = layers.make(name, 4, C, scale=0.15).float(), layers.points(100, 4).float()
    if name == "continuous":
        layer.solver, layer.rtol, layer.atol = "dopri5", 1e-7, 1e-7
    check_round_trip(layer, z, layers.points(100, C, seed=2).float(), 1e-5)


@names
def test_log_det_is_that_of_the_jacobian(name: str) -> None:
    layer, z, c = layers.make(name, 3, C), layers.points(2, 3), layers.points(2, C, seed=2)
    torch.testing.assert_close(layer(z, c)[1], layers.log_det_by_autograd(layer, z, c), rtol=1e-8, atol=1e-8)


@names
@pytest.mark.parametrize("seed", [0, 1])
def test_density_integrates_to_one_over_the_plane(name: str, seed: int) -> None:
    layer = layers.make(name, 2, seed=seed, scale=0.15)
    if name == "continuous":
        layer.solver, layer.rtol, layer.atol = "dopri5", 1e-5, 1e-5
    side = torch.linspace(-12, 12, 101 if name == "continuous" else 401, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    with torch.no_grad():
        density = flows.Flow([layer], [2]).double().log_prob(grid).exp()
    assert (density.sum() * (side[1] - side[0]) ** 2).item() == pytest.approx(1, abs=1e-3)


@names
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_gradients_equal_finite_differences(name: str, direction: str) -> None:
    """In the points, the context and every parameter; a root that is found without gradients must not hide."""
    layer, z, c = layers.make_quick(name, 3, C), layers.points(3, 3), layers.points(3, C, seed=2)
    own = {key: parameter.detach().requires_grad_() for key, parameter in layer.named_parameters()}
    side = _Side(layer, direction)

    def function(z: Tensor, c: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        renamed = {f"layer.{key}": value for key, value in zip(own, values, strict=True)}
        return torch.func.functional_call(side, renamed, (z, c))

    inputs = (z.requires_grad_(), c.requires_grad_(), *own.values())
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True, atol=1e-5, rtol=1e-4)


class _Side(torch.nn.Module):
    def __init__(self, layer: flows.Bijection, direction: str) -> None:
        super().__init__()
        self.layer, self.direction = layer, direction

    def forward(self, points: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        return getattr(self.layer, self.direction)(points, context)


@pytest.mark.parametrize("name", sorted(set(layers.VECTOR_LAYERS) - {"permutation", "reverse"}))
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_gradients_reach_every_parameter(name: str, direction: str) -> None:
    layer, z, c = layers.make_quick(name, 4, C), layers.points(64, 4), layers.points(64, C, seed=2)
    x, log_det = getattr(layer, direction)(z, c)
    (x.square().sum() + log_det.square().sum()).backward()
    for key, parameter in layer.named_parameters():
        assert parameter.grad is not None, key
        assert bool(parameter.grad.abs().sum() > 0), key


@names
def test_save_and_load_round_trip(name: str, tmp_path: Path) -> None:
    """Into a layer with other parameters, through a file."""
    layer, other = layers.make_quick(name, 4, C), layers.shaken(layers.make_quick(name, 4, C))
    write_tensors(tmp_path / "layer.safetensors", layer.state_dict(), {})
    other.load_state_dict(read_tensors(tmp_path / "layer.safetensors")[0])
    z, c = layers.points(5, 4), layers.points(5, C, seed=2)
    for here, there in zip((*layer(z, c), *layer.inverse(z, c)), (*other(z, c), *other.inverse(z, c)), strict=True):
        assert torch.equal(here, there)


@names
def test_points_do_not_see_each_other(name: str) -> None:
    layer, z, c = layers.make_quick(name, 3, C), layers.points(4, 3), layers.points(4, C, seed=2)
    together, log_det = layer(z, c)
    for i in range(4):
        x, alone = layer(z[i : i + 1], c[i : i + 1])
        torch.testing.assert_close(x[0], together[i], rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(alone[0], log_det[i], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", sorted(set(layers.VECTOR_LAYERS) - BLIND))
def test_context_matters(name: str) -> None:
    layer, z = layers.make_quick(name, 3, C), layers.points(4, 3)
    assert not torch.allclose(layer(z, layers.points(4, C, seed=2))[0], layer(z, layers.points(4, C, seed=3))[0])


@pytest.mark.parametrize("name", ["affine coupling", "spline coupling", "masked affine", "masked spline"])
def test_layers_with_networks_start_as_the_identity(name: str) -> None:
    layer, z = layers.VECTOR_LAYERS[name](4, 0).double(), layers.points(10, 4)
    for image, log_det in (layer(z), layer.inverse(z)):
        torch.testing.assert_close(image, z)
        torch.testing.assert_close(log_det, torch.zeros(10).double())


@pytest.mark.parametrize("name", sorted(set(layers.VECTOR_LAYERS) - {"continuous"}))
def test_points_of_another_dimension_are_refused(name: str) -> None:
    layer = layers.make(name, 4)
    for direction, argument in ((layer, "z"), (layer.inverse, "x")):
        if name in ("split", "inverse autoregressive", "composition"):
            argument = "z|x"
        with pytest.raises(ValueError, match=rf"^({argument}) must have"):
            direction(layers.points(5, 1))


@picture_names
def test_pictures_round_trip_with_the_log_det_of_the_jacobian(name: str) -> None:
    layer, z = layers.make_picture(name), layers.points(3, 4, 4, 4)
    x, _ = layer(z)
    with torch.no_grad():
        back, log_det = layer.inverse(x)
    torch.testing.assert_close(back, z, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(log_det, -layer(z)[1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(layer(z)[1], layers.log_det_by_autograd(layer, z), rtol=1e-8, atol=1e-8)
    assert torch.autograd.gradcheck(layer.inverse, (x.detach().requires_grad_(),), fast_mode=True, atol=1e-5)


@picture_names
def test_pictures_round_trip_in_single_precision(name: str) -> None:
    layer, z = layers.make_picture(name, scale=0.1).float(), layers.points(8, 4, 4, 4).float()
    torch.testing.assert_close(layer.inverse(layer(z)[0])[0], z, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(set(layers.PICTURE_LAYERS) - {"squeeze", "unsqueeze", "sigmoid"}))
def test_gradients_reach_every_parameter_of_picture_layers(name: str) -> None:
    layer = layers.make_picture(name)
    z, log_det = layer.inverse(layers.points(8, 4, 4, 4))
    (z.square().sum() + log_det.square().sum()).backward()
    for key, parameter in layer.named_parameters():
        assert parameter.grad is not None, key
        assert bool(parameter.grad.abs().sum() > 0), key
