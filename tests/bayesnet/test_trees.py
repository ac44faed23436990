"""Laws of the Chow-Liu tree: the best of all trees, exact inference equal to enumeration."""

import itertools
import math

import networkx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import mutual_info_score

from coursekit.bayesnet import BernoulliNaiveBayes, ChowLiuTree, mutual_information
from coursekit.diffusion import Cosine, ExactDenoiser, sample
from coursekit.pixels import binarise


def pictures(n=300, dims=5, seed=0):
    """Correlated signs in float64, and labels of three classes that differ in them."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(3, dims, dims, generator=generator, dtype=torch.float64)
    y = torch.arange(n) % 3
    noise = torch.randn(n, dims, generator=generator, dtype=torch.float64)
    return binarise(torch.einsum("nd,nde->ne", noise, mixing[y]) + 0.3), y


def every(dims):
    return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=dims)), dtype=torch.float64)


def fitted(classes=None, dims=5, smoothing=1.0):
    x, y = pictures(dims=dims)
    return ChowLiuTree(dims, smoothing, classes).double().fit(x, y if classes else None)


def all_trees(dims):
    """Every spanning tree, from every Pruefer sequence."""
    for sequence in itertools.product(range(dims), repeat=dims - 2):
        yield networkx.from_prufer_sequence(list(sequence)).edges


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 60))
def test_mutual_information_equals_scikit_learns(seed, n):
    x, _ = pictures(n, 4, seed)
    ours = mutual_information(x, smoothing=0.0)
    for i, j in itertools.combinations(range(4), 2):
        assert ours[i, j].item() == pytest.approx(mutual_info_score(x[:, i].numpy(), x[:, j].numpy()), abs=1e-12)
    torch.testing.assert_close(ours, ours.T)
    smooth = mutual_information(x, smoothing=1.0)
    four = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    imagined = torch.cat([x[:, :2].repeat(4, 1), four])  # a quarter of an imagined picture for each pair of values
    torch.testing.assert_close(smooth[0, 1], mutual_information(imagined, smoothing=0.0)[0, 1])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000))
def test_no_tree_has_a_higher_likelihood(seed):
    x, _ = pictures(200, 5, seed)
    tree = ChowLiuTree(5, smoothing=0.0).double().fit(x)
    chosen = mutual_information(x, 0.0)[tuple(tree.edges.T)].sum()
    best = max(mutual_information(x, 0.0)[tuple(torch.tensor(list(edges)).T)].sum() for edges in all_trees(5))
    torch.testing.assert_close(chosen, best)
    # The likelihood of a fitted tree is its mutual information less the entropies of single variables.
    on = (x > 0).double().mean(0)
    entropies = -(torch.xlogy(on, on) + torch.xlogy(1 - on, 1 - on)).sum()
    torch.testing.assert_close(tree.loss(x), entropies - chosen, rtol=1e-9, atol=1e-9)


def test_a_chain_is_found(generator):
    x = torch.ones(4000, 6)
    flips = torch.where(torch.rand(4000, 6, generator=generator) < 0.2, -1.0, 1.0)
    chain = [3, 0, 5, 1, 4, 2]
    x[:, chain] = flips.cumprod(dim=1)
    tree = ChowLiuTree(6).fit(x)
    assert {frozenset(e) for e in tree.edges.tolist()} == {frozenset(e) for e in itertools.pairwise(chain)}
    assert tree.depth.max() <= 3  # hung up near its middle


@pytest.mark.parametrize("classes", [None, 3])
def test_probabilities_sum_to_one_and_marginals_are_those_of_the_counts(classes):
    tree, (x, y) = fitted(classes), pictures()
    for label in [None, *range(classes or 0)]:
        given_ = None if label is None else torch.full((32,), label)
        p = tree.log_prob(every(5), given_).exp()
        assert p.sum().item() == pytest.approx(1)
        if (label is None) == (classes is None):
            part = x if label is None else x[y == label]
            on = ((part > 0).double().sum(0) + 0.5) / (len(part) + 1)
            torch.testing.assert_close((p[:, None] * (every(5) > 0)).sum(0), on)


def test_log_prob_without_labels_is_a_mixture_of_trees_and_classifies():
    tree, (x, y) = fitted(3), pictures()
    conditional = torch.stack([tree.log_prob(x, torch.full((len(x),), c)) for c in range(3)], dim=1)
    torch.testing.assert_close(tree.log_prob(x), (conditional + tree.log_prior).logsumexp(1))
    torch.testing.assert_close(tree.posterior(x).sum(1), torch.ones(len(x), dtype=torch.float64))
    assert (tree.predict(x) == y).double().mean() > 0.5


@pytest.mark.parametrize("classes", [None, 3])
def test_samples_follow_the_model(classes, generator):
    tree = fitted(classes)
    drawn = tree.sample(20_000, generator=generator)
    cell = ((drawn > 0).long() * 2 ** torch.arange(4, -1, -1)).sum(1)
    expected = 20_000 * tree.log_prob(every(5)).exp()
    assert stats.chisquare(cell.bincount(minlength=32), expected, sum_check=False).pvalue > 1e-3
    assert torch.equal(drawn, tree.sample(20_000, generator=torch.Generator().manual_seed(0)))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([None, 3]))
def test_expectations_given_evidence_equal_enumeration(seed, classes):
    tree = fitted(classes)
    log_odds = 3 * torch.randn(4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    log_odds[1] = 0.0
    log_odds[2, :2] = torch.tensor([torch.inf, -torch.inf])
    clipped = log_odds.clamp(-60, 60)
    weight = (tree.log_prob(every(5)) + clipped @ (every(5).T > 0).double()).softmax(1)
    torch.testing.assert_close(tree.expectation(log_odds), weight @ every(5))
    if classes:
        y = torch.tensor([0, 1, 2, 1])
        rows = torch.stack([tree.log_prob(every(5), c.expand(32)) for c in y])
        weight = (rows + clipped @ (every(5).T > 0).double()).softmax(1)
        torch.testing.assert_close(tree.expectation(log_odds, y), weight @ every(5))


def test_the_denoiser_is_the_posterior_mean():
    tree, (x, _) = fitted(3), pictures()
    alpha, sigma = (
        torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64),
        torch.tensor([0.2, 0.8, 1.0], dtype=torch.float64),
    )
    noisy = alpha[:, None] * x[:3] + sigma[:, None] * 0.7
    log_normal = -((noisy[:, None] - alpha[:, None, None] * every(5)) ** 2).sum(2) / (2 * sigma[:, None] ** 2)
    expected = (tree.log_prob(every(5)) + log_normal).softmax(1) @ every(5)
    torch.testing.assert_close(tree.denoise(noisy, alpha, sigma), expected)
    torch.testing.assert_close(tree.denoise(noisy[:1], 0.9, 0.2), expected[:1])
    single = fitted(3).float().denoise(noisy, alpha, sigma)
    torch.testing.assert_close(single, expected.float(), rtol=1e-4, atol=1e-5)
    assert tree.denoise(noisy.float(), 0.9, 0.2).dtype == torch.float64


def test_diffusion_with_the_exact_denoiser_draws_from_the_tree(generator):
    tree = fitted().float()
    drawn = sample(
        ExactDenoiser(tree, Cosine()), (4000, 5), steps=40, generator=torch.Generator().manual_seed(0)
    ).sign()
    p = tree.double().log_prob(every(5)).exp()
    moments = drawn.double().T @ drawn.double() / 4000
    torch.testing.assert_close(moments, every(5).T @ (p[:, None] * every(5)), rtol=0, atol=0.08)


@pytest.mark.parametrize("classes", [None, 3])
def test_what_is_missing_is_drawn_from_its_law_given_the_rest(classes, generator):
    tree = fitted(classes)
    observed = torch.tensor([False, True, False, False, True])
    x = torch.tensor([7.0, 1.0, 7.0, 7.0, -1.0], dtype=torch.float64).expand(10_000, 5)
    filled = tree.fill_in(x, observed, generator=generator)
    assert torch.equal(filled[:, observed], x[:, observed])
    keep = (every(5)[:, 1] == 1) & (every(5)[:, 4] == -1)
    expected = tree.log_prob(every(5)[keep]).softmax(0)
    cell = ((filled[:, ~observed] > 0).long() * torch.tensor([4, 2, 1])).sum(1)
    assert stats.chisquare(cell.bincount(minlength=8), 10_000 * expected, sum_check=False).pvalue > 1e-3


def test_without_information_between_variables_it_is_naive_bayes():
    x = every(4)
    tree = ChowLiuTree(4).double().fit(x)
    naive = BernoulliNaiveBayes(1, 4).double().fit(x, torch.zeros(16, dtype=torch.long))
    torch.testing.assert_close(tree.log_prob(x), naive.log_prob(x).double())


def test_variables_that_never_change_and_single_pictures():
    constant = torch.ones(5, 3)
    for smoothing in (0.0, 1.0):
        tree = ChowLiuTree(3, smoothing).fit(constant)
        assert torch.isfinite(tree.log_prob(-constant)).all()
        assert tree.log_prob(constant)[0] > tree.log_prob(-constant)[0]
        assert ChowLiuTree(3, smoothing).fit(constant[:1]).sample(2).shape == (2, 3)
    assert ChowLiuTree(1).fit(torch.ones(4, 1)).edges.shape == (0, 2)


@pytest.mark.parametrize("classes", [None, 3])
def test_state_survives_saving(classes):
    tree, copy = fitted(classes), ChowLiuTree(5, num_classes=classes).double()
    copy.load_state_dict(tree.state_dict())
    assert torch.equal(copy.log_prob(every(5)), tree.log_prob(every(5)))
    assert copy.edges.shape == ((4, 2) if classes is None else (3, 4, 2))
    assert torch.equal(copy.sample(9, generator=torch.Generator()), tree.sample(9, generator=torch.Generator()))


def test_bad_input_is_refused():
    x, y = pictures()
    tree = fitted(3)
    grey = torch.where(torch.arange(5) == 2, 0.5, x)
    for attempt, message in [
        (lambda: ChowLiuTree(5, smoothing=-1), "smoothing must be at least 0, got -1"),
        (lambda: mutual_information(x, smoothing=-1), "smoothing must be at least 0, got -1"),
        (lambda: ChowLiuTree(5, num_classes=0), "num_classes must be at least 1 or None, got 0"),
        (lambda: ChowLiuTree((5, 0)), r"shape must hold positive numbers, got \(5, 0\)"),
        (lambda: ChowLiuTree(5).fit(grey), "x must hold only -1 and 1 .* got 0.5"),
        (lambda: tree.log_prob(grey, y), "x must hold only -1 and 1 .* got 0.5"),
        (lambda: tree.log_prob(grey), "x must hold only -1 and 1 .* got 0.5"),
        (lambda: tree.fill_in(grey, torch.tensor([True] * 5)), "x must hold only -1 and 1 .* got 0.5"),
        (lambda: ChowLiuTree(4).fit(x), r"x must have shape \(N, 4\), got \(300, 5\)"),
        (lambda: ChowLiuTree(5).fit(x[:0]), "each class needs an example"),
        (lambda: ChowLiuTree(5, num_classes=3).fit(x), "y must hold labels for num_classes = 3, got None"),
        (lambda: ChowLiuTree(5, num_classes=4).fit(x, y), r"each class needs an example, got none of \[3\]"),
        (lambda: ChowLiuTree(5, num_classes=2).fit(x, y), r"y must lie in 0..1, got 0..2"),
        (lambda: tree.log_prob(x, y + 1), r"y must lie in 0..2, got 1..3"),
        (lambda: tree.sample(3, y), r"y must hold n = 3 labels, got shape \(300,\)"),
        (lambda: fitted().log_prob(x, y), "y must be None for a model without labels"),
        (lambda: tree.expectation(x[:, :4]), r"x must have shape \(N, 5\), got \(300, 4\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            attempt()
    with pytest.raises(TypeError, match="y must hold whole numbers"):
        tree.log_prob(x, y.double())
    assert math.isfinite(tree.loss(x, y).item())
