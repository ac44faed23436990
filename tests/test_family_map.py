"""The map of the families stays within its cards and large enough to read."""

import matplotlib.pyplot as plt
import pytest
import torch

from coursekit import plots
from coursekit.family_map import CARDS, LOG_P, family_map


@pytest.fixture(scope="module")
def figure():
    with plt.rc_context():
        plots.set_style()
        figure = family_map(torch.zeros(1, 28, 28))
        figure.canvas.draw()
        yield figure
        plt.close(figure)


def test_each_family_of_the_note_has_a_card(figure):
    titles = [ax.texts[0].get_text() for ax in figure.axes]
    assert titles == [name for name, *_ in CARDS]
    assert set(titles) == {
        "Gaussian mixture",
        "Bayesian network",
        "Boltzmann machine",
        "GAN",
        "VAE",
        "Flow",
        "Diffusion",
        "Energy-based model",
    }
    assert {log_p for _, _, log_p, *_ in CARDS} == set(LOG_P)


def test_text_stays_inside_its_card_and_can_be_read(figure):
    for ax in figure.axes:
        card = ax.get_window_extent().padded(1)
        for text in ax.texts:
            if text.get_text():
                box = text.get_window_extent()
                assert card.contains(box.x0, box.y0), text.get_text()
                assert card.contains(box.x1, box.y1), text.get_text()
                assert text.get_fontsize() >= 12
