r"""The training loop, one for every model of the course.

    for each step k:   theta <- theta - lr_k AdamW(grad of model.loss(batch_k)),   average <- lerp(average, theta)

`fit` is the loop that one reads; `coursekit.diffusion.engine` holds what a step changes. Processes launched with
torchrun share the work through Hugging Face accelerate; docs/scaling.md says how, from a laptop to a cluster.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from coursekit.checkpoints import previous
from coursekit.diffusion import states
from coursekit.diffusion.engine import Engine, NotFinite
from coursekit.diffusion.ranks import lost_contact

__all__ = ["History", "fit"]


@dataclass
class History:
    """What a run of `fit` did.

    Attributes:
        steps: the optimiser steps at which the loss was fetched.
        players: for each player, the mean loss since the fetch before, one number per entry of `steps`.
        total_steps: optimiser steps done, earlier runs that this one resumed included.
        seconds: wall-clock time, likewise.
        interrupted: whether Ctrl-C ended the run.
    """

    steps: list[int] = field(default_factory=list)
    players: dict[str, list[float]] = field(default_factory=dict)
    total_steps: int = 0
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def losses(self) -> list[float]:
        """The first player's losses: of an ordinary model, the loss."""
        return next(iter(self.players.values()), [])


def fit(
    model: nn.Module,
    data: Tensor | tuple[Tensor, ...] | Dataset,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    batch_size: int = 128,
    lr: float = 1e-3,
    warmup: int = 50,
    decay: float = 0.4,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    show_every: int = 50,
    progress: bool = True,
    **engine: Any,
) -> History:
    """Train a model until a number of steps or of seconds is used up, whichever comes first.

    Afterwards the model holds its weights or, if `ema_half_life` is given, their average: what one draws from.
    Ctrl-C ends the run after the step under way and keeps what was learned.

    Args:
        model: has `loss(x, *labels, generator=None)` -> scalar, or `players()`.
        data: a tensor (N, ...), or a tuple of tensors of one length such as (images, labels). uint8 pictures stay
            uint8 on the device and become floats in [-1, 1] batch by batch. Or, for data larger than memory, a data
            set of such samples that is indexed by number, for example `coursekit.shards.Shards`.
        steps: the budget in optimiser steps.
        seconds: the budget in seconds; at least one of the two is wanted.
        batch_size: over all processes together.
        lr: the learning rate of AdamW.
        warmup: the steps over which the learning rate rises.
        decay: the last share of the budget, over which it falls to a fiftieth.
        checkpoint: a file to write at the end.
        checkpoint_every: write it also every so many steps.
        resume: go on from `checkpoint` if that file exists.
        show_every: fetch the loss (and check that it is finite) every so many steps.
        progress: show a bar on stderr.
        **engine: `betas`, `weight_decay`, `optimizer` (a function from a module to one optimiser or several), `clip`
            (of the gradient's norm), `accumulate` (micro-batches per step), `ema_half_life` and `ema_ramp` (see
            `Average`), `augment` (x, generator) -> x, `seed` (of order and noise), `device`, `compile`, `workers`
            (processes that read a data set ahead; 0), `unused_weights` (of several processes: whether some weights
            may have no part in a loss).

    Returns:
        The history of the run.

    Raises:
        ValueError: for a missing budget, impossible settings, or data with NaN or infinity.
        FloatingPointError: if the loss stops being finite. The message names the step, and the model (and the
            checkpoint, if there is one) keeps the state from before it.
        ConnectionError: if another process of the run is gone.

    Example:
        >>> class Mean(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.mean = nn.Parameter(torch.zeros(1))
        ...     def loss(self, x, generator=None):
        ...         return (x - self.mean).square().mean()
        >>> model = Mean()
        >>> history = fit(model, torch.full((8, 1), 3.0), steps=300, batch_size=8, lr=0.1, progress=False)
        >>> history.total_steps, round(model.mean.item(), 2)
        (300, 3.0)
    """
    _check_budget(steps, seconds, warmup, decay, checkpoint, checkpoint_every, resume, show_every)
    data = (data,) if isinstance(data, Tensor) else data if isinstance(data, Dataset) else tuple(data)
    run = Engine(model, data, batch_size=batch_size, lr=lr, **engine)
    log = _Log(run, checkpoint, resume)
    training = model.training
    model.train()
    with _stop_on_interrupt() as stop, _tf32(run.device), _bar(run, steps, seconds, progress) as bar:
        try:
            while (done := log.used(steps, seconds, stop)) < 1:
                run.advance(_rate(run.step, done, warmup, decay))
                if run.step % show_every == 0:
                    log.note()
                    bar.set_postfix({name: f"{losses[-1]:.4f}" for name, losses in log.history.players.items()})
                if checkpoint_every is not None and run.step % checkpoint_every == 0:
                    log.save()
                bar.update((run.step if steps else min(log.elapsed(), seconds)) - bar.n)
            log.save()
        except NotFinite:
            log.write()
            raise
        except RuntimeError as error:
            if lost_contact(error):
                raise ConnectionError(log.alone()) from error
            raise
        finally:
            model.train(training)
    if run.average is not None:
        run.average.copy_to_model()
    return log.history


