"""The missing half: what a judgement means, and that every way keeps the half that was shown."""

import pytest
import torch

from coursekit.completion import HalfHidden, half_hidden, half_mixture, judge, ways
from coursekit.data import load_animals
from coursekit.recipes import load_released


@pytest.fixture(scope="module")
def horses() -> HalfHidden:
    return half_hidden("horse", 2, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def classifier() -> torch.nn.Module:
    return load_released("classifier")


def test_half_is_hidden(horses: HalfHidden) -> None:
    images, labels, names = load_animals("test")
    real = images[labels == names.index("horse")]
    assert all(any(torch.equal(picture, other) for other in real) for picture in horses.pictures)
    assert horses.labels.tolist() == [names.index("horse")] * 2
    assert torch.equal(horses.shown[..., :14], horses.pictures[..., :14])
    assert bool((horses.shown[..., 14:] == 0).all())
    with pytest.raises(ValueError, match="animal must be one of"):
        half_hidden("unicorn")
    with pytest.raises(ValueError, match="number must lie in"):
        half_hidden("horse", 10**6)


def test_every_way_keeps_what_was_shown(horses: HalfHidden, classifier: torch.nn.Module) -> None:
    """And finds a hidden half that is better than grey, from the generator alone."""
    found = ways(horses, load_released("diffusion"), half_mixture("horse"), steps=15)
    assert list(found) == ["mixture", "replacement", "RePaint", "projection", "DPS", "PiGDM", "moment matching"]
    for name, way in found.items():
        drawn = way(torch.Generator().manual_seed(0))
        if name == "projection":
            assert torch.equal(drawn, way(torch.Generator().manual_seed(0)))
        judgement = judge(torch.stack([drawn, drawn]), horses, classifier)
        assert judgement.seen_error < 0.01, name
        assert judgement.error < horses.pictures[..., 14:].square().mean(), name  # that of grey
        assert drawn.abs().max() <= 1
    assert "mixture" not in ways(horses, load_released("diffusion"))


def test_judgement_of_exchangeable_draws(horses: HalfHidden, classifier: torch.nn.Module) -> None:
    """Draws that have the truth's law around an unknown centre: spread 1, and errors that add as variances do."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.zeros(2, 1, 28, 28)
    truth, *draws = (centre + 0.5 * torch.randn(2, 1, 28, 28, generator=generator) for _ in range(9))
    problem = HalfHidden(truth, horses.labels, horses.seen)
    found = judge(torch.stack(draws), problem, classifier)
    assert found.spread == pytest.approx(1, abs=0.1)
    assert found.error == pytest.approx(2 * 0.25, rel=0.1)
    assert found.mean_error == pytest.approx(0.25 * (1 + 1 / 8), rel=0.1)
    assert found.seam == pytest.approx(1, abs=0.5)


def test_judgement_of_the_truth_and_of_one_guess(horses: HalfHidden, classifier: torch.nn.Module) -> None:
    guess = torch.where(torch.arange(28) < 14, horses.pictures, -horses.pictures)
    found = judge(torch.stack([guess, guess]), horses, classifier)
    assert found.spread == 0
    opposite = 4 * horses.pictures[..., 14:].square().mean().item()
    assert [found.mean_error, found.error] == pytest.approx([opposite, opposite])
    assert found.seam > 2
    near = horses.pictures + 0.01 * torch.randn(3, 2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    found = judge(near, horses, classifier)
    assert found.recognised.value == 1
    assert found.seam == pytest.approx(1, rel=0.05)
    assert found.seen_error == pytest.approx(1e-4, rel=0.1)
    with pytest.raises(ValueError, match="draws must have shape"):
        judge(guess[None], horses, classifier)
