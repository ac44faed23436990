"""Laws of discrete networks: the joint is a product, samples follow it, d-separation is independence."""

import itertools
import math

import networkx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from coursekit.bayesnet import DiscreteNetwork

SPRINKLER = {"rain": (), "sprinkler": ("rain",), "wet": ("sprinkler", "rain"), "slip": ("wet",)}


def random_tables(parents, states, generator):
    shapes = {v: [states[u] for u in (*parents[v], v)] for v in parents}
    return {v: torch.rand(s, generator=generator, dtype=torch.float64).add(0.1) for v, s in shapes.items()}


def network(parents=SPRINKLER, seed=0, states=None):
    generator = torch.Generator().manual_seed(seed)
    states = {v: 2 + i % 2 for i, v in enumerate(parents)} if states is None else states
    tables = random_tables(parents, states, generator)
    return DiscreteNetwork(parents, {v: t / t.sum(-1, keepdim=True) for v, t in tables.items()})


@st.composite
def graphs(draw, nodes=5):
    """Random graphs without cycles, their nodes named in an order that is not theirs."""
    pairs = [(a, b) for b in range(nodes) for a in range(b)]
    kept = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=8))
    names = draw(st.permutations("abcde"[:nodes]))
    parents = {names[b]: tuple(names[a] for a, c in kept if c == b) for b in range(nodes)}
    return {name: parents[name] for name in draw(st.permutations(sorted(parents)))}


def every_state(model):
    return torch.tensor(list(itertools.product(*(range(model.states[v]) for v in model.variables))))


