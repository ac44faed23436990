"""Laws of the loaders: nothing twice, nothing in both splits, damage and typing errors refused."""

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from coursekit import data

SPLITS = ("train", "test", "all")


def picture_set(images: torch.Tensor) -> set[bytes]:
    return {image.tobytes() for image in images.numpy()}


@pytest.fixture(scope="module")
def raw() -> dict[str, data.Pictures]:
    return {split: data.load_animals(split, dtype=torch.uint8) for split in SPLITS}


def test_card_numbers(raw):
    with np.load(data.find_data("animals.npz"), allow_pickle=False) as archive:
        everything = archive["images"]
        assert np.bincount(archive["labels"]).tolist() == [1000] * 10
    assert everything.shape == (10000, 28, 28)
    assert everything.dtype == np.uint8
    assert len(np.unique(everything.reshape(10000, -1), axis=0)) == 10000 - 284  # independent of `first_copies`
    assert [len(raw[split].labels) for split in SPLITS] == [7775, 1941, 9716]
    sizes = [937, 812, 992, 996, 997, 1000, 1000, 997, 985, 1000]
    assert raw["all"].labels.bincount().tolist() == sizes
    assert raw["test"].labels.bincount().tolist() == [round(size / 5) for size in sizes]


@pytest.mark.parametrize("load", [data.load_animals, data.load_digits])
def test_no_picture_nor_its_mirror_image_is_in_both_halves(load):
    train, test = (load(split, dtype=torch.uint8).images for split in ("train", "test"))
    everything = picture_set(load("all", dtype=torch.uint8).images)
    assert len(picture_set(train)) == len(train)
    assert len(picture_set(test)) == len(test)
    assert picture_set(train) | picture_set(test) == everything
    assert not picture_set(train) & picture_set(test)
    assert not picture_set(train) & picture_set(test.flip(-1))


def test_pictures_keep_their_labels(raw):
    with np.load(data.find_data("animals.npz"), allow_pickle=False) as archive:
        label = {image.tobytes(): y for image, y in zip(archive["images"], archive["labels"], strict=True)}
        names = archive["names"].tolist()
    for pictures in raw.values():
        assert pictures.names == names
        assert [label[image.tobytes()] for image in pictures.images.numpy()] == pictures.labels.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_range_shape_and_type(raw, dtype):
    images, labels, names = data.load_animals("test", dtype=dtype)
    assert images.dtype == dtype
    assert images.shape == (len(labels), 1, 28, 28)
    assert labels.dtype == torch.long
    assert images.min() == -1
    assert images.max() == 1
    assert images.is_contiguous()
    assert isinstance(names, list)
    expected = raw["test"].images.double() / 127.5 - 1
    torch.testing.assert_close(images.double(), expected, rtol=0, atol=2 * torch.finfo(dtype).eps)


def test_classes_are_kept_and_relabelled_in_the_order_given(raw):
    horse_bird = data.load_animals("test", classes=("horse", "bird"), dtype=torch.uint8)
    assert horse_bird.names == ["horse", "bird"]
    for label, name in enumerate(horse_bird.names):
        expected = raw["test"].images[raw["test"].labels == raw["test"].names.index(name)]
        assert torch.equal(horse_bird.images[horse_bird.labels == label], expected)


def test_loading_twice_gives_equal_and_separate_tensors():
    first, second = data.load_animals("test"), data.load_animals("test")
    first.images.zero_()
    assert second.images.abs().sum() > 0
    assert torch.equal(second.images, data.load_animals("test").images)


def test_digits_are_those_of_scikit_learn():
    images, labels, names = data.load_digits("all")
    assert images.shape == (len(labels), 1, 8, 8)
    assert images.min() == -1
    assert images.max() == 1
    assert names == list("0123456789")
    assert labels.bincount().min() > 170
    assert len(labels) <= 1797


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"split": "validation"}, ValueError, "split must be one of train, test, all, got 'validation'"),
        ({"classes": ("bird", "unicorn")}, ValueError, r"classes must be among bear, .*, got \['unicorn'\]"),
        ({"classes": "bird"}, TypeError, "got the string 'bird'"),
        ({"classes": ()}, ValueError, "at least one name"),
        ({"classes": ("bird", "bird")}, ValueError, "none twice"),
        ({"dtype": torch.int64}, ValueError, "dtype must be a floating type or torch.uint8, got torch.int64"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        data.load_animals(**arguments)


def test_digits_refuse_an_unknown_split():
    with pytest.raises(ValueError, match="split"):
        data.load_digits("validation")


@pytest.mark.parametrize("as_file", [False, True])
def test_environment_variable_names_a_directory_or_a_file(tmp_path, monkeypatch, as_file):
    source = data.find_data("animals.npz")
    copy = tmp_path / "a folder" / ("renamed.npz" if as_file else "animals.npz")
    copy.parent.mkdir()
    shutil.copy(source, copy)
    monkeypatch.setenv("COURSEKIT_DATA", str(copy if as_file else copy.parent))
    assert data.find_data("animals.npz") == copy
    assert len(data.load_animals("test").images) == 1941


def test_a_missing_file_says_where_it_was_sought_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSEKIT_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=rf"searched {tmp_path}/animals\.npz.*COURSEKIT_DATA"):
        data.load_animals()


