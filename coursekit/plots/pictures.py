"""Pictures: a grid with labels, or one in a frame."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from coursekit.plots.style import LETTER, as_array

__all__ = ["image_grid", "picture"]


def image_grid(
    images: Tensor,
    columns: int | None = None,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    title: str = "",
    inches: float = 0.72,
) -> Figure:
    """Pictures in rows, in grey, with thin white gutters: the one style for animals.

    Args:
        images: (N, 1, H, W) or (N, H, W), float in [-1, 1] (values beyond are clipped) or uint8.
        columns: pictures in a row; by default as many as make the grid near square, at most 12.
        row_labels: one per row, written to its left.
        column_labels: one per column, written above it.
        title: written over the grid.
        inches: the side of one picture.

    Raises:
        ValueError: if the shape is no batch of grey pictures or the number of labels is not that of rows
            or columns.
    """
    tiles = _as_grey(images)
    columns = columns or min(12, int(np.ceil(np.sqrt(len(tiles)))))
    rows = -(-len(tiles) // columns)
    for name, labels, wanted in (("row_labels", row_labels, rows), ("column_labels", column_labels, columns)):
        if len(labels) not in (0, wanted):
            raise ValueError(f"{name} must hold {wanted} texts, got {len(labels)}")
    mosaic = _mosaic(tiles, rows, columns)
    fig, ax = plt.subplots(figsize=_grid_size(rows, columns, inches, row_labels, column_labels, title))
    ax.imshow(mosaic, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_yticks(_centres(row_labels, tiles.shape[1]), row_labels)
    ax.set_xticks(_centres(column_labels, tiles.shape[2]), column_labels)
    ax.tick_params(length=0, labelsize=12, labeltop=True, labelbottom=False)
    if max(map(len, column_labels), default=0) * LETTER > inches:
        plt.setp(ax.get_xticklabels(), rotation=40, ha="left", rotation_mode="anchor")
    ax.spines[:].set_visible(False)
    if title:
        fig.suptitle(textwrap.fill(title, max(20, int(fig.get_figwidth() * 8))), fontsize=15)
    return fig


def picture(ax: Axes, image: Tensor, title: str = "") -> None:
    """One picture in the style of `image_grid`, for figures in which animals stand beside other things.

    Args:
        ax: where to draw; its ticks and frame are removed.
        image: (1, H, W) or (H, W), float in [-1, 1] (values beyond are clipped) or uint8.
        title: written above it.
    """
    tile = _as_grey(image if image.ndim == 3 else image[None])[0]
    ax.imshow(tile, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set(xticks=[], yticks=[], title=title)
    ax.spines[:].set_visible(False)


def _as_grey(images: Tensor) -> np.ndarray:
    """(N, H, W) in [0, 1]."""
    tiles = as_array(images)
    if tiles.ndim == 4 and tiles.shape[1] == 1:
        tiles = tiles[:, 0]
    if tiles.ndim != 3 or not len(tiles):
        raise ValueError(f"images must have shape (N, 1, H, W) or (N, H, W) with N > 0, got {tiles.shape}")
    grey = tiles.astype(np.float32)
    return np.clip(grey / 255 if tiles.dtype == np.uint8 else (grey + 1) / 2, 0, 1)


def _mosaic(tiles: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """One picture of (rows (H + 1) - 1, columns (W + 1) - 1) pixels; gutters and empty places are white."""
    _, height, width = tiles.shape
    canvas = np.ones((rows * columns, height + 1, width + 1), dtype=tiles.dtype)
    canvas[: len(tiles), :height, :width] = tiles
    canvas = canvas.reshape(rows, columns, height + 1, width + 1).swapaxes(1, 2)
    return canvas.reshape(rows * (height + 1), columns * (width + 1))[:-1, :-1]


def _centres(labels: Sequence[str], side: int) -> np.ndarray:
    return np.arange(len(labels)) * (side + 1) + (side - 1) / 2


def _grid_size(
    rows: int, columns: int, inches: float, row_labels: Sequence[str], column_labels: Sequence[str], title: str
) -> tuple[float, float]:
    """Room for the pictures and for text of 12 to 15 points around them."""
    longest_row, longest_column = (max(map(len, labels), default=0) for labels in (row_labels, column_labels))
    slanted = 0.75 * LETTER * longest_column if longest_column * LETTER > inches else 0.0
    left = LETTER * longest_row + slanted + 0.25
    top = 0.3 * bool(column_labels) + slanted + 0.45 * bool(title) + 0.2
    return columns * inches + left, rows * inches + top
