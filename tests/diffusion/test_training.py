"""Laws of the engine: resuming, accumulation, averages, refusals, interruption."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from coursekit.checkpoints import previous, read_tensors
from coursekit.diffusion import Cosine, Denoiser, fit, sample
from coursekit.diffusion.average import Average
from coursekit.diffusion.batches import Batches, mirror
from coursekit.diffusion.engine import Player
from coursekit.networks import TimeMLP

QUIET = {"progress": False, "device": "cpu"}


class Regression(nn.Module):
    """y = w . x, squared error; with dropout and noise, so that every random state matters."""

    def __init__(self, width: int = 3, dropout: float = 0.0, noise: float = 0.0) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1))
        self.noise = noise
        self.register_buffer("seen", torch.zeros(()))

    def loss(self, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        x = x + self.noise * torch.randn(x.shape, generator=generator)
        return (self.net(x)[:, 0] - y).square().mean()


def regression_data(n: int = 64) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(0))
    return x, x @ torch.tensor([1.0, -2.0, 0.5])


def new_model(**keywords: float) -> Regression:
    torch.manual_seed(0)
    return Regression(**keywords)


def state(model: nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# --- resuming --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ema_half_life", [None, 5.0])
def test_twice_n_steps_are_n_steps_saved_loaded_and_n_more(tmp_path: Path, ema_half_life: float | None) -> None:
    """To the last bit, with dropout (global random state) and noise (the engine's generator)."""
    common = {"batch_size": 10, "decay": 0.0, "warmup": 7, "ema_half_life": ema_half_life, **QUIET}
    torch.manual_seed(1)
    straight = new_model(dropout=0.3, noise=0.1)
    whole = fit(straight, regression_data(), steps=40, checkpoint=tmp_path / "straight", **common)
    broken = new_model(dropout=0.3, noise=0.1)
    fit(broken, regression_data(), steps=20, checkpoint=tmp_path / "a", **common)
    torch.manual_seed(999)  # the random states come from the file
    np.random.seed(999)  # noqa: NPY002
    resumed = new_model(dropout=0.3, noise=0.1)
    torch.manual_seed(123)
    half = fit(resumed, regression_data(), steps=40, checkpoint=tmp_path / "a", resume=True, **common)
    assert same(state(straight), state(resumed))
    assert half.total_steps == whole.total_steps == 40
    straight_file, resumed_file = (read_tensors(tmp_path / name)[0] for name in ("straight", "a"))
    assert straight_file.keys() == resumed_file.keys()
    for name, tensor in straight_file.items():
        assert torch.equal(tensor, resumed_file[name]), name


def test_convolutions_resume_to_the_bit(tmp_path: Path) -> None:
    """Channels-last weights and their moments keep their memory layout through the file."""

    class Conv(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 1, 3, padding=1))

        def loss(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
            return (self.net(x) - x.flip(-1)).square().mean()

    pictures = torch.randint(0, 256, (32, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    models = []
    for plan in ([12], [6, 12]):
        torch.manual_seed(0)
        for steps in plan:
            if steps == 12 and len(plan) == 2:
                torch.manual_seed(7)
            models.append(Conv())
            fit(models[-1], pictures, steps=steps, batch_size=8, decay=0.0, augment=mirror, resume=True,
                checkpoint=tmp_path / f"{len(plan)}", **QUIET)  # fmt: skip
    assert same(state(models[0]), state(models[2]))


SCRIPT = """
import sys, torch
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_training import new_model, regression_data, QUIET
from coursekit.diffusion import fit
import time

class Slow(torch.nn.Module):
    def __init__(self, model):
        super().__init__(); self.model = model
    def loss(self, x, y, generator=None):
        if {slow}: time.sleep(0.02)
        return self.model.loss(x, y, generator=generator)

model = Slow(new_model(dropout=0.3, noise=0.1))
torch.manual_seed(5)
fit(model, regression_data(), steps=60, batch_size=10, ema_half_life=4.0, checkpoint=Path({path!r}),
    checkpoint_every=10,
    resume=True, **QUIET)
"""


def run_script(path: Path, slow: bool) -> subprocess.Popen:
    code = textwrap.dedent(SCRIPT).format(tests=str(Path(__file__).parent), slow=slow, path=str(path))
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    return subprocess.Popen([sys.executable, "-c", code], env=environment)


def test_kill_9_and_resume_equals_an_undisturbed_run(tmp_path: Path) -> None:
    undisturbed = run_script(tmp_path / "whole", slow=False)
    assert undisturbed.wait(120) == 0
    victim = run_script(tmp_path / "killed", slow=True)
    deadline = time.monotonic() + 120
    while not previous(tmp_path / "killed").exists() and time.monotonic() < deadline:  # two checkpoints are there
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait(60) == -signal.SIGKILL
    assert read_tensors(tmp_path / "killed")[1]["step"] < 60
    assert run_script(tmp_path / "killed", slow=False).wait(120) == 0
    whole, resumed = (read_tensors(tmp_path / name)[0] for name in ("whole", "killed"))
    assert whole.keys() == resumed.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    fit(new_model(), regression_data(), steps=2, checkpoint=tmp_path / "a", **QUIET)
    other = Regression(width=4)
    x, y = regression_data()
    with pytest.raises(ValueError, match="holds another model"):
        fit(other, (torch.cat([x, x[:, :1]], 1), y), steps=4, checkpoint=tmp_path / "a", resume=True, **QUIET)
    data = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(data[:-10])
    with pytest.raises(ValueError, match="damaged"):
        fit(new_model(), regression_data(), steps=4, checkpoint=tmp_path / "a", resume=True, **QUIET)


# --- steps -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_accumulated_micro_batches_equal_one_large_batch(accumulate: int) -> None:
    """Also where the gradient is clipped: the norm is that of the whole batch."""
    models = [new_model().double() for _ in range(2)]
    x, y = (tensor.double() for tensor in regression_data())
    for model, micro in zip(models, (1, accumulate), strict=True):
        fit(model, (x, y), steps=25, batch_size=16, accumulate=micro, clip=0.1, lr=0.05, **QUIET)
    for a, b in zip(state(models[0]), state(models[1]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_clipping_bounds_the_step() -> None:
    """With plain gradient descent the step's length is lr times the clipped norm."""
    model, before = new_model(), state(new_model())
    x, y = regression_data()
    fit(model, (x, 1e3 * y), steps=1, batch_size=64, lr=0.5, warmup=0, decay=0.0, clip=0.2,
        optimizer=lambda module: torch.optim.SGD(module.parameters(), lr=0.5), **QUIET)  # fmt: skip
    moved = torch.cat([(a - b).flatten() for a, b in zip(state(model), before, strict=True)]).norm()
    assert moved.item() == pytest.approx(0.1, rel=1e-4)


def test_learning_rate_counts_optimiser_steps() -> None:
    """Warm-up over 4 steps, flat, then down to a fiftieth, whatever the accumulation."""
    for accumulate in (1, 2):
        rates: list[float] = []

        class Spy(torch.optim.SGD):
            def step(self, closure: object = None) -> None:
                rates.append(self.param_groups[0]["lr"])  # noqa: B023
                super().step()

        fit(new_model(), regression_data(), steps=20, batch_size=8, accumulate=accumulate, warmup=4, decay=0.5,
            optimizer=lambda module, Spy=Spy: Spy(module.parameters(), lr=1.0), **QUIET)  # fmt: skip
        assert len(rates) == 20
        np.testing.assert_allclose(rates[:4], [0.25, 0.5, 0.75, 1.0])
        np.testing.assert_allclose(rates[4:11], 1.0)
        np.testing.assert_allclose(rates[11:], 2 * (1 - np.arange(11, 20) / 20))


def test_average_has_its_closed_form_and_keeps_buffers() -> None:
    layer = nn.Linear(1, 1, bias=False)
    layer.register_buffer("count", torch.tensor(0))
    layer.register_buffer("running", torch.zeros(2))
    nn.init.zeros_(layer.weight)
    average, n, half_life = Average(layer, half_life=7.0, ramp=None), 30, 7.0
    for step in range(n):
        with torch.no_grad():
            layer.weight.fill_(step + 1.0)
            layer.running.fill_(step + 1.0)
            layer.count.fill_(step)
        average.update(step)
    keep = 0.5 ** (1 / half_life)
    wanted = sum((1 - keep) * keep ** (n - k) * k for k in range(1, n + 1))
    assert average.state["weight"].item() == pytest.approx(wanted, rel=1e-5)
    assert average.state["running"].tolist() == pytest.approx([wanted] * 2, rel=1e-5)
    assert average.state["count"].item() == n - 1
    average.copy_to_model()
    assert layer.weight.item() == pytest.approx(wanted, rel=1e-5)


def test_average_of_half_precision_weights_moves() -> None:
    """In bfloat16 a change of 1e-4 of the way would be rounded away for ever."""
    layer = nn.Linear(1, 1, bias=False).bfloat16()
    nn.init.ones_(layer.weight)
    average = Average(layer, half_life=6931.0, ramp=None)  # decay 0.9999
    nn.init.constant_(layer.weight, 2.0)
    for step in range(100):
        average.update(step)
    assert average.state["weight"].dtype == torch.float32
    assert average.state["weight"].item() == pytest.approx(2 - 0.5 ** (100 / 6931), rel=1e-4)


def test_ramp_forgets_the_start() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 100.0)
    average = Average(layer, half_life=1e9, ramp=0.1)
    nn.init.zeros_(layer.weight)
    for step in range(100):
        average.update(step)
    assert average.state["weight"].item() < 1.0


def test_the_model_leaves_with_its_average() -> None:
    fast, slow = new_model(), new_model()
    fit(fast, regression_data(), steps=50, **QUIET)
    fit(slow, regression_data(), steps=50, ema_half_life=1000.0, ema_ramp=None, **QUIET)
    start = state(new_model())
    for begin, a, b in zip(start, state(fast), state(slow), strict=True):
        torch.testing.assert_close((b - begin).norm() < 0.1 * (a - begin).norm() + 1e-12, torch.tensor(True))


# --- batches ---------------------------------------------------------------------------------------------


def test_an_epoch_shows_every_sample_once_and_ranks_share_the_global_batch() -> None:
    x = torch.arange(23.0)[:, None]
    whole = Batches((x,), 6, seed=3, device="cpu")
    seen = torch.cat([whole.at(step)[0] for step in range(23)])  # 138 = 6 epochs of 23
    assert torch.equal(seen.flatten().long().bincount(), torch.full((23,), 6))
    parts = [Batches((x,), 6, seed=3, device="cpu", rank=rank, world=2) for rank in range(2)]
    for step in (0, 3, 11):
        shares = [part.at(step)[0] for part in parts]
        assert [len(share) for share in shares] == [3, 3]
        assert sorted(torch.cat(shares).flatten().tolist()) == sorted(whole.at(step)[0].flatten().tolist())
    other = Batches((x,), 6, seed=4, device="cpu")
    assert not torch.equal(other.at(0)[0], whole.at(0)[0])
    big = Batches((x,), 60, seed=3, device="cpu").at(0)[0]  # larger than the data
    assert torch.equal(torch.cat([whole.at(step)[0] for step in range(10)]), big)


def test_pictures_stay_bytes_until_they_are_drawn() -> None:
    pictures = torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8)
    batches = Batches((pictures, torch.arange(4)), 4, seed=0, device="cpu")
    assert batches.data[0].dtype == torch.uint8
    x, y = batches.at(0)
    assert x.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(x, pictures[y].float() / 127.5 - 1)
    assert (x.min().item(), x.max().item()) == (-1.0, 1.0)


# --- refusals, failures, interruption --------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_data_is_refused_before_the_first_step(bad: float) -> None:
    x, y = regression_data()
    x[17, 1] = bad
    model = new_model()
    with pytest.raises(ValueError, match="data must be finite, got NaN or infinity in tensor 0, first in sample 17"):
        fit(model, (x, y), steps=5, **QUIET)
    assert same(state(model), state(new_model()))


class Fragile(Regression):
    """Its loss is NaN from the given call on."""

    def __init__(self, last_good: int) -> None:
        super().__init__()
        self.calls, self.last_good = 0, last_good

    def loss(self, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        self.calls += 1
        return super().loss(x, y, generator) * (float("nan") if self.calls > self.last_good else 1.0)


def test_a_nan_loss_stops_with_the_step_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Fragile(last_good=7)
    with pytest.raises(FloatingPointError, match="'model' is not finite at step 7"):
        fit(model, regression_data(), steps=50, batch_size=10, decay=0.0, checkpoint=tmp_path / "a", **QUIET)
    good = new_model()
    fit(good, regression_data(), steps=7, batch_size=10, decay=0.0, checkpoint=tmp_path / "b", **QUIET)
    assert same(state(model), state(good))
    failed, wanted = (read_tensors(tmp_path / name) for name in "ab")
    assert failed[1]["step"] == 7
    for name, tensor in wanted[0].items():
        if not name.startswith("random."):
            assert torch.equal(failed[0][name], tensor), name


def test_a_failed_run_can_be_followed_by_another() -> None:
    """The gradient that was not finite stays behind in no weight and in no later step."""
    torch.manual_seed(0)
    model = Fragile(last_good=3)
    with pytest.raises(FloatingPointError):
        fit(model, regression_data(), steps=10, batch_size=10, decay=0.0, **QUIET)
    model.last_good = 10**6
    again = new_model()
    again.load_state_dict(model.state_dict())
    for one in (model, again):
        fit(one, regression_data(), steps=5, batch_size=10, decay=0.0, **QUIET)
    assert same(state(model), state(again))


def test_a_nan_in_a_list_of_numbers_is_placed() -> None:
    x, y = regression_data()
    y[5] = float("nan")
    with pytest.raises(ValueError, match="in tensor 1, first in sample 5"):
        fit(new_model(), (x, y), steps=5, **QUIET)


def test_ctrl_c_keeps_what_was_learned(tmp_path: Path) -> None:
    class Interrupting(Regression):
        calls = 0

        def loss(self, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
            self.calls += 1
            if self.calls == 5:
                os.kill(os.getpid(), signal.SIGINT)
            return super().loss(x, y, generator)

    before = signal.getsignal(signal.SIGINT)
    torch.manual_seed(0)
    model = Interrupting()
    history = fit(model, regression_data(), steps=1000, decay=0.0, checkpoint=tmp_path / "a", **QUIET)
    assert history.interrupted
    assert history.total_steps == 5
    assert signal.getsignal(signal.SIGINT) is before
    five = new_model()
    fit(five, regression_data(), steps=5, decay=0.0, **QUIET)
    assert same(state(model), state(five))
    assert read_tensors(tmp_path / "a")[1]["step"] == 5


def test_a_time_budget_ends() -> None:
    history = fit(new_model(), regression_data(), seconds=0.3, **QUIET)
    assert history.total_steps > 1
    assert history.seconds >= 0.3


def test_a_step_longer_than_the_budget_ends_well() -> None:
    """The bar is never pushed past its end, where tqdm forgets the total."""

    class Slow(Regression):
        def loss(self, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
            time.sleep(0.8)
            return super().loss(x, y, generator)

    history = fit(Slow(), regression_data(), seconds=0.1, progress=True, device="cpu")
    assert history.total_steps == 1


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({}, "a budget is wanted"),
        ({"steps": 0}, "steps must be positive"),
        ({"seconds": -1.0}, "seconds must be positive"),
        ({"steps": 1, "lr": 0.0}, "lr must be positive"),
        ({"steps": 1, "batch_size": 10, "accumulate": 3}, "multiple of accumulate"),
        ({"steps": 1, "batch_size": 0}, "batch_size"),
        ({"steps": 1, "decay": 1.5}, "decay"),
        ({"steps": 1, "ema_half_life": 0.0}, "half_life"),
        ({"steps": 1, "resume": True}, "want a checkpoint"),
    ],
)
def test_impossible_settings_are_refused(keywords: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(new_model(), regression_data(), **keywords, **QUIET)


def test_data_of_different_lengths_is_refused() -> None:
    x, y = regression_data()
    with pytest.raises(ValueError, match="one length"):
        fit(new_model(), (x, y[:-1]), steps=1, **QUIET)
    with pytest.raises(TypeError, match="tuple of tensors"):
        fit(new_model(), (x.numpy(), y), steps=1, **QUIET)


# --- games -----------------------------------------------------------------------------------------------


class Game(nn.Module):
    """min over a, max over b of a b + (a^2 - b^2) / 2: the players spiral into (0, 0)."""

    def __init__(self) -> None:
        super().__init__()
        self.minimiser, self.maximiser = (nn.Linear(1, 1, bias=False) for _ in range(2))
        nn.init.ones_(self.minimiser.weight)
        nn.init.ones_(self.maximiser.weight)
        self.moves: list[str] = []
        self.fail_at: int | None = None

    def value(self) -> Tensor:
        a, b = self.minimiser.weight.sum(), self.maximiser.weight.sum()
        return a * b + (a**2 - b**2) / 2

    def first(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        self.moves.append("first")
        return self.value()

    def second(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        self.moves.append("second")
        return -self.value() * (float("inf") if len(self.moves) == self.fail_at else 1.0)

    def players(self) -> list[Player]:
        return [Player("first", self.minimiser, self.first), Player("second", self.maximiser, self.second, repeats=2)]


def test_players_alternate_and_reach_equilibrium() -> None:
    game = Game()
    history = fit(game, torch.zeros(8, 1), steps=300, batch_size=4, lr=0.02, show_every=100, **QUIET)
    assert game.moves[:6] == ["first", "second", "second"] * 2
    assert abs(game.minimiser.weight.item()) < 1e-2
    assert abs(game.maximiser.weight.item()) < 1e-2
    assert history.players.keys() == {"first", "second"}
    assert len(history.players["second"]) == len(history.steps) == 3


def test_a_player_moves_only_its_own_weights_and_is_named_when_it_fails() -> None:
    game = Game()
    game.fail_at = 2
    with pytest.raises(FloatingPointError, match="'second' is not finite at step 0"):
        fit(game, torch.zeros(8, 1), steps=5, batch_size=4, **QUIET)
    assert game.minimiser.weight.item() != 1  # the first player had moved
    assert game.maximiser.weight.item() == 1


# --- a real model ----------------------------------------------------------------------------------------


def test_a_toy_denoiser_learns() -> None:
    """Two points in the plane: the loss falls and most samples land near one of them."""
    torch.manual_seed(0)
    x = torch.tensor([[-1.0, 1.0], [1.0, -1.0]]).repeat(64, 1)
    denoiser = Denoiser(TimeMLP(2), Cosine(), "v")
    history = fit(denoiser, x, steps=400, batch_size=64, lr=3e-3, show_every=50, **QUIET)
    assert history.losses[-1] < 0.8 * history.losses[0]
    assert history.steps == list(range(50, 401, 50))
    samples = sample(denoiser, (200, 2), generator=torch.Generator().manual_seed(0))
    distance = torch.cdist(samples, x[:2]).min(1).values
    assert (distance < 0.5).float().mean() > 0.8
