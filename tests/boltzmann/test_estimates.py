"""Annealed importance sampling and parallel tempering against machines that can be enumerated."""

import math
import sys
from pathlib import Path

import pytest
import torch

from coursekit.boltzmann import (
    RBM,
    GaussianRBM,
    LogPartition,
    Tempered,
    annealed_importance_sampling,
    base_rate,
    parallel_tempering,
)

sys.path.insert(0, str(Path(__file__).parent))
from machines import close, machine, signs

KINDS = [RBM, GaussianRBM]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def inside(kind, scale, betas, chains=100, dims=24, hidden=10, machines=20):
    """In how many of the machines, each with its own seed, the interval holds log Z."""
    count = 0
    for seed in range(machines):
        made = machine(kind, dims, hidden, seed, scale)
        found = annealed_importance_sampling(made, chains, betas, generator=seeded(1000 + seed))
        count += found.low <= made.log_partition().item() <= found.high
    return count


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_hold_the_exact_log_partition(kind):
    """In 18 of 20 machines at least, and as often in harder ones: far too few temperatures, or deep modes."""
    scale = 1 if kind is RBM else 0.5
    counts = [inside(kind, scale * s, betas) for s, betas in ((0.3, 200), (0.3, 20), (0.6, 100))]
    assert counts[0] >= 18
    assert sum(counts) >= 54


def test_the_mean_weight_is_unbiased_with_two_temperatures_only():
    """Plain importance sampling from the base-rate model: E[w] = Z / Z_0 whatever the path is."""
    made, x = machine(RBM, 4, 3, scale=0.3), signs(4)
    found = annealed_importance_sampling(made, 200_000, 2, generator=seeded(0))
    error = (found.log_weights - found.value).exp().std().item() / math.sqrt(200_000)
    assert abs(found.value - (-made.free_energy(x)).logsumexp(0).item()) < 4 * error
    weights = (found.log_weights - found.value).exp()
    assert found.effective_sample_size == pytest.approx(weights.sum().item() ** 2 / weights.square().sum().item())
    assert isinstance(found, LogPartition)
    assert str(found).count("[") == 1


def test_a_machine_without_weights_is_known_exactly():
    made = machine(RBM, 6, 3, scale=0.0)
    found = annealed_importance_sampling(made, 5, 3, generator=seeded(0))
    assert (found.value, found.low, found.high) == pytest.approx((9 * math.log(2),) * 3)
    assert found.effective_sample_size == pytest.approx(5)


def test_more_temperatures_leave_more_effective_chains():
    made = machine(RBM, 25, 10, scale=0.5)
    sizes = [annealed_importance_sampling(made, 100, k, generator=seeded(0)).effective_sample_size for k in (10, 400)]
    assert 1 <= sizes[0] < 0.5 * sizes[1] <= 50


def test_the_base_of_the_data_helps_and_does_not_change_the_truth():
    made = machine(RBM, 20, 8, scale=0.4)
    x = made.sample(2000, generator=seeded(1), steps=200)
    base = base_rate(x)
    close(base.tanh(), x.mean(0) * 2000 / 2002)
    found = annealed_importance_sampling(made, 100, 200, base, generator=seeded(0))
    assert found.low <= made.log_partition().item() <= found.high


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_the_machines_on_the_way(kind, beta):
    """At beta the summed-out energy is that of the joint energies mixed; a sweep there leaves its law alone."""
    made = machine(kind, 3, 2)
    path = Tempered(made, torch.tensor([0.2, -0.4, 0.1], dtype=torch.float64))
    x, h = signs(3), signs(2)
    alone = made.visible_energy(x, path.base)
    joint = torch.stack([(1 - beta) * alone + beta * made.energy(x, s.expand(8, -1)) for s in h])
    close(path.free_energy(x, made.hidden_field(x), beta), -(-joint).logsumexp(0))
    if kind is RBM:
        p = (-joint).exp().sum(0)
        p = (p / p.sum()).detach()
        n = 40_000
        start = x[torch.multinomial(p, n, replacement=True, generator=seeded(0))]
        drawn = path.gibbs(made.hidden_field(start), beta, seeded(1))
        share = torch.stack([(drawn == state).all(1).double().mean() for state in x])
        assert float(((share - p) / (p * (1 - p) / n).sqrt()).abs().max()) < 4.5
    if beta == 0 and kind is RBM:
        close(path.log_partition_of_base(), (-path.free_energy(x, made.hidden_field(x), beta)).logsumexp(0))


