"""Two-dimensional toys: distributions that can be drawn on a page, most with an exact log-density.

Each toy is a mixture p(x) = sum_y p(y) p(x | y) with equally likely components y and points x in the plane.
Where a toy is curved, it is made by a twist, the rotation of each point by an angle proportional to its
distance from the origin. A twist moves points along circles and keeps areas, so its Jacobian determinant is
one and the density of the curved toy is that of the straight one at the untwisted point.

All toys are centred near the origin and lie within their `extent`, the half-width in which a figure shows
them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


def _normal_log_prob(x: Tensor, mean: Tensor | float, std: float) -> Tensor:
    """Elementwise log N(x; mean, std^2)."""
    return -0.5 * ((x - mean) / std) ** 2 - math.log(std * math.sqrt(2 * math.pi))


def _device(generator: torch.Generator | None) -> torch.device | None:
    return None if generator is None else generator.device


def _uniform(n: int, low: float, high: float, generator: torch.Generator | None) -> Tensor:
    return low + (high - low) * torch.rand(n, generator=generator, device=_device(generator))


def _normal(n: int, generator: torch.Generator | None) -> Tensor:
    return torch.randn(n, generator=generator, device=_device(generator))


def _labels(n: int, classes: int, generator: torch.Generator | None) -> Tensor:
    return torch.randint(classes, (n,), generator=generator, device=_device(generator))


def _rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Rotate points (..., 2) anticlockwise by angles (...)."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos * x[..., 0] - sin * x[..., 1], sin * x[..., 0] + cos * x[..., 1]], dim=-1)


class Toy(ABC):
    """A distribution in the plane with labelled components.

    Attributes:
        extent: Half-width of the square that a figure should show.
        classes: Number of components, all equally likely.
    """

    extent: ClassVar[float] = 3.0
    classes: int

    @abstractmethod
    def sample_labelled(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw n points (n, 2) with the component (n,) that each came from; on the generator's device."""

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n points, (n, 2)."""
        return self.sample_labelled(n, generator)[0]


@dataclass(frozen=True)
class TwoGaussians(Toy):
    """Two Gaussians with one covariance: the posterior is exactly logistic in x.

    Class y has mean `-mean` for y = 0 and `+mean` for y = 1; the covariance is diag(std_0^2, std_1^2) turned
    by `angle` (radians).

    Example:
        >>> toy = TwoGaussians()
        >>> weight, bias = toy.boundary()
        >>> x = torch.tensor([[0.4, -0.3]])
        >>> torch.testing.assert_close(toy.posterior(x)[:, 1], torch.sigmoid(x @ weight + bias))
    """

    mean: tuple[float, float] = (0.8, 0.4)
    std: tuple[float, float] = (1.0, 0.6)
    angle: float = -math.pi / 6
    classes: int = 2

    def sample_labelled(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw n points (n, 2) and their classes (n,)."""
        y = _labels(n, 2, generator)
        noise = torch.stack([self.std[0] * _normal(n, generator), self.std[1] * _normal(n, generator)], dim=1)
        x = _rotate(noise, torch.full_like(noise[:, 0], self.angle))
        return x + (2 * y[:, None] - 1) * x.new_tensor(self.mean), y

    def log_joint(self, x: Tensor) -> Tensor:
        """Exact log p(x, y) for both classes, (N, 2), in nats."""
        mean = torch.stack([-x.new_tensor(self.mean), x.new_tensor(self.mean)])
        residual = x[:, None, :] - mean  # (N, 2, 2)
        straight = _rotate(residual, torch.full_like(residual[..., 0], -self.angle))
        terms = [_normal_log_prob(straight[..., i], 0.0, self.std[i]) for i in (0, 1)]
        return terms[0] + terms[1] - math.log(2)

    def log_prob(self, x: Tensor) -> Tensor:
        """Exact log p(x), (N,), in nats."""
        return self.log_joint(x).logsumexp(dim=1)

    def posterior(self, x: Tensor) -> Tensor:
        """P(y | x), (N, 2)."""
        return self.log_joint(x).softmax(dim=1)

    def boundary(self) -> tuple[Tensor, float]:
        """Weight (2,) and bias of the posterior P(y = 1 | x) = sigmoid(w . x + b), w = 2 C^{-1} mean."""
        mean = torch.tensor([self.mean])
        straight = _rotate(mean, torch.tensor([-self.angle])) / torch.tensor(self.std) ** 2
        return 2 * _rotate(straight, torch.tensor([self.angle]))[0], 0.0


