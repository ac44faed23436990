"""Laws of guidance: exact where a labelled mixture knows the answer, the same sample whatever its batch mates."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from coursekit.classifiers import NoiseAwareClassifier
from coursekit.diffusion import EDM, SCHEDULES, VE, Cosine, Denoiser, ExactDenoiser, LinearVP, Rectified, sample
from coursekit.diffusion.denoiser import PREDICTIONS
from coursekit.diffusion.guidance import (
    AutoGuidance,
    ClassifierFree,
    ClassifierGuidance,
    DynamicThreshold,
    ExactClassifier,
    ExactConditional,
    IntervalLimited,
    LabelledMixture,
    Rescaled,
    Unlabelled,
    Wrapper,
    guided_gaussian,
    tilted_gaussian,
)
from coursekit.diffusion.inverse import Mask
from coursekit.diffusion.inverse.estimates import Pulled
from coursekit.gmm import GaussianMixture

TIMES = torch.tensor([0.01, 0.1, 0.3, 0.5, 0.7, 0.85], dtype=torch.float64)
Y = torch.tensor([0, 1, 0, 1, 1, 0])


def labelled() -> LabelledMixture:
    """Four components in the plane, two classes of two."""
    generator = torch.Generator().manual_seed(4)
    means = torch.randn(4, 2, generator=generator, dtype=torch.float64)
    root = 0.5 * torch.randn(4, 2, 2, generator=generator, dtype=torch.float64)
    covariances = root @ root.mT + 0.05 * torch.eye(2, dtype=torch.float64)
    weights = torch.tensor([0.1, 0.4, 0.3, 0.2], dtype=torch.float64)
    return LabelledMixture(GaussianMixture(weights, means, covariances), torch.tensor([0, 1, 0, 1]))


def gaussian(mean: float, deviation: float) -> GaussianMixture:
    one = torch.ones(1, 1, dtype=torch.float64)
    return GaussianMixture(one[0], mean * one, deviation**2 * one[None])


def points(schedule: object, t: Tensor = TIMES, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x, eps = torch.randn(2, len(t), 2, generator=generator, dtype=torch.float64)
    return schedule.alpha(t)[:, None] * x + schedule.sigma(t)[:, None] * eps


def score(denoiser: nn.Module, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """Tweedie's formula turned round."""
    alpha, sigma = denoiser.schedule.alpha(t)[:, None], denoiser.schedule.sigma(t)[:, None]
    return (alpha * denoiser(x_t, t, y) - x_t) / sigma**2


class Counting(nn.Module):
    """A denoiser that counts its calls and the samples it saw."""

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser, self.calls, self.samples = denoiser, 0, 0
        self.schedule, self.num_classes = denoiser.schedule, denoiser.num_classes

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self.calls, self.samples = self.calls + 1, self.samples + len(x_t)
        return self.denoiser(x_t, t, y)


def image_denoiser(prediction: str = "velocity") -> Denoiser:
    """A small convolution that mixes pixels, label and time, of random weights, in float64."""
    torch.manual_seed(0)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.label = nn.Conv2d(1, 1, 3, padding=1), nn.Embedding(11, 1)

        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            return torch.tanh(self.mix(x) + self.label(y)[..., None, None] + t[:, None, None, None])

    return Denoiser(Network().double(), Rectified(), prediction, num_classes=10, t_max=0.95)


def image_classifier() -> NoiseAwareClassifier:
    torch.manual_seed(1)
    return NoiseAwareClassifier(Cosine(), widths=(8, 8, 8), context=8).double()


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "unlabelled": Unlabelled,
    "classifier": lambda d: ClassifierGuidance(d, image_classifier(), 2.0),
    "classifier-free": lambda d: ClassifierFree(d, 2.0),
    "auto": lambda d: AutoGuidance(d, Unlabelled(d), 2.0),
    "interval": lambda d: IntervalLimited(ClassifierFree(d, 2.0), 0.2, 3.0),
    "rescaled": lambda d: Rescaled(ClassifierFree(d, 2.0)),
    "threshold": lambda d: DynamicThreshold(ClassifierFree(d, 2.0)),
    "nested": lambda d: DynamicThreshold(
        Rescaled(IntervalLimited(AutoGuidance(ClassifierGuidance(d, image_classifier(), 1.0), d, 2.0), 0.1, 9.0))
    ),
}

