"""Drawings of networks: an auto-encoder and a variational one, with the numbers that really pass through them.

What is learned is an orange box, what is random a dashed circle, a vector a column of cells from blue (negative)
through white to orange (positive). All lengths are in the units of one picture's side.
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Circle, Polygon, Rectangle
from torch import Tensor

from coursekit.plots import COLOURS

__all__ = ["auto_encoder", "variational_auto_encoder"]

SIGNED = LinearSegmentedColormap.from_list("signed", [COLOURS[0], "#FFFFFF", COLOURS[3]])
FILL = "#FBD9BF"
CELL, TALLEST = 0.16, 1.4  # the height of a cell, and the most of a whole column


def auto_encoder(ax: Axes, x: Tensor, z: Tensor, back: Tensor) -> None:
    """x -> f -> z -> g -> x'.

    Args:
        ax: where to draw; its frame is removed and its units become equal.
        x: a picture (1, H, W) in [-1, 1].
        z: its code, (L,).
        back: the picture that comes back, of the shape of x.

    Example:
        >>> import matplotlib.pyplot as plt, torch
        >>> fig, ax = plt.subplots()
        >>> auto_encoder(ax, torch.zeros(1, 28, 28), torch.ones(4), torch.zeros(1, 28, 28))
        >>> len(ax.images), ax.get_aspect()
        (2, 1.0)
    """
    _picture(ax, x, 0.5, "$x$")
    _box(ax, 1.9, "encoder\n$f$", 0.55, 0.3)
    _vector(ax, z, 3.1, 0.0, f"$z$, {len(z)} numbers")
    _box(ax, 4.3, "decoder\n$g$", 0.3, 0.55)
    _picture(ax, back, 5.7, "$x' = g(z)$")
    for start, end in ((1.05, 1.35), (2.45, 2.92), (3.28, 3.75), (4.85, 5.15)):
        _arrow(ax, (start, 0), (end, 0))
    _finish(ax, (-0.1, 6.4), (-1.25, 0.85))


def variational_auto_encoder(ax: Axes, x: Tensor, m: Tensor, s: Tensor, z: Tensor, back: Tensor) -> None:
    """x -> encoder -> m and s -> z = m + s eps -> decoder -> the parameters of p(x | z); below, how one draws.

    Args:
        ax: where to draw; its frame is removed and its units become equal.
        x: a picture (1, H, W) in [-1, 1].
        m: means of q(z | x), (L,).
        s: standard deviations of q(z | x), (L,).
        z: a draw of it, (L,).
        back: the mean of p(x | z), of the shape of x.
    """
    half = _half(z)
    height = half + 0.15
    _picture(ax, x, 0.5, "$x$")
    _box(ax, 1.9, "encoder", 0.55, 0.3)
    _vector(ax, m, 3.2, height, "mean $m(x)$", above=True)
    _vector(ax, s, 3.2, -height, "deviation $s(x)$")
    for y, text, line in ((-height, r"$\times$", "-"), (-height - 0.95, r"$\varepsilon$", "--")):
        ax.add_patch(Circle((4.3, y), 0.26, facecolor="white", edgecolor="0.35", linestyle=line, linewidth=1.8))
        ax.text(4.3, y, text, ha="center", va="center", fontsize=15)
    _arrow(ax, (4.3, -height - 0.69), (4.3, -height - 0.26))
    _vector(ax, z, 5.3, 0.0, r"$z = m + s\,\varepsilon$")
    _box(ax, 6.6, "decoder", 0.3, 0.55)
    _picture(ax, back, 8.1, "mean of $p(x | z)$")
    straight = [((1.05, 0), (1.35, 0)), ((5.48, 0), (6.05, 0)), ((7.15, 0), (7.55, 0))]
    bent = [((2.45, 0.1), (3.0, height)), ((2.45, -0.1), (3.0, -height)), ((3.38, height), (5.1, 0.12))]
    for start, end in [*straight, *bent, ((3.38, -height), (4.02, -height)), ((4.5, -height + 0.16), (5.1, -0.12))]:
        _arrow(ax, start, end)
    foot = -height - max(half + 0.75, 1.45)
    ax.text(5.3, foot, "to draw: $z$ from $N(0, I)$,\nno encoder", ha="center", va="top", fontsize=13, color="0.25")
    _arrow(ax, (5.3, foot + 0.05), (5.3, -half - 0.4), linestyle="--", color="0.35")
    _finish(ax, (-0.1, 8.8), (foot - 0.7, height + half + 0.5))


def _picture(ax: Axes, image: Tensor, x: float, text: str) -> None:
    frame = (x - 0.5, x + 0.5, -0.5, 0.5)
    ax.imshow(image.detach().cpu().squeeze(), cmap="gray", vmin=-1, vmax=1, extent=frame, interpolation="nearest")
    ax.text(x, -0.6, text, ha="center", va="top", fontsize=14)


def _box(ax: Axes, x: float, text: str, left: float, right: float) -> None:
    """A learned network, narrower on one side."""
    corners = [(x - 0.55, -left), (x - 0.55, left), (x + 0.55, right), (x + 0.55, -right)]
    ax.add_patch(Polygon(corners, facecolor=FILL, edgecolor=COLOURS[3], linewidth=2))
    ax.text(x, 0, text, ha="center", va="center", fontsize=13)


def _vector(ax: Axes, values: Tensor, x: float, y: float, text: str, above: bool = False) -> None:
    """A column of cells centred at (x, y), the first number on top, its text below or above it."""
    values = values.detach().cpu().double()
    top, scale = y + _half(values), max(1.0, float(values.abs().max()))
    cell = 2 * _half(values) / len(values)
    for i, value in enumerate(values.tolist()):
        colour = SIGNED(0.5 + 0.5 * value / scale)
        corner = (x - 0.13, top - cell * (i + 1))
        ax.add_patch(Rectangle(corner, 0.26, cell, facecolor=colour, edgecolor="black", linewidth=1))
    at, side = (top + 0.08, "bottom") if above else (2 * y - top - 0.08, "top")
    ax.text(x, at, text, ha="center", va=side, fontsize=14)


def _half(values: Tensor) -> float:
    """Half the height of a column of cells."""
    return min(CELL * len(values), TALLEST) / 2


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], **style: object) -> None:
    look = {"arrowstyle": "-|>", "mutation_scale": 16, "linewidth": 1.8, "shrinkA": 0, "shrinkB": 0, "color": "black"}
    ax.annotate("", end, start, arrowprops=look | style)


def _finish(ax: Axes, x: tuple[float, float], y: tuple[float, float]) -> None:
    ax.set(xlim=x, ylim=y, xticks=[], yticks=[], aspect="equal")
    ax.spines[:].set_visible(False)
