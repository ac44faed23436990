"""Laws of the bounds, over every model that has one; truth by quadrature over the latents."""

from __future__ import annotations

import copy
import math
import sys
from pathlib import Path

import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor, nn

from coursekit.data import GaussianRing
from coursekit.diffusion import fit
from coursekit.vae import (
    VAE,
    Beside,
    GaussianLikelihood,
    HierarchicalVAE,
    hierarchical_image_vae,
    image_vae,
    point_vae,
)

sys.path.insert(0, str(Path(__file__).parent))
import models

NAMES = list(models.MODELS)


@pytest.mark.parametrize("name", NAMES)
def test_evidence_by_quadrature_integrates_to_one(name: str) -> None:
    """The tests' own truth: over all data it is a density."""
    model = models.make(name)
    if name == "coins":
        every = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 6).double().view(64, 1, 6)
        total = models.evidence(model, every).exp().sum()
    else:
        line = torch.linspace(-5, 5, 26, dtype=torch.float64)
        total = models.evidence(model, torch.cartesian_prod(line, line)).exp().sum() * (line[1] - line[0]) ** 2
    assert total.item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_bounds_of_1_10_100_samples_rise_towards_the_evidence(name: str, generator: torch.Generator) -> None:
    model, x = models.make(name), models.data(name, 4)
    truth = models.evidence(model, x).mean()
    repeats = x.repeat(500, *[1] * (x.ndim - 1))
    means, errors = [], []
    for samples in (1, 10, 100):
        bound = model.log_prob_bound(repeats, generator=generator, samples=samples).view(500, 4).mean(1)
        means.append(bound.mean())
        errors.append(4 * bound.std() / math.sqrt(500))
    assert means[0] + errors[0] < means[1] - errors[1]
    assert means[1] < means[2] + errors[2] + errors[1]
    assert means[2] < truth + errors[2]
    assert truth - means[2] < 0.2 * (truth - means[0])


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_importance_weights_estimate_the_evidence_without_bias(name: str, generator: torch.Generator) -> None:
    model, x = models.make(name, scale=1.0), models.data(name, 3)
    weights = model.log_weights(x, samples=40_000, generator=generator).exp()
    error = weights.std(0) / math.sqrt(len(weights))
    assert ((weights.mean(0) - models.evidence(model, x).exp()).abs() < 4.5 * error).all()


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_elbo_is_the_mean_log_weight(name: str, generator: torch.Generator) -> None:
    """Closed-form rate and sampled weights, two ways to one number."""
    model, x = models.make(name), models.data(name, 3)
    many = x.repeat(20_000, *[1] * (x.ndim - 1))
    parts = model.elbo(many, generator=generator)
    torch.testing.assert_close(parts.total, parts.reconstruction - parts.rate)
    elbo = parts.total.view(20_000, 3)
    weights = model.log_weights(x, samples=20_000, generator=generator)
    error = ((elbo.var(0) + weights.var(0)) / 20_000).sqrt()
    assert ((elbo.mean(0) - weights.mean(0)).abs() < 4.5 * error).all()
    assert (elbo.mean(0) < models.evidence(model, x) + 4.5 * error).all()
    assert (parts.rates >= 0).all()


def elbo_by_quadrature(model: VAE, x: Tensor) -> Tensor:
    """The mean ELBO of a model with one latent: Gauss-Hermite over eps, divergence by torch.distributions."""
    nodes, weights = (torch.from_numpy(a) for a in hermegauss(60))
    q = model.posterior(x)
    z = q.mean + (q.log_variance / 2).exp() * nodes  # (N, 60)
    many = x.repeat_interleave(60, dim=0)
    log_likelihood = model.likelihood.log_prob(model.parameters_of(z.reshape(-1, 1)), many).view(-1, 60)
    law = torch.distributions.Normal(q.mean, (q.log_variance / 2).exp())
    rate = torch.distributions.kl_divergence(law, torch.distributions.Normal(torch.zeros(1).double(), 1.0))[:, 0]
    return (log_likelihood @ weights / weights.sum() - rate).mean()


def gradients(model: nn.Module, value: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.encoder.parameters()))])


