"""Every figure style of the course, on matplotlib and seaborn.

Figures are drawn for the last row of a lecture hall: text of 12 points and more at the size at which a
page shows the figure (96 pixels per inch), colours that survive colour blindness (Okabe and Ito 2008) and
grey printing (viridis, cividis). Functions that draw take `ax` and return nothing; `image_grid` makes a
figure of its own; `show` is how a figure leaves a cell, with its description for those who cannot see it.
"""

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import ArrayLike
from torch import Tensor

# Okabe and Ito 2008, ordered so that neighbours differ most; yellow, too pale for lines, comes last.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
TWO_CLASSES = LinearSegmentedColormap.from_list("two_classes", ["#7FB8D8", "#FFFFFF", "#F2CF80"])
TINT = "#F2CF80"
PAGE_DPI, FILE_DPI = 96, 144
LETTER = 0.105  # inches, a letter of 12 points

Extent = tuple[float, float, float, float]
SQUARE: Extent = (-3.0, 3.0, -3.0, 3.0)


def set_style() -> None:
    """Set the look of every figure: call it once, in a lesson's first cell."""
    sns.set_theme(context="notebook", style="ticks", palette=sns.color_palette(COLOURS))
    plt.rcParams.update(
        {
            "figure.figsize": (8, 4.5),
            "figure.dpi": PAGE_DPI,
            "figure.constrained_layout.use": True,
            "figure.constrained_layout.w_pad": 0.08,
            "figure.constrained_layout.h_pad": 0.08,
            "font.size": 13,
            "axes.titlesize": 15,
            "axes.labelsize": 14,
            "xtick.labelsize": 12,
            "ytick.labelsize": 12,
            "legend.fontsize": 12,
            "legend.frameon": False,
            "figure.titlesize": 16,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "lines.linewidth": 2.2,
            "image.cmap": "viridis",
            "image.interpolation": "nearest",
        }
    )


def show(fig: Figure, alt: str) -> None:
    """Display a figure as PNG with its alternative text, and close it.

    The text goes to the output's metadata, where pages take it from, and is the cell's plain-text result,
    which `nbval` compares: say what the figure shows, with no number that differs between machines.

    Raises:
        ValueError: if `alt` says too little to stand for the figure.

    Example:
        >>> show(plt.figure(), alt="An empty figure, to show that the text stands for it.")
        An empty figure, to show that the text stands for it.
    """
    if len(alt.split()) < 4:
        raise ValueError(f"alt must describe the figure in a sentence, got {alt!r}")
    png = io.BytesIO()
    trimmed = {"bbox_inches": "tight", "pad_inches": 0.08}
    fig.savefig(png, format="png", dpi=FILE_DPI, facecolor="white", metadata={"Software": None}, **trimmed)
    plt.close(fig)
    from IPython.display import display  # of the extra `lab`; drawing to files needs none

    pixels = int.from_bytes(png.getvalue()[16:20], "big")  # the width in a PNG's first chunk
    display(_Picture(png.getvalue(), " ".join(alt.split()), round(pixels * PAGE_DPI / FILE_DPI)))


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
    points = _numpy(points)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points must have shape (N, 2), got {points.shape}")
    labels = np.zeros(len(points), dtype=int) if labels is None else _numpy(labels)
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
        vectors = _numpy(field(points))
    vectors = vectors / np.sqrt(np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-12)
    longest = max(np.linalg.norm(vectors, axis=1).max(), 1e-12)
    vectors = vectors * (x[1] - x[0]) / longest  # the longest arrow reaches its neighbour
    ax.quiver(*_numpy(points).T, *vectors.T, color=colour, angles="xy", scale_units="xy", scale=1, width=0.004)
    _square(ax, extent)


