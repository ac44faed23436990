"""Laws of the order: every sample once an epoch, the same on any number of ranks, at any step, in no memory."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from coursekit.diffusion import order
from coursekit.diffusion.order import DRAWN, Order, scattered

sizes = st.integers(1, 3000)


@given(n=sizes, key=st.tuples(st.integers(0, 2**40), st.integers(0, 2**40)))
@settings(max_examples=60, deadline=None)
def test_scattering_is_a_permutation(n: int, key: tuple[int, int]) -> None:
    places = scattered(np.arange(n), n, key)
    assert places.dtype == np.int64
    assert np.array_equal(np.sort(places), np.arange(n))


@given(n=sizes, data=st.data())
@settings(max_examples=30, deadline=None)
def test_a_place_depends_on_its_position_alone(n: int, data: st.DataObject) -> None:
    some = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20)))
    assert np.array_equal(scattered(some, n, (7,)), scattered(np.arange(n), n, (7,))[some])


def test_scattering_looks_like_chance() -> None:
    """Against what a uniform permutation has: fixed points, neighbours, where a block of positions goes."""
    n, keys = 1000, 400
    permutations = np.stack([scattered(np.arange(n), n, (seed,)) for seed in range(keys)])
    fixed = (permutations == np.arange(n)).sum(1)  # Poisson with mean 1, nearly
    counts = np.array([(fixed == k).sum() for k in range(4)] + [(fixed >= 4).sum()])
    wanted = np.array([*stats.poisson.pmf(range(4), 1), stats.poisson.sf(3, 1)]) * keys
    assert stats.chisquare(counts, wanted).pvalue > 1e-4
    steps = np.diff(permutations, axis=1) % n  # uniform over 1..n-1
    assert stats.chisquare(np.bincount(steps.ravel(), minlength=n)[1:]).pvalue > 1e-4
    first = permutations[:, :100] // 100  # a tenth of the first hundred in each tenth
    assert stats.chisquare(np.bincount(first.ravel(), minlength=10)).pvalue > 1e-4
    ranks = [stats.spearmanr(np.arange(n), row).statistic for row in permutations]
    assert abs(np.mean(ranks)) < 4 / np.sqrt(n * keys)
    assert np.std(ranks) == pytest.approx(1 / np.sqrt(n - 1), rel=0.2)


@pytest.mark.parametrize("drawn", [DRAWN, 0])
@given(n=st.integers(1, 200), per_rank=st.integers(1, 30), world=st.integers(1, 5), step=st.integers(0, 50), seed=sizes)
@settings(max_examples=40, deadline=None)
def test_ranks_share_the_batch_that_one_process_sees(
    drawn: int, n: int, per_rank: int, world: int, step: int, seed: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "DRAWN", drawn)
        patch.setattr(order, "_COMPUTED", 16)  # several blocks an epoch
        batch = per_rank * world
        whole = Order(n, batch, seed)
        seen = [whole.at(k) for k in range(step + 1)]
        shares = [Order(n, batch, seed, rank=rank, world=world).at(step) for rank in range(world)]
    assert all(len(share) == per_rank for share in shares)
    assert torch.equal(torch.stack(shares, 1).flatten(), seen[step])
    counts = torch.cat(seen).bincount(minlength=n)
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("n", [1000, DRAWN + 1])
def test_epochs_and_seeds_differ(n: int) -> None:
    first, second, other = Order(n, n, 0).at(0), Order(n, n, 0).at(1), Order(n, n, 1).at(0)
    for a, b in ((first, second), (first, other)):
        assert (a == b).sum() < 20
        assert torch.equal(a.sort().values, b.sort().values)


def test_the_order_of_small_data_is_torchs_permutation() -> None:
    """Outputs that are committed depend on it."""
    wanted = torch.randperm(500, generator=torch.Generator().manual_seed(3 * 1_000_003 + 2))
    assert torch.equal(torch.cat([Order(500, 50, 3).at(20 + k) for k in range(10)]), wanted)


def test_a_billion_samples_cost_no_memory() -> None:
    tracemalloc.start()
    large = Order(10**9, 256, 0, rank=1, world=2)
    for step in (0, 10**6, 10**7, 3 * 10**7):
        indices = large.at(step)
        assert len(indices) == 128
        assert 0 <= indices.min() <= indices.max() < 10**9
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8e6
