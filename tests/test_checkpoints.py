"""Laws of the files: whole or refused, never unpickled."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from coursekit.checkpoints import previous, read_tensors, write_tensors

TENSORS = {"w": torch.arange(6.0).view(2, 3), "n": torch.tensor(3), "b": torch.zeros(0, dtype=torch.uint8)}


def test_round_trip_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "folder with spaces" / "a.safetensors"
    header = {"step": 3, "history": {"losses": [0.1, 1e-30]}, "name": "Pferd\n"}
    write_tensors(path, TENSORS, header)
    tensors, read = read_tensors(path)
    assert read == header
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor)
        assert tensors[name].dtype == tensor.dtype
    assert os.listdir(path.parent) == [path.name]  # no partial file is left


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_file_cut_short_is_refused_and_the_one_before_still_loads(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, TENSORS, {"step": 1})
    write_tensors(path, {"w": torch.randn(1000)}, {"step": 2}, keep_previous=True)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=r"damaged .*the one before it is .*previous"):
        read_tensors(path)
    assert read_tensors(previous(path))[1] == {"step": 1}


def test_a_failing_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, TENSORS, {"step": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_tensors(path, TENSORS, {"step": {1, 2}})
    assert read_tensors(path)[1] == {"step": 1}


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "sprung"),)

    path = tmp_path / "a.safetensors"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="damaged or no checkpoint"):
        read_tensors(path)
    torch.save({"w": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="damaged or no checkpoint"):
        read_tensors(path)
    assert not (tmp_path / "sprung").exists()


def test_foreign_safetensors_and_missing_files(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"w": torch.ones(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="no checkpoint of this course"):
        read_tensors(tmp_path / "foreign.safetensors")
    save_file({"w": torch.ones(1)}, tmp_path / "odd.safetensors", {"header": "{"})
    with pytest.raises(ValueError, match="no checkpoint of this course"):
        read_tensors(tmp_path / "odd.safetensors")
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        read_tensors(tmp_path / "nothing.safetensors")