@pytest.mark.parametrize("name", ["points", "coins"])
def test_reparameterised_and_score_function_gradients_agree_with_quadrature(
    name: str, generator: torch.Generator
) -> None:
    model, x = models.make(name, scale=1.0), models.data(name, 2)
    truth = gradients(model, elbo_by_quadrature(model, x))
    many = x.repeat(500, *[1] * (x.ndim - 1))
    draws = [gradients(model, -model.loss(many, generator=generator)) for _ in range(40)]
    scores = []
    for _ in range(40):
        q = model.posterior(many)
        z = q.sample(generator).detach()
        log_likelihood = model.likelihood.log_prob(model.parameters_of(z), many).detach()
        surrogate = (log_likelihood - log_likelihood.mean()) * q.log_prob(z) - q.kl(q.standard()).sum(1)
        scores.append(gradients(model, surrogate.mean()))
    spread = []
    for estimates in (torch.stack(draws), torch.stack(scores)):
        error = estimates.std(0) / math.sqrt(40)
        assert ((estimates.mean(0) - truth).abs() < 5 * error + 1e-9 + 0.003 * truth.abs()).all()
        spread.append(estimates.var(0).sum())
    assert spread[0] < spread[1]  # what reparameterisation buys


def test_loss_weighs_and_frees_the_rate(generator: torch.Generator) -> None:
    model, x = models.make("points", latent=3), models.data("points", 50)
    state = generator.get_state()

    def loss(**settings: float) -> Tensor:
        changed = copy.deepcopy(model)
        for name, value in settings.items():
            setattr(changed, name, value)
        generator.set_state(state)
        return changed.loss(x, generator=generator)

    generator.set_state(state)
    parts = model.elbo(x, generator=generator)
    torch.testing.assert_close(loss(), -parts.total.mean())
    torch.testing.assert_close(loss(beta=4.0), 4 * parts.rate.mean() - parts.reconstruction.mean())
    means = parts.rates.mean(0)
    level = means.sort().values[1].item() + 1e-3  # between the second and the third dimension
    expected = 2 * level + means.max() - parts.reconstruction.mean()
    torch.testing.assert_close(loss(free_nats=level), expected)


def test_rates_below_the_free_level_have_no_gradient() -> None:
    model, x = models.make("points", latent=3, free_nats=1e3, beta=7.0), models.data("points", 50)
    with_free = gradients(model, model.loss(x, generator=torch.Generator().manual_seed(0)))
    parts = model.elbo(x, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(with_free, gradients(model, -parts.reconstruction.mean()))


def test_beta_rises_in_training_only_and_is_kept_with_the_weights() -> None:
    model, x = models.make("points", warmup=4, beta=2.0), models.data("points", 5)
    model.eval()
    model.loss(x)
    assert model.updates == 0
    model.train()
    found = []
    for _ in range(6):
        parts = model.elbo(x, generator=torch.Generator().manual_seed(0))
        loss = model.loss(x, generator=torch.Generator().manual_seed(0))
        found.append(((loss + parts.reconstruction.mean()) / parts.rate.mean()).item())
    assert found == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0])
    again = models.make("points", warmup=4, beta=2.0)
    again.load_state_dict(model.state_dict())
    assert again.updates == 6


