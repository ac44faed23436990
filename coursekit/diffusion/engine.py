"""The engine: everything that changes while a model trains, and one step of it.

On an accelerator a step never waits for the device: the loss is added up there and fetched when it is
shown, and a loss that is not finite freezes the weights by itself until the host looks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from coursekit.diffusion.average import Average, unaveraged
from coursekit.diffusion.batches import Augment, Batches, StreamedBatches
from coursekit.diffusion.ranks import Ranks, whole
from coursekit.diffusion.states import reseed

__all__ = ["Engine", "NotFinite", "Objective", "OptimizerFactory", "Player"]

OptimizerFactory = Callable[[nn.Module], torch.optim.Optimizer | Sequence[torch.optim.Optimizer]]
"""Makes the optimiser of a module, or several that share its parameters among them."""


@dataclass(frozen=True)
class Player:
    """One side of a game: whose parameters move, by which loss, how many times a step.

    A model with several players has a method `players()` that returns them in the order in which they move;
    any other model is a single player with all its parameters and `model.loss`.

    Attributes:
        name: for messages and the history.
        module: whose parameters this player moves.
        loss: (x, *labels, generator=...) -> scalar.
        repeats: moves a step, each with a batch of its own.
        lr_scale: this player's learning rate in units of the engine's.
    """

    name: str
    module: nn.Module
    loss: Callable[..., Tensor]
    repeats: int = 1
    lr_scale: float = 1.0


class NotFinite(FloatingPointError):
    """A loss or a gradient is NaN or infinite; with several ranks, all of them raise it at the same step."""


_FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")


class Objective(nn.Module):
    """A player's weights and, as `forward`, its loss, since that is what distributed wrappers call."""

    def __init__(self, module: nn.Module, loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self.module, self.loss = module, loss

    def forward(self, *batch: Tensor, generator: torch.Generator | None) -> Tensor:
        """The loss of a batch, a scalar."""
        return self.loss(*batch, generator=generator)


@dataclass
class _Seat:
    """A player at the table: its objective and optimisers, ready for this device."""

    player: Player
    objective: nn.Module
    optimizers: list[Any]
    rates: list[list[float]]
    parameters: list[nn.Parameter]
    freezes: bool  # whether its optimisers can leave weights alone without asking the host
    all_used: bool  # whether DDP may count on a gradient of every weight: then the first move looks
    total: Tensor  # of the losses since the last fetch


class Engine:
    """Everything that changes while a model trains, and one step of it; `fit` is its loop.

    The arguments are those of `fit`.
    """

    def __init__(
        self,
        model: nn.Module,
        data: tuple[Tensor, ...] | Dataset,
        *,
        batch_size: int,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        optimizer: OptimizerFactory | None = None,
        ema_half_life: float | None = None,
        ema_ramp: float | None = 0.1,
        clip: float | None = 1.0,
        accumulate: int = 1,
        augment: Augment | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
        compile: bool = False,
        workers: int = 0,
        unused_weights: bool = False,
    ) -> None:
        self.ranks = Ranks(device, unused_weights)
        self.device, self.accelerator = self.ranks.device, self.ranks.accelerator
        _check_settings(batch_size, accumulate, self.ranks.world, lr)
        self.model, self.clip, self.accumulate, self.augment, self.seed = model, clip, accumulate, augment, seed
        self.unused_weights = unused_weights
        share = (batch_size, seed, self.device, self.ranks.rank, self.ranks.world)
        self.batches = StreamedBatches(data, *share, workers) if isinstance(data, Dataset) else Batches(data, *share)
        self.generator = _generator(self.device, seed * 1_000_003)
        _place(model, self.batches.device, self.batches.pictures and not self.ranks.shards)
        self.bf16 = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        players = model.players() if hasattr(model, "players") else [Player("model", model, model.loss)]
        optimizer = optimizer or (lambda module: _adamw(module, lr, betas, weight_decay))
        _check_sharding(self.ranks, model, players)
        self._share_state(model)
        self.seats = [self._seat(player, optimizer, compile) for player in players]
        self.average = Average(model, ema_half_life, ema_ramp) if ema_half_life is not None else None
        self.step, self.moves = 0, sum(player.repeats for player in players)
        self.broken = torch.full((2,), -1, device=self.device)  # step and seat of the first loss that was not finite
        self.frozen = torch.zeros((), device=self.device)  # 1 from then on

    def _share_state(self, model: nn.Module) -> None:
        """Begin on all ranks with the first one's weights, and on each with random numbers of its own."""
        own, kept = unaveraged(model), model.state_dict().keys()
        buffers = {name: buffer for name, buffer in model.named_buffers() if name in kept}
        self.own_buffers = {name: buffer for name, buffer in buffers.items() if name in own}
        self.common_buffers = [buffer for name, buffer in buffers.items() if name not in own]
        if self.ranks.world > 1:
            numbers = sum(parameter.numel() for parameter in model.parameters())
            self.ranks.check_alike(data=len(self.batches), seed=self.seed, weights=numbers)
            self.ranks.follow_first([*model.parameters(), *buffers.values()])
            reseed(self.generator, self.seed, 0, self.ranks.rank)

    def _seat(self, player: Player, make: OptimizerFactory, compile: bool) -> _Seat:
        if not any(p.requires_grad for p in player.module.parameters()):
            raise ValueError(f"player {player.name!r} has no parameters to train")
        optimizers = make(player.module)
        optimizers = list(optimizers) if isinstance(optimizers, Sequence) else [optimizers]
        if self.ranks.shards and any(getattr(o, "whole_matrices", False) for o in optimizers):
            raise ValueError("optimizer must work on pieces of weights under FSDP, got one that wants whole matrices")
        freezes = not self.ranks.shards and all(o.defaults.get("fused") or hasattr(o, "found_inf") for o in optimizers)
        objective = Objective(player.module, player.loss)
        objective = torch.compile(objective) if compile else objective
        prepared = self.accelerator.prepare(objective, *optimizers, device_placement=[False] * (1 + len(optimizers)))
        if self.ranks.world > 1:
            prepared[0].broadcast_buffers = False  # of DDP, before each forward pass: `advance` does it once a step
        parameters = [p for p in player.module.parameters() if p.requires_grad]  # FSDP has put pieces in their places
        rates = [[group["lr"] * player.lr_scale for group in o.param_groups] for o in optimizers]
        total = torch.zeros((), device=self.device)
        all_used = self.ranks.world > 1 and not (self.ranks.shards or self.unused_weights)
        return _Seat(player, prepared[0], list(prepared[1:]), rates, parameters, freezes, all_used, total)

    def advance(self, rate: float) -> None:
        """One optimiser step of every player, at `rate` times the learning rate.

        Raises:
            NotFinite: if a loss or a gradient is not finite, before any weight has changed (on an
                accelerator: the weights stay as they were, and `check` raises when it looks).
        """
        move = self.step * self.moves
        for index, seat in enumerate(self.seats):
            for optimizer, rates in zip(seat.optimizers, seat.rates, strict=True):
                for group, base in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = base * rate
            for _ in range(seat.player.repeats):
                self._move(index, seat, self.batches.at(move))
                move += 1
        self.ranks.follow_first(self.common_buffers)
        if self.average is not None:
            self.average.update(self.step)
        self.step += 1

    def _move(self, index: int, seat: _Seat, batch: tuple[Tensor, ...]) -> None:
        x, *labels = batch
        x = x if self.augment is None else self.augment(x, self.generator)
        for optimizer in seat.optimizers:  # first, so that what an aborted run left behind is not added to
            optimizer.zero_grad()
        loss = self._gradient(seat, (x, *labels))
        if seat.all_used:
            _check_used(seat)
        if self.clip is None:
            norm = nn.utils.get_total_norm([p.grad for p in seat.parameters if p.grad is not None])
        else:
            norm = nn.utils.clip_grad_norm_(seat.parameters, self.clip)
        norm = whole(norm) if self.ranks.shards else norm
        self._guard(index, seat, torch.isfinite(loss) & torch.isfinite(norm))
        for optimizer in seat.optimizers:
            optimizer.step()
        seat.total += loss

    def _gradient(self, seat: _Seat, batch: tuple[Tensor, ...]) -> Tensor:
        """Add up the gradient over the micro-batches, as one large batch would give it; the mean loss, detached."""
        only = {} if len(self.seats) == 1 else {"inputs": seat.parameters}
        mean = torch.zeros((), device=self.device)
        parts = list(zip(*(tensor.chunk(self.accumulate) for tensor in batch), strict=True))
        for i, part in enumerate(parts):
            last = i == len(parts) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(seat.objective):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                    loss = seat.objective(*part, generator=self.generator)
                loss = loss * (len(part[0]) / len(batch[0]))
                if self.ranks.world > 1:  # what is not finite here becomes NaN in the gradient that all ranks share
                    loss = loss * torch.where(torch.isfinite(loss.detach()), 1.0, float("nan"))
                self.accelerator.backward(loss, **only)
            mean += loss.detach()
        return mean

    def _guard(self, index: int, seat: _Seat, finite: Tensor) -> None:
        if self.device.type == "cpu" or not seat.freezes:  # looking costs nothing, or is the only way
            if not bool(finite):
                raise self._failure(self.step, index)
            return
        first = ~finite & (self.broken[0] < 0)
        where = torch.stack([torch.full_like(self.broken[0], self.step), torch.full_like(self.broken[0], index)])
        self.broken = torch.where(first, where, self.broken)
        self.frozen = torch.maximum(self.frozen, (~finite).float())
        for optimizer in seat.optimizers:  # inside accelerate's wrapper
            optimizer.optimizer.grad_scale, optimizer.optimizer.found_inf = None, self.frozen

    def check(self) -> None:
        """Look at what the device has noted, which waits for it.

        Raises:
            NotFinite: if a loss or a gradient was not finite; names the first step.
        """
        step, index = self.broken.tolist()
        if step >= 0:
            self.step = step
            raise self._failure(step, index)

    def _failure(self, step: int, index: int) -> NotFinite:
        name = self.seats[index].player.name
        return NotFinite(
            f"the loss or gradient of {name!r} is not finite at step {step}; {name!r} keeps its weights from before "
            "that step: lower lr, clip harder or look at the data"
        )

    def fetch(self) -> dict[str, float]:
        """Each player's summed loss since the last fetch, the mean over ranks; waits for the device."""
        self.check()
        self.ranks.check_weights(list(self.model.parameters()))
        sums = {seat.player.name: self.ranks.mean(seat.total).item() / seat.player.repeats for seat in self.seats}
        for seat in self.seats:
            seat.total.zero_()
        return sums

    def optimizers(self) -> Iterator[tuple[str, Any]]:
        """All optimisers by name."""
        for seat in self.seats:
            for i, optimizer in enumerate(seat.optimizers):
                yield f"{seat.player.name}.{i}", optimizer


def _adamw(module: nn.Module, lr: float, betas: tuple[float, float], weight_decay: float) -> torch.optim.Optimizer:
    parameters = [p for p in module.parameters() if p.requires_grad]
    fused = all(p.device.type in (*_FUSED_DEVICES, torch._C._get_privateuse1_backend_name()) for p in parameters)
    return torch.optim.AdamW(parameters, lr, betas, weight_decay=weight_decay, fused=fused)


def _place(model: nn.Module, device: torch.device, pictures: bool) -> None:
    """Move the model to the data; for pictures, lay out convolutions channels last."""
    if any(tensor.device != device for tensor in (*model.parameters(), *model.buffers())):
        model.to(device)
    for parameter in model.parameters():
        if pictures and parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def _generator(device: torch.device, seed: int) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed % 2**63)


