"""Laws of Boltzmann machines, in float64: sums over all states against what is computed without them."""

import math
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from coursekit.boltzmann import (
    RBM,
    BoltzmannMachine,
    ContrastiveDivergence,
    GaussianRBM,
    PersistentChains,
    draw_spins,
    every_state,
    log_2cosh,
)
from coursekit.diffusion import fit
from coursekit.gmm import GaussianMixture

sys.path.insert(0, str(Path(__file__).parent))
from machines import close, machine, signs

KINDS = [RBM, GaussianRBM]
kinds = pytest.mark.parametrize("kind", KINDS)


def test_every_state_counts():
    assert torch.equal(every_state(4, torch.empty(0, dtype=torch.float64)), signs(4))
    with pytest.raises(ValueError, match=r"units must lie in 1..20 for an enumeration, got 21"):
        every_state(21)


@given(st.floats(-800, 800))
def test_log_2cosh_and_its_derivative(a):
    field = torch.tensor(a, dtype=torch.float64, requires_grad=True)
    value = log_2cosh(field)
    (slope,) = torch.autograd.grad(value, field)
    assert slope.item() == pytest.approx(math.tanh(a), abs=1e-12)
    assert value.item() == pytest.approx(math.log(2 * math.cosh(a)) if abs(a) < 300 else abs(a), abs=1e-12)


def test_spins_have_the_mean_tanh_of_their_field(generator):
    field = torch.tensor([-1.0, 0.0, 0.3, 2.0], dtype=torch.float64)
    drawn = draw_spins(field.expand(40_000, -1), generator)
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    close(drawn.mean(0), field.tanh(), 4 / 200)


