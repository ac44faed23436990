"""What does not grow: the work of a step with steps and data, memory with data on disk.

And what streaming changes: nothing.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from coursekit.checkpoints import read_tensors
from coursekit.diffusion import fit
from coursekit.diffusion.batches import StreamedBatches, mirror
from coursekit.diffusion.engine import Engine
from coursekit.shards import write_shards

QUIET = {"progress": False, "device": "cpu"}


class Conv(nn.Module):
    """Pictures and labels; dropout draws from the global state, noise from the engine's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), nn.Dropout(0.2), nn.Conv2d(4, 10, 3))

    def loss(self, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        logits = self.net(x + torch.randn(x.shape, generator=generator)).mean((2, 3))
        return nn.functional.cross_entropy(logits, y)


def pictures(n: int = 90) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 1, 6, 6), dtype=torch.uint8, generator=generator), torch.arange(n) % 10


def trained(data: object, steps: int = 20, **keywords: object) -> list[Tensor]:
    model = Conv()
    fit(model, data, steps=steps, batch_size=16, augment=mirror, ema_half_life=4.0, decay=0.0, **QUIET, **keywords)
    return list(model.state_dict().values())


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# --- streaming -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 2])
def test_streamed_and_resident_data_train_the_same_model(accumulate: int, tmp_path: Path) -> None:
    """To the last bit, over several epochs and shards, whoever serves the samples."""
    shards = write_shards(tmp_path, [pictures()], shard_size=25)
    resident = trained(pictures(), accumulate=accumulate)
    assert same(trained(shards, accumulate=accumulate), resident)
    assert same(trained(TensorDataset(*pictures()), accumulate=accumulate), resident)


def test_processes_that_read_ahead_change_nothing(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, [pictures()], shard_size=25)
    assert same(trained(shards, workers=2), trained(pictures()))


def test_a_streamed_run_resumes_to_the_bit(tmp_path: Path) -> None:
    """Also from a checkpoint of a resident run: the place in the data is the step's number."""
    shards = write_shards(tmp_path / "data", [pictures()], shard_size=25)
    straight = trained(shards, checkpoint=tmp_path / "straight")
    for first, second in ((shards, shards), (pictures(), shards), (shards, pictures())):
        (tmp_path / "a").unlink(missing_ok=True)
        trained(first, 9, checkpoint=tmp_path / "a")
        assert same(trained(second, 20, checkpoint=tmp_path / "a", resume=True), straight)
    assert same(list(read_tensors(tmp_path / "a")[0].values()), list(read_tensors(tmp_path / "straight")[0].values()))


def test_reading_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    streamed = StreamedBatches(TensorDataset(*pictures()), 8, 0, "cpu")
    for step in (0, 1, 5, 2):
        assert streamed.at(step)[0].shape == (8, 1, 6, 6)
    assert torch.equal(before, torch.get_rng_state())


class Floats(Dataset):
    """Single tensors, read one by one; says what was asked for."""

    def __init__(self, n: int) -> None:
        self.n, self.asked = n, []

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Tensor:
        self.asked.append(index)
        return torch.tensor([float(index)])


def test_a_rank_reads_its_own_share_and_no_more() -> None:
    sets = [Floats(50) for _ in range(2)]
    ranks = [StreamedBatches(data, 10, 0, "cpu", rank, 2) for rank, data in enumerate(sets)]
    for data in sets:
        data.asked.clear()  # a first sample is looked at
    first, _ = (rank.at(0)[0] for rank in ranks)
    assert first.shape == (5, 1)
    assert sets[0].asked == first.flatten().tolist()
    assert not set(sets[0].asked) & set(sets[1].asked)
    assert sorted(sets[0].asked + sets[1].asked) == sorted(StreamedBatches(Floats(50), 10, 0, "cpu").at(0)[0].flatten())


class Endless(IterableDataset):
    def __iter__(self) -> Iterator[Tensor]:
        yield torch.zeros(1)


class Words(Floats):
    def __getitem__(self, index: int) -> str:
        return "word"


def test_data_sets_that_cannot_be_streamed_are_refused() -> None:
    with pytest.raises(TypeError, match="data must have a length and be indexed by number, got a Endless"):
        fit(Conv(), Endless(), steps=1, **QUIET)
    with pytest.raises(TypeError, match="a sample must be a tensor or a tuple of tensors, got str"):
        fit(Conv(), Words(3), steps=1, **QUIET)
    with pytest.raises(ValueError, match="data must hold at least one sample, got 0"):
        fit(Conv(), Floats(0), steps=1, **QUIET)
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1, got 0"):
        fit(Conv(), Floats(3), steps=1, batch_size=0, **QUIET)


# --- what a step costs -----------------------------------------------------------------------------------


class Counted(TorchDispatchMode):
    """The calls of torch's operators, the bytes of what they return, and how often the host asked for a value."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = self.bytes = self.fetches = 0

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        out = operator(*arguments, **(keywords or {}))
        self.calls += 1
        self.bytes += sum(leaf.nbytes for leaf in tree_leaves(out) if isinstance(leaf, Tensor))
        self.fetches += operator is torch.ops.aten._local_scalar_dense.default
        return out


class Mean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(2))

    def loss(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return (x - self.mean + torch.randn(x.shape, generator=generator)).square().mean()


@pytest.mark.parametrize("streamed", [False, True])
def test_a_step_costs_the_same_early_and_late_with_little_and_much_data(streamed: bool, tmp_path: Path) -> None:
    """Steps 10 and 1,002, a thousand samples, a hundred thousand, and more than one permutation is drawn for.

    Both lie inside an epoch: its order is drawn at its first step, by one more call, 8 bytes for each sample.
    """
    costs = set()
    for n in (1_000, 300_000) if streamed else (1_000, 100_000, 300_000):
        x = torch.zeros(n, 2)
        data = write_shards(tmp_path / str(n), [x]) if streamed else (x,)
        run = Engine(Mean(), data, batch_size=32, lr=1e-3, ema_half_life=10.0, device="cpu")
        for step in range(1_003):
            with Counted() if step in (10, 1_002) else contextlib.nullcontext() as counted:
                run.advance(1.0)
            if counted:
                costs.add((counted.calls, counted.bytes, counted.fetches))
    assert len(costs) == 1, costs
    ((calls, _, fetches),) = costs
    assert fetches == 1  # on the CPU: whether the loss is finite
    assert calls < 80


MEMORY = """
import sys, torch
from pathlib import Path
from torch import nn
from coursekit.diffusion import fit
from coursekit.shards import Shards, write_shards

class Scale(nn.Module):
    def __init__(self):
        super().__init__(); self.scale = nn.Parameter(torch.ones(()))
    def loss(self, x, generator=None):
        return (self.scale * x).square().mean()

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

def chunks(n):
    for start in range(0, n, 2000):
        yield torch.randint(0, 256, (2000, 1, 28, 28), dtype=torch.uint8)

folder, peaks = Path(sys.argv[1]), []
for n in (2_000, 40_000):
    write_shards(folder / str(n), chunks(n), 4_000)
for n in (2_000, 40_000):
    fit(Scale(), Shards(folder / str(n)), steps=160, batch_size=250, progress=False, device="cpu")
    peaks.append(peak())
print(peaks[1] - peaks[0])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc, which is not here")
def test_memory_stays_flat_when_data_is_streamed(tmp_path: Path) -> None:
    """One epoch of 40,000 pictures, 31 MB, after twenty of 2,000; some MB are the allocator's."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], env=environment, capture_output=True,
                          text=True, timeout=300, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 10e6