def _check_settings(batch_size: int, accumulate: int, world: int, lr: float) -> None:
    if accumulate < 1 or batch_size % (accumulate * world):
        among = f" times the {world} processes" if world > 1 else ""
        raise ValueError(f"batch_size must be a multiple of accumulate{among}, got {batch_size} and {accumulate}")
    if not lr > 0:
        raise ValueError(f"lr must be positive, got {lr}")


def _check_used(seat: _Seat) -> None:
    """Look once whether every weight had a part in the loss; where one has none, DDP waits for it in vain."""
    unused = [name for name, p in seat.player.module.named_parameters() if p.requires_grad and p.grad is None]
    if unused:
        raise ValueError(
            f"every weight of {seat.player.name!r} must have a part in its loss, or unused_weights=True be given, "
            f"got none for {', '.join(unused[:3])}{', ...' if len(unused) > 3 else ''}"
        )
    seat.all_used = False


def _check_sharding(ranks: Ranks, model: nn.Module, players: list[Player]) -> None:
    if any(hasattr(parameter, "full_tensor") for parameter in model.parameters()):
        raise ValueError("model must be whole, got one that an earlier run under FSDP has left in pieces")
    if ranks.shards and len(players) > 1:
        raise ValueError(f"FSDP shards one player's weights, got {len(players)} players: train a game with DDP")
