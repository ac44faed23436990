"""States: all that a run needs to go on as if it had not stopped, in one file of tensors.

    model.*      the weights, whole, whatever they were cut into
    average.*    their average
    optimizer.*  moments, by player, number and parameter
    random.*     the random states, one row for each rank (NumPy's and Python's are in the header, as numbers)
    ranks.*      buffers that each rank has of its own, such as chains, likewise; with several ranks only

Random states are of use for as many ranks on the same kind of device. Otherwise each rank's are made anew from
(seed, step, rank): noise as good, but not the same to the last bit.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from coursekit.checkpoints import read_tensors, write_tensors
from coursekit.diffusion.ranks import whole

if TYPE_CHECKING:
    from coursekit.diffusion.engine import Engine

__all__ = ["load", "reseed", "save"]

_WORDS = 624  # of the Mersenne twister


def save(run: Engine, path: str | Path, extra: dict[str, Any]) -> None:
    """Write everything to `path`, from the first rank; every rank has to call it.

    The file of before is kept as `previous(path)`.
    """
    tensors, settings = _tensors(run)
    if run.ranks.rank == 0:
        header = {"step": run.step, "device": run.device.type, **settings, **extra}
        write_tensors(path, tensors, header, keep_previous=True)
    run.ranks.wait()


def _tensors(run: Engine) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of a run, and for the header the settings of its optimisers and the states made of numbers."""

    def collected(tensor: Tensor) -> Tensor:
        tensor = whole(tensor)  # in which every rank has a part
        return tensor.cpu() if run.ranks.rank == 0 else tensor.new_empty(0)

    tensors = {f"model.{name}": collected(tensor).clone() for name, tensor in run.model.state_dict().items()}
    if run.average is not None:
        tensors |= {f"average.{name}": collected(tensor) for name, tensor in run.average.state.items()}
    settings = {}
    for name, optimizer in run.optimizers():
        state = optimizer.state_dict()
        settings[name] = state["param_groups"]
        for i, slots in state["state"].items():
            tensors |= {f"optimizer.{name}.{i}.{slot}": collected(value) for slot, value in slots.items()}
    random_states = {name: run.ranks.rows(state) for name, state in _random_states(run.generator).items()}
    settings = {"optimizers": settings, "numbers": random_states.pop("numbers").tolist()}
    tensors |= {f"random.{name}": rows for name, rows in random_states.items()}
    if run.ranks.world > 1:
        tensors |= {f"ranks.{name}": run.ranks.rows(buffer) for name, buffer in run.own_buffers.items()}
    return tensors, settings


def load(run: Engine, path: str | Path) -> dict[str, Any]:
    """Take up the state in `path`, which may come from another number of ranks; returns its header.

    Raises:
        FileNotFoundError, ValueError: if the file is missing, damaged, or of another model or run.
    """
    tensors, header = read_tensors(path)
    try:
        own = run.model.state_dict()
        model = {name: _placed(tensor, own[name]) for name, tensor in _with_prefix(tensors, "model.").items()}
        run.model.load_state_dict(model)
        for name, optimizer in run.optimizers():
            _load_optimizer(optimizer, header["optimizers"][name], _with_prefix(tensors, f"optimizer.{name}."))
        if run.average is not None:
            for name, tensor in run.average.state.items():
                tensor.copy_(_placed(tensors[f"average.{name}"], tensor))
        run.step = header["step"]
        _load_ranks(run, tensors, header)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{path} holds another model or another kind of run: {error}") from error
    return header


def _load_ranks(run: Engine, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """What each rank has of its own; if there are more ranks than before, chains are dealt out several times."""
    rank, states = run.ranks.rank, _with_prefix(tensors, "random.")
    for name, rows in _with_prefix(tensors, "ranks.").items():
        run.own_buffers[name].copy_(rows[rank % len(rows)])
    states["numbers"] = torch.tensor(header["numbers"], dtype=torch.float64)
    if len(states["numbers"]) == run.ranks.world and header["device"] == run.device.type:
        _restore_random_states(run.generator, {name: rows[rank].clone() for name, rows in states.items()})
    else:
        reseed(run.generator, run.seed, run.step, rank)


def _random_states(generator: torch.Generator) -> dict[str, Tensor]:
    """This process's generators: the engine's, torch's, CUDA's, and those of NumPy and Python as numbers."""
    _, words, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002
    _, python, gauss_next = random.getstate()
    numbers = [*words, position, has_gauss, gauss, *python, gauss_next is not None, gauss_next or 0.0]
    states = {
        "generator": generator.get_state(),
        "torch": torch.get_rng_state(),
        "numbers": torch.tensor(numbers, dtype=torch.float64),
    }
    return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _restore_random_states(generator: torch.Generator, states: dict[str, Tensor]) -> None:
    """Undo what happened since `_random_states`."""
    generator.set_state(states["generator"])
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    words, rest = np.split(states["numbers"].numpy(), [_WORDS])
    position, has_gauss, gauss, *python, has_next, gauss_next = rest.tolist()
    np.random.set_state(("MT19937", words.astype(np.uint32), int(position), int(has_gauss), gauss))  # noqa: NPY002
    random.setstate((3, tuple(map(int, python)), gauss_next if has_next else None))


def reseed(generator: torch.Generator, seed: int, step: int, rank: int) -> None:
    """Set all generators of this process to a state that (seed, step, rank) alone decides."""
    sequence = np.random.SeedSequence([seed % 2**64, step, rank])
    one, two, three, four = (int(word) for word in sequence.generate_state(4, np.uint64))
    generator.manual_seed(one % 2**63)
    torch.manual_seed(two % 2**63)  # CUDA's as well
    np.random.seed(three % 2**32)  # noqa: NPY002
    random.seed(four)


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, which is taken off."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _placed(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor as another one of its shape lies: device, dtype, memory layout and, under FSDP, its pieces."""
    if tensor.shape != like.shape:
        raise RuntimeError(f"shape {tuple(tensor.shape)} is not {tuple(like.shape)}")
    if hasattr(like, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor  # a second to import, which few runs want

        tensor = tensor.to(like.device, like.dtype)
        return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
    return torch.empty_like(like).copy_(tensor)


def _load_optimizer(optimizer: Any, groups: list[dict[str, Any]], slots: dict[str, Tensor]) -> None:
    """Rebuild the optimiser's state; moments take the memory layout of their parameters, as fused kernels need."""
    state: dict[int, dict[str, Tensor]] = {}
    order = [p for group in optimizer.param_groups for p in group["params"]]
    for name, tensor in slots.items():
        number, slot = name.split(".", 1)
        like = order[int(number)]
        state.setdefault(int(number), {})[slot] = _placed(tensor, like) if tensor.shape == like.shape else tensor
    optimizer.load_state_dict({"state": state, "param_groups": groups})
