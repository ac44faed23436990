"""Functions and points of the plane."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from torch import Tensor

from coursekit.plots.style import COLOURS, SQUARE, TWO_CLASSES, Extent, as_array

__all__ = ["arrows", "decision_boundary", "density", "one_scale", "scatter"]


def density(
    ax: Axes,
    log_prob: Callable[[Tensor], Tensor],
    extent: Extent = SQUARE,
    resolution: int = 200,
    contours: bool = False,
) -> None:
    """A density in the plane: filled in viridis, or as contour lines to lay over points.

    Args:
        ax: where to draw.
        log_prob: maps points (N, 2) to log-densities (N,), in nats.
        extent: x from, x to, y from, y to.
        resolution: grid points along each axis.
        contours: draw lines at 5, 20, 50 and 80 % of the maximum instead of filling.
    """
    x, y, values = _on_grid(log_prob, extent, resolution)
    values = np.exp(values)
    if contours:
        levels = values.max() * np.array([0.05, 0.2, 0.5, 0.8])
        ax.contour(x, y, values, levels=levels, cmap="viridis", linewidths=1.8)
    else:
        ax.imshow(values, origin="lower", extent=extent, cmap="viridis", vmin=0, interpolation="bilinear")
    _square(ax, extent)


def one_scale(axes: Sequence[Axes], label: str = "density", decades: float | None = None) -> None:
    """Give filled densities that are compared one colour scale, from 0 to the largest of all, and one colour bar.

    Args:
        axes: panels of one figure, after `density` has drawn into each; it alone would give each a scale of its own.
        label: written beside the bar.
        decades: colour by the logarithm instead, down to so many powers of ten below the largest, so that what is
            faint can be seen; all that is smaller has the lowest colour.

    Raises:
        ValueError: if a panel shows no filled density.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> fig, axes = plt.subplots(1, 2)
        >>> for ax, scale in zip(axes, (1.0, 2.0), strict=True):
        ...     density(ax, lambda x, scale=scale: -(x / scale).square().sum(1) - 2 * np.log(scale))
        >>> one_scale(axes)
        >>> axes[0].images[0].get_clim() == axes[1].images[0].get_clim()
        True
    """
    empty = sum(not ax.images for ax in axes)
    if empty:
        raise ValueError(f"axes must each show a filled density, got {empty} that show none")
    images = [image for ax in axes for image in ax.images]
    peak = max(float(image.get_array().max()) for image in images)
    norm = Normalize(0, peak) if decades is None else LogNorm(peak / 10**decades, peak, clip=True)
    for image in images:
        image.set_norm(norm)
    axes[0].figure.colorbar(images[0], ax=list(axes), label=label, extend="neither" if decades is None else "min")


def decision_boundary(
    ax: Axes, probability: Callable[[Tensor], Tensor], extent: Extent = SQUARE, resolution: int = 200
) -> None:
    """The probability of the second of two classes as a tint, and the line where it is one half.

    Args:
        ax: where to draw.
        probability: maps points (N, 2) to probabilities (N,) in [0, 1].
        extent: x from, x to, y from, y to.
        resolution: grid points along each axis.
    """
    x, y, values = _on_grid(probability, extent, resolution)
    ax.imshow(
        values, origin="lower", extent=extent, cmap=TWO_CLASSES, vmin=0, vmax=1, interpolation="bilinear", zorder=0
    )
    ax.contour(x, y, values, levels=[0.5], colors="black", linewidths=2, zorder=1)
    _square(ax, extent)


def scatter(
    ax: Axes,
    points: Tensor,
    labels: Tensor | None = None,
    names: Sequence[str] = (),
    extent: Extent | None = None,
    size: float = 10.0,
) -> None:
    """Points of the plane (N, 2), coloured and marked by their labels (N,) where given."""
    points = as_array(points)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points must have shape (N, 2), got {points.shape}")
    labels = np.zeros(len(points), dtype=int) if labels is None else as_array(labels)
    for index, label in enumerate(np.unique(labels)):
        ax.scatter(
            *points[labels == label].T,
            s=size,
            color=COLOURS[index % len(COLOURS)],
            marker="o^sDvPX*"[index % 8],  # colour is never the only sign
            alpha=0.7,
            linewidths=0,
            label=names[int(label)] if len(names) else None,
        )
    if len(names):
        ax.legend(markerscale=2, loc="best")
    _square(ax, extent)


def arrows(
    ax: Axes, field: Callable[[Tensor], Tensor], extent: Extent = SQUARE, number: int = 18, colour: str = "black"
) -> None:
    """A vector field of the plane, such as a score: `field` maps (N, 2) to (N, 2).

    Arrows show directions; their lengths grow with the square root of the field's, so that neither the
    long nor the short ones vanish.
    """
    x, _, points = _grid(extent, number)
    with torch.no_grad():
        vectors = as_array(field(points))
    vectors = vectors / np.sqrt(np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-12)
    longest = max(np.linalg.norm(vectors, axis=1).max(), 1e-12)
    vectors = vectors * (x[1] - x[0]) / longest  # the longest arrow reaches its neighbour
    ax.quiver(*as_array(points).T, *vectors.T, color=colour, angles="xy", scale_units="xy", scale=1, width=0.004)
    _square(ax, extent)


def _grid(extent: Extent, resolution: int) -> tuple[np.ndarray, np.ndarray, Tensor]:
    x = torch.linspace(extent[0], extent[1], resolution)
    y = torch.linspace(extent[2], extent[3], resolution)
    points = torch.cartesian_prod(y, x).flip(1)  # (resolution^2, 2), x runs fastest
    return x.numpy(), y.numpy(), points


def _on_grid(
    function: Callable[[Tensor], Tensor], extent: Extent, resolution: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, y, points = _grid(extent, resolution)
    with torch.no_grad():
        values = as_array(function(points)).reshape(resolution, resolution)
    return x, y, values


def _square(ax: Axes, extent: Extent | None) -> None:
    """Equal units on both axes, and the frame where it was asked for."""
    ax.set_aspect("equal")
    if extent is not None:
        ax.set(xlim=extent[:2], ylim=extent[2:])
