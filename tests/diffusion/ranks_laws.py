"""What several processes must obey: torchrun starts this file, and every law is checked on every rank.

    torchrun --standalone --nproc_per_node 2 tests/diffusion/ranks_laws.py ddp FOLDER

FOLDER holds what one process made beforehand, and receives what is compared with one process afterwards.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from coursekit.checkpoints import read_tensors, write_tensors
from coursekit.diffusion import fit
from coursekit.diffusion.engine import Engine, Player
from coursekit.diffusion.optimizers import muon_and_adamw
from coursekit.diffusion.ranks import whole
from coursekit.shards import Shards

QUIET = {"progress": False, "show_every": 10}
TOLD = {"batch_size": 16, "lr": 1e-2, "warmup": 5, "decay": 0.0, "ema_half_life": 8.0, "clip": 0.5, **QUIET}


def rank() -> int:
    return int(os.environ.get("RANK", 0))


class Told(nn.Module):
    """Regression under noise that comes with the data: nothing is left to the ranks' own random numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))

    def loss(self, x: Tensor, eps: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return (self.net(x + 0.3 * eps)[:, 0] - y).square().mean()


def told_data(n: int = 100) -> tuple[Tensor, Tensor, Tensor]:
    x, eps = torch.randn(2, n, 3, generator=torch.Generator().manual_seed(0))
    return x, eps, x.sin().sum(1)


class Game(nn.Module):
    """min over a, max over b of the mean of x a b + (a^2 - b^2) / 2."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Linear(1, 1, bias=False) for _ in range(2))
        nn.init.ones_(self.a.weight)
        nn.init.ones_(self.b.weight)

    def value(self, x: Tensor) -> Tensor:
        a, b = self.a.weight.sum(), self.b.weight.sum()
        return x.mean() * a * b + (a**2 - b**2) / 2

    def players(self) -> list[Player]:
        return [
            Player("a", self.a, lambda x, generator=None: self.value(x)),
            Player("b", self.b, lambda x, generator=None: -self.value(x), repeats=2),
        ]


GAME = {"steps": 40, "batch_size": 8, "lr": 0.02, **QUIET}


class Random(nn.Module):
    """Dropout, noise and statistics of the batch, and chains of each rank's own."""

    unaveraged: ClassVar[tuple[str, ...]] = ("chain",)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, 1))
        self.register_buffer("chain", torch.zeros(4))
        self.noise: list[Tensor] = []

    def loss(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.randn(x.shape, generator=generator)
        self.noise.append(noise)
        self.chain.add_(torch.randn(4, generator=generator))
        return (self.net(x + noise) - x.sum(1, keepdim=True)).square().mean() + self.chain.mean() ** 2


RANDOM = {"batch_size": 8, "ema_half_life": 5.0, "decay": 0.0, **QUIET}


def everyones(tensor: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.detach().contiguous())
    return parts


def alike(tensor: Tensor) -> bool:
    first, *others = everyones(tensor)
    return all(torch.equal(first, other) for other in others)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def write(path: Path, model: nn.Module) -> None:
    tensors = {name: whole(tensor) for name, tensor in model.state_dict().items()}
    if rank() == 0:
        write_tensors(path, tensors, {})
    dist.barrier()


def copied(source: Path, target: Path) -> Path:
    if rank() == 0:
        shutil.copy(source, target)
    dist.barrier()
    return target


@contextlib.contextmanager
def refused(kind: type[Exception], words: str) -> Iterator[None]:
    said = "nothing"
    try:
        yield
    except kind as error:
        said = str(error)
    assert words in said, said
    dist.barrier()


def trains_as_one_process(folder: Path) -> None:
    """The test compares: the whole run, the losses shown, and runs that change the number of processes half-way."""
    model = Told()
    history = fit(model, told_data(), steps=50, accumulate=2, **TOLD)
    write(folder / "whole", model)
    if rank() == 0:
        write_tensors(folder / "losses", {"losses": torch.tensor(history.losses)}, {})
    fit(Told(), told_data(), steps=25, checkpoint=folder / "half", **TOLD)
    again = Told()
    fit(again, told_data(), steps=50, checkpoint=copied(folder / "half", folder / "here"), resume=True, **TOLD)
    write(folder / "again", again)
    model = Told()
    fit(model, told_data(), steps=50, checkpoint=folder / "one half", resume=True, **TOLD)
    write(folder / "resumed", model)


def plays_as_one_process(folder: Path) -> None:
    game = Game()
    fit(game, torch.linspace(0, 2, 32)[:, None], **GAME)
    write(folder / "game", game)


def draws_its_own_noise_and_resumes_to_the_bit(folder: Path) -> None:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    straight = Random()
    fit(straight, x, steps=20, checkpoint=folder / "straight", **RANDOM)
    first, second, *_ = everyones(torch.stack(straight.noise))
    assert first.shape == (20, 4, 3)  # half of the global batch
    assert (first - second).abs().min() > 0
    assert not alike(torch.rand(5)), "the global generators are the same"
    own = {"chain", "net.1.num_batches_tracked"}
    assert [name for name, t in straight.state_dict().items() if not alike(t)] == ["chain"]
    assert straight.net[1].running_mean.abs().min() > 0
    fit(Random(), x, steps=10, checkpoint=folder / "a", **RANDOM)
    torch.manual_seed(99)
    resumed = Random()
    fit(resumed, x, steps=20, checkpoint=folder / "a", resume=True, **RANDOM)
    names = straight.state_dict().keys() - own
    assert all(torch.equal(straight.state_dict()[name], resumed.state_dict()[name]) for name in names)
    assert torch.equal(straight.chain, resumed.chain)
    files = [read_tensors(folder / name)[0] for name in ("straight", "a")]
    assert files[0]["ranks.chain"].shape == (2, 4)
    assert all(torch.equal(tensor, files[1][name]) for name, tensor in files[0].items())


class Breaking(Told):
    """On the last rank the seventh loss is infinite, its gradient is not."""

    calls = 0

    def loss(self, x: Tensor, eps: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        self.calls += 1
        broken = self.calls == 7 and rank() == dist.get_world_size() - 1
        return super().loss(x, eps, y) + (float("inf") if broken else 0.0)


def stops_everywhere_at_a_loss_that_is_not_finite(folder: Path) -> None:
    model = Breaking()
    with refused(FloatingPointError, "'model' is not finite at step 6"):
        fit(model, told_data(), steps=20, checkpoint=folder / "broken", **TOLD)
    good = Told()
    fit(good, told_data(), steps=6, **TOLD | {"ema_half_life": None})
    assert all(torch.equal(whole(a), whole(b)) for a, b in zip(model.parameters(), good.parameters(), strict=True))
    assert read_tensors(folder / "broken")[1]["step"] == 6


class Slow(Told):
    """Uneven ranks; the last one gets a Ctrl-C if asked to."""

    def __init__(self, interrupt_at: int = -1) -> None:
        super().__init__()
        self.calls, self.interrupt_at = 0, interrupt_at

    def loss(self, x: Tensor, eps: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        self.calls += 1
        time.sleep(0.01 * rank())
        if self.calls == self.interrupt_at and rank() == dist.get_world_size() - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return super().loss(x, eps, y)


def stops_everywhere_at_the_same_step(folder: Path) -> None:
    model = Slow()
    history = fit(model, told_data(), seconds=0.5, **TOLD | {"decay": 1.0})
    assert history.total_steps > 1
    assert alike(torch.tensor(history.total_steps))
    assert all(alike(p) for p in model.parameters()), "the learning rate is not shared"
    history = fit(Slow(interrupt_at=5), told_data(), steps=1000, **TOLD)
    assert history.interrupted
    assert 5 <= history.total_steps <= 7
    assert alike(torch.tensor(history.total_steps))


def streams_what_lies_in_memory(folder: Path) -> None:
    models = [Told(), Told()]
    for model, data in zip(models, (Shards(folder / "shards"), told_data()), strict=True):
        fit(model, data, steps=15, **TOLD)
    assert same(*models)


def sends_each_gradient_once_a_step(folder: Path) -> None:
    """4 bytes for each weight, however many micro-batches."""
    for accumulate in (1, 4):
        run = Engine(Told(), told_data(), batch_size=16, lr=1e-3, accumulate=accumulate)
        sent: list[int] = []

        def count(state: object, bucket: dist.GradBucket, sent: list[int] = sent) -> torch.futures.Future[Tensor]:
            sent.append(bucket.buffer().nbytes)
            return allreduce_hook(None, bucket)

        run.seats[0].objective.register_comm_hook(None, count)
        for _ in range(5):
            run.advance(1.0)
        assert sum(sent) == 5 * 4 * sum(p.numel() for p in run.model.parameters())


class Spare(Told):
    """With a weight that no loss knows."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(2, 2)


class Parting(Told):
    """Changes its own weights, on one rank more than on the other."""

    def loss(self, x: Tensor, eps: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        with torch.no_grad():
            self.net[0].bias.add_(0.1 * rank())
        return super().loss(x, eps, y)


def refuses_what_cannot_work(folder: Path) -> None:
    with refused(ValueError, "multiple of accumulate times the 2 processes"):
        fit(Told(), told_data(), steps=1, **TOLD | {"batch_size": 15})
    with refused(ValueError, "device must be cpu for this launch, or None, got meta"):
        fit(Told(), told_data(), steps=1, device="meta", **TOLD)
    with refused(ValueError, "data must be the same for all processes, got [100, 101]"):
        fit(Told(), told_data(100 + rank()), steps=1, **TOLD)
    if rank() == 0:
        shutil.copy(folder / "half", folder / "mine 0")
    with refused(ValueError, "checkpoint_found must be the same for all processes, got [True, False]"):
        fit(Told(), told_data(), steps=50, checkpoint=folder / f"mine {rank()}", resume=True, **TOLD)
    with refused(ValueError, "unused_weights=True be given, got none for spare.weight, spare.bias"):
        fit(Spare(), told_data(), steps=3, **TOLD)
    spare, told = Spare(), Told()
    fit(spare, told_data(), steps=3, unused_weights=True, **TOLD)
    fit(told, told_data(), steps=3, **TOLD)
    assert all(torch.equal(p, told.state_dict()[name]) for name, p in spare.named_parameters() if "spare" not in name)
    with refused(RuntimeError, "the processes hold different weights"):
        fit(Parting(), told_data(), steps=10, **TOLD)


def speaks_once(folder: Path) -> None:
    """The command: one line, one bar, one file with its facts."""
    from typer.testing import CliRunner

    from coursekit.__main__ import app

    words = ["train", "rbm", "--out", str(folder / "rbm.safetensors"), "--steps", "2"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert ("2 steps in" in result.stdout) == ("2/2 steps" in result.stderr) == (rank() == 0), result.output
    dist.barrier()
    result = CliRunner().invoke(app, [*words, "--steps", "0"])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: steps" if rank() == 0 else "error on process 1: steps"), result.output


def shards_and_trains_as_one_process(folder: Path) -> None:
    model = Told()
    fit(model, told_data(), steps=25, checkpoint=folder / "pieces", accumulate=2, **TOLD)
    assert model.net[0].weight.to_local().shape == (8, 3)
    fit(model := Told(), told_data(), steps=50, checkpoint=copied(folder / "pieces", folder / "p"), resume=True, **TOLD)
    write(folder / "whole", model)
    fit(model := Told(), told_data(), steps=50, checkpoint=folder / "one half", resume=True, **TOLD)
    write(folder / "resumed", model)


def refuses_what_cannot_be_cut(folder: Path) -> None:
    with refused(ValueError, "optimizer must work on pieces of weights under FSDP"):
        fit(Told(), told_data(), steps=1, optimizer=muon_and_adamw, **TOLD)
    fit(model := Told(), told_data(), steps=1, **TOLD)
    with refused(ValueError, "model must be whole, got one that an earlier run under FSDP has left in pieces"):
        fit(model, told_data(), steps=1, **TOLD)
    with refused(ValueError, "FSDP shards one player's weights, got 2 players"):
        fit(Game(), torch.ones(32, 1), **GAME)


def leaves_half(folder: Path) -> None:
    fit(Told(), told_data(), steps=25, checkpoint=folder / "half", **TOLD)


def resumes_anywhere(folder: Path) -> None:
    fit(model := Told(), told_data(), steps=50, checkpoint=folder / "half", resume=True, **TOLD)
    write(folder / "resumed", model)


def is_killed(folder: Path) -> None:
    class Victim(Slow):
        def loss(self, x: Tensor, eps: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
            if self.calls == 30 and rank() == 1:
                (folder / "killed at").write_text(repr(time.time()))
                os.kill(os.getpid(), signal.SIGKILL)
            return super().loss(x, eps, y)

    fit(Victim(), told_data(), steps=10_000, checkpoint=folder / "half", checkpoint_every=25, **TOLD)


LAWS: dict[str, list[Callable[[Path], None]]] = {
    "ddp": [
        trains_as_one_process,
        plays_as_one_process,
        draws_its_own_noise_and_resumes_to_the_bit,
        stops_everywhere_at_a_loss_that_is_not_finite,
        stops_everywhere_at_the_same_step,
        streams_what_lies_in_memory,
        sends_each_gradient_once_a_step,
        refuses_what_cannot_work,
        speaks_once,
    ],
    "fsdp": [
        shards_and_trains_as_one_process,
        stops_everywhere_at_a_loss_that_is_not_finite,
        refuses_what_cannot_be_cut,
    ],
    "half": [leaves_half],
    "other half": [resumes_anywhere],
    "kill": [is_killed],
}

if __name__ == "__main__":
    for law in LAWS[sys.argv[1]]:
        start = time.monotonic()
        law(Path(sys.argv[2]))
        if rank() == 0:
            print(f"{law.__name__}: {time.monotonic() - start:.1f} s", flush=True)