# --- classifiers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", ["cosine", "rectified", "ve"])
@pytest.mark.parametrize("here", list(SCHEDULES))
def test_classifier_guidance_of_scale_one_is_the_conditional_denoiser(here: str, there: str) -> None:
    """Bayes' rule, whatever the two schedules: log-SNR, radius and chain rule all have to be right."""
    schedule, exact = SCHEDULES[here](), ExactConditional(labelled(), SCHEDULES[here]())
    classifier = ExactClassifier(labelled(), VE(sigma_min=1e-3) if there == "ve" else SCHEDULES[there]())
    x_t = points(schedule)
    guided = ClassifierGuidance(Unlabelled(exact), classifier, 1.0)(x_t, TIMES, Y)
    torch.testing.assert_close(guided, exact(x_t, TIMES, Y), rtol=1e-7, atol=1e-6)
    assert not torch.allclose(guided, exact(x_t, TIMES), atol=1e-2)


@pytest.mark.parametrize("here", list(SCHEDULES))
@pytest.mark.parametrize("floor", [0.1, 0.01, 0.001])
def test_classifier_guidance_has_its_limit_at_pure_noise(here: str, floor: float) -> None:
    """At t = 1 the error against E[x_0 | x_t, y] is of the order of the floor, though sigma^2 / alpha is infinite."""
    exact, t = ExactConditional(labelled(), SCHEDULES[here]()), torch.ones(6, dtype=torch.float64)
    guided = ClassifierGuidance(Unlabelled(exact), ExactClassifier(labelled(), Cosine()), 1.0, floor)
    x_t = points(exact.schedule, t)
    assert float((guided(x_t, t, Y) - exact(x_t, t, Y)).abs().max()) < 5 * floor


def test_the_gradient_is_taken_at_the_noisy_point() -> None:
    """At the estimate of x_0 instead of x_t (guided-diffusion, issue 51) the answer is another one."""
    exact, classifier = ExactConditional(labelled(), Cosine()), ExactClassifier(labelled(), Cosine())
    seen: list[Tensor] = []
    hook = classifier.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach()))
    x_t = points(Cosine())
    ClassifierGuidance(exact, classifier, 1.0)(x_t, TIMES, Y)
    hook.remove()
    torch.testing.assert_close(seen[0], x_t)


def test_two_gaussians_have_a_guided_score_in_closed_form() -> None:
    """One Gaussian a class and one covariance C: a logistic classifier.

    With S = alpha^2 C + sigma^2 I and u = alpha S^-1 (m_1 - m_0) the guided score for class 1 is
    -S^-1 (x - alpha m_1) + (w - 1) (1 - P(1 | x)) u.
    """
    means, C, w, schedule = np.array([[-1.0, 0.3], [0.8, -0.2]]), np.array([[0.5, 0.2], [0.2, 0.3]]), 3.0, Cosine()
    mixture = GaussianMixture(*(torch.tensor(a) for a in (np.array([0.3, 0.7]), means, np.stack([C, C]))))
    two = LabelledMixture(mixture, torch.tensor([0, 1]))
    exact, x_t = ExactConditional(two, schedule), points(schedule)
    expected = []
    for x, t in zip(x_t.numpy(), TIMES, strict=True):
        alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
        S = np.linalg.inv(alpha**2 * C + sigma**2 * np.eye(2))
        u = S @ (alpha * (means[1] - means[0]))
        p = 1 / (1 + np.exp(-(x - alpha * means.mean(0)) @ u - np.log(0.7 / 0.3)))
        expected.append(-S @ (x - alpha * means[1]) + (w - 1) * (1 - p) * u)
    one = torch.ones(6, dtype=torch.long)
    for guided in (
        ClassifierFree(exact, w),
        AutoGuidance(exact, Unlabelled(exact), w),
        ClassifierGuidance(exact, ExactClassifier(two, Rectified()), w - 1),
        ClassifierGuidance(Unlabelled(exact), ExactClassifier(two, EDM()), w),
    ):
        torch.testing.assert_close(score(guided, x_t, TIMES, one), torch.tensor(np.stack(expected)))


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guided_score_is_the_gradient_of_the_tilted_density(scale: float) -> None:
    exact, x_t = ExactConditional(labelled(), LinearVP()), points(LinearVP()).requires_grad_()
    alpha, sigma = LinearVP().alpha(TIMES), LinearVP().sigma(TIMES)
    (gradient,) = torch.autograd.grad(labelled().tilted_log_prob(x_t, Y, scale, alpha, sigma).sum(), x_t)
    torch.testing.assert_close(score(ClassifierFree(exact, scale), x_t, TIMES, Y), gradient)


