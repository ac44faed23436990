r"""Layers for pictures (N, C, H, W): normalise, mix channels, trade places for channels, let half of them leave early.

    ActNorm              x = z exp(s) + t, one s and t a channel, set by the first batch of data
    InvertibleConv1x1    x_hw = W z_hw with one C x C matrix for all places,  log |det| = H W log |det W|
    Squeeze              z (C, H, W) -> x (4 C, H/2, W/2) in squares of 2 x 2; a permutation, log |det| = 0
    Split                x_a = f(z_a), x_b = z_b: the layers of f touch the first channels only

Stacked Splits make the multi-scale flow: read from the data, half of the numbers leave after the fine scale and the
others go on to coarser ones. References: Dinh et al., "Density estimation using Real NVP", 2017, arXiv 1605.08803,
sections 3.6 and 3.7; Kingma & Dhariwal, "Glow", 2018, arXiv 1807.03039, section 3.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coursekit.flows.base import Bijection, Inverted, check_features

__all__ = ["ActNorm", "InvertibleConv1x1", "Split", "Squeeze", "Unsqueeze"]


class ActNorm(Bijection):
    """A scale and a shift for each feature, x = z exp(s) + t, (N, D) or (N, C, H, W).

    The first data that pass (through `inverse`, in training mode) set s and t so that what comes out has mean 0 and
    deviation 1 in every feature; from then on they are ordinary parameters. Without such a start they are zero.

    Args:
        features: D or C.
        started: true if the data are not to set the parameters.

    Example:
        >>> layer, x = ActNorm(3), 5 + 2 * torch.randn(1000, 3)
        >>> z, _ = layer.inverse(x)
        >>> torch.testing.assert_close(z.mean(0), torch.zeros(3), rtol=0, atol=1e-5)
    """

    started: Tensor

    def __init__(self, features: int, started: bool = False) -> None:
        super().__init__()
        self.features = features
        self.log_scale, self.shift = nn.Parameter(torch.zeros(features)), nn.Parameter(torch.zeros(features))
        self.register_buffer("started", torch.tensor(started))
        self._started = started  # the same on the host, so that no step waits for the device

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        check_features(z, self.features, "z")
        return torch.addcmul(self._wide(self.shift, z), z, self._wide(self.log_scale.exp(), z)), self._log_det(z)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        check_features(x, self.features, "x")
        if self.training and not self._started:
            self._start(x)
        return (x - self._wide(self.shift, x)) * self._wide(torch.exp(-self.log_scale), x), -self._log_det(x)

    @torch.no_grad()
    def _start(self, x: Tensor) -> None:
        parts = x.detach().transpose(0, 1).flatten(1)
        moments = torch.stack([parts.mean(1), parts.square().mean(1)])
        if torch.distributed.is_available() and torch.distributed.is_initialized():  # the same on every rank
            torch.distributed.all_reduce(moments)
            moments /= torch.distributed.get_world_size()
        mean, square = moments
        self.shift.copy_(mean)
        self.log_scale.copy_(0.5 * (square - mean.square()).clamp(min=1e-6).log())
        self.started.fill_(True)
        self._started = True

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._started = bool(self.started)

    def _wide(self, parameter: Tensor, like: Tensor) -> Tensor:
        return parameter.view(-1, *[1] * (like.ndim - 2))

    def _log_det(self, points: Tensor) -> Tensor:
        return (self.log_scale.sum() * (points[0].numel() // self.features)).expand(len(points))


class InvertibleConv1x1(Bijection):
    """One learned matrix for the features of every place, x = W z, with W = P L (U + diag(s)).

    The permutation P, and the signs of s, stay as the random rotation that W starts from has them; L has ones on its
    diagonal. So log |det W| is the sum of log |s|, and W can be inverted whatever is learned.

    Args:
        features: D of points (N, D), or C of pictures (N, C, H, W).
        generator: of the rotation.

    Example:
        >>> layer, z = InvertibleConv1x1(4), torch.randn(2, 4, 3, 3)
        >>> torch.testing.assert_close(layer.inverse(layer(z)[0])[0], z, rtol=1e-4, atol=1e-5)
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, features: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.features = features
        rotation = torch.linalg.qr(torch.randn(features, features, generator=generator))[0]
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        self.register_buffer("permutation", permutation)
        self.register_buffer("sign", diagonal.sign())
        self.log_diagonal = nn.Parameter(diagonal.abs().log())
        self.lower, self.upper = nn.Parameter(lower.tril(-1)), nn.Parameter(upper.triu(1))

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        check_features(z, self.features, "z")
        lower, upper = self._factors()
        return self._multiply(self.permutation @ lower @ upper, z), self._log_det(z)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        check_features(x, self.features, "x")
        lower, upper = self._factors()
        half = torch.linalg.solve_triangular(lower, self.permutation.T, upper=False, unitriangular=True)
        return self._multiply(torch.linalg.solve_triangular(upper, half, upper=True), x), -self._log_det(x)

    def _factors(self) -> tuple[Tensor, Tensor]:
        one = torch.eye(self.features, dtype=self.lower.dtype, device=self.lower.device)
        return self.lower.tril(-1) + one, self.upper.triu(1) + torch.diag(self.sign * self.log_diagonal.exp())

    def _multiply(self, matrix: Tensor, points: Tensor) -> Tensor:
        if points.ndim == 2:
            return points @ matrix.T
        return F.conv2d(points, matrix[:, :, None, None])

    def _log_det(self, points: Tensor) -> Tensor:
        return (self.log_diagonal.sum() * (points[0].numel() // self.features)).expand(len(points))


class Squeeze(Bijection):
    """Squares of 2 x 2 places become 4 channels: (N, C, H, W) -> (N, 4 C, H/2, W/2).

    Raises:
        ValueError: from `forward`, if H or W is odd; from `inverse`, if the channels are no multiple of 4.

    Example:
        >>> Squeeze()(torch.arange(4.0).view(1, 1, 2, 2))[0].flatten()
        tensor([0., 1., 2., 3.])
    """

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if z.ndim != 4 or z.shape[2] % 2 or z.shape[3] % 2:
            raise ValueError(f"z must have shape (N, C, H, W) with even H and W, got {tuple(z.shape)}")
        return F.pixel_unshuffle(z, 2), z.new_zeros(len(z))

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if x.ndim != 4 or x.shape[1] % 4:
            raise ValueError(f"x must have shape (N, C, H, W) with C a multiple of 4, got {tuple(x.shape)}")
        return F.pixel_shuffle(x, 2), x.new_zeros(len(x))


class Unsqueeze(Inverted):
    """The inverse of `Squeeze`: (N, 4 C, H, W) -> (N, C, 2 H, 2 W)."""

    def __init__(self) -> None:
        super().__init__(Squeeze())

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if z.ndim != 4 or z.shape[1] % 4:
            raise ValueError(f"z must have shape (N, C, H, W) with C a multiple of 4, got {tuple(z.shape)}")
        return super().forward(z, context)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if x.ndim != 4 or x.shape[2] % 2 or x.shape[3] % 2:
            raise ValueError(f"x must have shape (N, C, H, W) with even H and W, got {tuple(x.shape)}")
        return super().inverse(x, context)


class Split(Bijection):
    """The first `kept` channels go through `bijection`, the others leave as they are: x = (f(z_a), z_b).

    Args:
        bijection: f, which must keep the shape of z_a.
        kept: channels of z_a; half of them (the larger one) if None.

    Raises:
        ValueError: from both directions, if there are no channels beyond the kept ones.

    Example:
        >>> from coursekit.flows import Permutation
        >>> Split(Permutation([1, 0]), kept=2)(torch.tensor([[0.0, 1.0, 2.0]]))[0]
        tensor([[1., 0., 2.]])
    """

    def __init__(self, bijection: Bijection, kept: int | None = None) -> None:
        super().__init__()
        if kept is not None and kept < 1:
            raise ValueError(f"kept must be at least 1 or None, got {kept}")
        self.bijection, self.kept, self.stochastic = bijection, kept, bijection.stochastic

    def forward(self, z: Tensor, context: Tensor | None = None, **noise: torch.Generator) -> tuple[Tensor, Tensor]:
        a, b = self._parts(z, "z")
        a, log_det = self.bijection(a, context, **noise)
        return torch.cat([a, b], 1), log_det

    def inverse(self, x: Tensor, context: Tensor | None = None, **noise: torch.Generator) -> tuple[Tensor, Tensor]:
        a, b = self._parts(x, "x")
        a, log_det = self.bijection.inverse(a, context, **noise)
        return torch.cat([a, b], 1), log_det

    def _parts(self, points: Tensor, name: str) -> tuple[Tensor, Tensor]:
        kept = self.kept or (points.shape[1] + 1) // 2
        if points.shape[1] <= kept:
            raise ValueError(f"{name} must have more than {kept} channels, got shape {tuple(points.shape)}")
        return points[:, :kept], points[:, kept:]
