r"""Muon: momentum for weight matrices, whose every step moves all directions alike.

    M <- mu M + (1 - mu) G,   U = (1 - mu) G + mu M,   W <- (1 - lr decay) W - 0.2 lr sqrt(max(m, n)) orth(U)

for a weight W seen as an m x n matrix; orth(U) = A B^T for the singular value decomposition U = A S B^T, so the few
strong directions of a gradient do not drown the many weak ones. Five Newton-Schulz iterations come close to it with
matrix products alone. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024 (blog post with
code); the factor 0.2 sqrt(max(m, n)), which gives a step the size of Adam's, from Liu et al., "Muon is Scalable for
LLM Training", 2025, arXiv 2502.16982, eq. 4.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["GradientDescent", "Muon", "muon_and_adamw", "orthogonalise"]


def orthogonalise(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Push the singular values of (B, m, n) matrices towards 1, roughly into [0.7, 1.2], keeping their vectors.

    Each iteration maps a singular value s to 3.4445 s - 4.775 s^3 + 2.0315 s^5.

    Example:
        >>> u = orthogonalise(torch.randn(3, 8, 20, generator=torch.Generator().manual_seed(0)))
        >>> s = torch.linalg.svdvals(u)
        >>> bool((s > 0.5).all() and (s < 1.3).all())
        True
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    for _ in range(iterations):
        s = x @ x.mT
        x = 3.4445 * x + (-4.775 * s + 2.0315 * s @ s) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon for weights of two or more dimensions; a convolution is a matrix of outputs by inputs and places.

    Weights of one shape are orthogonalised together, as one batch. If the attribute `found_inf` is set to a
    tensor that holds 1, a step changes nothing, as with torch's fused optimisers.

    Args:
        params: the weights.
        lr: learning rate, on the scale of Adam's.
        momentum: mu above.
        weight_decay: decay above.

    Raises:
        ValueError: if a parameter has fewer than two dimensions.
    """

    found_inf: Tensor | None = None
    whole_matrices = True  # a piece of a matrix has other singular vectors

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float = 5e-3, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim < 2:
                    raise ValueError(
                        f"Muon wants weights of two or more dimensions, got shape {tuple(parameter.shape)}"
                    )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Move every weight that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for parameters in by_shape.values():
                self._move(parameters, group)

    def _move(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        mu, keep = group["momentum"], 1 - group["lr"] * group["weight_decay"]
        moments = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in parameters]
        grads = [p.grad if self.found_inf is None else torch.where(self.found_inf > 0, m, p.grad)
                 for p, m in zip(parameters, moments, strict=True)]  # fmt: skip
        torch._foreach_lerp_(moments, grads, 1 - mu)
        ahead = torch.stack([torch.lerp(g, m, mu).flatten(1) for g, m in zip(grads, moments, strict=True)])
        steps = orthogonalise(ahead) * (0.2 * max(ahead.shape[1:]) ** 0.5)
        if self.found_inf is not None:
            steps, keep = steps * (1 - self.found_inf), 1 - (1 - keep) * (1 - self.found_inf)
        for parameter, step in zip(parameters, steps, strict=True):
            parameter.mul_(keep).add_(step.view(parameter.shape), alpha=-group["lr"])


def muon_and_adamw(
    module: nn.Module, lr: float = 5e-3, lr_rest: float = 3e-3, outside: tuple[str, ...] = ()
) -> list[torch.optim.Optimizer]:
    """Muon for the weight matrices inside a network, AdamW for vectors and for what stands at its ends.

    Args:
        module: whose parameters are to move.
        lr: of Muon.
        lr_rest: of AdamW.
        outside: name parts (such as "label") whose weights belong to AdamW all the same.

    Example:
        >>> [len(o.param_groups[0]["params"]) for o in muon_and_adamw(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)))]
        [2, 2]
    """
    inside, rest = [], []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            matrix = parameter.ndim >= 2 and not set(outside) & set(name.split("."))
            (inside if matrix else rest).append(parameter)
    return [Muon(inside, lr), torch.optim.AdamW(rest, lr_rest, (0.9, 0.99), weight_decay=0.01, fused=True)]


class GradientDescent(torch.optim.Optimizer):
    """Stochastic gradient descent with momentum, M <- mu M + G and W <- W - lr M.

    For machines whose gradient is a mean over chains. AdamW moves every weight by about lr: a Boltzmann machine with
    hundreds of weights to a unit then changes faster than its chains follow. Here steps shrink with the gradient.

    As with `Muon`, a step changes nothing if the attribute `found_inf` is a tensor that holds 1.

    Args:
        params: the weights.
        lr: learning rate.
        momentum: mu.

    Example:
        >>> weight = nn.Parameter(torch.zeros(1))
        >>> weight.grad = torch.ones(1)
        >>> GradientDescent([weight], lr=0.1).step()
        >>> weight.item()
        -0.1
    """

    found_inf: Tensor | None = None

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.5) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            moments = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in parameters]
            for parameter, moment in zip(parameters, moments, strict=True):
                new = torch.add(parameter.grad, moment, alpha=group["momentum"])
                if self.found_inf is not None:  # a gradient that is not finite must not be multiplied by 0
                    new = torch.where(self.found_inf > 0, moment, new)
                moment.copy_(new)
                step = new if self.found_inf is None else new * (1 - self.found_inf)
                parameter.sub_(step, alpha=group["lr"])
