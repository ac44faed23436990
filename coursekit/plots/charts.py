"""Curves, intervals, tables and graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Circle
from numpy.typing import ArrayLike

from coursekit.plots.style import COLOURS, TINT

__all__ = ["confusion", "graph", "intervals", "losses"]


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
