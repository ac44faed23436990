"""One look for the whole course: shapes, colours, text that can be read, and text for those who cannot see."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from PIL import Image

from coursekit import plots


@pytest.fixture(autouse=True)
def style():
    with plt.rc_context():
        plots.set_style()
        yield
    plt.close("all")


def standard_normal(points):
    return -0.5 * points.square().sum(1) - np.log(2 * np.pi)


def pixels(fig) -> np.ndarray:
    """The drawn grid of an image grid."""
    return fig.axes[0].images[0].get_array()


def test_text_is_at_least_twelve_points():
    fig, ax = plt.subplots()
    plots.intervals(ax, ["a", "b"], [1, 2], [0, 1], [2, 3], xlabel="accuracy")
    ax.set_title("title")
    ax.plot([1, 2], label="line")
    ax.legend()
    fig.canvas.draw()
    texts = [text for text in fig.findobj(plt.Text) if text.get_text()]
    assert len(texts) > 5
    assert min(text.get_fontsize() for text in texts) >= 12


def test_palette_and_maps_survive_colour_blindness():
    assert len(set(plots.COLOURS)) == 8
    assert plots.COLOURS[0] == "#0072B2"
    assert plt.rcParams["image.cmap"] == "viridis"
    assert plt.rcParams["axes.prop_cycle"].by_key()["color"][0] == pytest.approx((0, 0x72 / 255, 0xB2 / 255))


def test_show_gives_png_with_alternative_text_and_closes(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    fig = plt.figure(figsize=(4, 2))
    plots.show(fig, alt="Two curves that\n   cross at one half.")
    data, metadata = DisplayFormatter().format(shown[0])
    assert not plt.fignum_exists(fig.number)
    assert data["text/plain"] == "Two curves that cross at one half."
    width, height = Image.open(io.BytesIO(data["image/png"])).size
    assert width / height == pytest.approx(2, abs=0.1)
    shown_width = metadata["image/png"].pop("width")
    assert shown_width == pytest.approx(width * plots.PAGE_DPI / plots.FILE_DPI, abs=0.5)
    assert metadata["image/png"] == {"alt": "Two curves that cross at one half."}


def test_show_trims_empty_margins(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    fig = plt.figure(figsize=(8, 8), layout="none")
    ax = fig.add_axes((0.25, 0.5, 0.5, 0.25), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.imshow(np.zeros((1, 2)), aspect="auto")
    plots.show(fig, alt="A dark box in the middle of nothing.")
    width, height = Image.open(io.BytesIO(shown[0].png)).size
    assert width == pytest.approx((4 + 0.16) * plots.FILE_DPI, abs=3)
    assert height == pytest.approx((2 + 0.16) * plots.FILE_DPI, abs=3)


def test_show_prints_its_text_where_there_is_no_notebook(capsys):
    plots.show(plt.figure(), alt="Two curves that\n   cross at one half.")
    assert capsys.readouterr().out == "Two curves that cross at one half.\n"


@pytest.mark.parametrize("alt", ["", "figure", "a plot"])
def test_show_refuses_a_text_that_describes_nothing(alt):
    with pytest.raises(ValueError, match="alt must describe the figure"):
        plots.show(plt.figure(), alt=alt)


def test_grid_places_pictures_row_by_row_with_white_gutters():
    images = torch.full((5, 1, 4, 3), -1.0)
    images[4] = 0.0
    grid = pixels(plots.image_grid(images, columns=3))
    assert grid.shape == (2 * 5 - 1, 3 * 4 - 1)
    assert (grid[4] == 1).all()  # the gutter between the rows
    assert (grid[:, 3] == 1).all()  # the gutter between the columns
    assert (grid[:4, :3] == 0).all()
    assert (grid[5:, 4:7] == 0.5).all()  # picture 4: second row, second column
    assert (grid[5:, 8:] == 1).all()  # no sixth picture


def test_grid_treats_bytes_and_floats_alike_and_clips():
    raw = torch.tensor([[0, 255], [51, 102]], dtype=torch.uint8).expand(4, 1, 2, 2)
    torch.testing.assert_close(pixels(plots.image_grid(raw)), pixels(plots.image_grid(raw.float() / 127.5 - 1)))
    assert pixels(plots.image_grid(torch.full((1, 1, 2, 2), 7.0))).max() == 1


def test_one_picture_looks_as_in_the_grid():
    _, (left, right) = plt.subplots(1, 2)
    image = torch.linspace(-2, 1, 12).reshape(1, 4, 3)
    plots.picture(left, image, title="t = 0")
    plots.picture(right, image[0])
    expected = pixels(plots.image_grid(image[None]))
    for ax in (left, right):
        np.testing.assert_array_equal(ax.images[0].get_array(), expected)
    assert left.get_title() == "t = 0"


@pytest.mark.parametrize("shape", [(4, 3, 8, 8), (8, 8), (0, 1, 8, 8)])
def test_grid_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="images must have shape"):
        plots.image_grid(torch.zeros(shape))


def test_grid_refuses_a_wrong_number_of_labels():
    with pytest.raises(ValueError, match="row_labels must hold 2 texts, got 1"):
        plots.image_grid(torch.zeros(6, 1, 8, 8), columns=3, row_labels=["bird"])


@pytest.mark.parametrize("columns", [3, 10])
def test_labels_stay_inside_the_figure(columns):
    names = ["bear", "elephant", "giraffe", "horse", "sheep"] * 2
    fig = plots.image_grid(
        torch.zeros(columns * 2, 1, 28, 28), columns, ["bird", "elephant"], names[:columns], title="Ten animals"
    )
    fig.canvas.draw()
    frame = fig.bbox.padded(2)
    boxes = [text.get_window_extent() for text in fig.findobj(plt.Text)]
    boxes = [box for box in boxes if box.width > 1]  # hidden labels have no size
    assert len(boxes) == columns + 3
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in boxes)


def test_labels_take_no_room_from_the_pictures():
    fig = plots.image_grid(torch.zeros(6, 1, 28, 28), 3, ["bird", "elephant"], ["a", "b", "c"], title="Ten", inches=0.8)
    fig.canvas.draw()
    side = fig.axes[0].get_window_extent().height / fig.dpi / 2
    assert side == pytest.approx(0.8, rel=0.1)


def test_density_is_largest_where_it_should_be():
    _, ax = plt.subplots()
    plots.density(ax, lambda points: standard_normal(points - torch.tensor([1.0, -2.0])), resolution=61)
    values = ax.images[0].get_array()
    row, column = np.unravel_index(values.argmax(), values.shape)
    x, y = np.linspace(-3, 3, 61)[[column, row]]
    assert (x, y) == pytest.approx((1.0, -2.0))  # x runs along columns, y along rows, upwards
    assert values.max() == pytest.approx(1 / (2 * np.pi), rel=1e-4)
    assert ax.images[0].origin == "lower"
    plots.density(ax, standard_normal, contours=True)
    assert len(ax.collections) == 1


def test_one_scale_colours_equal_densities_alike():
    fig, axes = plt.subplots(1, 2)
    wide = [lambda x, s=s: standard_normal(x / s) - 2 * np.log(s) for s in (1.0, 2.0)]
    for ax, log_prob in zip(axes, wide, strict=True):
        plots.density(ax, log_prob, resolution=61)
    own = [ax.images[0].get_clim()[1] for ax in axes]
    assert own[0] == pytest.approx(4 * own[1])  # the lower one would look as bright
    plots.one_scale(axes, label="density of x")
    colours = [ax.images[0].to_rgba(np.array([[0.03]])) for ax in axes]
    np.testing.assert_array_equal(*colours)
    assert {ax.images[0].get_clim() for ax in axes} == {(0.0, own[0])}
    (bar,) = (ax for ax in fig.axes if ax not in axes)
    assert bar.get_ylabel() == "density of x"


def test_one_scale_of_logarithms_shows_what_is_faint_and_clips_zero():
    _, axes = plt.subplots(1, 2)
    plots.density(axes[0], standard_normal, resolution=61)
    plots.density(axes[1], lambda x: torch.where(x[:, 0] > 0, standard_normal(x), -torch.inf), resolution=61)
    plots.one_scale(axes, decades=2)
    low, high = axes[0].images[0].get_clim()
    assert high == pytest.approx(100 * low)
    assert axes[1].images[0].norm(0.0) == 0.0  # neither masked nor white
    assert axes[1].images[0].norm(high / 10) == pytest.approx(0.5)


def test_one_scale_wants_densities():
    _, axes = plt.subplots(1, 2)
    plots.density(axes[0], standard_normal, resolution=11)
    plots.density(axes[1], standard_normal, resolution=11, contours=True)
    with pytest.raises(ValueError, match="axes must each show a filled density, got 1 that show none"):
        plots.one_scale(axes)


def test_decision_boundary_lies_where_the_probability_is_one_half():
    _, ax = plt.subplots()
    plots.decision_boundary(ax, lambda points: torch.sigmoid(4 * (points[:, 0] - 0.5)), resolution=121)
    (line,) = ax.collections[0].get_paths()
    assert line.vertices[:, 0] == pytest.approx(np.full(len(line.vertices), 0.5), abs=1e-3)


def test_scatter_marks_every_class_by_colour_and_shape():
    _, ax = plt.subplots()
    plots.scatter(ax, torch.randn(30, 2), torch.arange(30) % 3, ["a", "b", "c"])
    colours = {tuple(part.get_facecolor()[0]) for part in ax.collections}
    shapes = {part.get_paths()[0].vertices.shape for part in ax.collections}
    assert len(colours) == 3
    assert len(shapes) == 3
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"points must have shape \(N, 2\), got \(4, 3\)"):
        plots.scatter(ax, torch.zeros(4, 3))


def test_arrows_keep_directions_and_no_gradient_is_kept():
    _, ax = plt.subplots()
    weight = torch.ones(1, requires_grad=True)
    plots.arrows(ax, lambda points: -points * weight, number=5)
    quiver = ax.collections[0]
    directions, places = np.stack([quiver.U, quiver.V], 1), quiver.XY
    assert (np.einsum("nd,nd->n", directions, places) <= 1e-9).all()  # towards the origin


def test_losses_and_confusion_draw():
    _, (left, right) = plt.subplots(1, 2)
    plots.losses(left, np.arange(100), np.linspace(2, 1, 100), label="a")
    smooth = left.lines[0].get_ydata()
    assert (np.diff(smooth) < 0).all()
    plots.confusion(right, [[3, 1], [0, 4]], ["bird", "horse"])
    assert [text.get_text() for text in right.texts] == ["3", "1", "0", "4"]


def test_a_graph_has_its_discs_and_arrows_in_sight():
    _, ax = plt.subplots()
    places = {"fox": (0.0, 0.0), "dog": (3.0, 4.0), "geese": (-2.0, 4.0)}
    plots.graph(ax, places, [("fox", "dog"), ("geese", "dog")], shaded=["dog"], radius=0.5)
    assert [text.get_text() for text in ax.texts if text.get_text()] == list(places)
    discs = dict(zip(places, ax.patches, strict=True))
    assert [name for name, disc in discs.items() if disc.get_facecolor()[:3] != (1, 1, 1)] == ["dog"]
    arrow = next(text for text in ax.texts if not text.get_text())  # fox -> dog, from rim to rim
    assert arrow.xyann == pytest.approx((0.3, 0.4))
    assert arrow.xy == pytest.approx((2.7, 3.6))
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    for disc in discs.values():
        assert left < disc.center[0] - 0.5 < disc.center[0] + 0.5 < right
        assert low < disc.center[1] - 0.5 < disc.center[1] + 0.5 < high


def test_the_same_figure_gives_the_same_bytes():
    def png():
        buffer = io.BytesIO()
        plots.image_grid(torch.linspace(-1, 1, 64).reshape(4, 1, 4, 4)).savefig(buffer, metadata={"Software": None})
        return buffer.getvalue()

    assert png() == png()
    assert Image.open(io.BytesIO(png())).size[0] > 100
