"""Drawings of networks: they show what passes through, inside their frame and with no text on another."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.patches import Circle, Rectangle

from coursekit import diagrams, plots

X = torch.linspace(-1, 1, 784).view(1, 28, 28)
CODE = torch.tensor([1.5, -0.5, 0.0, 0.2])


def draw(kind: str) -> plt.Axes:
    plots.set_style()
    _, ax = plt.subplots(figsize=(11, 5))
    if kind == "plain":
        diagrams.auto_encoder(ax, X, CODE, -X)
    else:
        diagrams.variational_auto_encoder(ax, X, CODE, CODE.exp(), CODE + 0.1, -X)
    return ax


@pytest.mark.parametrize(("kind", "vectors"), [("plain", 1), ("variational", 3)])
def test_pictures_and_numbers_are_those_that_were_given(kind: str, vectors: int) -> None:
    ax = draw(kind)
    np.testing.assert_allclose(ax.images[0].get_array(), X[0])
    np.testing.assert_allclose(ax.images[1].get_array(), -X[0])
    cells = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    assert len(cells) == vectors * len(CODE)
    tops = [cell.get_y() for cell in cells[: len(CODE)]]
    assert tops == sorted(tops, reverse=True)  # the first number on top
    first, second = (cells[i].get_facecolor() for i in (0, 1))
    assert first[0] > first[2]  # positive is orange
    assert second[0] < second[2]  # negative is blue
    plt.close("all")


@pytest.mark.parametrize("kind", ["plain", "variational"])
def test_texts_lie_inside_and_apart(kind: str) -> None:
    ax = draw(kind)
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts if text.get_text()]
    frame = ax.get_window_extent()
    for i, box in enumerate(boxes):
        assert frame.x0 - 40 <= box.x0
        assert box.x1 <= frame.x1 + 40
        assert frame.y0 <= box.y0
        assert box.y1 <= frame.y1
        assert not any(box.overlaps(other) for other in boxes[:i])
    plt.close("all")


def test_the_noise_comes_from_outside_and_multiplies_the_deviation() -> None:
    ax = draw("variational")
    times, noise = (patch for patch in ax.patches if isinstance(patch, Circle))
    assert times.center[0] == noise.center[0]
    assert noise.center[1] < times.center[1] - 2 * noise.radius
    plt.close("all")
