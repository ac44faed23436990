"""Linear operators A, as functions: what was seen of a picture x is b = A x + s n, n ~ N(0, I).

Each knows its adjoint, <A x, b> = <x, A^T b>, and its pseudo-inverse A^+ (Moore and Penrose), of which A^+ b is the
shortest x that fits b best. No matrix of pixels by pixels is ever built.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["AveragePool", "Blur", "LinearOperator", "Mask", "Matrix"]


class LinearOperator(nn.Module, ABC):
    """A linear function of one sample, applied to a batch (N, ...)."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A x, from (N, ...) to (N, ...)."""

    @abstractmethod
    def adjoint(self, b: Tensor) -> Tensor:
        """A^T b, in the shape of x."""

    @abstractmethod
    def pseudo_inverse(self, b: Tensor) -> Tensor:
        """A^+ b, in the shape of x."""

    def measure(self, x: Tensor, deviation: float = 0.0, generator: torch.Generator | None = None) -> Tensor:
        """A x + deviation n, n ~ N(0, I)."""
        b = self(x)
        return b + deviation * torch.empty_like(b).normal_(generator=generator)


class Mask(LinearOperator):
    """The pixels where a mask is true, (N, M): A A^T = I, so the pseudo-inverse is the adjoint, zero where unseen.

    Args:
        mask: bool, of the shape of one sample.

    Raises:
        ValueError: if the mask is not bool, or shows nothing.

    Example:
        >>> left = Mask(torch.tensor([[True, False], [True, False]]))
        >>> seen = left(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
        >>> seen.tolist(), left.adjoint(seen).tolist()
        ([[1.0, 3.0]], [[[1.0, 0.0], [3.0, 0.0]]])
    """

    index: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        if mask.dtype != torch.bool or not bool(mask.any()):
            raise ValueError(f"mask must be bool and true somewhere, got {mask.dtype} with {int(mask.sum())} true")
        self.shape = tuple(mask.shape)
        self.register_buffer("index", mask.flatten().nonzero()[:, 0])

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).index_select(1, self.index)

    def adjoint(self, b: Tensor) -> Tensor:
        x = b.new_zeros(len(b), math.prod(self.shape))
        return x.index_copy(1, self.index, b).view(-1, *self.shape)

    def pseudo_inverse(self, b: Tensor) -> Tensor:
        return self.adjoint(b)


class AveragePool(LinearOperator):
    """The means of squares of pixels, (N, C, H, W) -> (N, C, H / factor, W / factor): A A^T = I / factor^2.

    Args:
        factor: the side of a square; it divides H and W.

    Example:
        >>> pool = AveragePool(2)
        >>> b = pool(torch.tensor([[[[0.0, 4.0], [0.0, 4.0]]]]))
        >>> b.tolist(), pool.adjoint(b).tolist()
        ([[[[2.0]]]], [[[[0.5, 0.5], [0.5, 0.5]]]])
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        if factor < 1:
            raise ValueError(f"factor must be at least 1, got {factor}")
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[2] % self.factor or x.shape[3] % self.factor:
            raise ValueError(f"x must be (N, C, H, W) with sides divisible by {self.factor}, got {tuple(x.shape)}")
        return F.avg_pool2d(x, self.factor)

    def adjoint(self, b: Tensor) -> Tensor:
        return self.pseudo_inverse(b) / self.factor**2

    def pseudo_inverse(self, b: Tensor) -> Tensor:
        return b.repeat_interleave(self.factor, dim=2).repeat_interleave(self.factor, dim=3)


class Blur(LinearOperator):
    """Convolution of pictures (N, C, H, W) with a kernel, as if they were tiled: a product of Fourier coefficients.

    Args:
        kernel: (h, w), its middle at (h // 2, w // 2), no larger than the picture.
        size: (H, W) of the pictures.
        cutoff: coefficients of the kernel below this size (its largest is about 1 if the kernel sums to 1) are taken
            to be 0, so that the pseudo-inverse stays below 1 / cutoff.

    Raises:
        ValueError: if the kernel does not fit.

    Example:
        >>> blur = Blur(torch.tensor([[0.25, 0.5, 0.25]]), size=(1, 4))
        >>> blur(torch.tensor([[[[0.0, 4.0, 0.0, 0.0]]]])).tolist()
        [[[[1.0, 2.0, 1.0, 0.0]]]]
    """

    response: Tensor  # (H, W / 2 + 1, 2), real and imaginary part

    def __init__(self, kernel: Tensor, size: Sequence[int], cutoff: float = 1e-3) -> None:
        super().__init__()
        H, W = size
        if kernel.ndim != 2 or kernel.shape[0] > H or kernel.shape[1] > W:
            raise ValueError(f"kernel must have two sides of at most {(H, W)}, got shape {tuple(kernel.shape)}")
        h, w = kernel.shape
        padded = torch.roll(F.pad(kernel, (0, W - w, 0, H - h)), (-(h // 2), -(w // 2)), (0, 1))
        response = torch.fft.rfft2(padded)
        response = torch.where(response.abs() < cutoff, 0, response)
        self.size = (H, W)
        self.register_buffer("response", torch.view_as_real(response))  # real, so that `Module.to` keeps both parts

    @classmethod
    def gaussian(cls, deviation: float, size: Sequence[int], cutoff: float = 1e-3) -> Blur:
        """The blur of a Gaussian with this deviation in pixels, cut at three deviations, kernel summing to 1."""
        radius = min(math.ceil(3 * deviation), (min(size) - 1) // 2)
        side = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / deviation) ** 2)
        kernel = side[:, None] * side
        return cls(kernel / kernel.sum(), size, cutoff)

    def forward(self, x: Tensor) -> Tensor:
        return self._filter(x, torch.view_as_complex(self.response))

    def adjoint(self, b: Tensor) -> Tensor:
        return self._filter(b, torch.view_as_complex(self.response).conj())

    def pseudo_inverse(self, b: Tensor) -> Tensor:
        response = torch.view_as_complex(self.response)
        return self._filter(b, torch.where(response == 0, 0, 1 / torch.where(response == 0, 1, response)))

    def _filter(self, x: Tensor, response: Tensor) -> Tensor:
        if tuple(x.shape[-2:]) != self.size:
            raise ValueError(f"pictures must be (N, C, {self.size[0]}, {self.size[1]}), got {tuple(x.shape)}")
        return torch.fft.irfft2(torch.fft.rfft2(x) * response, s=self.size)


class Matrix(LinearOperator):
    """Any matrix, for points (N, D): A x is (N, M).

    Args:
        matrix: A, (M, D).

    Raises:
        ValueError: if it is not a matrix.

    Example:
        >>> Matrix(torch.tensor([[1.0, 1.0]]))(torch.tensor([[2.0, 3.0]])).tolist()
        [[5.0]]
    """

    matrix: Tensor
    inverse: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        if matrix.ndim != 2:
            raise ValueError(f"matrix must have shape (M, D), got {tuple(matrix.shape)}")
        self.register_buffer("matrix", matrix)
        self.register_buffer("inverse", torch.linalg.pinv(matrix))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix.T

    def adjoint(self, b: Tensor) -> Tensor:
        return b @ self.matrix

    def pseudo_inverse(self, b: Tensor) -> Tensor:
        return b @ self.inverse.T