class Counting(nn.Module):
    """Notes how many codes were decoded together."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.largest, self.total = network, 0, 0

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        self.largest, self.total = max(self.largest, len(z)), self.total + len(z)
        return self.network(z, context)


@torch.no_grad()
def test_memory_grows_neither_with_samples_nor_with_data(generator: torch.Generator) -> None:
    model = models.make("points")
    model.decoder = Counting(model.decoder)
    for n, samples in ((3, 5000), (1000, 70), (1, 1)):
        model.decoder.largest = model.decoder.total = 0
        assert model.log_prob_bound(models.data("points", n), generator=generator, samples=samples).shape == (n,)
        assert model.decoder.largest <= 1024
        assert model.decoder.total == n * samples
    assert model.log_prob_bound(torch.zeros(0, 2).double()).shape == (0,)


@torch.no_grad()
def test_a_bound_stays_finite_where_every_weight_underflows() -> None:
    model = models.make("points")
    bound = model.log_prob_bound(torch.full((1, 2), 1e3).double(), samples=2000)
    assert -1e8 < bound.item() < -1e5


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_without_labels_the_bound_is_one_on_the_mean_over_labels(name: str, generator: torch.Generator) -> None:
    model, x = models.make(name, num_classes=3), models.data(name, 3)
    each = torch.stack([models.evidence(model, x, torch.full((3,), c)) for c in range(3)])
    assert (each[0] - each[1]).abs().min() > 1e-3
    truth = each.logsumexp(0) - math.log(3)
    bounds = torch.stack([model.log_prob_bound(x, None, generator, samples=3) for _ in range(400)])
    error = 4 * bounds.std(0) / 20
    assert (bounds.mean(0) < truth + error).all()
    torch.testing.assert_close(model.log_prob_bound(x, None, generator, samples=20_000), truth, rtol=0.02, atol=0.05)
    y = torch.tensor([2, 0, 1])
    given = model.log_prob_bound(x, y, generator, samples=20_000)
    torch.testing.assert_close(given, each[y, torch.arange(3)], rtol=0.02, atol=0.05)


@torch.no_grad()
def test_a_source_of_known_entropy_is_never_beaten(generator: torch.Generator) -> None:
    """Trained on a ring of Gaussians: the bound beats the best single Gaussian and on average not the truth."""
    toy = GaussianRing(std=0.3)
    x, unseen = toy.sample(4000, generator), toy.sample(3000, generator)
    torch.manual_seed(0)
    model = point_vae(2, latent=2, hidden=(32, 32), likelihood=GaussianLikelihood(0.3, learned=True))
    with torch.enable_grad():
        fit(model, x, steps=250, batch_size=128, lr=5e-3, progress=False)
    bound = model.log_prob_bound(unseen, generator=generator, samples=100)
    gap = toy.log_prob(unseen) - bound
    assert gap.mean() > -3 * gap.std() / math.sqrt(len(gap))
    one = torch.distributions.MultivariateNormal(x.mean(0), x.T.cov())
    assert bound.mean() > one.log_prob(unseen).mean() + 0.2


@pytest.mark.parametrize("name", NAMES)
def test_draws_follow_the_evidence(name: str, generator: torch.Generator) -> None:
    """Mean log-evidence of draws is minus the entropy: by enumeration or on a grid."""
    model = models.make(name, scale=1.0)
    x = model.sample(1500, generator=generator)
    if name == "coins":
        every = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 6).double().view(64, 1, 6)
        width = 0.0
    else:
        line = torch.linspace(-5, 5, 26, dtype=torch.float64)
        every, width = torch.cartesian_prod(line, line), 2 * math.log(10 / 25)
    with torch.no_grad():
        log_p = models.evidence(model, every)
        p = (log_p + width).exp()
        found = models.evidence(model, x[:300])
        for moment in (lambda v: v, torch.square):
            truth = (p.view(-1, *[1] * (every.ndim - 1)) * moment(every)).sum(0)
            values = moment(x)
            assert ((values.mean(0) - truth).abs() < 4.5 * values.std(0) / math.sqrt(len(x)) + 1e-3).all()
    assert abs(found.mean() - (p * log_p).sum()) < 4.5 * found.std() / math.sqrt(300)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_classes", [None, 3])
def test_codes_lines_and_traversals(name: str, num_classes: int | None) -> None:
    model, x = models.make(name, num_classes=num_classes), models.data(name, 4)
    y, y_b = (None, None) if num_classes is None else (torch.tensor([0, 1, 2, 0]), torch.tensor([1, 1, 0, 2]))
    z = model.encode(x, y)
    assert z.shape == (4, 1)
    path = model.interpolate(x, x.flip(0), 5, y, y_b)
    assert path.shape == (4, 5, *x.shape[1:])
    torch.testing.assert_close(path[:, 0], model.decode(z, y))
    torch.testing.assert_close(path[:, -1], model.decode(model.encode(x.flip(0), y_b), y_b))
    values = torch.tensor([-2.0, 0.0, 1.0]).double()
    moved = model.traverse(z, 0, values, y)
    assert moved.shape == (4, 3, *x.shape[1:])
    torch.testing.assert_close(moved[:, 2], model.decode(torch.ones_like(z), y))
    assert model.reconstruct(x, y).shape == x.shape
    if num_classes is None:
        torch.testing.assert_close(path[1, 2], model.decode((z[1:2] + z[2:3]) / 2)[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_generator_fixes_draws_and_draws_follow_the_dtype(name: str) -> None:
    model = models.make(name, num_classes=3)
    first, second = (model.sample(5, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.dtype == torch.float64
    assert not first.requires_grad
    assert model.sample(0).shape[0] == 0
    assert model.float().sample(2, torch.tensor([0, 2])).dtype == torch.float32


@pytest.mark.parametrize("build", [image_vae, hierarchical_image_vae])
def test_pictures_of_every_label_train_every_parameter(build: object, generator: torch.Generator) -> None:
    torch.manual_seed(0)
    model = build(num_classes=10, width=8)
    x = torch.randn(20, 1, 28, 28, generator=generator).sign()
    y = torch.arange(20) % 10
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    history = fit(model, (x, y), steps=20, batch_size=20, lr=3e-3, show_every=10, progress=False)
    assert history.losses[-1] < history.losses[0]
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, before[name]), name
    assert set(model.sample(10, torch.arange(10), generator).unique().tolist()) == {-1.0, 1.0}
    one = model.log_prob_bound(x[:1], y[:1], torch.Generator().manual_seed(0), samples=4)
    assert one.isfinite().all()


def test_a_rate_that_outweighs_the_pixels_collapses_and_free_bits_cure_it(generator: torch.Generator) -> None:
    """The classic slip: pixels averaged, rate summed, which is beta = 784."""
    kinds = nn.functional.interpolate(torch.randn(8, 1, 7, 7, generator=generator).sign(), scale_factor=4)
    x, rates = kinds[torch.arange(64) % 8], {}
    for name, settings in (
        ("bound", {}),
        ("collapsed", {"beta": 784.0}),
        ("cured", {"beta": 784.0, "free_nats": 0.5}),
    ):
        torch.manual_seed(0)
        model = image_vae(latent=4, width=8, **settings)
        fit(model, x, steps=60, batch_size=32, lr=5e-3, progress=False)
        rates[name] = model.elbo(x).rate.mean().item()
    assert rates["collapsed"] < 0.05
    assert rates["cured"] > 1.0
    assert rates["bound"] > 1.5


P, Q = models.points(), models.points(num_classes=3)
X, Z, Y = torch.zeros(3, 2), torch.zeros(3, 1), torch.tensor([0, 1, 2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.points(beta=-1.0), "beta"),
        (lambda: models.points(free_nats=-1.0), "free_nats"),
        (lambda: models.points(beta=math.nan), "beta"),
        (lambda: models.points(warmup=-1), "warmup"),
        (lambda: models.points(latent=0), "sizes must be|latent"),
        (lambda: models.points(num_classes=0), "num_classes"),
        (lambda: P.log_prob_bound(X, samples=0), "samples"),
        (lambda: P.log_prob_bound(X, Y), "y must be None"),
        (lambda: Q.elbo(X), "y must hold n = 3 labels"),
        (lambda: Q.loss(X, torch.tensor([0, 1, 3])), r"y must lie in 0\.\.2"),
        (lambda: Q.log_prob_bound(X, Y[:2]), "y must hold n = 3"),
        (lambda: P.sample(-1), "n must be"),
        (lambda: Q.sample(2, Y), "y must hold n = 2"),
        (lambda: P.decode(torch.zeros(3, 4)), r"z must have shape \(N, 1\)"),
        (lambda: P.traverse(Z, 1, torch.zeros(2)), r"dim must lie in 0\.\.0"),
        (lambda: P.interpolate(X, X, 1), "steps"),
        (lambda: P.interpolate(X, X[:2]), "x_b must have the shape"),
        (lambda: VAE(nn.Linear(2, 3), nn.Linear(2, 2), GaussianLikelihood(), 2).elbo(X), "encoder must return"),
        (lambda: VAE(nn.Linear(2, 4), nn.Linear(2, 1), GaussianLikelihood(), 2).elbo(X), "parameters must have"),
        (lambda: HierarchicalVAE(Beside(nn.Linear(2, 3)), nn.Linear(1, 2), GaussianLikelihood(), 3, (1,)), "latents"),
    ],
)
def test_bad_arguments_are_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
