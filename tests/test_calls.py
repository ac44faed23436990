"""What is counted as a call, and that every sampler starts from the same noise."""

import json
from functools import partial

import pytest
import torch
from torch import Tensor

from coursekit.calls import draw_counted, flow_distance, quality, steps_within
from coursekit.classifiers import ConvClassifier
from coursekit.data import find_data
from coursekit.diffusion import SAMPLERS, Denoiser, Rectified
from coursekit.diffusion.samplers import deis, pc


@pytest.fixture
def model() -> Denoiser:
    """Labels decide the shade; the picture is otherwise what came in."""

    def network(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return 0.5 * torch.tanh(x) + 0.1 * y[:, None, None, None] / 10

    return Denoiser(network, Rectified(), "x0", num_classes=10)


@pytest.mark.parametrize("calls", [1, 5, 10, 20, 40])
def test_steps_within_a_number_of_calls(calls: int) -> None:
    expected = {"heun": (calls + 1) // 2, "dpm++2s": (calls + 1) // 2, "edm": (calls + 1) // 2, "pc": (calls + 1) // 2}
    expected["deis"] = max(1, calls - 1)
    for name in SAMPLERS:
        if name != "adaptive":
            assert steps_within(name, calls) == expected.get(name, calls)
    assert steps_within(partial(pc, corrections=3), 9) == 3
    assert steps_within(partial(deis, order=1), calls) == calls


def test_steps_are_refused_where_calls_do_not_fix_them() -> None:
    with pytest.raises(ValueError, match="steps decide the calls, got calls = 40"):
        steps_within("adaptive", 40)
    with pytest.raises(ValueError, match="must suffice for a step"):
        steps_within("euler", 0)


def test_calls_are_counted_and_noise_is_shared(model: Denoiser) -> None:
    for name in ("euler", "heun", "deis", "unipc", "pc"):
        drawn = draw_counted(model, name, steps_within(name, 8), number=25, batch_size=10)
        assert drawn.images.shape == (25, 1, 28, 28)
        assert drawn.calls in (7, 8)
        assert float(drawn.images.abs().max()) <= 1
        assert drawn.y.bincount().max() - drawn.y.bincount().min() <= 1
    first, again, other = (draw_counted(model, "euler", 3, number=12, batch_size=6, seed=s).images for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    by_ddim = draw_counted(model, "ddim", 1, number=12, batch_size=6).images  # one step: D of the noise itself
    torch.testing.assert_close(by_ddim, draw_counted(model, "euler", 1, number=12, batch_size=6).images)


def test_distance_to_the_flow_falls_with_the_order(model: Denoiser) -> None:
    exact = draw_counted(model, "heun", 64, number=10)
    far, near = (flow_distance(draw_counted(model, name, 8, number=10), exact) for name in ("ddim", "heun"))
    assert near.high < far.low
    assert flow_distance(exact, exact).value == 0
    with pytest.raises(ValueError, match="same classes, got 11 and 10 pictures"):
        flow_distance(draw_counted(model, "ddim", 1, number=11), exact)


def test_quality_judges_by_the_classes_asked_for(model: Denoiser) -> None:
    drawn = draw_counted(model, "euler", 2, number=40)
    found = quality(ConvClassifier().eval(), drawn)
    assert found.frechet.low <= found.frechet.value <= found.frechet.high
    assert 0 <= found.recognised.value <= 1
    assert len(found.features) == 40


def test_the_table_of_the_course_is_whole_and_bears_out_what_is_said() -> None:
    """Made by the command that it names: every sampler at 5, 10, 20 and 40 calls, and DPM-Solver++ 2M against Euler."""
    table = json.loads(find_data("sampler-calls.json").read_text(encoding="utf-8"))
    assert table["command"].startswith("python -m benchmarks.calls")
    rows = {(row["sampler"], row["grid"], row["budget"]): row for row in table["rows"]}
    for name in SAMPLERS:
        for calls in (5, 10, 20, 40) if name != "adaptive" else ():
            row = rows[name, "uniform", calls]
            assert calls - 1 <= row["calls"] <= calls
            assert row["steps"] == steps_within(name, calls)
            assert row["number"] == (1000 if calls <= 10 or [name, calls] == table["exact"] else 250)
            assert row["frechet"][1] <= row["frechet"][0] <= row["frechet"][2]
    assert table["claim"]["number"] == 1000
    value, low, high = table["claim"]["frechet difference"]
    assert table["claim"]["of"] == [["dpm++2m", 10], ["euler", 30]]
    assert low <= value <= high < 0.05  # no worse, to within what 1,000 pictures can tell
    two_exact_ones = table["flow"]["two nearly exact ones"][0]
    flow = {(row["sampler"], row["grid"], row["budget"]): row["distance"][0] for row in table["flow"]["rows"]}
    for name in ("dpm++2m", "deis", "unipc"):
        assert flow[name, "uniform", 20] < flow["euler", "uniform", 20]
    assert two_exact_ones < flow["euler", "uniform", 40]