@pytest.mark.parametrize("installed", [False, True])
def test_clone_and_installed_package_are_searched(tmp_path, monkeypatch, installed):
    monkeypatch.delenv("COURSEKIT_DATA", raising=False)
    package = tmp_path / "coursekit"
    folder = package / "data_files" if installed else tmp_path / "data"
    folder.mkdir(parents=True)
    monkeypatch.setattr(data, "__file__", str(package / "data.py"))
    with pytest.raises(FileNotFoundError, match="COURSEKIT_DATA"):
        data.find_data("animals.npz")
    (folder / "animals.npz").touch()
    assert data.find_data("animals.npz") == folder / "animals.npz"


@pytest.mark.parametrize("damage", ["cut short", "one bit", "empty", "another archive"])
def test_a_damaged_file_is_refused(tmp_path, monkeypatch, damage):
    content = bytearray(data.find_data("animals.npz").read_bytes())
    content[len(content) // 2] ^= damage == "one bit"
    content = {"cut short": content[:-1], "one bit": content, "empty": b"", "another archive": b"PK\x03\x04"}[damage]
    (tmp_path / "animals.npz").write_bytes(content)
    monkeypatch.setenv("COURSEKIT_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=f"sha256 must be {data.ANIMALS_SHA256}.*Restore it"):
        data.load_animals()


def test_damage_after_a_first_load_is_noticed(tmp_path, monkeypatch):
    copy = tmp_path / "animals.npz"
    shutil.copy(data.find_data("animals.npz"), copy)
    monkeypatch.setenv("COURSEKIT_DATA", str(copy))
    data.load_animals("test")
    copy.write_bytes(copy.read_bytes()[:-1])
    with pytest.raises(ValueError, match="damaged"):
        data.load_animals("test")


few_pictures = hnp.arrays(np.uint8, st.tuples(st.integers(1, 60), st.just(2), st.just(2)), elements=st.integers(0, 2))


@settings(deadline=None)
@given(few_pictures)
def test_first_copies_are_distinct_and_complete(images):
    first = data.first_copies(images)
    distinct = np.unique(images.reshape(len(images), -1), axis=0, return_index=True)[1]
    assert first.tolist() == sorted(distinct)


@settings(deadline=None)
@given(few_pictures, st.randoms(use_true_random=False))
def test_the_split_depends_on_the_pictures_alone(images, random):
    images = images[data.first_copies(images)]
    labels = np.array([random.randrange(3) for _ in images])
    order = np.array(random.sample(range(len(images)), len(images)))
    marked = data.in_test_split(images, labels)
    assert np.array_equal(data.in_test_split(images[order], labels[order]), marked[order])
    for label in range(3):
        one_class = {images[i].tobytes(): marked[i] for i in np.flatnonzero(labels == label)}
        assert sum(one_class.values()) >= round(0.2 * len(one_class))
        mirrored = {np.frombuffer(key, np.uint8).reshape(2, 2)[:, ::-1].tobytes(): m for key, m in one_class.items()}
        assert all(one_class[key] == mirrored[key] for key in one_class.keys() & mirrored.keys())


def test_a_duplicate_under_another_label_keeps_the_first_and_cannot_leak():
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 4)).astype(np.uint8)
    doubled, labels = np.concatenate([images, images]), np.repeat([0, 1], 50)
    kept = data.first_copies(doubled)
    assert kept.tolist() == list(range(50))
    assert labels[kept].tolist() == [0] * 50


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 255), st.sampled_from([torch.float32, torch.float64]))
def test_pixels_survive_the_round_trip(largest, dtype):
    pixels = torch.arange(largest + 1, dtype=torch.uint8)
    images = data.from_pixels(pixels, dtype, largest)
    assert images[0] == -1
    assert images[-1] == pytest.approx(1)
    assert (images.diff() > 0).all()
    assert torch.equal(data.to_pixels(images, largest), pixels)


def test_near_copies_are_those_of_the_data_card(raw):
    """The card's table: test pictures within a distance of a training picture, and of a mirrored one."""
    train, test = (data.from_pixels(raw[split].images, torch.float64).flatten(1) for split in ("train", "test"))
    mirrored = data.from_pixels(raw["train"].images.flip(-1), torch.float64).flatten(1)
    nearest, nearest_mirrored = (torch.cdist(test, other).min(dim=1).values for other in (train, mirrored))
    assert [(nearest < d).sum().item() for d in (1, 3, 4, 6)] == [0, 1, 6, 79]
    assert [(nearest_mirrored < d).sum().item() for d in (1, 3, 4, 6)] == [0, 1, 3, 59]
    assert nearest.median().item() == pytest.approx(10.6, abs=0.05)