@dataclass(frozen=True)
class GaussianRing(Toy):
    """Round Gaussians at equal distances on a circle; eight of them are the classic test for mode collapse.

    Example:
        >>> GaussianRing().centres().norm(dim=1).round(decimals=4).tolist()
        [2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    """

    classes: int = 8
    radius: float = 2.0
    std: float = 0.15

    def centres(self) -> Tensor:
        """Means of the components, (classes, 2)."""
        angle = torch.arange(self.classes) * (2 * math.pi / self.classes)
        return self.radius * torch.stack([angle.cos(), angle.sin()], dim=1)

    def sample_labelled(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw n points (n, 2) and the component (n,) of each."""
        y = _labels(n, self.classes, generator)
        noise = torch.stack([_normal(n, generator), _normal(n, generator)], dim=1)
        return self.centres().to(noise)[y] + self.std * noise, y

    def log_prob(self, x: Tensor) -> Tensor:
        """Exact log p(x), (N,), in nats."""
        terms = _normal_log_prob(x[:, None, :], self.centres().to(x), self.std).sum(dim=-1)  # (N, classes)
        return terms.logsumexp(dim=1) - math.log(self.classes)


@dataclass(frozen=True)
class Pinwheel(Toy):
    """Blades: Gaussians stretched along rays, then twisted by `twist` radians per unit of radius.

    After Johnson et al., Composing graphical models with neural networks, arXiv 1603.06277, section 5, with a
    twist that keeps areas and therefore an exact density.

    Example:
        >>> Pinwheel().sample(3, torch.Generator().manual_seed(0)).shape
        torch.Size([3, 2])
    """

    classes: int = 5
    radius: float = 1.6
    std: tuple[float, float] = (0.45, 0.12)
    twist: float = 0.8

    def _angles(self, like: Tensor) -> Tensor:
        return torch.arange(self.classes, device=like.device, dtype=like.dtype) * (2 * math.pi / self.classes)

    def sample_labelled(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw n points (n, 2) and the blade (n,) of each."""
        y = _labels(n, self.classes, generator)
        along, across = _normal(n, generator), _normal(n, generator)
        blade = torch.stack([self.radius + self.std[0] * along, self.std[1] * across], dim=1)
        return _rotate(blade, self._angles(blade)[y] + self.twist * blade.norm(dim=1)), y

    def log_prob(self, x: Tensor) -> Tensor:
        """Exact log p(x), (N,), in nats."""
        back = self._angles(x) + self.twist * x.norm(dim=1, keepdim=True)  # (N, classes)
        blade = _rotate(x[:, None, :].expand(-1, self.classes, -1), -back)
        along = _normal_log_prob(blade[..., 0], self.radius, self.std[0])
        across = _normal_log_prob(blade[..., 1], 0.0, self.std[1])
        return (along + across).logsumexp(dim=1) - math.log(self.classes)


@dataclass(frozen=True)
class Spiral(Toy):
    """Two arms of a spiral: a straight band, uniform along and Gaussian across, then twisted.

    Example:
        >>> float(Spiral().log_prob(torch.tensor([[9.0, 0.0]])))
        -inf
    """

    length: float = 2.6
    std: float = 0.08
    twist: float = 2.5
    classes: int = 2

    def sample_labelled(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw n points (n, 2) and the arm (n,) of each."""
        along = _uniform(n, -self.length, self.length, generator)
        band = torch.stack([along, self.std * _normal(n, generator)], dim=1)
        return _rotate(band, self.twist * band.norm(dim=1)), (along > 0).long()

    def log_prob(self, x: Tensor) -> Tensor:
        """Exact log p(x), (N,), in nats; minus infinity beyond the ends."""
        band = _rotate(x, -self.twist * x.norm(dim=1))
        inside = _normal_log_prob(band[:, 1], 0.0, self.std) - math.log(2 * self.length)
        return inside.masked_fill(band[:, 0].abs() > self.length, -math.inf)


@dataclass(frozen=True)
class Rings(Toy):
    """Concentric rings: a Gaussian radius around each of `radii`, and any angle.

    The few radii that come out negative point the opposite way, which the density includes.

    Example:
        >>> Rings(radii=(1.0,)).sample(2, torch.Generator().manual_seed(0)).shape
        torch.Size([2, 2])
    """

    radii: tuple[float, ...] = (0.8, 1.6, 2.4)
    std: float = 0.1

    @property
    def classes(self) -> int:  # type: ignore[override]
        """Number of rings."""
        return len(self.radii)

    def sample_labelled(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw n points (n, 2) and the ring (n,) of each."""
        y = _labels(n, self.classes, generator)
        angle = _uniform(n, 0.0, 2 * math.pi, generator)
        radius = angle.new_tensor(self.radii)[y] + self.std * _normal(n, generator)
        return radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1), y

    def log_prob(self, x: Tensor) -> Tensor:
        """Exact log p(x), (N,), in nats: the density of the radius, spread over a circle of length 2 pi r."""
        radius = x.norm(dim=1, keepdim=True)  # (N, 1)
        signed = torch.cat([radius, -radius], dim=1)[:, :, None]  # (N, 2, 1)
        terms = _normal_log_prob(signed, x.new_tensor(self.radii), self.std)  # (N, 2, rings)
        return terms.flatten(1).logsumexp(dim=1) - math.log(self.classes) - (2 * math.pi * radius[:, 0]).log()


@dataclass(frozen=True)
class Checkerboard(Toy):
    """Uniform on the dark squares of a board of `squares` x `squares` fields on [-half_width, half_width]^2.

    Example:
        >>> Checkerboard().log_prob(torch.tensor([[0.5, 0.5], [0.5, -0.5]])).exp().tolist()
        [0.125, 0.0]
    """

    squares: int = 4
    half_width: float = 2.0

    def __post_init__(self) -> None:
        if self.squares % 2 or self.squares < 2:
            raise ValueError(f"squares must be an even number of at least 2, got {self.squares}")

    @property
    def classes(self) -> int:  # type: ignore[override]
        """Number of dark squares."""
        return self.squares**2 // 2

    def sample_labelled(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw n points (n, 2) and the dark square (n,) of each."""
        y = _labels(n, self.classes, generator)
        row = y // (self.squares // 2)
        column = 2 * (y % (self.squares // 2)) + row % 2
        inside = torch.stack([_uniform(n, 0.0, 1.0, generator), _uniform(n, 0.0, 1.0, generator)], dim=1)
        field = 2 * self.half_width / self.squares
        return field * (torch.stack([column, row], dim=1) + inside) - self.half_width, y

    def log_prob(self, x: Tensor) -> Tensor:
        """Exact log p(x), (N,), in nats; minus infinity on light squares and off the board."""
        field = ((x + self.half_width) * (self.squares / (2 * self.half_width))).floor()
        dark = (field.sum(dim=1) % 2 == 0) & (field >= 0).all(dim=1) & (field < self.squares).all(dim=1)
        height = torch.full_like(x[:, 0], math.log(2) - 2 * math.log(2 * self.half_width))
        return height.masked_fill(~dark, -math.inf)


@dataclass(frozen=True)
class TwoMoons(Toy):
    """Two half circles that embrace, with Gaussian noise: scikit-learn's `make_moons`, centred and scaled.

    Its density is an integral along the arcs that has no closed form, so there is no `log_prob`: the toy for
    what can be learnt but not checked.

    Example:
        >>> hasattr(TwoMoons(), "log_prob")
        False
    """

    std: float = 0.1
    scale: float = 1.5
    classes: int = 2

    def sample_labelled(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw n points (n, 2) and the moon (n,) of each."""
        y = _labels(n, 2, generator)
        angle = _uniform(n, 0.0, math.pi, generator)
        side = 1 - 2 * y  # the second moon is the first, turned by half a circle about the centre of both
        arc = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], dim=1) * side[:, None]
        noise = torch.stack([_normal(n, generator), _normal(n, generator)], dim=1)
        return self.scale * (arc + self.std * noise), y


TOYS: dict[str, type[Toy]] = {
    "two gaussians": TwoGaussians,
    "gaussian ring": GaussianRing,
    "pinwheel": Pinwheel,
    "spiral": Spiral,
    "rings": Rings,
    "checkerboard": Checkerboard,
    "two moons": TwoMoons,
}
