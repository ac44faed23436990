"""Laws of the metrics: closed forms, calibrated p-values, intervals that hold the truth as often as they say."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, stats
from sklearn.linear_model import LogisticRegression
from torch import nn

from coursekit import metrics
from coursekit.estimates import mean_interval


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def whitened(n: int, mean: torch.Tensor, covariance: torch.Tensor, seed: int) -> torch.Tensor:
    """Points whose sample mean and covariance are exactly the ones given."""
    x = normal(n, len(mean), seed=seed)
    x = x - x.mean(dim=0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / (n - 1))).T
    return mean + x @ torch.linalg.cholesky(covariance).T


def random_covariance(features: int, seed: int) -> torch.Tensor:
    root = normal(features, features, seed=seed)
    return root @ root.T + 0.1 * torch.eye(features, dtype=torch.float64)


# Frechet distance


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**31))
def test_frechet_of_gaussians_is_the_closed_form(features, seed):
    means = normal(2, features, seed=seed)
    a, b = random_covariance(features, seed + 1), random_covariance(features, seed + 2)
    product = np.trace(np.real(linalg.sqrtm((a @ b).numpy())))  # independent of singular values
    expected = (means[0] - means[1]).square().sum() + a.trace() + b.trace() - 2 * product
    x, y = whitened(50, means[0], a, seed), whitened(60, means[1], b, seed + 1)
    assert metrics.frechet_distance(x, y, resamples=2).plug_in == pytest.approx(expected.item(), rel=1e-7)
    assert metrics.frechet_distance(y, x, resamples=2).plug_in == pytest.approx(expected.item(), rel=1e-7)


def test_frechet_of_commuting_covariances():
    x = whitened(40, torch.zeros(3).double(), torch.diag(torch.tensor([1.0, 4.0, 9.0]).double()), 0)
    y = whitened(40, torch.ones(3).double(), torch.diag(torch.tensor([4.0, 4.0, 1.0]).double()), 1)
    assert metrics.frechet_distance(x, y, resamples=2).plug_in == pytest.approx(3 + 1 + 0 + 4)


def test_frechet_survives_fewer_points_than_features():
    x = normal(20, 100)
    assert metrics.frechet_distance(x, x, resamples=2).plug_in == pytest.approx(0, abs=1e-9)
    turned = x @ torch.linalg.qr(normal(100, 100, seed=1)).Q
    shifted = metrics.frechet_distance(turned, turned + 2, resamples=2).plug_in
    assert shifted == pytest.approx(400, rel=1e-9)


def test_frechet_intervals_hold_the_truth():
    """Reflected intervals cover; the percentile interval of the same numbers would not (it is biased twice)."""
    truth, covered, errors = 0.25 * 8 + 1.0, 0, []
    for seed in range(60):
        x, y = normal(150, 8, seed=2 * seed), 1.5 * normal(150, 8, seed=2 * seed + 1)
        y[:, 0] += 1
        result = metrics.frechet_distance(x, y, resamples=60, generator=seeded(seed))
        covered += result.low <= truth <= result.high
        errors.append([result.value - truth, result.plug_in - truth])
        assert result.low <= result.value <= result.high
    corrected, plain = np.mean(errors, axis=0)
    assert covered >= 52
    assert abs(corrected) < 0.35 * plain


def test_frechet_of_equal_distributions_is_near_zero_whatever_the_sample_size():
    for n in (60, 240):
        results = [
            metrics.frechet_distance(normal(n, 12, seed=2 * i), normal(n, 12, seed=2 * i + 1), 30, generator=seeded(i))
            for i in range(20)
        ]
        plain = np.mean([result.plug_in for result in results])
        assert abs(np.mean([result.value for result in results])) < 0.3 * plain
        assert np.mean([result.low <= 0 <= result.high for result in results]) >= 0.8


def test_frechet_difference_is_a_difference_whose_interval_pairing_narrows():
    """Two samples from the same noise: their distances to a third err together, their difference does not."""
    covered, widths = 0, []
    for seed in range(20):
        noise, real = normal(200, 6, seed=2 * seed), normal(300, 6, seed=2 * seed + 1)
        a, b = noise + 0.3, 1.02 * noise + 0.1  # 6 * 0.3^2 - (6 * 0.1^2 + 6 * 0.02^2)
        result = metrics.frechet_difference(a, b, real, 60, generator=seeded(seed))
        covered += result.low <= 6 * (0.3**2 - 0.1**2 - 0.02**2) <= result.high
        apart = metrics.frechet_difference(a, b.flip(0), real, 60, generator=seeded(seed))
        widths.append((result.high - result.low) / (apart.high - apart.low))
        swapped = metrics.frechet_difference(b, a, real, 60, generator=seeded(seed))
        assert swapped.value == pytest.approx(-result.value, abs=1e-9)
    assert covered >= 17
    assert np.mean(widths) < 0.85
    parts = [metrics.frechet_distance(x, real, 2).plug_in for x in (a, b)]
    assert metrics.frechet_difference(a, b, real, 400).value == pytest.approx(parts[0] - parts[1], abs=0.1)


def test_frechet_difference_wants_pairs():
    with pytest.raises(ValueError, match="paired, got 5 and 6 rows"):
        metrics.frechet_difference(normal(5, 2), normal(6, 2), normal(7, 2))


def test_frechet_is_reproducible():
    x, y = normal(50, 3), normal(60, 3, seed=1)
    draw = partial(metrics.frechet_distance, x, y, resamples=20)
    assert draw(generator=seeded(0)) == draw(generator=seeded(0)) != draw(generator=seeded(1))


# Maximum mean discrepancy


def plain_mmd(x, y, bandwidth):
    """The definition, term by term (Gretton et al., equation 3)."""

    def kernel(a, b):
        return math.exp(-((a - b) ** 2).sum().item() / (2 * bandwidth**2))

    n, m = len(x), len(y)
    within_x = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(kernel(a, b) for a in x for b in y) / (n * m)


def test_mmd_is_its_definition():
    x, y = normal(9, 2), normal(12, 2, seed=1) + 0.5
    assert metrics.mmd(x, y, bandwidth=0.8, permutations=9).value == pytest.approx(plain_mmd(x, y, 0.8), rel=1e-12)
    pooled = torch.cat([x, y])
    median = torch.pdist(pooled).median().item()
    assert metrics.mmd(x, y, permutations=9).value == pytest.approx(plain_mmd(x, y, median), rel=1e-12)


def gaussian_mmd(shift: float, bandwidth: float) -> float:
    """MMD^2 of N(0, 1) and N(shift, 1) in one dimension, in closed form."""
    total = bandwidth**2 + 2
    return 2 * bandwidth / math.sqrt(total) * (1 - math.exp(-(shift**2) / (2 * total)))


@pytest.mark.parametrize("shift", [0.0, 0.8])
def test_mmd_is_unbiased(shift):
    values = [
        metrics.mmd(
            normal(20, 1, seed=2 * i), normal(30, 1, seed=2 * i + 1) + shift, 1.0, permutations=1, resamples=2
        ).value
        for i in range(400)
    ]
    error = np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values) - gaussian_mmd(shift, 1.0)) < 3.5 * error


@pytest.mark.parametrize(("n", "m"), [(150, 25), (25, 150)])
def test_mmd_intervals_hold_the_truth(n, m):
    """The smaller sample brings most of the error, whichever it is."""
    truth, covered = gaussian_mmd(1.0, 1.0), 0
    for seed in range(100):
        x, y = normal(n, 1, seed=2 * seed), normal(m, 1, seed=2 * seed + 1) + 1
        result = metrics.mmd(x, y, 1.0, permutations=1, resamples=100, generator=seeded(seed))
        covered += result.low <= truth <= result.high
    assert covered >= 85


def test_mmd_p_values_are_uniform_when_the_samples_agree():
    p_values = []
    for seed in range(300):
        x, y = normal(10, 2, seed=2 * seed), normal(15, 2, seed=2 * seed + 1)
        p_values.append(metrics.mmd(x, y, permutations=99, resamples=2, generator=seeded(seed)).p_value)
    spread = np.array(p_values) - np.random.default_rng(0).random(300) / 100  # a p-value is one of 1/100 .. 1
    assert stats.kstest(spread, "uniform").pvalue > 1e-3
    assert stats.binomtest(sum(p <= 0.05 for p in p_values), 300, 0.05, "greater").pvalue > 1e-3


def test_mmd_p_value_is_never_zero_and_small_for_different_samples():
    result = metrics.mmd(normal(50, 2), normal(50, 2, seed=1) + 2, permutations=199)
    assert result.p_value == 1 / 200
    assert result.low > 0


def test_mmd_of_tied_relabellings():
    """With two points a side a third of all relabellings is the observed one, or its exchange."""
    x, y = torch.tensor([[0.0], [0.1]]), torch.tensor([[5.0], [5.1]])
    result = metrics.mmd(x, y, permutations=2000, generator=seeded(0))
    assert result.p_value == pytest.approx(1 / 3, abs=0.04)


# Classifier two-sample test


def test_two_sample_test_is_not_fooled_when_the_samples_agree():
    p_values = []
    for seed in range(200):
        x, y = normal(40, 2, seed=2 * seed), normal(50, 2, seed=2 * seed + 1)
        p_values.append(metrics.classifier_two_sample_test(x, y, generator=seeded(seed)).p_value)
    for level in (0.05, 0.2, 0.5):
        rejected = sum(p <= level for p in p_values)
        assert stats.binomtest(rejected, 200, level, "greater").pvalue > 1e-3


def test_two_sample_test_sees_what_means_do_not_show():
    x, y = normal(400, 2), 2 * normal(400, 2, seed=1)
    result = metrics.classifier_two_sample_test(x, y, generator=seeded(0))
    assert result.value > 0.58
    assert result.p_value < 1e-3
    linear = metrics.classifier_two_sample_test(x, y, LogisticRegression(), generator=seeded(0))
    assert linear.value < result.value


def test_two_sample_accuracy_is_the_best_possible_one():
    """Two Gaussians two deviations apart: the best rule is right with probability Phi(1)."""
    x, y = normal(3000, 1), normal(5000, 1, seed=1) + 2
    result = metrics.classifier_two_sample_test(x, y, LogisticRegression(), generator=seeded(0))
    assert result.low < stats.norm.cdf(1) < result.high
    assert result.value == pytest.approx(stats.norm.cdf(1), abs=0.02)


class Opposite(LogisticRegression):
    """Sees the difference, and says the contrary."""

    def predict(self, X):
        return 1 - super().predict(X)


def test_two_sample_test_is_one_sided():
    x, y = normal(100, 1), normal(100, 1, seed=1) + 3
    result = metrics.classifier_two_sample_test(x, y, Opposite(), generator=seeded(0))
    assert result.value < 0.2
    assert result.p_value > 0.99


# Intervals


def test_mean_interval_is_student_s(generator):
    values = torch.randn(50, generator=generator) + 3
    result = mean_interval(values, level=0.9)
    truth = stats.ttest_1samp(values.double().numpy(), 0).confidence_interval(0.9)
    assert (result.low, result.high) == pytest.approx((truth.low, truth.high))
    assert result.value == pytest.approx(values.mean().item())
    with pytest.raises(ValueError, match="values must have shape"):
        mean_interval(values[:1])


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 500), st.data())
def test_accuracy_interval_is_clopper_and_pearson(total, data):
    correct = data.draw(st.integers(0, total))
    result = metrics.accuracy_interval(correct, total)
    low = stats.beta.ppf(0.025, correct, total - correct + 1) if correct else 0.0
    high = stats.beta.ppf(0.975, correct + 1, total - correct) if correct < total else 1.0
    assert (result.low, result.high) == pytest.approx((low, high), abs=1e-9)
    assert result.low <= result.value <= result.high


def test_bootstrap_interval_of_a_mean_is_near_the_normal_one():
    values = normal(2000)
    result = metrics.bootstrap_interval(values, generator=seeded(0))
    half = 1.96 * values.std().item() / math.sqrt(2000)
    assert result.value == pytest.approx(values.mean().item())
    assert (result.low, result.high) == pytest.approx((result.value - half, result.value + half), abs=0.1 * half)
    deviation = metrics.bootstrap_interval(values, np.std, generator=seeded(0))
    assert deviation.low < 1 < deviation.high


# Pictures


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 7))
def test_neighbours_are_those_of_all_pairs(seed, k, chunk):
    samples, pictures = normal(11, 1, 3, 3, seed=seed), normal(23, 1, 3, 3, seed=seed + 1)
    found = metrics.nearest_neighbours(samples, pictures, k, chunk)
    every = (samples[:, None] - pictures[None]).flatten(2).norm(dim=2)
    distances, indices = every.sort(dim=1)
    torch.testing.assert_close(found.distances, distances[:, :k])
    assert torch.equal(found.indices, indices[:, :k])


def test_a_copy_is_at_distance_zero_in_float32():
    pictures = normal(2000, 1, 28, 28).float()
    rows = torch.tensor([5, 1999])
    found = metrics.nearest_neighbours(pictures[rows], pictures)
    assert found.indices[:, 0].tolist() == rows.tolist()
    assert found.distances.abs().max() == 0


def test_neighbours_far_from_the_origin_are_found_in_float32():
    """Where the matrix product cannot tell neighbours apart, differences can."""
    steps = torch.tensor([3.0, 1.0, -2.0, 4.0]) / 16
    for order in itertools.permutations(range(4)):
        pictures = 1000 + steps[list(order), None] * torch.ones(4, 100)
        found = metrics.nearest_neighbours(1000 + torch.zeros(1, 100), pictures, k=2)
        assert found.indices.tolist() == [[order.index(1), order.index(2)]]
        assert found.distances.tolist() == [[0.625, 1.25]]


class Dummy(nn.Module):
    """Calls the sign of a picture's sum the class; what it returns shows the mode it runs in."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def features(self, x):
        return torch.full((len(x), 2), float(self.training)) + self.weight * x.flatten(1)[:, :2]

    def predict(self, x):
        return (x.flatten(1).sum(dim=1) > 0).long()


