r"""Flows: densities by change of variables, with the base density p_Z and the data density p_X told apart.

A bijection f carries a latent point z with density p_Z to a data point x = f(z). Volume is stretched by |det J_f(z)|,
and probability is kept, so the density of x is

    log p_X(x) = log p_Z(f^{-1}(x)) + log |det J_{f^{-1}}(x)| = log p_Z(z) - log |det J_f(z)|.

A chain of bijections, x = f_K(... f_2(f_1(z))), adds up its log-determinants. `forward` is the generative direction,
z to x; `inverse` leads from data back to the base. Reference: Papamakarios et al., "Normalizing Flows for Probabilistic
Modeling and Inference", 2021, arXiv 1912.02762, eq. 3 to 6.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from coursekit.labels import check_labels, check_num_classes
from coursekit.shapes import check_points, checked_shape

__all__ = [
    "Base",
    "Bijection",
    "Compose",
    "Flow",
    "Inverted",
    "StandardNormal",
    "check_context",
    "check_features",
]


class Bijection(nn.Module, ABC):
    """A differentiable map with a differentiable inverse and a known Jacobian determinant.

    Both directions take N points in a tensor (N, ...) and, if the layer was built for it, a context (N, C). Both
    return the image of the points and log |det| of the map in the direction that was called, (N,): what `forward`
    returns for z is minus what `inverse` returns for f(z).

    Attributes:
        stochastic: whether the determinant is estimated by chance; then both directions also take a `generator`.
    """

    stochastic: bool = False

    @abstractmethod
    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Latent z to data x = f(z), with log |det dx/dz|, (N,)."""

    @abstractmethod
    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data x to latent z = f^{-1}(x), with log |det dz/dx|, (N,)."""


class Inverted(Bijection):
    """A bijection turned round: its forward is the other's inverse.

    A masked autoregressive layer turned round is an inverse autoregressive one (Kingma et al., 2016, arXiv 1606.04934).

    Example:
        >>> from coursekit.flows import Squeeze
        >>> Inverted(Squeeze())(torch.zeros(1, 4, 7, 7))[0].shape
        torch.Size([1, 1, 14, 14])
    """

    def __init__(self, bijection: Bijection) -> None:
        super().__init__()
        self.bijection, self.stochastic = bijection, bijection.stochastic

    def forward(self, z: Tensor, context: Tensor | None = None, **noise: torch.Generator) -> tuple[Tensor, Tensor]:
        return self.bijection.inverse(z, context, **noise)

    def inverse(self, x: Tensor, context: Tensor | None = None, **noise: torch.Generator) -> tuple[Tensor, Tensor]:
        return self.bijection.forward(x, context, **noise)


class Compose(Bijection):
    """Bijections one after the other, in plain order: x = f_K(... f_2(f_1(z))) for `Compose([f_1, f_2, ..., f_K])`.

    Example:
        >>> from coursekit.flows import Permutation
        >>> chain = Compose([Permutation([1, 2, 0]), Permutation([1, 2, 0])])
        >>> chain(torch.tensor([[0.0, 1.0, 2.0]]))[0]
        tensor([[2., 0., 1.]])
    """

    def __init__(self, bijections: Iterable[Bijection]) -> None:
        super().__init__()
        self.bijections = nn.ModuleList(bijections)
        self.stochastic = any(bijection.stochastic for bijection in self.bijections)

    def __len__(self) -> int:
        return len(self.bijections)

    def __getitem__(self, k: int) -> Bijection:
        return self.bijections[k]

    def forward(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        log_det = z.new_zeros(len(z))
        for bijection in self.bijections:
            z, term = bijection(z, context, **_noise(bijection, generator))
            log_det = log_det + term
        return z, log_det

    def inverse(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(len(x))
        for bijection in reversed(self.bijections):
            x, term = bijection.inverse(x, context, **_noise(bijection, generator))
            log_det = log_det + term
        return x, log_det

    def chain(self, z: Tensor, context: Tensor | None = None) -> list[Tensor]:
        """Every station on the way from z to x: [z, f_1(z), f_2(f_1(z)), ..., x]."""
        stations = [z]
        for bijection in self.bijections:
            stations.append(bijection(stations[-1], context)[0])
        return stations


class Base(Protocol):
    """A base density p_Z: whatever can be drawn from and scored, such as `GaussianMixture`."""

    def log_prob(self, z: Tensor) -> Tensor:
        """log p_Z(z) in nats, (N, ...) -> (N,)."""
        ...

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n independent points (n, ...)."""
        ...


class StandardNormal(nn.Module):
    """The usual base, p_Z(z) = N(z; 0, I), for points of any shape.

    Example:
        >>> round(StandardNormal([2]).log_prob(torch.zeros(1, 2)).item(), 4)  # -log(2 pi)
        -1.8379
    """

    origin: Tensor

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("origin", torch.zeros(*shape), persistent=False)  # says shape, device and floating type

    def log_prob(self, z: Tensor) -> Tensor:
        """log p_Z(z) in nats, (N, ...) -> (N,)."""
        return standard_normal_log_prob(z)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n independent points (n, ...)."""
        return torch.empty_like(self.origin.expand(n, *self.origin.shape)).normal_(generator=generator)


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, I) in nats, (N, ...) -> (N,)."""
    return -0.5 * (z.square().flatten(1).sum(1) + math.prod(z.shape[1:]) * math.log(2 * math.pi))