# --- the exact labelled mixture -------------------------------------------------------------------------


def test_labelled_mixture_is_the_mixture_cut_into_classes() -> None:
    whole, x = labelled(), torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(whole.log_joint(x).logsumexp(1), whole.mixture.log_prob(x))
    for c, members in enumerate(([0, 2], [1, 3])):
        part = GaussianMixture(
            whole.mixture.weights[members], whole.mixture.means[members], whole.mixture.covariances[members]
        )
        y = torch.full((50,), c)
        torch.testing.assert_close(whole.log_prob(x, y), part.log_prob(x))
        for t in (0.1, 0.9):
            alpha, sigma = float(Cosine().alpha(t)), float(Cosine().sigma(t))
            exact = ExactConditional(whole, Cosine())(x, torch.tensor(t, dtype=torch.float64), y)
            torch.testing.assert_close(exact, part.denoise(x, alpha, sigma))
    drawn, y = whole.sample(20_000, torch.Generator().manual_seed(0))
    mean = torch.tensor([2 / 3, 1 / 3], dtype=torch.float64) @ whole.mixture.means[[1, 3]]
    assert (drawn[y == 1].mean(0) - mean).abs().max() < 0.05
    torch.testing.assert_close(y.double().mean().item(), 0.6, rtol=0, atol=0.02)


def test_no_label_is_the_whole_mixture() -> None:
    exact, x_t = ExactConditional(labelled(), Cosine()), points(Cosine())
    whole = ExactDenoiser(labelled().mixture, Cosine())(x_t, TIMES)
    for found in (exact(x_t, TIMES), exact(x_t, TIMES, torch.full((6,), 2)), Unlabelled(exact)(x_t, TIMES, Y)):
        torch.testing.assert_close(found, whole)


# --- what guidance draws --------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [Rectified(), LinearVP(beta_max=40.0), EDM(sigma_max=2000.0)])
@pytest.mark.parametrize(("scale", "deviation"), [(0.0, 0.5), (1.0, 0.5), (3.0, 0.5), (2.0, 1.0), (1.5, 1.6)])
def test_the_guided_ode_of_two_gaussians_draws_what_the_formula_says(
    schedule: object, scale: float, deviation: float
) -> None:
    """And not the tilted density, unless both have one deviation."""
    guided = AutoGuidance(*(ExactDenoiser(gaussian(*law), schedule) for law in ((1.0, deviation), (0.2, 1.0))), scale)
    x_T = float(schedule.sigma(1.0)) * torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64)
    low, middle, high = sample(guided, (3, 1), "heun", 200, x_T=x_T, grid="angle")[:, 0].tolist()
    mean, spread = guided_gaussian(1.0, deviation, scale, base_mean=0.2)
    assert middle == pytest.approx(mean, abs=2e-3)
    assert (high - low) / 2 == pytest.approx(spread, rel=2e-3)
    if deviation**-2 * scale > scale - 1:
        tilted = tilted_gaussian(1.0, deviation, scale, base_mean=0.2)
        same = scale in (0.0, 1.0) or deviation == 1
        assert (abs(spread - tilted[1]) < 1e-9) == same
        assert (abs(mean - tilted[0]) < 1e-9) == same