def test_features_are_those_of_evaluation_without_gradients():
    model, images = Dummy(), normal(7, 1, 2, 2).float()
    features = metrics.features_of(model, images, batch_size=3)
    torch.testing.assert_close(features, images.flatten(1)[:, :2])
    assert not features.requires_grad
    assert model.training


def test_recognised_share_counts():
    images = torch.tensor([1.0, 1.0, -1.0, 1.0]).view(4, 1, 1, 1)
    result = metrics.recognised_share(Dummy(), images, torch.tensor([1, 1, 1, 1]), batch_size=3)
    assert result == metrics.accuracy_interval(3, 4)


# Refusals


@pytest.mark.parametrize("distance", [metrics.frechet_distance, metrics.mmd, metrics.classifier_two_sample_test])
def test_bad_samples_are_refused(distance):
    x = normal(10, 2)
    with pytest.raises(ValueError, match=r"must have 2 features like .*, got 3"):
        distance(x, normal(10, 3))
    with pytest.raises(ValueError, match="must be finite"):
        distance(x, torch.full((10, 2), math.nan))
    with pytest.raises(ValueError, match=r"must have shape \(N, D\) with N >= 2, got \(1, 2\)"):
        distance(x[:1], x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.accuracy_interval(5, 4), "correct must lie in 0..total"),
        (lambda: metrics.accuracy_interval(0, 0), "got 0 of 0"),
        (lambda: metrics.accuracy_interval(1, 4, level=95), r"level must lie in \(0, 1\), got 95"),
        (lambda: metrics.bootstrap_interval(normal(1)), r"values must have shape \(N,\) with N >= 2"),
        (lambda: metrics.mmd(normal(5, 2), normal(5, 2), bandwidth=0.0), "bandwidth must be positive"),
        (lambda: metrics.mmd(torch.zeros(5, 2), torch.zeros(5, 2)), "bandwidth must be positive"),
        (lambda: metrics.nearest_neighbours(normal(5, 2), normal(5, 3)), r"got \(2,\)"),
        (lambda: metrics.nearest_neighbours(normal(5, 2), normal(4, 2), k=5), r"k must lie in 1..4, got 5"),
        (lambda: metrics.recognised_share(Dummy(), normal(3, 1, 2, 2), torch.zeros(2)), "as many as images, 3, got 2"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
