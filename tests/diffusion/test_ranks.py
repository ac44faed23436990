"""Several processes, really started by torchrun on the CPU: what they obey together, and what one process makes of it.

Each test is one launch, since most of a launch's time goes into imports; the laws themselves are in `ranks_laws.py`.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from coursekit.checkpoints import read_tensors, write_tensors
from coursekit.diffusion import fit
from coursekit.diffusion.ranks import Ranks
from coursekit.shards import write_shards

sys.path.insert(0, str(Path(__file__).parent))
import ranks_laws
from ranks_laws import GAME, RANDOM, TOLD, Game, Random, Told, same, told_data

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")


def launch(group: str, folder: Path, processes: int = 2, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE_", "FSDP_"))}
    clean |= {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command += [ranks_laws.__file__, group, str(folder)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=clean | environment, **pipes) as launcher:
        try:
            out, errors = launcher.communicate(timeout=400)
        except subprocess.TimeoutExpired:
            launcher.terminate()  # so that it ends its processes, which a kill would leave behind
            raise
    return subprocess.CompletedProcess(command, launcher.returncode, out, errors)


def one_process(steps: int = 50, **keywords: object) -> tuple[nn.Module, list[float]]:
    model = Told()
    history = fit(model, told_data(), steps=steps, device="cpu", **TOLD, **keywords)
    return model, history.losses


def assert_close(file: Path, model: nn.Module) -> None:
    found = read_tensors(file)[0]
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)


def resumed_alone(file: Path) -> nn.Module:
    return one_process(checkpoint=file, resume=True)[0]


def test_two_processes(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", [told_data()], shard_size=30)
    one_process(25, checkpoint=tmp_path / "one half")
    done = launch("ddp", tmp_path)
    assert done.returncode == 0, done.stderr
    reference, losses = one_process()
    for file in ("whole", "again", "resumed"):
        assert_close(tmp_path / file, reference)
    assert_close(tmp_path / "whole", resumed_alone(tmp_path / "half"))
    torch.testing.assert_close(read_tensors(tmp_path / "losses")[0]["losses"], torch.tensor(losses), rtol=0, atol=1e-6)
    game = Game()
    fit(game, torch.linspace(0, 2, 32)[:, None], device="cpu", **GAME)
    assert_close(tmp_path / "game", game)


def test_two_processes_that_share_the_weights(tmp_path: Path) -> None:
    """FSDP: pieces while training, whole in the file, which one process takes up, and the other way round."""
    one_process(25, checkpoint=tmp_path / "one half")
    wrap = {"FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP", "FSDP_MIN_NUM_PARAMS": "20"}
    done = launch("fsdp", tmp_path, ACCELERATE_USE_FSDP="true", **wrap)
    assert done.returncode == 0, done.stderr
    reference, _ = one_process()
    for file in ("whole", "resumed"):
        assert_close(tmp_path / file, reference)
    pieces, half = (read_tensors(tmp_path / file)[0] for file in ("pieces", "one half"))
    assert {name: tensor.shape for name, tensor in pieces.items() if "random" not in name} == {
        name: tensor.shape for name, tensor in half.items() if "random" not in name
    }
    assert_close(tmp_path / "whole", resumed_alone(tmp_path / "pieces"))


def test_a_killed_process_ends_the_run_and_the_checkpoint_lives(tmp_path: Path) -> None:
    done = launch("kill", tmp_path)
    seconds = time.time() - float((tmp_path / "killed at").read_text())
    assert done.returncode != 0
    assert "Signal 9 (SIGKILL)" in done.stderr
    assert seconds < 60, "torchrun did not end the others"
    assert read_tensors(tmp_path / "half")[1]["step"] == 25
    reference, _ = one_process()
    assert_state_close(resumed_alone(tmp_path / "half"), reference)


def assert_state_close(a: nn.Module, b: nn.Module) -> None:
    for name, tensor in a.state_dict().items():
        torch.testing.assert_close(tensor, b.state_dict()[name], rtol=0, atol=1e-6)


def test_a_state_of_another_device_is_taken_up(tmp_path: Path) -> None:
    """Its random states are of no use: new ones come from (seed, step, rank), the same each time."""
    fit(Random(), told_data()[0], steps=5, checkpoint=tmp_path / "a", device="cpu", **RANDOM)
    tensors, header = read_tensors(tmp_path / "a")
    there = tensors | {"random.generator": torch.zeros(1, 16, dtype=torch.uint8)}, header | {"device": "cuda"}
    models = [Random() for _ in range(3)]
    for model, state in zip(models, (there, there, (tensors, header)), strict=True):
        write_tensors(tmp_path / "b", *state)
        torch.rand(1)
        fit(model, told_data()[0], steps=9, checkpoint=tmp_path / "b", resume=True, device="cpu", **RANDOM)
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


def test_processes_that_cannot_be_connected_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where torchrun meets an accelerator that torch cannot connect to another: each would train alone."""
    Ranks()
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 processes were started but accelerate connects 1"):
        Ranks()


def test_the_older_fsdp_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(ValueError, match="FSDP_VERSION must be 2, got 1"):
        Ranks()


@pytest.mark.slow
def test_four_processes_take_up_what_two_left(tmp_path: Path) -> None:
    for group, processes in (("half", 2), ("other half", 4)):
        done = launch(group, tmp_path, processes)
        assert done.returncode == 0, done.stderr
    assert_close(tmp_path / "resumed", one_process()[0])
