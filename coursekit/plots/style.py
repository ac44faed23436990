"""The colours and the look of every figure, and how a figure leaves a cell."""

from __future__ import annotations

import io
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from torch import Tensor

__all__ = [
    "COLOURS",
    "FILE_DPI",
    "LETTER",
    "PAGE_DPI",
    "SQUARE",
    "TINT",
    "TWO_CLASSES",
    "Extent",
    "as_array",
    "set_style",
    "show",
]

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


def as_array(values: Tensor | ArrayLike) -> np.ndarray:
    """Numbers as NumPy knows them."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
