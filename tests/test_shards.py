"""Laws of shards: what was written is read, by number, and damage is seen."""

import itertools
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from coursekit.shards import Shards, write_shards


def pictures(n: int = 25) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 1, 4, 4), dtype=torch.uint8, generator=generator), torch.arange(n)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shards(tmp_path / "data", [pictures()], shard_size=10)
    return tmp_path / "data"


@given(cuts=st.lists(st.integers(0, 25), max_size=5), shard_size=st.integers(1, 30), data=st.data())
@settings(max_examples=30, deadline=None)
def test_what_is_written_is_read(
    cuts: list[int], shard_size: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    x, y = pictures()
    edges = [0, *sorted(cuts), 25]
    chunks = [(x[a:b], y[a:b]) for a, b in itertools.pairwise(edges)]
    folder = tmp_path_factory.mktemp("shards")
    shards = write_shards(folder, chunks, shard_size)
    assert len(shards) == 25
    assert len(list(folder.iterdir())) == 2 * -(-25 // shard_size) + 1
    indices = data.draw(st.lists(st.integers(0, 24), min_size=1, max_size=40))
    for index, (picture, label) in zip(indices, Shards(folder).__getitems__(indices), strict=True):
        assert torch.equal(picture, x[index])
        assert label == index


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.int64, torch.bool])
def test_a_single_tensor_keeps_its_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    x = torch.arange(12).view(6, 2).to(dtype)
    shards = write_shards(tmp_path, [x[:1], x[1:]], 4)
    assert torch.equal(torch.stack([shards[i] for i in range(6)]), x)
    assert torch.equal(shards[-1], x[-1])
    with pytest.raises(IndexError, match=r"index must lie in \[-6, 6\), got 6"):
        shards[6]


def test_a_copy_in_another_process_is_small_and_reads_the_same(folder: Path) -> None:
    """Workers get the data set pickled where processes are spawned: paths and sizes, never the data."""
    shards = Shards(folder)
    shards[3]
    data = pickle.dumps(shards)
    assert len(data) < 2000
    assert torch.equal(pickle.loads(data)[17][0], shards[17][0])  # noqa: S301 - written two lines above


def test_shards_are_plain_arrays(folder: Path) -> None:
    """Nothing of the course is needed to read them, and nothing is unpickled."""
    x, y = pictures()
    index = json.loads((folder / "index.json").read_text())
    assert index["sizes"] == [10, 10, 5]
    files = [[np.load(folder / f"{name}-{i:05d}.npy", allow_pickle=False) for i in range(3)] for name in "xy"]
    assert np.array_equal(np.concatenate(files[0]), x.numpy())
    assert np.array_equal(np.concatenate(files[1]), y.numpy())


def test_damage_is_seen_before_training(folder: Path, tmp_path: Path) -> None:
    def broken(name: str) -> Path:
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        return Path(shutil.copytree(folder, tmp_path / name))

    where = broken("a")
    data = (where / "x-00001.npy").read_bytes()
    (where / "x-00001.npy").write_bytes(data[:-1])
    with pytest.raises(ValueError, match=r"x-00001.npy is damaged"):
        Shards(where)
    np.save(where / "x-00001.npy", np.zeros((9, 1, 4, 4), np.uint8))
    with pytest.raises(ValueError, match=r"x-00001.npy must hold shape and dtype .*\(10, 1, 4, 4\)"):
        Shards(where)
    np.save(where / "x-00001.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"x-00001.npy is damaged"):
        Shards(where)
    where = broken("b")
    (where / "y-00002.npy").unlink()
    with pytest.raises(FileNotFoundError, match="y-00002"):
        Shards(where)
    for text in ("{", "[]", '{"format": "another"}', '{"format": "coursekit shards 1"}'):
        (where / "index.json").write_text(text)
        with pytest.raises(ValueError, match="is damaged or no index"):
            Shards(where)


def test_a_run_that_did_not_finish_leaves_no_shards(tmp_path: Path) -> None:
    def failing():
        yield pictures()
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        write_shards(tmp_path, failing(), 10)
    with pytest.raises(FileNotFoundError, match="there are no shards"):
        Shards(tmp_path)
    write_shards(tmp_path, [pictures()], 10)
    with pytest.raises(ValueError, match="must not hold shards already"):
        write_shards(tmp_path, [pictures()], 10)


def test_bad_chunks_are_refused(tmp_path: Path) -> None:
    x, y = pictures()
    with pytest.raises(ValueError, match="of one length"):
        write_shards(tmp_path / "a", [(x, y[:-1])])
    with pytest.raises(ValueError, match="of one kind"):
        write_shards(tmp_path / "b", [(x, y), (x.float(), y)])
    with pytest.raises(ValueError, match="of one kind"):
        write_shards(tmp_path / "c", [(x, y), (x[:, :, 1:], y)])
    with pytest.raises(ValueError, match="at least one sample"):
        write_shards(tmp_path / "d", [])
    with pytest.raises(ValueError, match="shard_size must be at least 1, got 0"):
        write_shards(tmp_path / "e", [x], 0)