def test_tilted_gaussian_is_the_normalised_product() -> None:
    x = np.linspace(-12, 12, 20_001)
    density = stats.norm.pdf(x, 1.0, 0.6) ** 2.5 * stats.norm.pdf(x, -0.5, 1.2) ** (1 - 2.5)
    density /= density.sum()
    mean, deviation = tilted_gaussian(1.0, 0.6, 2.5, -0.5, 1.2)
    assert (density * x).sum() == pytest.approx(mean)
    assert np.sqrt((density * (x - mean) ** 2).sum()) == pytest.approx(deviation)
    with pytest.raises(ValueError, match="positive precision"):
        tilted_gaussian(1.0, 2.0, 3.0)


def test_guided_samples_of_a_mixture_follow_another_law_than_the_tilted_one() -> None:
    """Kolmogorov's distance of the ODE's law from the density by quadrature: none at scale 1, a tenth at scale 3."""
    columns = [0.4, 0.3, 0.3], [[-1.2], [0.2], [1.0]], [[[0.3]], [[0.1]], [[0.2]]]
    mixture = GaussianMixture(*(torch.tensor(column, dtype=torch.float64) for column in columns))
    three = LabelledMixture(mixture, torch.tensor([0, 1, 1]))
    exact, n = ExactConditional(three, Rectified()), 400
    x_T = torch.tensor(stats.norm.ppf((np.arange(n) + 0.5) / n))[:, None]
    y = torch.ones(n, dtype=torch.long)
    grid = torch.linspace(-5, 5, 4001, dtype=torch.float64)
    distances = []
    for scale in (1.0, 3.0):
        drawn = sample(ClassifierFree(exact, scale), (n, 1), "heun", 60, x_T=x_T, y=y, grid="angle")[:, 0]
        density = three.tilted_log_prob(grid[:, None], torch.ones(4001, dtype=torch.long), scale).softmax(0)
        cdf = np.interp(drawn.sort().values.numpy(), grid.numpy(), density.cumsum(0).numpy())
        distances.append(np.abs(cdf - (np.arange(n) + 0.5) / n).max())
    assert distances[0] < 0.01
    assert distances[1] > 0.1


# --- restraints -----------------------------------------------------------------------------------------


def test_interval_asks_nothing_more_outside() -> None:
    low, high = 0.5, 3.0
    inner = Counting(ExactConditional(labelled(), Rectified()))
    limited = IntervalLimited(ClassifierFree(inner, 3.0), low, high)
    for t in torch.linspace(0.05, 0.95, 19, dtype=torch.float64):
        inner.calls = inner.samples = 0
        x_t, times = points(Rectified(), t.expand(6)), t.expand(6)
        found, ratio = limited(x_t, times, Y), float(t / (1 - t))
        inside = low < ratio <= high
        assert (inner.calls, inner.samples) == (1, 12 if inside else 6)
        wanted = ClassifierFree(inner, 3.0) if inside else inner
        torch.testing.assert_close(found, wanted(x_t, times, Y))


def test_interval_is_chosen_sample_by_sample_and_is_half_open() -> None:
    exact = ExactConditional(labelled(), EDM())
    t = EDM().time(-2 * torch.log(torch.tensor([0.4999, 0.5001, 2.9999, 3.0001, 70.0, 0.01], dtype=torch.float64)))
    x_t, guided = points(EDM(), t), ClassifierFree(exact, 3.0)
    found = IntervalLimited(guided, 0.5, 3.0)(x_t, t, Y)
    inside = torch.tensor([False, True, True, False, False, False])[:, None]
    torch.testing.assert_close(found, torch.where(inside, guided(x_t, t, Y), exact(x_t, t, Y)))
    everything = IntervalLimited(guided, 0.0, math.inf)(x_t, t, Y)
    torch.testing.assert_close(everything, guided(x_t, t, Y))