def two_modes(depth=2.5):
    """All units up, or all down: 10 visible units tied to one hidden unit, with more weight on the upper mode."""
    made = RBM(10, hidden=1).double()
    with torch.no_grad():
        made.weight.fill_(depth)
        made.visible_bias.fill_(0.0)
        made.hidden_bias.fill_(0.5)
    return made.requires_grad_(False)


def test_tempering_mixes_where_gibbs_does_not():
    """The share of chains in the upper mode is exp(1) to 1, from starts of all chains in the lower one or anywhere."""
    made, n = two_modes(), 4000
    truth = 1 / (1 + math.exp(-1.0))
    stuck = made.sample(n, generator=seeded(0), steps=100, start=-torch.ones(n, 10, dtype=torch.float64))
    assert (stuck.sum(1) > 0).double().mean() < 0.05
    x, rates = parallel_tempering(made, n, 60, generator=seeded(0))
    assert (x.sum(1) > 0).double().mean().item() == pytest.approx(truth, abs=5 * math.sqrt(0.2 / n))
    assert rates.shape == (9,)
    assert bool(((rates > 0.1) & (rates < 1)).all())


@pytest.mark.parametrize("kind", KINDS)
def test_tempering_leaves_the_law_of_the_cold_chain(kind):
    made = machine(kind, 3, 2)
    n = 40_000
    x, _ = parallel_tempering(made, n, 40, [0.0, 0.5, 1.0], generator=seeded(0))
    h = signs(2)
    p = made._log_hidden_weight(h).detach().softmax(0)
    field = (made.visible_bias + h @ made.weight.T).detach()
    close(x.mean(0), p @ (field.tanh() if kind is RBM else field), 0.03)
    close(x.square().mean(0), torch.ones_like(x[0]), 1e-12) if kind is RBM else close(
        x.square().mean(0), p @ field.square() + 1, 0.05
    )


def test_equal_temperatures_always_exchange():
    """A machine that is its own base: every proposal is accepted, and states only change places."""
    made = machine(RBM, 4, 3, scale=0.0)
    x, rates = parallel_tempering(made, 10, 4, [0.0, 0.2, 0.7, 1.0], generator=seeded(0))
    assert rates.tolist() == [1.0, 1.0, 1.0]
    assert x.shape == (10, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: annealed_importance_sampling(m, 1), "chains >= 2 and 0 < level < 1 are wanted, got 1 and 0.95"),
        (lambda m: annealed_importance_sampling(m, level=1.0), "got 100 and 1.0"),
        (lambda m: annealed_importance_sampling(m, betas=[0.0, 0.5]), r"betas must rise from 0 to 1, got \[0.0, 0.5\]"),
        (lambda m: annealed_importance_sampling(m, betas=[0.0, 0.6, 0.5, 1.0]), "betas must rise from 0 to 1"),
        (lambda m: annealed_importance_sampling(m, betas=1), "betas must rise from 0 to 1"),
        (lambda m: annealed_importance_sampling(m, base=torch.zeros(2)), r"base must hold 3 biases, got shape \(2,\)"),
        (lambda m: parallel_tempering(m, 0), "n >= 1 and steps >= 2 are wanted, got 0 and 200"),
        (lambda m: parallel_tempering(m, 5, betas=[1.0, 0.0]), "betas must rise from 0 to 1"),
        (lambda m: base_rate(torch.ones(2, 3), smoothing=0.0), "smoothing must be positive, got 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(RBM(3, 2))