def losses(ax: Axes, steps: ArrayLike, values: ArrayLike, label: str = "") -> None:
    """A training curve: the values, faint, and their running mean over a twentieth of the run."""
    steps, values = np.asarray(steps, float), np.asarray(values, float)
    window = max(1, len(values) // 20)
    smooth = np.convolve(values, np.ones(window) / window, mode="valid")
    (line,) = ax.plot(steps[window - 1 :], smooth, label=label or None)
    ax.plot(steps, values, color=line.get_color(), alpha=0.25, linewidth=1, zorder=0)
    ax.set(xlabel="optimiser step", ylabel="loss")
    if label:
        ax.legend()


def intervals(
    ax: Axes, names: Sequence[str], values: ArrayLike, low: ArrayLike, high: ArrayLike, xlabel: str = ""
) -> None:
    """One row for each name: its value as a point, its interval as a line."""
    values, low, high = (np.asarray(part, float) for part in (values, low, high))
    rows = np.arange(len(names))
    ax.hlines(rows, low, high, color=COLOURS[0], linewidth=3)
    ax.plot(values, rows, "o", color=COLOURS[0], markersize=9, markeredgecolor="white")
    ax.set_yticks(rows, names)
    ax.set(xlabel=xlabel, ylim=(len(names) - 0.5, -0.5))
    ax.grid(axis="x", alpha=0.4)


def confusion(ax: Axes, counts: ArrayLike, names: Sequence[str]) -> None:
    """A table of counts, true class down and predicted class across, each row also shown as colour."""
    counts = np.asarray(counts)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    sns.heatmap(
        share, annot=counts, fmt="d", cmap="cividis", vmin=0, vmax=1, cbar=False, square=True, ax=ax,
        xticklabels=names, yticklabels=names, annot_kws={"size": 12}, linewidths=1,
    )  # fmt: skip
    ax.set(xlabel="predicted", ylabel="true")
    plt.setp(ax.get_xticklabels(), rotation=45, ha="right", rotation_mode="anchor")
    ax.tick_params(axis="y", rotation=0)


def graph(
    ax: Axes,
    places: Mapping[str, tuple[float, float]],
    arrows: Sequence[tuple[str, str]],
    shaded: Sequence[str] = (),
    radius: float = 0.42,
) -> None:
    """A small directed graph: variables as discs with their names inside, arrows from parent to child.

    Args:
        ax: where to draw; its frame is removed and its units become equal.
        places: the centre of each variable's disc, by name.
        arrows: pairs (parent, child) of names.
        shaded: the variables that are observed: their discs are filled.
        radius: of a disc, in the units of the places.

    Example:
        >>> fig, ax = plt.subplots()
        >>> graph(ax, {"x": (0, 0), "y": (2, 0)}, [("x", "y")])
        >>> len(ax.patches)
        2
    """
    for name, (x, y) in places.items():
        fill = TINT if name in shaded else "white"
        ax.add_patch(Circle((x, y), radius, facecolor=fill, edgecolor="black", linewidth=1.6, zorder=2))
        ax.text(x, y, name, ha="center", va="center", fontsize=14, zorder=3)
    for start, end in ((np.array(places[a], float), np.array(places[b], float)) for a, b in arrows):
        step = (end - start) / np.linalg.norm(end - start) * radius
        style = {"arrowstyle": "-|>", "mutation_scale": 18, "linewidth": 1.8, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", end - step, start + step, arrowprops=style | {"color": "black"})
    centres = np.array(list(places.values()), float)
    low, high = centres.min(0) - 1.15 * radius, centres.max(0) + 1.15 * radius
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xticks=[], yticks=[], aspect="equal")
    ax.spines[:].set_visible(False)


@dataclass(frozen=True)
class _Picture:
    """A PNG for a notebook; its alternative text where no picture can be shown."""

    png: bytes
    alt: str
    width: int

    def __repr__(self) -> str:
        return self.alt

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> tuple[dict, dict]:
        data = {"image/png": self.png, "text/plain": self.alt}
        return data, {"image/png": {"alt": self.alt, "width": self.width}}


def _numpy(values: Tensor | ArrayLike) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _as_grey(images: Tensor) -> np.ndarray:
    """(N, H, W) in [0, 1]."""
    tiles = _numpy(images)
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
        values = _numpy(function(points)).reshape(resolution, resolution)
    return x, y, values


def _square(ax: Axes, extent: Extent | None) -> None:
    """Equal units on both axes, and the frame where it was asked for."""
    ax.set_aspect("equal")
    if extent is not None:
        ax.set(xlim=extent[:2], ylim=extent[2:])