class _Log:
    """The history of a run, the clock behind it, and the file in which the run is kept."""

    def __init__(self, run: Engine, checkpoint: str | Path | None, resume: bool) -> None:
        self.run, self.checkpoint = run, checkpoint
        self.history = History(players={seat.player.name: [] for seat in run.seats})
        found = resume and (Path(checkpoint).exists() or previous(checkpoint).exists())
        run.ranks.check_alike(checkpoint_found=found)
        if found:
            self.history = History(**states.load(run, checkpoint)["history"])
            self.history.interrupted = False
        self.started, self.fetched = time.monotonic() - self.history.seconds, run.step

    def elapsed(self) -> float:
        """Seconds of training, those of earlier runs that this one resumed included."""
        return time.monotonic() - self.started

    def used(self, steps: int | None, seconds: float | None, stop: threading.Event) -> float:
        """How much of the budget is used, the same for all processes; all of it after Ctrl-C on any of them."""
        elapsed, self.history.interrupted = self.run.ranks.agree(self.elapsed(), stop.is_set())
        return 1.0 if self.history.interrupted else _share(self.run.step, elapsed, steps, seconds)

    def note(self) -> None:
        """Fetch the losses since the last time, which also checks that they are finite."""
        self.history.total_steps, self.history.seconds = self.run.step, self.elapsed()
        for name, total in self.run.fetch().items():
            if self.run.step > self.fetched:
                self.history.players[name].append(total / (self.run.step - self.fetched))
        if self.run.step > self.fetched:
            self.history.steps.append(self.run.step)
        self.fetched = self.run.step

    def save(self) -> None:
        """Note, then write the state."""
        self.note()
        self.write()

    def write(self) -> None:
        """Write the state as it is, if there is a file for it."""
        if self.checkpoint is not None:
            states.save(self.run, self.checkpoint, {"history": vars(self.history)})

    def alone(self) -> str:
        """What to say when another process is gone."""
        who = f"process {self.run.ranks.rank} of {self.run.ranks.world} lost contact with the others"
        kept = f"{self.checkpoint} holds the last state saved" if self.checkpoint else "no checkpoint was asked for"
        return f"{who} at step {self.run.step}: one of them ended, as torchrun reports; {kept}"


def _share(step: int, elapsed: float, steps: int | None, seconds: float | None) -> float:
    """How much of the budget is used, 1 at its end."""
    return max(step / steps if steps else 0.0, elapsed / seconds if seconds else 0.0)


def _rate(step: int, done: float, warmup: int, decay: float) -> float:
    """The learning rate's factor: rising over the first steps, flat, then falling in a straight line."""
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    fall = min(1.0, max(0.02, (1 - done) / decay)) if decay else 1.0
    return rise * fall


def _check_budget(
    steps: int | None,
    seconds: float | None,
    warmup: int,
    decay: float,
    checkpoint: object,
    every: int | None,
    resume: bool,
    show_every: int,
) -> None:
    for name, value in (
        ("steps", steps),
        ("seconds", seconds),
        ("checkpoint_every", every),
        ("show_every", show_every),
    ):
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    if steps is None and seconds is None:
        raise ValueError("a budget is wanted: steps, seconds or both, got neither")
    if warmup < 0 or not 0 <= decay <= 1:
        raise ValueError(f"warmup >= 0 and 0 <= decay <= 1 are wanted, got {warmup} and {decay}")
    if checkpoint is None and (every is not None or resume):
        raise ValueError("checkpoint_every and resume want a checkpoint, got None")


def _bar(run: Engine, steps: int | None, seconds: float | None, progress: bool) -> tqdm:
    hidden = not progress or run.ranks.rank != 0
    form = "{l_bar}{bar}| {n:.0f}/{total:.0f} {unit} [{elapsed}<{remaining}{postfix}]"
    return tqdm(total=steps or seconds, initial=run.step if steps else 0, unit="steps" if steps else "s",
                disable=hidden, bar_format=form, mininterval=0.5)  # fmt: skip


@contextlib.contextmanager
def _stop_on_interrupt() -> Iterator[threading.Event]:
    """The first Ctrl-C sets the event, so that the step under way is finished; a second one interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _tf32(device: torch.device) -> Iterator[None]:
    """Matrix products in TF32 where the hardware has it, for the length of a run."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
