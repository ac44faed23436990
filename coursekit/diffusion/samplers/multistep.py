r"""Multi-step samplers: one new call of the denoiser a step, and the estimates of the steps before for a higher order.

All take the exact step of `coursekit.diffusion.samplers.interpolation`, with the mean M of D guessed from several
estimates. DPM-Solver++ and UniPC were published with polynomials in the log-SNR: ``coordinate=log_snr`` gives those. By
default the coordinate is the one that suits the grid, and the orders hold for every schedule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from coursekit.diffusion.grids import Path
from coursekit.diffusion.samplers.interpolation import Coordinate, evenest, mean_weights
from coursekit.diffusion.samplers.single_step import Denoise, midpoint_step

__all__ = ["deis", "dpmpp_2m", "unipc"]


def dpmpp_2m(
    denoise: Denoise,
    x: Tensor,
    path: Path,
    generator: torch.Generator | None = None,
    coordinate: Coordinate | None = None,
) -> Iterator[Tensor]:
    """DPM-Solver++(2M): the line through the last two estimates; one call a step, second order.

    Lu et al., "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models", 2022,
    arXiv 2211.01095, algorithm 2.

    Args:
        denoise: of D.
        x: pure noise, (N, ...).
        path: from noise to data.
        generator: not used.
        coordinate: of the line; `evenest` if None, `log_snr` in the paper.
    """
    return _adams(denoise, x, path, 2, coordinate)


def deis(
    denoise: Denoise,
    x: Tensor,
    path: Path,
    generator: torch.Generator | None = None,
    order: int = 3,
    coordinate: Coordinate | None = None,
) -> Iterator[Tensor]:
    """Exponential Adams-Bashforth: the polynomial through the last `order` estimates; one call a step and one more.

    The first step has no past, and a first-order step there leaves an error of the order of its square: it is a
    midpoint step, whose error is of the third power, so that orders up to 3 are reached as a whole.

    Zhang and Chen, "Fast Sampling of Diffusion Models with Exponential Integrator", 2022, arXiv 2204.13902, tAB-DEIS;
    there the estimate of the noise is interpolated in t, here that of the data in the coordinate that suits the grid.

    Raises:
        ValueError: if the order is not 1, 2 or 3.
    """
    _check_order(order)
    return _adams(denoise, x, path, order, coordinate, start=order > 1)


def unipc(
    denoise: Denoise,
    x: Tensor,
    path: Path,
    generator: torch.Generator | None = None,
    order: int = 2,
    coordinate: Coordinate | None = None,
) -> Iterator[Tensor]:
    """UniPC: predict from the last `order` estimates, then correct with the new one, which costs no call; order + 1.

    The estimate at the predicted point is kept as it is: one call a step, none for the step that ends in clean data.
    Zhao et al., "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models", 2023,
    arXiv 2302.04867, algorithms 1 and 2, with B(h) = e^h - 1. The first step, corrected by a line, limits it to 3.

    Raises:
        ValueError: if the order is not 1, 2 or 3.
    """
    _check_order(order)
    coordinate, past, before = coordinate or evenest(path), [], x
    for i in range(len(path) - 1):
        estimates = [denoise(x, path.times[i]), *past]
        if i:
            x = _step(before, path, i - 1, estimates, newest=i, coordinate=coordinate)
        past, before = estimates[:order], x
        x = _step(x, path, i, past, newest=i, coordinate=coordinate)
        yield x
    yield denoise(x, path.times[-1])


def _adams(
    denoise: Denoise, x: Tensor, path: Path, order: int, coordinate: Coordinate | None, start: bool = False
) -> Iterator[Tensor]:
    """Steps from the last `order` estimates; the first one by the midpoint, at one more call, if `start`."""
    coordinate, past = coordinate or evenest(path), []
    for i in range(len(path) - 1):
        past = [denoise(x, path.times[i]), *past[: order - 1]]
        x = midpoint_step(denoise, x, path, i, past[0]) if start and not i else _step(x, path, i, past, i, coordinate)
        yield x
    yield denoise(x, path.times[-1])


def _step(x: Tensor, path: Path, i: int, estimates: Sequence[Tensor], newest: int, coordinate: Coordinate) -> Tensor:
    """From x at level i to i + 1 with D guessed from estimates at the levels newest, newest - 1, ..."""
    a = path.sigma[i + 1] / path.sigma[i]
    b = path.alpha[i + 1] - a * path.alpha[i]
    weights = mean_weights(path, i, range(newest, newest - len(estimates), -1), coordinate)
    x = torch.add(x * a, estimates[0], alpha=b * weights[0])
    for weight, estimate in zip(weights[1:], estimates[1:], strict=True):
        x = x.add_(estimate, alpha=b * weight) if weight else x
    return x


def _check_order(order: int) -> None:
    if order not in (1, 2, 3):
        raise ValueError(f"order must be 1, 2 or 3, got {order}")
