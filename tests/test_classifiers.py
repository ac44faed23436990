"""Laws of the classifiers: gradients and optima known in closed form, modes kept, randomness only by generator."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import linear_model

from coursekit import classifiers
from coursekit.classifiers import ConvClassifier, LogisticRegression, NoiseAwareClassifier, random_affine
from coursekit.data import TwoGaussians, load_animals

STRAIGHT = SimpleNamespace(alpha=lambda t: 1 - t, sigma=lambda t: t)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise_aware(**options):
    return NoiseAwareClassifier(STRAIGHT, widths=(8, 16), **options)


MODELS = {
    "logistic": lambda: LogisticRegression(10, (1, 28, 28)),
    "convolutional": lambda: ConvClassifier(10, widths=(8, 16)),
    "noise-aware": noise_aware,
}


def pictures(n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels, _ = load_animals("test")
    rows = torch.randperm(len(images), generator=seeded(0))[:n]
    return images[rows], labels[rows]


def minimise(model, x, y):
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=500, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = model.loss(x, y)
        loss.backward()
        return loss

    optimizer.step(closure)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-3, 1.0), st.integers(2, 4))
def test_logistic_regression_is_that_of_scikit_learn(seed, penalty, classes):
    x = torch.randn(120, 3, generator=seeded(seed), dtype=torch.float64)
    y = torch.cat([torch.arange(classes), torch.randint(classes, (120 - classes,), generator=seeded(seed))])
    x[:, 0] += y
    model = LogisticRegression(classes, 3, penalty).double()
    minimise(model, x, y)
    reference = linear_model.LogisticRegression(C=1 / (penalty * 120), tol=1e-10, max_iter=1000)
    if classes == 2:  # two logits with weights w and -w carry half the penalty of scikit-learn's single one
        reference.set_params(C=2 / (penalty * 120))
    expected = reference.fit(x.numpy(), y.numpy()).predict_proba(x.numpy())
    torch.testing.assert_close(model.probabilities(x), torch.from_numpy(expected), rtol=1e-4, atol=1e-5)


def test_logistic_regression_finds_the_exact_posterior():
    toy = TwoGaussians()
    x, y = toy.sample_labelled(100_000, seeded(0))
    model = LogisticRegression(2, 2).double()
    minimise(model, x.double(), y)
    assert (model.probabilities(x.double()) - toy.posterior(x.double())).abs().max() < 0.02


@pytest.mark.parametrize("name", MODELS)
def test_probabilities_predictions_and_modes(name):
    torch.manual_seed(0)
    model = MODELS[name]()
    x, y = pictures()
    probabilities = model.probabilities(x)
    assert probabilities.shape == (12, 10)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(12))
    assert torch.equal(model.predict(x), probabilities.argmax(dim=1))
    assert not probabilities.requires_grad
    assert model.training
    one_by_one = torch.cat([model.probabilities(x[i : i + 1]) for i in range(12)])
    torch.testing.assert_close(one_by_one, probabilities, rtol=1e-4, atol=1e-5)  # no sample sees its batch mates
    model.loss(x, y, seeded(0)).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_is_random_by_its_generator_alone(name):
    model = MODELS[name]()
    x, y = pictures()
    losses = []
    for seed, generator_seed in ((0, 0), (1, 0), (0, 1)):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        losses.append(model.loss(x, y, seeded(generator_seed)).item())
        assert torch.equal(torch.get_rng_state(), before)
    assert losses[0] == losses[1]
    assert (losses[2] == losses[0]) == (name == "logistic")


def test_the_loss_of_a_classifier_is_its_cross_entropy():
    x, y = pictures()
    model = LogisticRegression(10, (1, 28, 28), penalty=0.3)
    torch.nn.init.normal_(model.linear.weight, generator=seeded(0), std=0.01)
    expected = -model.probabilities(x).log()[range(12), y].mean() + 0.15 * model.linear.weight.square().sum()
    torch.testing.assert_close(model.loss(x, y), expected)
    convolutional = ConvClassifier(10, widths=(8, 16), label_smoothing=0.2).eval()
    logs = convolutional.probabilities(x).log()
    expected = -(0.8 * logs[range(12), y] + 0.2 * logs.mean(dim=1)).mean()
    torch.testing.assert_close(convolutional.loss(x, y), expected)


def test_dropout_keeps_the_mean_of_the_logits():
    torch.manual_seed(0)
    model = ConvClassifier(2, widths=(8,), dropout=0.5)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    model.head = torch.nn.Identity()
    seen = []
    model.head.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0].detach()))
    x, y = pictures(2)
    for seed in range(1500):
        model.loss(x, y % 2, seeded(seed))
    features = model.features(x).detach()
    torch.testing.assert_close(torch.stack(seen).mean(dim=0), features, rtol=0.15, atol=1e-3)
    assert (torch.stack(seen) == 0).float().mean() >= 0.49


def test_features_feed_the_head():
    model = ConvClassifier(10).eval()
    x, _ = pictures()
    features = model.features(x)
    assert features.shape == (12, 128)
    torch.testing.assert_close(model.head(features), model(x))


def test_noise_has_the_moments_of_the_schedule():
    model, x = noise_aware(), torch.full((4000, 1, 4, 4), 0.5)
    for t in (0.0, 0.25, 1.0):
        x_t = model.add_noise(x, torch.full((4000,), t), seeded(0))
        assert x_t.mean().item() == pytest.approx((1 - t) * 0.5, abs=0.015)
        assert x_t.std().item() == pytest.approx(t, abs=0.015)
    noisy = model.add_noise(x, torch.linspace(0, 1, 4000), seeded(0))
    assert torch.equal(noisy[0], x[0])  # each sample has its own time
    assert noisy[-1].std() > 0.5


def test_the_loss_spreads_its_times_evenly():
    model, seen = noise_aware(), []
    model.schedule = SimpleNamespace(alpha=lambda t: seen.append(t) or 1 - t, sigma=lambda t: t)
    x, y = pictures(10)
    for seed in range(200):
        model.loss(x, y, seeded(seed))
    times = torch.stack(seen[::2])  # (200, 10)
    assert (times.sort(dim=1).values * 10).floor().eq(torch.arange(10)).all()  # one in each tenth
    torch.testing.assert_close(times.mean(dim=0), torch.full((10,), 0.5), rtol=0, atol=0.09)  # in random order


def test_the_noise_aware_classifier_sees_one_scale_under_every_schedule():
    """A schedule and the same one with alpha and sigma times ten give equal logits for inputs times ten."""
    torch.manual_seed(0)
    model = noise_aware().eval()
    x, _ = pictures()
    t = torch.linspace(0, 1, 12)
    expected = model(x, t)
    model.schedule = SimpleNamespace(alpha=lambda t: 10 * (1 - t), sigma=lambda t: 10 * t)
    torch.testing.assert_close(model(10 * x, t), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model(10 * x, 1 - t), expected)


def test_the_gradient_for_guidance_reaches_the_picture():
    model = noise_aware().eval()
    x, y = pictures()
    x.requires_grad_()
    log_probability = model(x, torch.full((12,), 0.5)).log_softmax(dim=1)[range(12), y].sum()
    (gradient,) = torch.autograd.grad(log_probability, x)
    assert (gradient.flatten(1).norm(dim=1) > 0).all()


def test_coefficients_stay_precise_in_half_precision():
    seen = []
    model = noise_aware().to(torch.bfloat16)
    model.schedule = SimpleNamespace(alpha=lambda t: seen.append(t.dtype) or 1 - t, sigma=lambda t: t)
    x, y = pictures()
    assert torch.isfinite(model.loss(x.bfloat16(), y, seeded(0)))
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize("training", [True, False])
def test_evaluating_gives_the_mode_back_even_after_an_error(training):
    model = ConvClassifier(2, widths=(8,)).train(training)
    seen = []

    def block():
        with classifiers.evaluating(model):
            seen.extend([model.training, torch.is_grad_enabled()])
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        block()
    assert seen == [False, False]
    assert model.training == training
    assert torch.is_grad_enabled()


# Augmentation


def test_augmentation_follows_its_generator_and_keeps_the_range():
    x, _ = pictures(100)
    turned = random_affine(x, seeded(0))
    assert torch.equal(turned, random_affine(x, seeded(0)))
    assert not torch.equal(turned, random_affine(x, seeded(1)))
    assert turned.shape == x.shape
    assert turned.min() >= -1
    assert turned.max() <= 1 + 1e-6
    torch.testing.assert_close(random_affine(-torch.ones_like(x), seeded(0)), -torch.ones_like(x))


def test_mirroring_alone_flips_about_half():
    x, _ = pictures(200)
    same = random_affine(x, seeded(0), degrees=0, stretch=0, shift=0)
    flipped = torch.tensor([torch.allclose(a, b.flip(-1), atol=1e-5) for a, b in zip(same, x, strict=True)])
    torch.testing.assert_close(same[~flipped], x[~flipped], rtol=0, atol=1e-5)
    assert 70 < flipped.sum() < 130


def spot(angle: float) -> torch.Tensor:
    """A soft spot eight pixels from the centre, at an angle."""
    line = torch.arange(28) - 13.5
    down, across = torch.meshgrid(line, line, indexing="ij")
    squares = (across - 8 * math.cos(angle)) ** 2 + (down - 8 * math.sin(angle)) ** 2
    return 2 * torch.exp(-squares / 8)[None, None] - 1


def centre(x: torch.Tensor) -> torch.Tensor:
    """Centre of mass (across, down) of each picture, in pixels from the middle."""
    mass = (x + 1)[:, 0]
    line = torch.arange(28) - 13.5
    return torch.stack([(mass.sum(1) * line).sum(1), (mass.sum(2) * line).sum(1)], 1) / mass.sum((1, 2))[:, None]


def test_rotation_scale_and_shift_stay_in_their_bounds_and_use_them():
    x, only = spot(0.0).expand(500, -1, -1, -1), {"degrees": 0, "stretch": 0, "shift": 0, "mirror": False}
    turned = centre(random_affine(x, seeded(0), **{**only, "degrees": 15}))
    angle = torch.atan2(turned[:, 1], turned[:, 0]).rad2deg()
    assert 14.5 < angle.abs().max() < 15.2
    torch.testing.assert_close(turned.norm(dim=1), torch.full((500,), 8.0), rtol=0, atol=0.05)
    scaled = centre(random_affine(x, seeded(0), **{**only, "stretch": 0.15}))[:, 0] / 8
    assert 0.145 < scaled.log().abs().max() < 0.16
    shifted = centre(random_affine(x, seeded(0), **{**only, "shift": 2})) - torch.tensor([8.0, 0.0])
    assert (shifted.abs().max(dim=0).values > 1.9).all()
    assert shifted.abs().max() < 2.05
