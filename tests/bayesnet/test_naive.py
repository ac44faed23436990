"""Laws of naive Bayes: equal to scikit-learn's, densities that integrate to one, samples that agree."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import naive_bayes

from coursekit.bayesnet import BernoulliNaiveBayes, GaussianNaiveBayes
from coursekit.data import load_animals
from coursekit.pixels import binarise

MODELS = [BernoulliNaiveBayes, GaussianNaiveBayes]


def problem(seed=0, n=200, features=6, classes=3, binary=False):
    generator = torch.Generator().manual_seed(seed)
    y = torch.cat([torch.arange(classes), torch.randint(classes, (n - classes,), generator=generator)])
    x = torch.randn(n, features, dtype=torch.float64, generator=generator) + 0.7 * y[:, None] - 0.5
    return (binarise(x) if binary else x), y


def problem_for(model, **sizes):
    """A problem whose features the model admits."""
    return problem(**sizes, binary=issubclass(model, BernoulliNaiveBayes))


@pytest.mark.parametrize(
    ("ours", "theirs", "binary"),
    [
        (lambda a: BernoulliNaiveBayes(3, 6, a), lambda a: naive_bayes.BernoulliNB(alpha=a, binarize=0.0), True),
        (lambda a: GaussianNaiveBayes(3, 6, a), lambda a: naive_bayes.GaussianNB(var_smoothing=a), False),
    ],
    ids=["bernoulli", "gaussian"],
)
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-6, 10))
def test_equals_scikit_learn(ours, theirs, binary, seed, smoothing):
    x, y = problem(seed, binary=binary)
    model, reference = ours(smoothing).fit(x, y), theirs(smoothing).fit(x.numpy(), y.numpy())
    for value, expected in [
        (model.log_joint(x), reference.predict_joint_log_proba(x.numpy())),
        (model.posterior(x), reference.predict_proba(x.numpy())),
        (model.predict(x), reference.predict(x.numpy())),
    ]:
        torch.testing.assert_close(value, torch.from_numpy(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_joint_marginal_conditional_and_loss_agree(model):
    x, y = problem_for(model)
    model = model(3, 6).fit(x, y)
    joint = model.log_joint(x)
    torch.testing.assert_close(model.log_prob(x).exp(), joint.exp().sum(dim=1))
    torch.testing.assert_close(model.log_prob(x, y) + model.log_prior[y], joint[torch.arange(200), y])
    torch.testing.assert_close(model.posterior(x), joint.exp() / joint.exp().sum(dim=1, keepdim=True))
    torch.testing.assert_close(model.loss(x), -model.log_prob(x).mean())
    torch.testing.assert_close(model.loss(x, y), -joint[torch.arange(200), y].mean())


def test_binary_probabilities_sum_to_one():
    x, y = problem(binary=True)
    model = BernoulliNaiveBayes(3, 6).fit(x, y)
    every = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=6)), dtype=torch.float64)
    torch.testing.assert_close(model.log_joint(every).exp().sum(dim=0), model.log_prior.exp())
    torch.testing.assert_close(model.log_joint((every + 1) / 2), model.log_joint(every))  # {0, 1} is read too


def test_gaussian_density_integrates_to_one():
    x, y = problem(features=2)
    line = torch.linspace(-12, 12, 600, dtype=torch.float64)
    density = GaussianNaiveBayes(3, 2).fit(x, y).log_prob(torch.cartesian_prod(line, line)).exp()
    total = torch.trapezoid(torch.trapezoid(density.view(600, 600), line), line)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_fit_without_smoothing_minimises_the_loss(model):
    x, y = problem_for(model, n=400)
    model = model(3, 6, smoothing=0.0).fit(x, y)
    least = model.loss(x, y)
    generator = torch.Generator().manual_seed(1)
    for name, buffer in list(model.named_buffers()):
        for _ in range(5):
            change = 0.05 * torch.randn(buffer.shape, dtype=buffer.dtype, generator=generator)
            moved = (buffer + change).log_softmax(0) if name == "log_prior" else buffer * change.exp()
            setattr(model, name, moved)
            assert model.loss(x, y) > least
            setattr(model, name, buffer)


@pytest.mark.parametrize("model", MODELS)
def test_samples_have_the_means_of_the_model(model):
    x, y = problem_for(model)
    model = model(3, 6).fit(x, y)
    labels = torch.arange(3).repeat_interleave(20_000)
    drawn = model.sample(60_000, labels, torch.Generator().manual_seed(0)).view(3, 20_000, 6)
    torch.testing.assert_close(drawn.mean(dim=1), model._means(), rtol=0, atol=0.05)
    if isinstance(model, GaussianNaiveBayes):
        torch.testing.assert_close(drawn.var(dim=1), model.variance, rtol=0.05, atol=0)
    refitted = type(model)(3, 6, smoothing=0.0).fit(drawn.flatten(0, 1), labels)
    torch.testing.assert_close(refitted._means(), model._means(), rtol=0, atol=0.05)


def test_ancestral_sampling_follows_the_prior_and_the_generator():
    x, y = problem()
    model = GaussianNaiveBayes(3, 6, smoothing=0.0).fit(torch.cat([10.0 * y[:, None], x[:, 1:]], dim=1) + 0.01 * x, y)
    drawn = model.sample(30_000, generator=torch.Generator().manual_seed(0))
    share = model.predict(drawn).bincount(minlength=3) / 30_000
    torch.testing.assert_close(share.double(), model.log_prior.exp(), rtol=0, atol=0.015)
    assert torch.equal(drawn, model.sample(30_000, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("model", MODELS)
def test_what_was_not_observed_is_summed_out(model):
    """The joint of the observed part is that of a model fitted to the observed features alone."""
    x, y = problem_for(model)
    observed = torch.tensor([True, False, True, True, False, False])
    whole, part = model(3, 6, 0.0).fit(x, y), model(3, 3, 0.0).fit(x[:, observed], y)
    torch.testing.assert_close(whole.log_joint(x, observed), part.log_joint(x[:, observed]))
    each = observed.expand(200, 6)
    torch.testing.assert_close(whole.log_joint(x, each), part.log_joint(x[:, observed]))
    filled = whole.fill_in(torch.where(observed, x, math.nan).nan_to_num(123.0), observed)
    assert torch.equal(filled[:, observed], x[:, observed])
    expected = part.posterior(x[:, observed]) @ whole._means()[:, ~observed]
    torch.testing.assert_close(filled[:, ~observed], expected)


@pytest.mark.parametrize(("model", "least_accuracy"), [(BernoulliNaiveBayes, 0.55), (GaussianNaiveBayes, 0.5)])
def test_animals_in_float32_agree_with_float64(model, least_accuracy):
    train, test = load_animals("train"), load_animals("test")
    if model is BernoulliNaiveBayes:
        train, test = (part._replace(images=binarise(part.images)) for part in (train, test))
    single = model(10, (1, 28, 28)).fit(train.images, train.labels)
    double = model(10, (1, 28, 28)).fit(train.images.double(), train.labels)
    assert single.log_prob(test.images).dtype == torch.float32
    torch.testing.assert_close(
        single.log_joint(test.images).double(), double.log_joint(test.images.double()), rtol=1e-5, atol=0.05
    )
    assert (single.predict(test.images) == test.labels).double().mean() > least_accuracy
    assert single.sample(3, generator=torch.Generator().manual_seed(0)).shape == (3, 1, 28, 28)


@pytest.mark.parametrize("model", MODELS)
def test_state_survives_saving(model):
    x, y = problem_for(model)
    fitted, copy = model(3, 6).fit(x, y), model(3, 6).double()
    copy.load_state_dict(fitted.state_dict())
    assert torch.equal(copy.log_joint(x), fitted.log_joint(x))


@pytest.mark.parametrize("model", MODELS)
def test_bad_input_is_refused(model):
    x, y = problem_for(model)
    with pytest.raises(ValueError, match="smoothing must be at least 0, got -1"):
        model(3, 6, smoothing=-1)
    with pytest.raises(ValueError, match=r"x must have shape \(N, 5\), got \(200, 6\)"):
        model(3, 5).fit(x, y)
    with pytest.raises(ValueError, match=r"y must lie in 0..1, got 0..2"):
        model(2, 6).fit(x, y)
    with pytest.raises(ValueError, match=r"each class needs an example, got none of \[3\]"):
        model(4, 6).fit(x, y)
    with pytest.raises(TypeError, match=r"y must hold whole numbers, got torch.float64"):
        model(3, 6).fit(x, y.double())
    with pytest.raises(ValueError, match="y must hold n = 4 labels, got shape"):
        model(3, 6).fit(x, y).sample(4, y[:3])


def test_far_points_keep_a_finite_log_density():
    x, y = problem()
    far = torch.full((1, 6), 1e4, dtype=torch.float64)
    model = GaussianNaiveBayes(3, 6).fit(x, y)
    assert np.isfinite(model.log_prob(far).item())
    assert torch.isfinite(model.posterior(far)).all()


def test_features_that_never_change():
    x, y = problem()
    x[:, 0] = -1.0
    signs = binarise(x)
    model = BernoulliNaiveBayes(3, 6, smoothing=0.0).fit(signs, y)
    assert torch.isfinite(model.log_joint(signs)).all()
    assert model.log_prob(-signs).max() < -100
    with pytest.raises(ValueError, match="smoothing must be positive"):
        GaussianNaiveBayes(3, 6, smoothing=0.0).fit(x, y)


@pytest.mark.parametrize("wrong", [0.5, -0.2, 2.0, float("nan")])
def test_features_that_are_not_binary_are_refused(wrong):
    x, y = problem(binary=True)
    model = BernoulliNaiveBayes(3, 6).fit(x, y)
    x[3, 2] = wrong
    for attempt in (
        lambda: model.log_joint(x),
        lambda: model.log_prob(x),
        lambda: model.predict(x),
        lambda: model.loss(x, y),
        lambda: BernoulliNaiveBayes(3, 6).fit(x, y),
    ):
        with pytest.raises(ValueError, match=r"x must be binary.*got"):
            attempt()
    observed = torch.ones(6, dtype=torch.bool)
    observed[2] = False
    assert model.posterior(x, observed).isfinite().all()  # a value that was not observed does not matter


def test_a_mixture_of_both_ways_to_write_binary_is_refused():
    x, y = problem(binary=True)
    x[0, 0], x[1, 0] = 0.0, -1.0
    with pytest.raises(ValueError, match=r"got -1 beside 0"):
        BernoulliNaiveBayes(3, 6).fit(x, y)