# --- the fully visible machine ------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 7))
def test_visible_energy_pair_by_pair(seed, dims):
    made = machine(BoltzmannMachine, dims, seed=seed).requires_grad_(False)
    weight = made.weight
    assert torch.equal(weight, weight.T)
    assert bool((weight.diagonal() == 0).all())
    assert len(set(weight[weight != 0].tolist())) == dims * (dims - 1) // 2
    for x in signs(dims)[:: max(1, 2**dims // 8)]:
        pairs = sum(float(weight[i, j] * x[i] * x[j]) for i in range(dims) for j in range(i))
        assert made.energy(x[None]).item() == pytest.approx(-pairs - float(made.bias @ x), abs=1e-12)


@pytest.mark.parametrize("kind", [BoltzmannMachine, RBM])
def test_binary_probabilities_sum_to_one(kind):
    made = machine(kind, 6, scale=1.0)
    close(made.log_prob(signs(6)).exp().sum().detach(), torch.ones((), dtype=torch.float64))


def test_pseudo_likelihood_is_made_of_conditionals():
    made, every = machine(BoltzmannMachine, 4), signs(4)
    joint = made.log_prob(every).detach().exp()
    expected = torch.zeros(16, dtype=torch.float64)
    for i in range(4):
        other = every.clone()
        other[:, i] *= -1
        twin = (every[:, None] == other[None]).all(-1).double().argmax(0)
        expected += (joint / (joint + joint[twin])).log()
    close(made.pseudo_log_prob(every).detach(), expected)


# --- machines with hidden units -----------------------------------------------------------------------------


@kinds
def test_free_energy_sums_out_the_hidden_units(kind):
    made, h = machine(kind), signs(3)
    x = signs(5)[::3] * (1.0 if kind is RBM else 0.7)
    joint = torch.stack([-made.energy(x, state.expand(len(x), -1)) for state in h])  # (8, N)
    close(made.free_energy(x), -joint.logsumexp(0))
    on = (joint.softmax(0)[:, :, None] * (h > 0).double()[:, None]).sum(0)
    close(made.hidden_probs(x), on)


@pytest.mark.parametrize(("dims", "hidden"), [(4, 7), (7, 4), (5, 5)])
def test_log_partition_is_the_same_from_both_sides(dims, hidden):
    made = machine(RBM, dims, hidden)
    by_visible = (-made.free_energy(signs(dims))).logsumexp(0)
    close(made.log_partition(), by_visible)
    x, h = signs(dims), signs(hidden)
    joint = -made.energy(x.repeat_interleave(len(h), 0), h.repeat(len(x), 1))
    close(made.log_partition(), joint.logsumexp(0))


def test_enumeration_does_not_depend_on_chunks(monkeypatch):
    made = machine(RBM, 9, 8)
    whole = made.log_partition()
    monkeypatch.setattr("coursekit.boltzmann.units.CHUNK", 100)
    close(made.log_partition(), whole)


def test_twenty_hidden_units_are_enumerated_whatever_is_visible():
    made = machine(RBM, 30, 20, scale=0.0)
    with torch.no_grad():
        assert made.log_partition().item() == pytest.approx(50 * math.log(2))
        assert machine(RBM, 20, 30, scale=0.0).log_partition().item() == pytest.approx(50 * math.log(2))
    with pytest.raises(ValueError, match=r"at most 20 units on a side that is binary, got 21 visible and 21 hidden"):
        machine(RBM, 21, 21).log_prob(torch.ones(1, 21, dtype=torch.float64))
    with pytest.raises(ValueError, match="got 3 visible and 21 hidden"):
        machine(GaussianRBM, 3, 21).log_partition()
    with pytest.raises(ValueError, match="at most 20 units, got 21"):
        machine(BoltzmannMachine, 21).log_partition()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.floats(0.3, 2.0), st.integers(1, 4))
def test_a_gaussian_machine_is_a_mixture_of_gaussians(seed, std, hidden):
    made, h = machine(GaussianRBM, 3, hidden, seed, std=std), signs(hidden)
    means = (made.visible_bias + h @ made.weight.T).detach()
    squares = means.square().sum(1) - made.visible_bias.detach().square().sum()
    weights = (h @ made.hidden_bias.detach() + squares / (2 * made.std**2)).softmax(0)
    variance = made.std**2 * torch.eye(3, dtype=torch.float64)
    mixture = GaussianMixture(weights, means, variance.expand(len(h), 3, 3))
    x = torch.randn(20, 3, dtype=torch.float64)
    close(made.log_prob(x).detach(), mixture.log_prob(x), 1e-6)  # std is kept in single precision until double()


def test_a_known_log_partition_is_used():
    made, x = machine(), signs(5)
    close(made.log_prob(x, made.log_partition()), made.log_prob(x))
    close(made.log_prob(x, 0.0), -made.free_energy(x))


# --- Gibbs sampling ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [BoltzmannMachine, RBM])
def test_gibbs_leaves_the_law_alone_and_reaches_it(kind, generator):
    """From exact draws one sweep stays there; from one corner twenty sweeps lead there."""
    made, every = machine(kind, 4), signs(4)
    p = made.log_prob(every).detach().exp()
    n = 40_000
    exact = every[torch.multinomial(p, n, replacement=True, generator=generator)]
    place = 2 ** torch.arange(3, -1, -1)
    for drawn in (
        made.gibbs(exact, generator),
        made.sample(n, generator=generator, steps=20, start=torch.ones_like(exact)),
    ):
        share = torch.bincount(((drawn > 0).long() * place).sum(1), minlength=16) / n
        assert float(((share - p) / (p * (1 - p) / n).sqrt()).abs().max()) < 4.5


def test_gaussian_gibbs_reaches_the_mixture(generator):
    made = machine(GaussianRBM, 2, 2, std=0.8)
    drawn = made.sample(40_000, generator=generator, steps=30)
    h = signs(2)
    p = made._log_hidden_weight(h).detach().softmax(0)
    means = (made.visible_bias + h @ made.weight.T).detach()
    close(drawn.mean(0), p @ means, 0.03)
    second = (p[:, None] * means).T @ means + 0.64 * torch.eye(2, dtype=torch.float64)
    close(drawn.T @ drawn / len(drawn), second, 0.05)


@pytest.mark.parametrize("kind", [BoltzmannMachine, *KINDS])
def test_pictures_are_vectors_in_another_shape(kind):
    flat = machine(kind, 6, negative=ContrastiveDivergence())
    picture = kind((1, 2, 3), **({} if kind is BoltzmannMachine else {"hidden": 3}), negative=ContrastiveDivergence())
    picture = picture.double()
    picture.load_state_dict(flat.state_dict())
    x = signs(6)
    close(picture.log_prob(x.view(-1, 1, 2, 3)), flat.log_prob(x))
    close(picture.free_energy(x.view(-1, 1, 2, 3)), flat.free_energy(x))
    seeded = [torch.Generator().manual_seed(0) for _ in range(2)]
    close(picture.gibbs(x.view(-1, 1, 2, 3), seeded[0]).flatten(1), flat.gibbs(x, seeded[1]))
    assert picture.sample(3, generator=seeded[0], steps=2).shape == (3, 1, 2, 3)


# --- learning ----------------------------------------------------------------------------------------------


class Fixed(torch.nn.Module):
    """A negative phase of given states."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states

    def forward(self, *_: object) -> Tensor:
        return self.states


@pytest.mark.parametrize("kind", [BoltzmannMachine, RBM])
def test_loss_has_the_likelihoods_gradient_if_the_negative_phase_is_exact(kind, generator):
    """Autograd through the enumerated log Z, against the difference of means over data and exact draws."""
    made, every = machine(kind, 5), signs(5)
    x = every[torch.randint(len(every), (50,), generator=generator)]
    exact = torch.autograd.grad(-made.log_prob(x).mean(), list(made.parameters()))
    p = made.log_prob(every).detach().exp()
    surrogate = made.free_energy(x).mean() - (p * made.free_energy(every)).sum()
    for a, b in zip(torch.autograd.grad(surrogate, list(made.parameters())), exact, strict=True):
        close(a, b)
    n = 200_000
    made.negative = Fixed(every[torch.multinomial(p, n, replacement=True, generator=generator)])
    for a, b in zip(torch.autograd.grad(made.loss(x), list(made.parameters())), exact, strict=True):
        close(a, b, 5 / math.sqrt(n))


def test_the_gradient_is_a_difference_of_correlations():
    """The formula of the books: -(E_data[x tanh] - E_model[x tanh]) for W, without autograd."""
    made, x, m = machine(), signs(5)[:10], signs(5)[7:19]
    made.negative = Fixed(m)
    made.loss(x).backward()
    h_data, h_model = (2 * made.hidden_probs(v).detach() - 1 for v in (x, m))
    close(made.weight.grad, -(x.T @ h_data / len(x) - m.T @ h_model / len(m)))
    close(made.visible_bias.grad, m.mean(0) - x.mean(0))
    close(made.hidden_bias.grad, h_model.mean(0) - h_data.mean(0))


def test_contrastive_divergence_starts_at_the_data_and_persistent_chains_where_they_were(generator):
    made = machine()
    x = signs(5)
    seeds = [torch.Generator().manual_seed(3) for _ in range(2)]
    close(ContrastiveDivergence(2)(made, x, seeds[0]), made.gibbs(made.gibbs(x, seeds[1]), seeds[1]))
    chains = PersistentChains(5, number=7, k=3).double()
    before = chains.chains.clone()
    moved = chains(made, x, seeds[0])
    expected = before
    for _ in range(3):
        expected = made.gibbs(expected, seeds[1])
    close(moved, expected)
    close(chains.chains, expected)
    assert not torch.equal(before, expected)
    assert not moved.requires_grad


def test_training_reaches_the_likelihood_of_the_truth(generator):
    """Data of a small machine: persistent chains come within 0.02 nats of the machine that made them."""
    truth = machine(RBM, 6, 2, scale=0.8)
    x = truth.sample(4000, generator=generator, steps=200)
    learner = RBM(6, hidden=4).double()
    fit(learner, x, steps=800, batch_size=200, lr=0.02, progress=False, clip=None)
    assert learner.log_prob(x).mean() > truth.log_prob(x).mean() - 0.02


def test_chains_are_saved_and_a_resumed_run_is_the_same_run(tmp_path):
    x = signs(5).float()

    def run(**settings):
        torch.manual_seed(0)
        made = RBM(5, hidden=3, negative=PersistentChains(5, number=8))
        fit(made, x, batch_size=8, progress=False, warmup=0, decay=0, ema_half_life=3.0, **settings)
        return made.state_dict()

    whole = run(steps=10)
    run(steps=5, checkpoint=tmp_path / "half.safetensors")
    resumed = run(steps=10, checkpoint=tmp_path / "half.safetensors", resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert set(whole["negative.chains"].unique().tolist()) == {-1.0, 1.0}  # states are copied, not averaged


# --- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RBM(0, 3), "shape must hold positive numbers, got 0"),
        (lambda: RBM((1, 0), 3), r"shape must hold positive numbers, got \(1, 0\)"),
        (lambda: RBM(3, 0), "hidden must be at least 1, got 0"),
        (lambda: GaussianRBM(3, 2, std=0.0), "std must be positive, got 0"),
        (lambda: ContrastiveDivergence(0), "k must be at least 1, got 0"),
        (lambda: PersistentChains(3, number=0), "number must be at least 1, got 0"),
        (lambda: RBM(3, 2).free_energy(torch.ones(2, 4)), r"x must have shape \(N, 3\), got \(2, 4\)"),
        (lambda: RBM(3, 2).free_energy(torch.ones(3)), r"x must have shape \(N, 3\), got \(3,\)"),
        (lambda: RBM(3, 2).loss(torch.full((2, 3), 0.5)), "x must hold only -1 and 1"),
        (lambda: RBM(3, 2).loss(torch.full((2, 3), torch.nan)), "x must hold only -1 and 1"),
        (lambda: BoltzmannMachine(3).loss(torch.zeros(2, 3)), "x must hold only -1 and 1"),
        (lambda: RBM(3, 2).energy(torch.ones(2, 3), torch.zeros(2, 2)), "h must hold only -1 and 1"),
        (lambda: RBM(3, 2).sample(0), "n must be at least 1, got 0"),
        (lambda: RBM(3, 2).sample(2, start=torch.ones(1, 3)), r"start must have shape \(2, 3\), got \(1, 3\)"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
