"""Laws of the toys: densities integrate to one, and samples agree with them."""

import math

import pytest
import torch
from scipy import stats
from sklearn.datasets import make_moons
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from coursekit.data import TOYS

WITH_DENSITY = {name: toy for name, toy in TOYS.items() if hasattr(toy, "log_prob")}


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def midpoints(cells: int, half_width: float) -> torch.Tensor:
    """Centres of cells x cells equal squares, (cells^2, 2), x fastest."""
    line = (torch.arange(cells) + 0.5) * (2 * half_width / cells) - half_width
    return torch.cartesian_prod(line, line).flip(1)


@pytest.mark.parametrize("name", WITH_DENSITY)
def test_density_integrates_to_one(name):
    half_width, cells = 6.0, 1200
    density = WITH_DENSITY[name]().log_prob(midpoints(cells, half_width)).exp()
    assert (density.sum() * (2 * half_width / cells) ** 2).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", WITH_DENSITY)
def test_samples_agree_with_the_density(name):
    """Chi-square on a grid: expected counts from the density, observed counts from 40,000 samples."""
    toy, n, half_width, bins, fine = WITH_DENSITY[name](), 40_000, 3.5, 35, 40
    density = toy.log_prob(midpoints(bins * fine, half_width)).exp()
    cell = density.view(bins, fine, bins, fine).mean(dim=(1, 3)).flatten() * (2 * half_width / bins) ** 2
    x = toy.sample(n, torch.Generator().manual_seed(1))
    index = ((x + half_width) / (2 * half_width) * bins).floor().long()
    inside = ((index >= 0) & (index < bins)).all(dim=1)
    observed = torch.bincount(index[inside, 1] * bins + index[inside, 0], minlength=bins**2).double()
    busy = n * cell >= 5
    observed = torch.cat([observed[busy], (n - observed[busy].sum())[None]])
    rest = (n - n * cell[busy].sum()).clamp(min=1e-6)  # nothing may fall where there is no density
    expected = torch.cat([n * cell[busy], rest[None]])
    chi_square = ((observed - expected) ** 2 / expected).sum().item()
    assert stats.chi2.sf(chi_square, df=busy.sum().item()) > 1e-3


@pytest.mark.parametrize("name", TOYS)
def test_samples_have_shape_labels_and_follow_the_generator(name):
    toy = TOYS[name]()
    x, y = toy.sample_labelled(4000, torch.Generator().manual_seed(0))
    assert x.shape == (4000, 2)
    assert y.shape == (4000,)
    assert y.dtype == torch.long
    share = y.bincount(minlength=toy.classes) / 4000
    assert len(share) == toy.classes
    assert (share - 1 / toy.classes).abs().max() < 0.03
    assert torch.equal(toy.sample(4000, torch.Generator().manual_seed(0)), x)
    assert not torch.equal(toy.sample(4000, torch.Generator().manual_seed(1)), x)
    assert (x.abs() < toy.extent).all(dim=1).double().mean() > 0.97


@pytest.mark.parametrize("name", TOYS)
def test_float32_follows_from_the_default_type(name):
    torch.set_default_dtype(torch.float32)
    x = TOYS[name]().sample(10, torch.Generator().manual_seed(0))
    assert x.dtype == torch.float32
    if name in WITH_DENSITY:
        toy = WITH_DENSITY[name]()
        assert toy.log_prob(x).dtype == torch.float32
        torch.testing.assert_close(toy.log_prob(x).double(), toy.log_prob(x.double()), rtol=1e-3, atol=1e-3)


def test_two_moons_are_those_of_scikit_learn():
    toy = TOYS["two moons"]()
    x, y = toy.sample_labelled(20_000, torch.Generator().manual_seed(0))
    reference, label = make_moons(20_000, noise=toy.std, random_state=0)
    reference = toy.scale * (torch.from_numpy(reference) - torch.tensor([0.5, 0.25]))
    for moon in (0, 1):
        ours, theirs = x[y == moon], reference[torch.from_numpy(label) == moon]
        torch.testing.assert_close(ours.mean(dim=0), theirs.mean(dim=0), rtol=0, atol=0.05)
        torch.testing.assert_close(ours.T.cov(), theirs.T.cov(), rtol=0, atol=0.05)
        assert all(stats.ks_2samp(ours[:, i], theirs[:, i]).pvalue > 1e-3 for i in (0, 1))


def test_posterior_of_two_gaussians_is_logistic_and_equals_discriminant_analysis():
    toy = TOYS["two gaussians"]()
    x, y = toy.sample_labelled(200_000, torch.Generator().manual_seed(0))
    weight, bias = toy.boundary()
    torch.testing.assert_close(toy.posterior(x)[:, 1], torch.sigmoid(x @ weight + bias))
    torch.testing.assert_close(toy.log_joint(x).logsumexp(dim=1), toy.log_prob(x))
    learnt = LinearDiscriminantAnalysis().fit(x.numpy(), y.numpy())
    assert weight.tolist() == pytest.approx(learnt.coef_[0].tolist(), abs=0.05)
    rotation = torch.tensor([[math.cos(toy.angle), -math.sin(toy.angle)], [math.sin(toy.angle), math.cos(toy.angle)]])
    covariance = rotation @ torch.diag(torch.tensor(toy.std) ** 2) @ rotation.T
    for label, sign in enumerate((-1, 1)):
        normal = torch.distributions.MultivariateNormal(sign * torch.tensor(toy.mean), covariance)
        torch.testing.assert_close(toy.log_joint(x)[:, label], normal.log_prob(x) - math.log(2))


def test_density_of_the_ring_is_the_mixture():
    toy = TOYS["gaussian ring"]()
    x = toy.sample(500, torch.Generator().manual_seed(0))
    parts = torch.distributions.MultivariateNormal(toy.centres()[:, None], toy.std**2 * torch.eye(2))
    torch.testing.assert_close(toy.log_prob(x), parts.log_prob(x).logsumexp(dim=0) - math.log(toy.classes))


def test_an_odd_board_is_refused():
    with pytest.raises(ValueError, match="squares must be an even number of at least 2, got 3"):
        TOYS["checkerboard"](squares=3)  # type: ignore[call-arg]
