"""The map of the families: one card for each, with what is fixed in grey dashes and what is learnt in orange.

Eight answers to one question: how does a machine that has seen samples of an unknown p(x) draw another one? A card
shows where the randomness comes from, what turns it into x, and, at its foot, how the family draws and how it knows
log p(x).
All lengths are inches on the page.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Ellipse, Polygon, Rectangle
from torch import Tensor

from coursekit.diffusion.schedules import Cosine
from coursekit.plots import COLOURS

__all__ = ["CARDS", "family_map"]

WIDTH, HEIGHT = 2.3, 2.62  # of a card
FIXED = {"color": "0.45", "linestyle": (0, (3, 1.6)), "linewidth": 1.8}
LEARNT = {"color": COLOURS[3], "linestyle": "-", "linewidth": 2.0}
FILL = "#FBD9BF"  # the inside of what is learnt
LOG_P = {  # what a family can say about log p(x) of a given picture, and the colour of the band that says so
    "exactly": "#007A59",
    "by a bound": COLOURS[0],
    "up to a constant": "#8A3E6D",
    "not at all": "0.25",
}


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], style: dict, head: str = "-|>") -> None:
    arrow = {"arrowstyle": head, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 11, **style}
    ax.annotate("", end, start, arrowprops=arrow)


def _text(ax: Axes, x: float, y: float, text: str, **keywords: object) -> None:
    ax.text(x, y, text, **{"fontsize": 12, "ha": "center", "va": "center", **keywords})


def _thumbnail(ax: Axes, image: Tensor, x: float, y: float, side: float = 0.42) -> None:
    """One animal, centred at (x, y), in the style of `plots.image_grid`."""
    frame = (x - side / 2, x + side / 2, y - side / 2, y + side / 2)
    ax.imshow(image.cpu().squeeze(), cmap="gray", vmin=-1, vmax=1, extent=frame, interpolation="nearest", zorder=2)


def _box(ax: Axes, x: float, y: float, text: str, left: float = 0.4, right: float = 0.4, width: float = 0.34) -> None:
    """A learnt network: a box that may be taller on one side, as encoders and decoders are drawn."""
    corners = [(-width, -left), (-width, left), (width, right), (width, -right)]
    ax.add_patch(Polygon([(x + a / 2, y + b / 2) for a, b in corners], facecolor=FILL, edgecolor=LEARNT["color"], lw=2))
    _text(ax, x, y, text)


def _bell(ax: Axes, x: float, y: float, width: float = 0.42, text: str = "z") -> None:
    """A fixed normal distribution, from which the randomness comes."""
    u = np.linspace(-1, 1, 60)
    ax.plot(x + u * width / 2, y - 0.16 + 0.36 * np.exp(-4.5 * u**2), **FIXED)
    _text(ax, x, y - 0.3, text)


def _mixture(ax: Axes, image: Tensor) -> None:
    places = np.array([(0.5, 1.6), (1.2, 1.3), (1.8, 1.62)])
    sizes = [(0.75, 0.36, 35), (0.66, 0.42, -20), (0.5, 0.34, 80)]
    rng = np.random.default_rng(3)
    for place, (long, short, angle) in zip(places, sizes, strict=True):
        ax.add_patch(Ellipse(place, long, short, angle=angle, facecolor=FILL, edgecolor=LEARNT["color"], lw=2))
        turn = np.deg2rad(angle)
        axes = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        ax.plot(*(place + rng.normal(size=(7, 2)) * (long / 6, short / 6) @ axes).T, "k.", markersize=4)
    _text(ax, 0.42, 1.16, "K = 3", color="0.35")


def _bayes_net(ax: Axes, image: Tensor) -> None:
    x, y = np.linspace(0.3, 2.0, 4), 1.3
    for i, j in ((0, 2), (1, 3), (0, 3)):
        bend = {"connectionstyle": f"arc3,rad={-0.3 - 0.12 * (j - i - 2)}"}
        _arrow(ax, (x[i], y + 0.19), (x[j], y + 0.19), FIXED | bend)
    for i, place in enumerate(x):
        if i:
            _arrow(ax, (x[i - 1] + 0.2, y), (place - 0.2, y), FIXED)
        ax.add_patch(Circle((place, y), 0.19, facecolor=FILL, edgecolor=LEARNT["color"], lw=2))
        _text(ax, place, y, f"$x_{i + 1}$")


def _flow(ax: Axes, image: Tensor) -> None:
    y = 1.55
    _bell(ax, 0.3, y)
    for x, name in ((0.88, "$f_1$"), (1.4, "$f_2$")):
        _box(ax, x, y, name, width=0.32)
    _thumbnail(ax, image, 1.98, y)
    for start, end in ((0.54, 0.7), (1.05, 1.23), (1.57, 1.75)):
        _arrow(ax, (start, y), (end, y), LEARNT | {"linewidth": 1.6, "mutation_scale": 7}, "<|-|>")


def _gan(ax: Axes, image: Tensor) -> None:
    _bell(ax, 0.32, 1.68)
    _box(ax, 0.92, 1.72, "G", 0.25, 0.5)
    _thumbnail(ax, image.flip(-1), 1.4, 1.72, 0.38)
    _thumbnail(ax, image, 1.4, 1.22, 0.38)
    _box(ax, 1.95, 1.47, "D", 0.55, 0.3)
    _text(ax, 0.83, 1.22, "real:")
    for start, end in (((0.56, 1.72), (0.73, 1.72)), ((1.11, 1.72), (1.2, 1.72))):
        _arrow(ax, start, end, LEARNT)
    for y, to in ((1.72, 1.55), (1.22, 1.39)):
        _arrow(ax, (1.6, y), (1.77, to), LEARNT)


def _vae(ax: Axes, image: Tensor) -> None:
    y = 1.68
    _bell(ax, 1.15, 1.14, 0.36, "")
    _text(ax, 0.88, 1.08, "z")
    _arrow(ax, (1.32, 1.2), (1.52, 1.43), FIXED)
    for x in (0.24, 2.06):
        _thumbnail(ax, image, x, y, 0.38)
    _box(ax, 0.69, y, "", 0.5, 0.25, 0.26)
    _box(ax, 1.61, y, "", 0.25, 0.5, 0.26)
    _text(ax, 1.15, y, r"$\mu,\sigma$", fontsize=13)
    for start, end in ((0.44, 0.55), (0.83, 0.95), (1.35, 1.47), (1.75, 1.86)):
        _arrow(ax, (start, y), (end, y), LEARNT | {"mutation_scale": 8})


def _diffusion(ax: Axes, image: Tensor) -> None:
    times = torch.tensor([0.0, 0.35, 0.65, 1.0])
    noise = torch.randn(4, *image.squeeze().shape, generator=torch.Generator().manual_seed(0))
    alpha, sigma = Cosine().alpha(times), Cosine().sigma(times)
    x, y = np.linspace(0.26, 2.04, 4), 1.5
    for i, place in enumerate(x):
        _thumbnail(ax, alpha[i] * image.squeeze().cpu() + sigma[i] * noise[i], place, y, 0.44)
    for left, right in pairwise(x):
        _arrow(ax, (left + 0.04, y + 0.3), (right - 0.04, y + 0.3), FIXED)
        _arrow(ax, (right - 0.04, y - 0.3), (left + 0.04, y - 0.3), LEARNT)


def _boltzmann(ax: Axes, image: Tensor) -> None:
    hidden, visible = np.linspace(0.55, 1.75, 3), np.linspace(0.3, 2.0, 4)
    top, bottom = 1.72, 1.22
    for a in hidden:
        for b in visible:
            ax.plot([a, b], [top, bottom], zorder=1, **(LEARNT | {"linewidth": 1.5}))
    for xs, y, name in ((hidden, top, "h"), (visible, bottom, "x")):
        for i, x in enumerate(xs):
            ax.add_patch(
                Circle((x, y), 0.17, facecolor="white", edgecolor="0.45", lw=1.8, linestyle=(0, (3, 1.6)), zorder=2)
            )
            _text(ax, x, y, f"${name}_{i + 1}$", zorder=3)


def _energy(ax: Axes, image: Tensor) -> None:
    def landscape(x: np.ndarray) -> np.ndarray:
        return 1.68 - 0.55 * np.exp(-(((x - 0.75) / 0.28) ** 2)) - 0.4 * np.exp(-(((x - 1.6) / 0.22) ** 2))

    x = np.linspace(0.1, 2.2, 200)
    ax.plot(x, landscape(x), **(LEARNT | {"linewidth": 2.6}))
    steps = np.array([0.22, 0.36, 0.31, 0.47, 0.56, 0.53, 0.66, 0.75])
    height = landscape(steps) + 0.08
    for i in range(len(steps) - 1):
        ax.plot(steps[i : i + 2], height[i : i + 2], zorder=3, **(FIXED | {"linestyle": "-", "linewidth": 1.2}))
    ax.plot(steps, height, "o", color="0.45", markersize=4, zorder=3)
    ax.plot(steps[-1], height[-1], "o", color="black", markersize=9, zorder=4)
    _text(ax, 1.62, 1.84, "energy E(x)")


Draw = Callable[[Axes, Tensor], None]

# name, lesson, how it knows log p, how it draws (two lines), the picture; in the order of the map
CARDS: Sequence[tuple[str, str, str, str, Draw]] = (
    ("Gaussian mixture", "lesson 02", "exactly", "pick a bell,\nthen a point in it", _mixture),
    ("Bayesian network", "lesson 03", "exactly", "one variable\nafter the other", _bayes_net),
    ("Flow", "lesson 07", "exactly", "bend noise by\ninvertible maps", _flow),
    ("GAN", "lesson 05", "not at all", "one pass of the\ngenerator G", _gan),
    ("VAE", "lesson 06", "by a bound", "a random z, then\nthe decoder", _vae),
    ("Diffusion", "lessons 08 to 12", "by a bound", "take noise away,\nstep by step", _diffusion),
    ("Boltzmann machine", "lesson 04", "up to a constant", "change unit by\nunit, many times", _boltzmann),
    ("Energy-based model", "lesson 04", "up to a constant", "roll down with\nnoise, many steps", _energy),
)


def family_map(image: Tensor) -> Figure:
    """Draw all eight families, two rows of four cards.

    Args:
        image: the animal that stands for the data, (1, 28, 28) in [-1, 1].

    Returns:
        The figure, 9.5 inches wide.

    Example:
        >>> figure = family_map(torch.zeros(1, 28, 28))
        >>> len(figure.axes)
        8
        >>> plt.close(figure)
    """
    gap, head = 0.1, 0.42
    fig = plt.figure(figsize=(4 * WIDTH + 5 * gap, 2 * HEIGHT + 3 * gap + head), layout="none")
    width, height = fig.get_size_inches()
    for number, card in enumerate(CARDS):
        row, column = divmod(number, 4)
        left, bottom = gap + column * (WIDTH + gap), gap + (1 - row) * (HEIGHT + gap)
        _card(fig.add_axes((left / width, bottom / height, WIDTH / width, HEIGHT / height)), image, *card)
    legend = (("Grey dashes: fixed before training", "0.35", 0.27), ("Orange: learnt from data", LEARNT["color"], 0.73))
    for text, colour, x in legend:
        fig.text(x, 1 - 0.25 / height, text, fontsize=15, color=colour, ha="center", va="center")
    return fig


def _card(ax: Axes, image: Tensor, name: str, lesson: str, log_p: str, draws: str, draw: Draw) -> None:
    ax.set(xticks=[], yticks=[])
    _text(ax, 0.1, HEIGHT - 0.2, name, fontsize=13, weight="bold", ha="left")
    _text(ax, 0.1, HEIGHT - 0.44, lesson, color="0.35", ha="left")
    draw(ax, image)
    _text(ax, WIDTH / 2, 0.64, f"draws: {draws}", linespacing=1.15)
    ax.add_patch(Rectangle((0, 0), WIDTH, 0.32, color=LOG_P[log_p], lw=0))
    _text(ax, WIDTH / 2, 0.155, f"log p: {log_p}", color="white", fontsize=12.5)
    ax.spines[:].set(visible=True, color="0.75")
    ax.set(xlim=(0, WIDTH), ylim=(0, HEIGHT), aspect="equal")
