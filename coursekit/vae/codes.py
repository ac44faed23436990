"""What all models with latents share: codes z of data x, x -> z -> x', and what one does with them."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from coursekit.labels import check_labels, check_num_classes

__all__ = ["Beside", "LatentModel"]


class Beside(nn.Module):
    """A network of vectors that gets its context as further inputs.

    Args:
        network: of D + C features.

    Example:
        >>> Beside(nn.Linear(2 + 3, 4))(torch.zeros(5, 2), torch.zeros(5, 3)).shape
        torch.Size([5, 4])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(N, D) and (N, C) -> what the network makes of (N, D + C); without context, of (N, D)."""
        return self.network(x if context is None else torch.cat([x, context], dim=1))


class LatentModel(nn.Module, ABC):
    """Codes of data and back, with labels if wanted: `encode` and `decode`, and what one does with them.

    Args:
        latent: D, numbers of a code.
        num_classes: labels are 0..num_classes - 1; None without labels.
        context: features of the label's embedding, which encoder and decoder are then given as a second argument.

    Raises:
        ValueError: if a size is not positive.
    """

    origin: Tensor

    def __init__(self, latent: int, num_classes: int | None = None, context: int = 16) -> None:
        super().__init__()
        check_num_classes(num_classes)
        if latent < 1 or context < 1:
            raise ValueError(f"latent and context must be at least 1, got {latent} and {context}")
        self.latent, self.num_classes = latent, num_classes
        self.label = None if num_classes is None else nn.Embedding(num_classes, context)
        self.register_buffer("origin", torch.zeros(latent), persistent=False)  # says device and floating type

    @abstractmethod
    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The code of each x, (N, ...) -> (N, D): of a random code, its mean."""

    @abstractmethod
    def _decode(self, z: Tensor, context: Tensor | None) -> Tensor:
        """What a code stands for, (N, D) and (N, C) -> (N, ...)."""

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """What each code stands for, (N, D) -> (N, ...): of a random x, its mean.

        Raises:
            ValueError: if z has the wrong shape, or labels do not fit.
        """
        self._check_codes(z)
        return self._decode(z, self.context(y, len(z)))

    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x through the code and back, (N, ...)."""
        return self.decode(self.encode(x, y), y)

    def interpolate(
        self, x_a: Tensor, x_b: Tensor, steps: int = 8, y_a: Tensor | None = None, y_b: Tensor | None = None
    ) -> Tensor:
        """From each x_a to its x_b along the straight line between their codes (and between their labels' contexts).

        Args:
            x_a: where the paths start, (N, ...).
            x_b: where they end, (N, ...).
            steps: points of a path, both ends included.
            y_a: labels of x_a (N,), for a model with labels.
            y_b: labels of x_b.

        Returns:
            (N, steps, ...).

        Raises:
            ValueError: if steps is below 2, or x_a and x_b differ in shape.
        """
        if steps < 2:
            raise ValueError(f"steps must be at least 2, got {steps}")
        if x_a.shape != x_b.shape:
            raise ValueError(f"x_b must have the shape of x_a, {tuple(x_a.shape)}, got {tuple(x_b.shape)}")
        z = _lines(self.encode(x_a, y_a), self.encode(x_b, y_b), steps)
        context = None
        if self.label is not None:
            context = _lines(self.context(y_a, len(x_a)), self.context(y_b, len(x_b)), steps)
        return self._decode(z, context).unflatten(0, (len(x_a), steps))

    def traverse(self, z: Tensor, dim: int, values: Tensor, y: Tensor | None = None) -> Tensor:
        """Codes with one coordinate moved through values and all others held, decoded.

        Args:
            z: codes, (N, D).
            dim: the coordinate.
            values: what it is set to, (V,).
            y: labels (N,), for a model with labels.

        Returns:
            (N, V, ...).

        Raises:
            ValueError: if there is no such coordinate, or z has the wrong shape.
        """
        self._check_codes(z)
        if not 0 <= dim < self.latent:
            raise ValueError(f"dim must lie in 0..{self.latent - 1}, got {dim}")
        moved = z.repeat_interleave(len(values), dim=0)
        moved[:, dim] = values.to(z).repeat(len(z))
        y = None if y is None else y.repeat_interleave(len(values))
        return self.decode(moved, y).unflatten(0, (len(z), len(values)))

    def context(self, y: Tensor | None, n: int) -> Tensor | None:
        """What the networks are told of n labels, (n, C): their embedding, or None in a model without labels.

        Raises:
            ValueError: if labels are missing, not wanted, of another number, or out of range.
        """
        check_labels(y, n, self.num_classes)
        return None if self.label is None else self.label(y)

    def _check_codes(self, z: Tensor) -> None:
        if z.ndim != 2 or z.shape[1] != self.latent:
            raise ValueError(f"z must have shape (N, {self.latent}), got {tuple(z.shape)}")


def _lines(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Points on the straight lines from a to b, (N, C) and (N, C) -> (N steps, C), line by line."""
    t = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device)[:, None]
    return torch.lerp(a[:, None], b[:, None], t).flatten(0, 1)
