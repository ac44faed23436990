"""Laws of MADE and PixelCNN: each factor sees what comes before it, all of it and nothing else."""

import itertools

import pytest
import torch
from scipy import stats
from torch import nn

from coursekit.bayesnet import MADE, PixelCNN
from coursekit.data import from_pixels
from coursekit.diffusion import fit
from coursekit.pixels import Bernoulli, DiscretisedLogistics, binarise

LEVELS = DiscretisedLogistics(components=2)
ORDERS = {
    "as they are": range(12),
    "reversed": range(11, -1, -1),
    "shuffled": torch.randperm(12, generator=torch.Generator().manual_seed(1)).tolist(),
    "columns": [4 * row + column for column in range(4) for row in range(3)],
}
WIDTHS = {"no hidden layer": (), "one": (30,), "narrow": (5,), "two equal": (24, 24), "three": (24, 40, 17)}


def randomised(model: nn.Module, scale: float = 0.4, seed: int = 0) -> nn.Module:
    """Float64 weights without zeros, so that every connection shows."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=scale, generator=generator)
    return model


def made(order="as they are", hidden=(20, 20), classes=None, head=None, shape=(1, 3, 4)):
    return randomised(MADE(shape, hidden, ORDERS[order], classes, head))


def pixel_cnn(classes=None, head=None, shape=(1, 3, 4), dilations=(1, 2)):
    return randomised(PixelCNN(head, 6, dilations, classes, shape))


SMALL = {
    "MADE": made,
    "MADE shuffled": lambda **k: made("shuffled", **k),
    "PixelCNN": pixel_cnn,
}


def dependence(model, y=None):
    """Whether the parameters of variable i (row) depend on variable j (column), by autograd at a random point."""
    x = torch.rand(1, *model.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    jacobian = torch.autograd.functional.jacobian(lambda v: model(v, y).flatten(2), x, vectorize=True)
    return (jacobian.reshape(-1, model.dims, model.dims) != 0).any(0)


def comes_before(order):
    place = torch.as_tensor(list(order)).argsort()
    return place[:, None] > place


def every(shape):
    dims = torch.Size(shape).numel()
    return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=dims)), dtype=torch.float64).view(-1, *shape)


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("head", [Bernoulli(), LEVELS], ids=["binary", "levels"])
@pytest.mark.parametrize("hidden", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("order", ORDERS)
def test_made_sees_exactly_what_comes_before(order, hidden, head, classes):
    y = None if classes is None else torch.tensor([1])
    model = made(order, hidden, classes, head)
    assert torch.equal(dependence(model, y), comes_before(ORDERS[order]))
    nn.init.zeros_(model.direct.weight)  # the hidden layers alone
    through_hidden = dependence(model, y)
    assert not (through_hidden & ~comes_before(ORDERS[order])).any()
    if hidden and min(hidden) >= 17:
        assert torch.equal(through_hidden, comes_before(ORDERS[order]))


@pytest.mark.parametrize(
    ("dilations", "head", "classes"),
    [((1,) * 6, Bernoulli(), None), ((1, 2, 1, 2), LEVELS, 3), ((1, 2, 4), Bernoulli(), 3), ((1, 2, 4), LEVELS, None)],
    ids=str,
)
def test_pixel_cnn_sees_all_that_comes_before_and_nothing_else(dilations, head, classes):
    """No blind spot: also what lies far to the right in the rows above."""
    y = None if classes is None else torch.tensor([1])
    model = randomised(PixelCNN(head, 4, dilations, classes, (1, 6, 7)))
    assert torch.equal(dependence(model, y), comes_before(range(42)))


@pytest.mark.parametrize("dilations", [(1,), (1, 2), (1, 2, 4)], ids=str)
def test_how_far_a_pixel_cnn_sees_is_the_sum_of_its_dilations(dilations):
    """With sum s, counted by hand: 3 + s rows up, 3 + s pixels to each side of them, 4 + s to the left."""
    s = sum(dilations)
    H, W = 6 + s, 2 * s + 11
    seen = dependence(randomised(PixelCNN(None, 4, dilations, None, (1, H, W))))
    i, j = s + 4, s + 5
    rows, columns = torch.meshgrid(torch.arange(H) - i, torch.arange(W) - j, indexing="ij")
    above = (rows >= -(3 + s)) & (rows <= -1) & (columns.abs() <= 3 + s)
    left = (rows == 0) & (columns < 0) & (columns >= -(4 + s))
    assert torch.equal(seen[i * W + j].view(H, W), above | left)


@pytest.mark.parametrize("name", SMALL)
def test_the_probabilities_of_twelve_pixels_sum_to_one(name):
    free, labelled = SMALL[name](), SMALL[name](classes=2)
    with torch.no_grad():
        assert free.log_prob(every(free.shape)).exp().sum().item() == pytest.approx(1, rel=1e-9)
        joint = labelled.log_joint(every(labelled.shape)).exp().sum(0)
        torch.testing.assert_close(joint, torch.full((2,), 0.5, dtype=torch.float64))
        assert joint.sum().item() == pytest.approx(1, rel=1e-7)  # the prior was rounded to float32


@pytest.mark.parametrize(
    "build", [MADE, lambda shape, head: PixelCNN(head, 4, (1,), None, shape)], ids=["MADE", "PixelCNN"]
)
def test_the_probabilities_of_two_pixels_of_256_levels_sum_to_one(build):
    levels = from_pixels(torch.arange(256, dtype=torch.uint8), torch.float64)
    model = randomised(build(shape=(1, 1, 2), head=LEVELS))
    with torch.no_grad():
        total = model.log_prob(torch.cartesian_prod(levels, levels).view(-1, 1, 1, 2)).logsumexp(0)
    assert total.exp().item() == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_the_terms_sum_to_the_log_probability_and_labels_are_summed_out(name):
    model = SMALL[name](classes=3)
    x, y = every(model.shape)[::50], torch.arange(3).repeat(28)[:82]
    torch.testing.assert_close(model.log_prob_terms(x, y).flatten(1).sum(1), model.log_prob(x, y))
    torch.testing.assert_close(model.log_prob(x), model.log_joint(x).logsumexp(1))
    torch.testing.assert_close(model.posterior(x), (model.log_joint(x) - model.log_prob(x)[:, None]).exp())
    torch.testing.assert_close(model.loss(x, y), -model.log_prob(x, y).mean())
    long = x.repeat(10, 1, 1, 1)  # longer than what is computed at once
    torch.testing.assert_close(model.log_prob(long, y.repeat(10)), model.log_prob(x, y).repeat(10))


@pytest.mark.parametrize("name", SMALL)
def test_samples_follow_the_model(name, generator):
    shape = {"shape": (1, 2, 3)} if name == "PixelCNN" else {}
    model = SMALL[name](classes=2, **shape)
    kept = every(model.shape)
    with torch.no_grad():
        expected = model.log_prob(kept).exp()
    drawn = model.sample(20_000, generator=generator)
    cell = ((drawn.flatten(1) > 0).long() * 2 ** torch.arange(model.dims - 1, -1, -1)).sum(1)
    counts = cell.bincount(minlength=len(kept)).double()
    rare = 20_000 * expected < 5  # pooled, as the approximation by chi-square wants
    counts, expected = (torch.cat([v[~rare], v[rare].sum()[None] + 1e-9]) for v in (counts, 20_000 * expected))
    assert stats.chisquare(counts, expected, sum_check=False).pvalue > 1e-3
    assert torch.equal(drawn, model.sample(20_000, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("head", [Bernoulli(), LEVELS], ids=["binary", "levels"])
@pytest.mark.parametrize(
    "build",
    [
        *(lambda head, classes, o=o, w=w: made(o, w, classes, head) for o in ORDERS for w in WIDTHS.values()),
        lambda head, classes: pixel_cnn(classes, head, (1, 6, 7), (1, 2, 3)),
        lambda head, classes: pixel_cnn(classes, head, (1, 7, 3), (4,)),
    ],
)
def test_reuse_draws_what_whole_passes_draw(build, head, classes):
    model = build(head, classes)
    y = None if classes is None else torch.tensor([0, 1, 2, 2, 0])
    seed = torch.Generator().manual_seed
    assert torch.equal(model.sample(5, y, seed(3)), model.sample_naive(5, y, seed(3)))


@pytest.mark.parametrize("name", SMALL)
def test_the_end_is_drawn_from_its_law_given_the_beginning(name, generator):
    model = SMALL[name](classes=2)
    observed = torch.zeros(12, dtype=torch.bool)
    observed[model.order[:9]] = True
    observed = observed.view(model.shape)
    begin = every(model.shape)[1234]
    filled = model.fill_in(torch.where(observed, begin, 7.0).expand(5_000, *model.shape), observed, generator=generator)
    assert (filled[:, observed] == begin[observed]).all()
    with torch.no_grad():
        keep = (every(model.shape)[:, observed] == begin[observed]).all(1)
        expected = model.log_prob(every(model.shape)[keep]).softmax(0)
    cell = ((filled[:, ~observed] > 0).long() * torch.tensor([4, 2, 1])).sum(1)
    assert stats.chisquare(cell.bincount(minlength=8), 5_000 * expected, sum_check=False).pvalue > 1e-3
    everything = torch.ones(model.shape, dtype=torch.bool)
    assert torch.equal(model.fill_in(begin[None], everything, torch.tensor([1])), begin[None])


def source():
    """A known law of twelve binary pixels, in an order that the models that learn it do not have."""
    return randomised(MADE((1, 3, 4), (16,), ORDERS["shuffled"]), scale=1.0, seed=7)


@pytest.mark.parametrize(
    "build",
    [lambda: MADE((1, 3, 4), (32,)), lambda: PixelCNN(None, 8, (1, 2), None, (1, 3, 4))],
    ids=["MADE", "PixelCNN"],
)
def test_training_approaches_the_entropy_of_a_source_and_never_beats_it(build, generator):
    torch.manual_seed(0)
    states = every((1, 3, 4))
    with torch.no_grad():
        truth = source().log_prob(states)
    p = truth.exp()
    entropy = -(p * truth).sum().item()
    x = source().sample(4_000, generator=generator).float()
    model, gaps = build(), []
    for steps in (1, 150):
        fit(model, x, steps=steps, batch_size=100, lr=1e-2, progress=False)
        with torch.no_grad():
            gaps.append(-(p @ model.log_prob(states.float()).double()).item() - entropy)
    assert 0 < gaps[1] < 0.2 * gaps[0]


def test_levels_drawn_evenly_cost_eight_bits_each(generator):
    """A source of known entropy: no model, however trained, does better on average over all that it can draw."""
    torch.manual_seed(0)
    levels = from_pixels(torch.arange(256, dtype=torch.uint8))
    pairs = torch.cartesian_prod(levels, levels).view(-1, 1, 1, 2)
    model = PixelCNN(LEVELS, 4, (1,), None, (1, 1, 2))
    fit(model, pairs, steps=60, batch_size=500, lr=1e-2, progress=False)
    with torch.no_grad():
        bits = -model.log_prob(pairs).double().mean().item() / (2 * torch.tensor(2.0).log().item())
    assert 8 < bits < 8.5


@pytest.mark.parametrize("name", SMALL)
def test_gradients_reach_every_parameter(name):
    model = SMALL[name](classes=2)
    model.loss(every(model.shape)[::37], torch.arange(2).repeat(56)[:111]).backward()
    for part, parameter in model.named_parameters():
        assert parameter.grad is not None, part
        assert parameter.grad.abs().sum() > 0, part


@pytest.mark.parametrize("name", SMALL)
def test_state_survives_saving(name):
    model = SMALL[name](classes=2)
    copy = randomised(SMALL[name](classes=2), seed=9)
    copy.load_state_dict(model.state_dict())
    y = torch.tensor([0, 1])
    assert torch.equal(copy.log_prob(every(model.shape)[:2], y), model.log_prob(every(model.shape)[:2], y))


def test_labels_matter_and_a_model_without_them_needs_none():
    for build in SMALL.values():
        labelled, x = build(classes=2), every((1, 3, 4))[:5]
        zero, one = (labelled.log_prob(x, torch.full((5,), c)) for c in (0, 1))
        assert not torch.isclose(zero, one).any()


@pytest.mark.parametrize("name", SMALL)
def test_bad_input_is_refused(name):
    model, free = SMALL[name](classes=3), SMALL[name]()
    x, y = every(model.shape)[:4], torch.tensor([0, 1, 2, 0])
    grey = x * 0.5
    gap = torch.ones(12, dtype=torch.bool)
    gap[model.order[5]] = False
    for attempt, message in [
        (lambda: model.log_prob(grey, y), "x must hold only -1 and 1 .* got -?0.5"),
        (lambda: model.loss(grey, y), "x must hold only -1 and 1 .* got -?0.5"),
        (lambda: free.log_prob(grey), "x must hold only -1 and 1 .* got -?0.5"),
        (lambda: free.log_prob(x.flatten(1)), r"x must have shape \(N, 1, 3, 4\), got \(4, 12\)"),
        (lambda: model.log_prob(x, y + 1), r"y must lie in 0..2, got 1..3"),
        (lambda: model.log_prob(x, y - 1), r"y must lie in 0..2, got -1..1"),
        (lambda: model.log_prob(x, y[:2]), r"y must hold n = 4 labels, got shape \(2,\)"),
        (lambda: model.sample(3, y), r"y must hold n = 3 labels, got shape \(4,\)"),
        (lambda: model.sample(4, y + 1), r"y must lie in 0..2, got 1..3"),
        (lambda: model.sample(0), "n must be at least 1, got 0"),
        (lambda: free.log_prob(x, y), "y must be None for a model without labels"),
        (lambda: model(x), "y must be labels exactly if the model has them, got None for 3 classes"),
        (lambda: free(x, y), "y must be labels exactly if the model has them, got labels for None classes"),
        (lambda: model.log_prob_terms(x), "y must be labels exactly"),
        (lambda: free.log_joint(x), "num_classes must be a number"),
        (lambda: model.fill_in(x, gap.view(model.shape)), "observed must mark the first variables"),
    ]:
        with pytest.raises(ValueError, match=message):
            attempt()
    with pytest.raises(TypeError, match=r"y must hold whole numbers, got torch.float64"):
        model.log_prob(x, y.double())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MADE(3, order=(0, 1, 1)), r"order must be a permutation of 0..2, got \[0, 1, 1\]"),
        (lambda: MADE(3, order=(0, 1)), "order must be a permutation of 0..2, got 2 numbers"),
        (lambda: MADE(3, hidden=(0,)), "hidden"),
        (lambda: MADE(3, num_classes=0), "num_classes must be at least 1 or None, got 0"),
        (lambda: PixelCNN(shape=(3, 8, 8)), r"shape must be \(1, H, W\), got \(3, 8, 8\)"),
        (lambda: PixelCNN(shape=(8, 8)), r"shape must be \(1, H, W\), got \(8, 8\)"),
        (lambda: PixelCNN(channels=0), "channels and dilations must be positive, got 0"),
        (lambda: PixelCNN(dilations=(1, 0)), "channels and dilations must be positive"),
    ],
)
def test_impossible_models_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_binarised_pictures_of_any_floating_type_are_taken():
    model = PixelCNN(channels=4, dilations=(1,), shape=(1, 5, 5)).double()
    assert model.log_prob(binarise(torch.rand(2, 1, 5, 5, dtype=torch.float64) - 0.5)).dtype == torch.float64
