"""Ranks: the processes of one run, which torchrun starts, and what they tell each other.

Hugging Face accelerate finds the device and averages gradients; what else must agree is here. Decisions of the host (is
the time up, did anybody press Ctrl-C) travel between hosts through gloo, and what one step says is heard in the next:
no device is waited for, and hardly any time either. With one process every method returns what it was given.
"""

from __future__ import annotations

import atexit
import functools
import os

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedType
from accelerate.utils import DistributedDataParallelKwargs, FullyShardedDataParallelPlugin, parse_flag_from_env
from torch import Tensor

__all__ = ["Ranks", "is_main_process", "lost_contact", "whole"]


class Ranks:
    """The processes of a run, seen from one of them.

    Attributes:
        accelerator: accelerate's, which wraps models and optimisers.
        rank, world: this process's number and how many there are.
        device: where this process trains.
        shards: whether weights, gradients and moments are cut into pieces (FSDP) instead of being copied (DDP).

    Raises:
        ValueError: if torchrun started several processes but accelerate cannot connect them, or a device is asked for
            that is not theirs.
    """

    def __init__(self, device: torch.device | str | None = None, unused_weights: bool = False) -> None:
        sharded = parse_flag_from_env("ACCELERATE_USE_FSDP")
        if sharded and os.environ.setdefault("FSDP_VERSION", "2") != "2":
            raise ValueError(f"FSDP_VERSION must be 2, got {os.environ['FSDP_VERSION']}")
        gradients = DistributedDataParallelKwargs(find_unused_parameters=unused_weights)
        self.accelerator = Accelerator(cpu=not torch.accelerator.is_available(), kwargs_handlers=[gradients])
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        own = self.accelerator.device
        own = torch.device("cpu") if own.type == "cpu" else own
        self.device = own if device is None else torch.device(device)
        connected = self.accelerator.distributed_type != DistributedType.NO  # by torchrun, perhaps only with itself
        self.shards = sharded and connected
        self._posted: tuple[Tensor, dist.Work] | None = None
        started = int(os.environ.get("WORLD_SIZE", 1))
        if started != self.world:
            raise ValueError(
                f"{started} processes were started but accelerate connects {self.world} on {own.type}; "
                "ACCELERATE_USE_CPU=true trains on their CPUs"
            )
        if connected:
            if self.device.type != own.type:
                raise ValueError(f"device must be {own.type} for this launch, or None, got {device}")
            self.device, self._hosts = own, _hosts()
        if self.shards:  # accelerate does so for accelerators only, where these lines change nothing
            state = self.accelerator.state
            state.fsdp_plugin = getattr(state, "fsdp_plugin", None) or FullyShardedDataParallelPlugin()
            state.distributed_type = DistributedType.FSDP

    def agree(self, elapsed: float, stop: bool) -> tuple[float, bool]:
        """The seconds of the clock furthest ahead, and whether anybody wants to stop, as of one call ago."""
        if self.world == 1:
            return elapsed, stop
        news = torch.tensor([elapsed, float(stop)], dtype=torch.float64)
        posted = news, dist.all_reduce(news, dist.ReduceOp.MAX, self._hosts, async_op=True)
        (heard, work), self._posted = self._posted or posted, posted
        work.wait()
        return heard[0].item(), bool(heard[1])

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over all ranks, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
            tensor /= self.world
        return tensor

    def follow_first(self, tensors: list[Tensor]) -> None:
        """Give every rank what the first one holds, in place; one message for each dtype."""
        if self.world > 1:
            for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
                some = [tensor for tensor in tensors if tensor.dtype == dtype]
                flat = torch.cat([tensor.detach().flatten() for tensor in some])
                dist.broadcast(flat, 0)
                for tensor, part in zip(some, flat.split([tensor.numel() for tensor in some]), strict=True):
                    tensor.detach().copy_(part.view(tensor.shape))

    def rows(self, tensor: Tensor) -> Tensor:
        """Every rank's tensor, (world, ...), on the CPU."""
        tensor = tensor.detach().cpu().contiguous()
        parts = [torch.empty_like(tensor) for _ in range(self.world)]
        if self.world == 1:
            return tensor[None]
        dist.all_gather(parts, tensor, self._hosts)
        return torch.stack(parts)

    def check_alike(self, **settings: int) -> None:
        """Let every rank say what it was given.

        Raises:
            ValueError: if they were given different things.
        """
        rows = self.rows(torch.tensor(list(settings.values())))
        for name, column in zip(settings, rows.T.tolist(), strict=True):
            if len(set(column)) > 1:
                raise ValueError(f"{name} must be the same for all processes, got {column}")

    @torch.no_grad()
    def check_weights(self, weights: list[Tensor]) -> None:
        """Compare the weights' norms; waits for the device.

        Raises:
            RuntimeError: if the ranks have parted, which no average of gradients would mend.
        """
        if self.world > 1 and not self.shards:
            low = torch.stack(torch._foreach_norm(weights))
            high = low.clone()
            dist.all_reduce(low, dist.ReduceOp.MIN)
            dist.all_reduce(high, dist.ReduceOp.MAX)
            if bool((high - low > 1e-3 * high).any()):
                raise RuntimeError("the processes hold different weights: a loss or optimiser changes them by itself")

    def wait(self) -> None:
        """Until every rank is here."""
        if self.world > 1:
            dist.barrier(self._hosts)


def lost_contact(error: RuntimeError) -> bool:
    """Whether this is what the libraries that connect ranks say when another rank is gone."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def is_main_process() -> bool:
    """Whether this process writes files and prints: the only one, or the first of those that torchrun started."""
    return int(os.environ.get("RANK", 0)) == 0


def whole(tensor: Tensor) -> Tensor:
    """The tensor of which FSDP left each rank a piece; any other tensor is returned as it is. All ranks must ask."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


@functools.cache
def _hosts() -> dist.ProcessGroup:
    """The ranks' connections between hosts, beside those between devices; closed in good order at the end.

    Threads of gloo that still run when a program ends would abort it.
    """
    atexit.register(lambda: dist.destroy_process_group() if dist.is_initialized() else None)
    return dist.new_group(backend="gloo")
