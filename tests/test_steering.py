"""Kinds of guidance by name, and the measure of variety."""

import json

import pytest
import torch
from torch import Tensor

from coursekit.classifiers import NoiseAwareClassifier
from coursekit.data import find_data
from coursekit.diffusion import Cosine, Denoiser, Rectified
from coursekit.steering import GUIDES, diversity


@pytest.mark.parametrize("name", list(GUIDES))
def test_scale_one_is_the_conditional_law(name: str) -> None:
    """All but the classifier alone, which adds to the denoiser without a label."""
    torch.manual_seed(0)

    def network(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return 0.1 * torch.tanh(x * (1 + y[:, None, None, None]) / 10)

    denoiser = Denoiser(network, Rectified(), "x0", num_classes=10)
    worse = Denoiser(lambda x, t, y: network(x, t, y) ** 2, Rectified(), "x0", num_classes=10)
    classifier = NoiseAwareClassifier(Cosine(), widths=(8, 8, 8), context=8)
    guided, stronger = (GUIDES[name](denoiser, classifier, worse, scale) for scale in (1.0, 3.0))
    x, t, y = torch.randn(3, 1, 28, 28), torch.tensor([0.2, 0.5, 0.9]), torch.tensor([0, 4, 9])
    assert torch.allclose(guided(x, t, y), denoiser(x, t, y), atol=1e-6) == (name != "classifier")
    assert not torch.allclose(stronger(x, t, y), denoiser(x, t, y), atol=1e-6)


def test_diversity_is_relative_and_within_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 3, generator=generator), torch.arange(200) % 4
    apart = x + 100 * y[:, None]  # distances between classes do not count
    assert diversity(apart, y, x, y) == pytest.approx(1, rel=1e-3)
    assert diversity(0.3 * x, y, x, y) == pytest.approx(0.3)
    assert diversity(x[:100], y[:100], x, y) == pytest.approx(1, abs=0.1)
    only = torch.where(y < 2, y, 0)[:100]
    assert diversity(x[:100], only, x, y) > 0
    with pytest.raises(ValueError, match="two samples of a class"):
        diversity(x[:1], y[:1], x, y)


@pytest.mark.parametrize("name", ["guidance-sweep.json", "missing-half.json"])
def test_kept_tables_say_how_they_were_made(name: str) -> None:
    facts = json.loads(find_data(name).read_text(encoding="utf-8"))
    assert facts["command"].startswith("python -m benchmarks.")
    assert len(facts["rows"]) > 10
    assert all(0 <= row["recognised"][1] <= row["recognised"][0] <= row["recognised"][2] <= 1 for row in facts["rows"])