@given(st.integers(0, 1000), st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_rescaled_has_the_deviation_in_between(seed: int, strength: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.rand(2, 4, 1, 1, 1, generator=generator, dtype=torch.float64)
    estimates = sizes * torch.randn(2, 4, 1, 5, 5, generator=generator, dtype=torch.float64)
    good, bad = (Denoiser(lambda x, t, e=e: e, Rectified(), "x0") for e in estimates)
    guided, t = AutoGuidance(good, bad, 2.0), torch.tensor(0.5)
    x = torch.zeros(4, 1, 5, 5, dtype=torch.float64)
    deviation = [d(x, t).numpy().std(axis=(1, 2, 3)) for d in (good, guided, Rescaled(guided, strength))]
    np.testing.assert_allclose(deviation[2], strength * deviation[0] + (1 - strength) * deviation[1])
    ratio = Rescaled(guided, strength)(x, t) / guided(x, t)
    torch.testing.assert_close(ratio, ratio[:, :1, :1, :1].expand_as(ratio))  # one factor a sample


def test_rescaling_a_sample_without_deviation_leaves_it() -> None:
    """Division by a zero deviation (diffusers, issue 13425): constant pictures, and points in one dimension."""
    x = torch.stack([torch.zeros(1, 3, 3), torch.ones(1, 3, 3), torch.arange(9.0).view(1, 3, 3)])
    inner = AutoGuidance(*(Denoiser(lambda x, t, c=c: c * x, Rectified(), "x0") for c in (1.0, 0.5)), 3.0)
    for batch in (x, x[2].reshape(9, 1)):
        found, guided = (d(batch, torch.tensor(1.0)) for d in (Rescaled(inner, 1.0), inner))
        assert bool(torch.isfinite(found).all())
        torch.testing.assert_close(found[:2], guided[:2])


@given(st.integers(0, 1000), st.floats(0.01, 1))
@settings(max_examples=30, deadline=None)
def test_threshold_is_a_percentile_of_each_sample(seed: int, quantile: float) -> None:
    x = 2 * torch.randn(4, 1, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    inner = Denoiser(lambda *_: x, Rectified(), "x0")
    found = DynamicThreshold(inner, quantile)(torch.zeros_like(x), torch.tensor(0.5)).numpy()
    for one, before in zip(found, x.numpy(), strict=True):
        limit = max(1.0, np.quantile(np.abs(before), quantile, method="inverted_cdf"))
        np.testing.assert_allclose(one, np.clip(before, -limit, limit) / limit)
        assert np.abs(one).max() <= 1


# --- every wrapper --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(WRAPPERS))
def test_a_sample_does_not_depend_on_its_batch_mates(name: str) -> None:
    """Also for a network with batch normalisation, which stands in training mode until somebody says otherwise."""
    wrapper = WRAPPERS[name](image_denoiser()).train()
    generator = torch.Generator().manual_seed(0)
    x, t = torch.randn(5, 1, 28, 28, generator=generator, dtype=torch.float64), torch.linspace(0.05, 0.95, 5).double()
    y = torch.arange(5)
    together = wrapper(x, t, y)
    alone = torch.cat([wrapper(x[i : i + 1], t[i : i + 1], y[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(wrapper.pair(x, t, y)[0], wrapper.plain(x, t, y))


@pytest.mark.parametrize("name", list(WRAPPERS))
def test_wrappers_hand_on_what_the_sampler_asks_for(name: str) -> None:
    inner = image_denoiser()
    wrapper = WRAPPERS[name](inner)
    assert wrapper.schedule == inner.schedule
    assert (wrapper.t_min, wrapper.t_max) == (inner.t_min, inner.t_max)
    assert wrapper.num_classes == (None if name == "unlabelled" else 10)
    assert {id(p) for p in inner.parameters()} <= {id(p) for p in wrapper.parameters()}
    y, generator = torch.arange(3), torch.Generator().manual_seed(0)
    for sampler in ("heun", "ddpm"):  # under no_grad, in float32, from t_max = 0.95
        drawn = sample(wrapper.float(), (3, 1, 28, 28), sampler, 3, y=y, generator=generator)
        assert drawn.dtype == torch.float32
        assert not drawn.requires_grad
        assert bool(torch.isfinite(drawn).all())


@pytest.mark.parametrize("schedule", list(SCHEDULES))
@pytest.mark.parametrize("prediction", list(PREDICTIONS))
def test_guidance_works_on_every_schedule_and_prediction(schedule: str, prediction: str) -> None:
    """From pure noise where the prediction has an answer there."""
    t_max = 0.99 if prediction in ("eps", "score", "velocity") else 1.0
    inner = Denoiser(
        lambda x, t, y: torch.tanh(x + y[:, None]), SCHEDULES[schedule](), prediction, num_classes=2, t_max=t_max
    )
    guided = ClassifierGuidance(ClassifierFree(inner, 2.0), ExactClassifier(labelled(), Cosine()), 1.0)
    guided, y = IntervalLimited(Rescaled(guided), 0.0, math.inf), torch.tensor([0, 1])
    x_T = float(inner.schedule.sigma(t_max)) * torch.ones(2, 2, dtype=torch.float64)
    drawn = sample(guided, (2, 2), "heun", 4, y=y, x_T=x_T)
    assert bool(torch.isfinite(drawn).all())


def test_gradients_go_through_guidance_where_they_are_wanted() -> None:
    """Posterior sampling differentiates guided estimates, the classifier's gradient included."""
    exact = ExactConditional(labelled(), Cosine())
    guided = ClassifierGuidance(exact, ExactClassifier(labelled(), Rectified()), 1.5)
    x_t = points(Cosine())
    assert torch.autograd.gradcheck(lambda x: guided(x, TIMES, Y), x_t.requires_grad_())
    with torch.no_grad():
        assert not guided(x_t, TIMES, Y).requires_grad


def test_a_time_may_be_a_number() -> None:
    exact = ExactConditional(labelled(), Cosine())
    x_t = points(Cosine())
    for guided in (
        IntervalLimited(ClassifierFree(exact, 2.0), 0.1, 2.0),
        ClassifierGuidance(exact, ExactClassifier(labelled(), EDM()), 1.0),
    ):
        torch.testing.assert_close(guided(x_t, 0.4, Y), guided(x_t, torch.full((6,), 0.4, dtype=torch.float64), Y))


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda d: ClassifierFree(Unlabelled(d), 2.0), ValueError, "num_classes"),
        (lambda d: ClassifierFree(d, 2.0)(points(Cosine()), TIMES), ValueError, "label for each"),
        (lambda d: ClassifierGuidance(d, nn.Linear(2, 2), 1.0), TypeError, "classifier must have a schedule"),
        (lambda d: ClassifierGuidance(d, ExactClassifier(labelled(), Cosine()), 1.0, floor=0.0), ValueError, "floor"),
        (
            lambda d: ClassifierGuidance(d, ExactClassifier(labelled(), Cosine()), 1.0)(points(Cosine()), TIMES),
            ValueError,
            "label for each",
        ),
        (lambda d: AutoGuidance(d, ExactConditional(labelled(), EDM()), 2.0), ValueError, "worse must live on"),
        (lambda d: IntervalLimited(d, 2.0, 2.0), ValueError, "low < high"),
        (lambda d: Rescaled(d, 1.1), ValueError, "strength"),
        (lambda d: DynamicThreshold(d, 0.0), ValueError, "quantile"),
        (lambda d: Unlabelled(nn.Linear(2, 2)), TypeError, "denoiser must have a schedule"),
        (lambda d: labelled().log_prob(points(Cosine()), Y + 1), ValueError, r"lie in 0\.\.1"),
        (lambda d: LabelledMixture(labelled().mixture, torch.tensor([0, 1])), ValueError, "labels must be whole"),
        (lambda d: LabelledMixture(labelled().mixture, torch.tensor([0, 2, 0, 2])), ValueError, "each of 0"),
    ],
)
def test_bad_input_is_refused(build: Callable[[nn.Module], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build(ExactConditional(labelled(), Cosine()))


def test_what_stands_around_a_denoiser_must_say_both_estimates() -> None:
    """`pair` is abstract, and `weigh` of what pulls towards an observation: neither can be forgotten."""

    class Forgetful(Wrapper): ...

    class Weightless(Pulled): ...

    with pytest.raises(TypeError, match=r"abstract method.*pair"):
        Forgetful(Denoiser(lambda x, t: x, Rectified()))
    with pytest.raises(TypeError, match=r"abstract method.*weigh"):
        Weightless(Denoiser(lambda x, t: x, Rectified()), Mask(torch.tensor([True])), torch.zeros(1, 1))