class Flow(nn.Module):
    """A density p_X made from a base p_Z by bijections, for given labels if wanted.

    With labels, an embedding of y is the context of every layer: p_X(x | y). Without y a flow with labels means them
    equally likely: p_X(x) is then the mean of p_X(x | y) over y, and `sample` draws the labels first.

    Args:
        layers: bijections in generative order, f_1 first.
        shape: of one point, (D,) or (C, H, W).
        num_classes: labels are 0..num_classes - 1; None without labels.
        context: features of the embedding, which the layers must have been built for.
        base: p_Z, standard normal unless given.

    Example:
        >>> from coursekit.flows import real_nvp
        >>> flow = real_nvp(2)  # starts as the identity
        >>> flow.log_prob(torch.zeros(3, 2))
        tensor([-1.8379, -1.8379, -1.8379], grad_fn=<AddBackward0>)
    """

    def __init__(
        self,
        layers: Iterable[Bijection],
        shape: Sequence[int],
        num_classes: int | None = None,
        context: int = 16,
        base: Base | None = None,
    ) -> None:
        super().__init__()
        check_num_classes(num_classes)
        self.layers, self.shape, self.num_classes = Compose(layers), checked_shape(shape), num_classes
        self.base = StandardNormal(shape) if base is None else base
        self.label = None if num_classes is None else nn.Embedding(num_classes, context)

    def log_prob(self, x: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """log p_X(x | y), or log p_X(x), (N,) in nats; an unbiased estimate if a layer is stochastic.

        Args:
            x: (N, *shape).
            y: labels (N,), if the flow has them.
            generator: of the stochastic layers' noise.

        Raises:
            ValueError: if x has another shape, or a label is out of range.
        """
        check_points(x, self.shape)
        if self.num_classes is not None and y is None:
            classes = torch.arange(self.num_classes, device=x.device)
            each = [self.log_prob(x, c.expand(len(x)), generator) for c in classes]
            return torch.stack(each).logsumexp(0) - math.log(self.num_classes)
        with torch.autocast(x.device.type, enabled=False):  # a density wants all the digits of its log-determinant
            z, log_det = self.layers.inverse(x, self.context(y, len(x)), generator)
            return self.base.log_prob(z) + log_det

    def loss(self, x: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Mean of -log p_X in nats: what `coursekit.diffusion.fit` minimises."""
        return -self.log_prob(x, y, generator).mean()

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """n independent points (n, *shape), of the labels y (n,) if they are given."""
        return self.sample_with_log_prob(n, y, generator)[0]

    def sample_with_log_prob(
        self, n: int, y: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """n points x = f(z) with log p_X(x | y), through which gradients flow: for fitting by the reverse KL.

        Raises:
            ValueError: if n is negative, or a label is out of range.
        """
        if n < 0:
            raise ValueError(f"n must be at least 0, got {n}")
        z = self.base.sample(n, generator)
        if self.num_classes is not None and y is None:
            y = torch.randint(self.num_classes, (n,), generator=generator, device=z.device)
        x, log_det = self.layers(z, self.context(y, n), generator)
        return x, self.base.log_prob(z) - log_det

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The latent points z = f^{-1}(x), (N, *shape)."""
        check_points(x, self.shape)
        return self.layers.inverse(x, self.context(y, len(x)))[0]

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """The data points x = f(z), (N, *shape)."""
        check_points(z, self.shape, "z")
        return self.layers(z, self.context(y, len(z)))[0]

    def context(self, y: Tensor | None, n: int) -> Tensor | None:
        """What the layers are told of n labels: their embedding, or None for a flow without labels.

        Raises:
            ValueError: if labels are missing, not wanted, of another number, or out of range.
        """
        check_labels(y, n, self.num_classes)
        return None if self.label is None else self.label(y)


def check_features(points: Tensor, D: int, name: str) -> None:
    """Refuse points whose dimension 1 is not D.

    Raises:
        ValueError: naming the argument and the shape met.
    """
    if points.ndim < 2 or points.shape[1] != D:
        raise ValueError(f"{name} must have shape (N, {D}, ...), got {tuple(points.shape)}")


def check_context(context: Tensor | None, features: int) -> None:
    """Refuse a context that a layer was not built for, or its absence.

    Raises:
        ValueError: naming the context and how many features were met.
    """
    found = 0 if context is None else context.shape[1]
    if found != features:
        raise ValueError(f"context must have the {features} features that the layer was built for, got {found}")


def _noise(bijection: Bijection, generator: torch.Generator | None) -> dict[str, torch.Generator]:
    return {"generator": generator} if bijection.stochastic else {}
