"""Files of tensors: safetensors with a JSON header, written so that a crash leaves a whole file behind.

Nothing is unpickled. A file is written next to its place, flushed to disk and renamed. Where asked, the file that it
replaces is kept once, with `.previous` added to its name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

__all__ = ["previous", "read_tensors", "write_tensors"]


def previous(path: str | Path) -> Path:
    """Where the file that the newest one replaced is kept."""
    path = Path(path)
    return path.with_name(path.name + ".previous")


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any], keep_previous: bool = False
) -> None:
    """Write named tensors and a JSON-serialisable header; an older file of that name is replaced.

    Args:
        path: where to; folders are made.
        tensors: by name, on any device.
        header: what JSON can say.
        keep_previous: let the older file live on as `previous(path)`.

    Raises:
        TypeError: if the header cannot be written as JSON.
        OSError: if the file cannot be written; the older one is then untouched.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_tensors(f"{folder}/a.safetensors", {"w": torch.ones(2)}, {"step": 3})
        ...     tensors, header = read_tensors(f"{folder}/a.safetensors")
        >>> tensors["w"].tolist(), header
        ([1.0, 1.0], {'step': 3})
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"header": json.dumps(dict(header))}
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    if keep_previous and path.exists():
        os.replace(path, previous(path))
    os.replace(partial, path)


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and the header that `write_tensors` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, for example cut short, or was not written by `write_tensors`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}{_hint(path)}")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["header"])
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118
    except (SafetensorError, KeyError, json.JSONDecodeError, OSError) as error:
        raise ValueError(f"{path} is damaged or no checkpoint of this course ({error}){_hint(path)}") from error


def _hint(path: Path) -> str:
    older = previous(path)
    return f"; the one before it is {older}" if older.is_file() else ""
