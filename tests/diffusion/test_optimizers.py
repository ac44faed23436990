"""Laws of Muon and of gradient descent."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from coursekit.diffusion.optimizers import GradientDescent, Muon, muon_and_adamw, orthogonalise


@given(m=st.integers(2, 24), n=st.integers(2, 24), seed=st.integers(0, 100))
def test_orthogonalisation_keeps_singular_vectors(m: int, n: int, seed: int) -> None:
    """U = A S B^T becomes A f(S) B^T, with f the quintic applied five times: no direction is turned."""
    x = torch.randn(1, m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    a, s, bt = torch.linalg.svd(x[0], full_matrices=False)
    value = s / s.norm()
    for _ in range(5):
        value = 3.4445 * value - 4.775 * value**3 + 2.0315 * value**5
    torch.testing.assert_close(orthogonalise(x)[0], (a * value) @ bt, rtol=1e-6, atol=1e-8)


def test_step_has_the_size_of_adams() -> None:
    """The root mean square of a step is about 0.2 lr, for tall, wide and convolutional weights alike."""
    torch.manual_seed(0)
    for shape in ((64, 64), (128, 32), (32, 128), (32, 64, 3, 3)):
        weight = nn.Parameter(torch.zeros(shape))
        weight.grad = torch.randn(shape)
        Muon([weight], lr=1.0, weight_decay=0.0).step()
        assert weight.detach().square().mean().sqrt().item() == pytest.approx(0.2, rel=0.25)


def test_one_step_is_the_formula_and_batching_changes_nothing() -> None:
    torch.manual_seed(0)
    grads = [torch.randn(6, 4) for _ in range(3)]
    together = [nn.Parameter(torch.ones(6, 4)) for _ in grads]
    for parameter, grad in zip(together, grads, strict=True):
        parameter.grad = grad.clone()
    optimizer = Muon(together, lr=0.1, momentum=0.9, weight_decay=0.5)
    optimizer.step()
    for parameter, grad in zip(together, grads, strict=True):
        momentum = 0.1 * grad
        ahead = 0.1 * grad + 0.9 * momentum
        wanted = (1 - 0.05) * torch.ones(6, 4) - 0.1 * 0.2 * 6**0.5 * orthogonalise(ahead[None])[0]
        torch.testing.assert_close(parameter.detach(), wanted)
        torch.testing.assert_close(optimizer.state[parameter]["momentum"], momentum)


@pytest.mark.parametrize("kind", [Muon, GradientDescent])
def test_found_inf_leaves_everything_alone(kind: type[torch.optim.Optimizer]) -> None:
    weight = nn.Parameter(torch.ones(3, 3))
    optimizer = kind([weight], lr=0.1)
    weight.grad = torch.eye(3)
    optimizer.step()
    before, moment = weight.detach().clone(), optimizer.state[weight]["momentum"].clone()
    weight.grad = torch.full((3, 3), float("nan"))
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    assert torch.equal(weight.detach(), before)
    assert torch.equal(optimizer.state[weight]["momentum"], moment)


@settings(deadline=None)
@given(lr=st.floats(0.001, 0.1), momentum=st.floats(0, 0.95))
def test_gradient_descent_is_torchs(lr: float, momentum: float) -> None:
    weights = [nn.Parameter(torch.ones(4, 3)) for _ in range(2)]
    optimizers = GradientDescent([weights[0]], lr, momentum), torch.optim.SGD([weights[1]], lr, momentum)
    for step in range(4):
        for weight, optimizer in zip(weights, optimizers, strict=True):
            weight.grad = (weight.detach() * (step + 1)).sin()
            optimizer.step()
    torch.testing.assert_close(*weights)


def test_every_parameter_has_one_optimiser() -> None:
    net = nn.ModuleDict({"label": nn.Embedding(5, 4), "body": nn.Linear(4, 4), "conv": nn.Conv2d(1, 2, 3)})
    muon, adamw = muon_and_adamw(net, outside=("label",))
    groups = [{id(p) for p in optimizer.param_groups[0]["params"]} for optimizer in (muon, adamw)]
    assert groups[0] == {id(net["body"].weight), id(net["conv"].weight)}
    assert groups[0] | groups[1] == {id(p) for p in net.parameters()}
    assert not groups[0] & groups[1]


def test_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match="two or more dimensions"):
        Muon([nn.Parameter(torch.zeros(3))])