@settings(max_examples=25, deadline=None)
@given(graphs(), st.integers(0, 100))
def test_the_joint_sums_to_one_and_is_the_product_of_the_factors(parents, seed):
    model = network(parents, seed)
    states = every_state(model)
    joint = model.joint()
    torch.testing.assert_close(joint.sum(), torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(joint.flatten(), model.log_prob(states).exp())
    row = states[seed % len(states)].tolist()
    value = dict(zip(model.variables, row, strict=True))
    by_hand = math.prod(model.table(v)[tuple(value[u] for u in (*parents[v], v))].item() for v in model.variables)
    assert joint[tuple(row)].item() == pytest.approx(by_hand, rel=1e-12)


@settings(max_examples=100, deadline=None)
@given(graphs(), st.data())
def test_d_separation_equals_networkx(parents, data):
    model = DiscreteNetwork(parents)
    roles = data.draw(st.lists(st.sampled_from("abg."), min_size=5, max_size=5).filter(lambda r: {"a", "b"} <= set(r)))
    a, b, given_ = ({v for v, role in zip(parents, roles, strict=True) if role == kind} for kind in "abg")
    graph = networkx.DiGraph()
    graph.add_nodes_from(parents)
    graph.add_edges_from((u, v) for v in parents for u in parents[v])
    assert model.d_separated(a, b, given_) == networkx.is_d_separator(graph, a, b, given_)
    assert model.d_separated(a, b, given_) == model.d_separated(b, a, given_)


@settings(max_examples=40, deadline=None)
@given(graphs(nodes=4), st.data())
def test_d_separation_is_independence_for_tables_without_coincidences(parents, data):
    model = network(parents, seed=data.draw(st.integers(0, 50)))
    a, b, *rest = data.draw(st.permutations(list(parents)))
    given_ = rest[: data.draw(st.integers(0, 2))]
    gap = 0.0
    for states in itertools.product(*(range(model.states[v]) for v in given_)):
        both = model.query([a, b], dict(zip(given_, states, strict=True)))
        gap = max(gap, (both - both.sum(1, keepdim=True) * both.sum(0, keepdim=True)).abs().max().item())
    assert (gap < 1e-12) == model.d_separated(a, b, given_)


def test_the_three_ways_in_which_arrows_meet():
    chain = DiscreteNetwork({"a": (), "b": ("a",), "c": ("b",)})
    fork = DiscreteNetwork({"b": (), "a": ("b",), "c": ("b",)})
    collider = DiscreteNetwork({"a": (), "c": (), "b": ("a", "c"), "d": ("b",)})
    assert [chain.d_separated("a", "c"), chain.d_separated("a", "c", "b")] == [False, True]
    assert [fork.d_separated("a", "c"), fork.d_separated("a", "c", "b")] == [False, True]
    assert [collider.d_separated("a", "c", g) for g in ((), "b", "d")] == [True, False, False]


@settings(max_examples=25, deadline=None)
@given(graphs(), st.integers(0, 50), st.data())
def test_a_query_is_a_ratio_of_sums(parents, seed, data):
    model = network(parents, seed)
    target, *rest = data.draw(st.permutations(list(parents)))
    evidence = {v: data.draw(st.integers(0, model.states[v] - 1)) for v in rest[: data.draw(st.integers(0, 3))]}
    states = every_state(model)
    column = {v: states[:, i] for i, v in enumerate(model.variables)}
    weight = model.log_prob(states).exp()
    for v, state in evidence.items():
        weight = weight * (column[v] == state)
    expected = torch.stack([weight[column[target] == s].sum() for s in range(model.states[target])]) / weight.sum()
    torch.testing.assert_close(model.query(target, evidence), expected)
    pair = model.query([rest[-1], target], evidence)
    torch.testing.assert_close(pair.sum(0), expected)
    torch.testing.assert_close(pair, model.query([target, rest[-1]], evidence).T)


@settings(max_examples=25, deadline=None)
@given(graphs(), st.integers(0, 50))
def test_given_its_markov_blanket_a_variable_is_independent_of_the_rest(parents, seed):
    model = DiscreteNetwork(parents)
    v = model.variables[seed % 5]
    blanket = model.markov_blanket(v)
    rest = set(parents) - blanket - {v}
    assert not rest or model.d_separated(v, rest, blanket)
    for u in blanket:  # and nothing in it could be left out
        assert not model.d_separated(v, u, blanket - {u})


def test_ancestral_samples_follow_the_joint(generator):
    model = network()
    drawn = model.sample(20_000, generator)
    shape = tuple(model.joint().shape)
    counts = torch.zeros(shape).index_put_(tuple(drawn.T), torch.ones(len(drawn)), accumulate=True)
    expected = 20_000 * model.joint()
    assert stats.chisquare(counts.flatten(), expected.flatten(), sum_check=False).pvalue > 1e-3
    again = model.sample(20_000, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again)


def test_fitting_is_counting(generator):
    truth = network()
    x = truth.sample(50_000, generator)
    fitted = DiscreteNetwork(SPRINKLER, states=truth.states).double().fit(x, smoothing=0.0)
    for v in SPRINKLER:
        torch.testing.assert_close(fitted.table(v), truth.table(v), rtol=0, atol=0.02)
    smoothed = DiscreteNetwork(SPRINKLER, states=truth.states).double().fit(x[:7], smoothing=0.5)
    wet, given_ = x[:7, 2], (x[:7, 1] == 1) & (x[:7, 0] == 0)
    by_hand = (((wet == 1) & given_).sum() + 0.5) / (given_.sum() + 0.5 * truth.states["wet"])
    assert smoothed.table("wet")[1, 0, 1].item() == pytest.approx(by_hand.item())
    assert smoothed.loss(x).isfinite()


def test_the_fitted_tables_have_the_least_loss_and_a_source_is_never_beaten(generator):
    truth = network()
    x, joint = truth.sample(500, generator), truth.joint()
    fitted = DiscreteNetwork(SPRINKLER, states=truth.states).double().fit(x, smoothing=0.0)
    assert fitted.loss(x) <= truth.loss(x)
    entropy = -(joint * joint.log()).sum()
    states = every_state(truth)
    for smoothing in (0.1, 1.0, 10.0):
        fitted.fit(x, smoothing)
        cross_entropy = -(joint.flatten() * fitted.log_prob(states)).sum()
        assert cross_entropy >= entropy
        divergence = (joint * (joint / fitted.joint()).log()).sum()
        torch.testing.assert_close(cross_entropy - entropy, divergence)


def test_a_state_of_the_parents_that_was_never_met_keeps_equal_probabilities():
    model = DiscreteNetwork({"a": (), "b": ("a",)}).fit(torch.tensor([[0, 1], [0, 1]]), smoothing=0.0)
    assert model.table("b").tolist() == [[0.0, 1.0], [0.5, 0.5]]


def test_text_and_sizes():
    model = network()
    assert model.factorisation() == "p(rain) p(sprinkler | rain) p(wet | sprinkler, rain) p(slip | wet)"
    assert model.num_parameters() == 1 + 2 * 2 + 2 * 3 * 1 + 2 * 2
    assert model.children_of("rain") == ("sprinkler", "wet")
    assert model.ancestors("wet") == {"rain", "sprinkler", "wet"}


def test_state_survives_saving():
    model, copy = network(), DiscreteNetwork(SPRINKLER, states={v: 2 + i % 2 for i, v in enumerate(SPRINKLER)}).double()
    copy.load_state_dict(model.state_dict())
    assert torch.equal(copy.joint(), model.joint())


@pytest.mark.parametrize(
    ("parents", "tables", "message"),
    [
        ({"a": ("b",), "b": ("a",), "c": ()}, {}, "no cycle, got one among a, b"),
        ({"a": ("a",)}, {}, "no cycle"),
        ({"a": ("c",)}, {}, r"parents of 'a' must be among a.*got \['c'\]"),
        ({}, {}, "at least one variable"),
        ({"a": ()}, {"a": torch.tensor([0.5, 0.6])}, r"tables\['a'\] must sum to 1"),
        ({"a": ()}, {"a": torch.tensor([1.5, -0.5])}, r"tables\['a'\] must hold probabilities"),
        ({"a": ()}, {"a": torch.tensor([math.nan, 1.0])}, r"tables\['a'\] must hold probabilities"),
        ({"a": (), "b": ("a",)}, {"b": torch.tensor([0.5, 0.5])}, r"tables\['b'\] must have shape \(2, 2\)"),
        ({"a": ()}, {"z": torch.tensor([0.5, 0.5])}, "tables must be of a, got z"),
    ],
)
def test_impossible_networks_are_refused(parents, tables, message):
    with pytest.raises(ValueError, match=message):
        DiscreteNetwork(parents, tables)


def test_bad_input_is_refused():
    model = network()
    certain = DiscreteNetwork({"a": (), "b": ("a",)}, {"a": torch.tensor([1.0, 0.0])})
    for attempt, message in [
        (lambda: model.log_prob(torch.zeros(3, 2, dtype=torch.long)), r"x must have shape \(N, 4\), got \(3, 2\)"),
        (lambda: model.log_prob(torch.full((3, 4), 2)), r"x must hold states 0..1 of 'rain', got 2..2"),
        (lambda: model.fit(torch.full((3, 4), -1)), r"x must hold states 0..1 of 'rain', got -1"),
        (lambda: model.fit(torch.zeros(3, 4, dtype=torch.long), smoothing=-1), "smoothing must be at least 0, got -1"),
        (lambda: model.sample(0), "n must be at least 1, got 0"),
        (lambda: model.query("fog"), "variable must be one of rain, .* got 'fog'"),
        (lambda: model.query("wet", {"wet": 1}), "target must hold other variables"),
        (lambda: model.query("wet", {"rain": 5}), r"evidence for 'rain' must lie in 0..1, got 5"),
        (lambda: certain.query("b", {"a": 1}), "evidence must have a positive probability, got 0"),
        (lambda: model.d_separated("rain", "rain"), "must not overlap"),
        (lambda: DiscreteNetwork({str(i): () for i in range(40)}).joint(), "joint table must have at most"),
    ]:
        with pytest.raises(ValueError, match=message):
            attempt()
    with pytest.raises(TypeError, match=r"x must hold whole states, got torch.float32"):
        model.log_prob(torch.zeros(3, 4))
