"""Laws of vector quantisation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from coursekit.diffusion import fit
from coursekit.pixels import Bernoulli
from coursekit.vae import VQVAE, GaussianLikelihood, PixelLikelihood, VectorQuantiser, image_vqvae, perplexity


def quantiser(codes: int = 5, features: int = 3, **settings: float) -> VectorQuantiser:
    torch.manual_seed(0)
    return VectorQuantiser(codes, features, **settings).double()


def tiny(codes: int = 4) -> VQVAE:
    """Six black or white pixels through three places of two features."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 6), nn.Unflatten(1, (2, 3)))
    decoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 6), nn.Unflatten(1, (1, 6)))
    model = VQVAE(encoder, decoder, PixelLikelihood(Bernoulli()), VectorQuantiser(codes, 2), places=(3,))
    return model.double()


def untrained(*places: int) -> VQVAE:
    return VQVAE(nn.Identity(), nn.Identity(), GaussianLikelihood(), quantiser(), places)


def pixels(n: int) -> Tensor:
    return torch.randn(n, 1, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64).sign()


@pytest.mark.parametrize("places", [(), (7,), (2, 3)])
def test_each_place_gets_the_nearest_vector(places: tuple[int, ...], generator: torch.Generator) -> None:
    book = quantiser().eval()
    z = torch.randn(4, 3, *places, generator=generator, dtype=torch.float64)
    found, k = book(z)
    flat = z.movedim(1, -1).reshape(-1, 3)
    assert torch.equal(k.flatten(), torch.cdist(flat, book.vectors).argmin(1))
    torch.testing.assert_close(found.movedim(1, -1).reshape(-1, 3), book.vectors[k.flatten()])
    assert k.shape == (4, *places)
    torch.testing.assert_close(book.shares, torch.full((5,), 0.2).double())  # nothing moves outside training


def test_gradients_go_straight_through_and_the_encoder_is_held() -> None:
    """By hand, for one place."""
    book = VectorQuantiser(2, 1).double()
    book.vectors.copy_(torch.tensor([[0.0], [5.0]]))
    encoder, decoder = nn.Linear(1, 1, bias=False).double(), nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(encoder.weight, 2.0)
    nn.init.constant_(decoder.weight, 3.0)
    model = VQVAE(encoder, decoder, GaussianLikelihood(1.0).double(), book, places=(), commitment=0.5)
    x = torch.tensor([[2.0]], dtype=torch.float64)  # z_e = 4, z_q = 5, reconstruction 15
    loss = model.loss(x)
    assert loss.item() == pytest.approx(13**2 / 2 + math.log(2 * math.pi) / 2 + 0.5)
    loss.backward()
    assert decoder.weight.grad.item() == pytest.approx(13 * 5)
    assert encoder.weight.grad.item() == pytest.approx((13 * 3 - 2 * 0.5 * 1) * 2)


def test_codes_come_to_rest_at_the_means_of_what_chose_them(generator: torch.Generator) -> None:
    book = quantiser(codes=4, features=2, dead_below=0.0)
    z = 0.1 * torch.randn(200, 2, generator=generator, dtype=torch.float64) + torch.arange(200)[:, None] % 3
    for _ in range(600):
        _, k = book(z, generator)
    counts = torch.bincount(k, minlength=4)
    assert (counts > 0).sum() > 1
    torch.testing.assert_close(book.shares, counts / 200.0, check_dtype=False, rtol=1e-4, atol=1e-4)
    for code in counts.nonzero()[:, 0].tolist():
        torch.testing.assert_close(book.vectors[code], z[k == code].mean(0), rtol=1e-4, atol=1e-4)


def test_idle_codes_move_onto_the_data_and_are_counted(generator: torch.Generator) -> None:
    book = quantiser(codes=6, decay=0.5, dead_below=0.2)
    book.vectors[:3], book.vectors[3:] = 0.1 * book.vectors[:3], 100.0  # out of reach
    book.sums.copy_(book.vectors / 6)
    z = torch.randn(600, 3, generator=generator, dtype=torch.float64)
    for step in range(3):  # shares of 1/2, 1/4, 1/8 of 1 / K
        assert book.revived == 0
        book(z, generator)
        assert (book.vectors[3:] > 50).all() == (step < 2)
    assert book.revived == 3
    assert all((z == vector).all(1).any() for vector in book.vectors[3:])
    book(z, generator)
    assert book.revived == 3


def test_a_code_that_nobody_ever_chooses_stays_where_it_is(generator: torch.Generator) -> None:
    book = quantiser(decay=0.5, dead_below=0.0).float()
    book.vectors[0] = 1e3
    book.sums[0] = 1e3 / 5
    for _ in range(300):
        book(torch.randn(20, 3, generator=generator), generator)
    torch.testing.assert_close(book.vectors[0], torch.full((3,), 1e3))
    assert book.vectors.isfinite().all()


def test_a_sick_batch_leaves_the_codebook_alone(generator: torch.Generator) -> None:
    book = quantiser(dead_below=0.9)
    book.shares[0] = 0.0001
    before = {name: value.clone() for name, value in book.state_dict().items()}
    before["vectors"] = before["sums"] / before["shares"][:, None]
    book(torch.full((4, 3), math.nan).double(), generator)
    for name, value in book.state_dict().items():
        torch.testing.assert_close(value, before[name])


def test_bounds_of_all_pictures_sum_to_less_than_one() -> None:
    """exp(bound) <= p(x), and p sums to one; with the true p by enumeration of all codes."""
    model = tiny().eval()
    every = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 6).double().view(64, 1, 6)
    codes = torch.cartesian_prod(*[torch.arange(4)] * 3)
    for frequencies in (None, model.frequencies(pixels(100))):
        bound = model.log_prob_bound(every, frequencies=frequencies).detach()
        prior = torch.full((64,), 1 / 64).double()
        if frequencies is not None:
            prior = torch.stack([frequencies[i, codes[:, i]] for i in range(3)]).prod(0)
            torch.testing.assert_close(frequencies.sum(-1), torch.ones(3).double())
        torch.testing.assert_close(prior.sum(), torch.tensor(1.0).double())
        given = model.decoder(model.quantiser.look_up(codes)).detach()  # (64, 1, 6)
        joint = torch.stack([model.likelihood.log_prob(given, x.expand(64, 1, 6)) for x in every]).exp() * prior
        truth = joint.sum(1)
        torch.testing.assert_close(truth.sum(), torch.tensor(1.0).double())
        assert (bound.exp() <= truth).all()
        assert (bound.exp() > 0).all()


def test_frequencies_of_the_data_raise_the_bound_and_are_drawn(generator: torch.Generator) -> None:
    model, x = tiny().eval(), pixels(200)
    frequencies = model.frequencies(x)
    counts = torch.stack([torch.bincount(k, minlength=4) for k in model.encode(x).T])
    torch.testing.assert_close(frequencies, (counts.double() + 0.25) / 201)
    assert model.log_prob_bound(x, frequencies=frequencies).mean() > model.log_prob_bound(x).mean()
    only = torch.zeros(3, 4).double()
    only[:, 2] = 1.0
    model.likelihood = GaussianLikelihood(1e-9).double()
    drawn = model.sample(5, generator=generator, frequencies=only)
    torch.testing.assert_close(drawn, model.decode(torch.full((5, 3), 2)), rtol=1e-5, atol=1e-5)
    assert model.sample(0).shape == (0, 1, 6)
    assert model.sample(0, frequencies=frequencies).shape == (0, 1, 6)


def test_training_uses_the_codebook_and_lowers_the_loss(generator: torch.Generator) -> None:
    torch.manual_seed(0)
    model = image_vqvae(codes=16, features=4, width=8)
    kinds = torch.randn(8, 1, 7, 7, generator=generator).sign()
    x = nn.functional.interpolate(kinds, scale_factor=4)[torch.arange(64) % 8]
    k = model.encode(x)
    history = fit(model, (x, torch.zeros(64)), steps=150, batch_size=32, lr=5e-3, show_every=20, progress=False)
    assert history.losses[-1] < 0.5 * history.losses[0]
    assert model.quantiser.revived > 0
    assert perplexity(model.encode(x), 16) > 2
    assert k.shape == (64, 7, 7)
    assert (model.reconstruct(x).sign() == x).float().mean() > 0.95


def test_perplexity_counts_the_codes_in_use() -> None:
    assert perplexity(torch.zeros(3, 7, 7, dtype=torch.long), 16).item() == pytest.approx(1)
    assert perplexity(torch.arange(16).repeat(4), 16).item() == pytest.approx(16)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: VectorQuantiser(0, 2), "codes"),
        (lambda: VectorQuantiser(2, 2, decay=1.0), "decay"),
        (lambda: VectorQuantiser(2, 2, dead_below=-0.1), "dead_below"),
        (lambda: quantiser()(torch.zeros(4, 2).double()), r"z must have shape \(N, 3, \*\)"),
        (lambda: VQVAE(nn.Identity(), nn.Identity(), GaussianLikelihood(), quantiser(), (), -1.0), "commitment"),
        (lambda: tiny().decode(torch.zeros(2, 4, dtype=torch.long)), r"k must have shape \(N, 3\)"),
        (lambda: tiny().sample(2, frequencies=torch.ones(3, 5)), "frequencies must have shape"),
        (lambda: tiny().log_prob_bound(pixels(2), frequencies=torch.ones(4)), "frequencies must have shape"),
        (lambda: tiny().sample(-1), "n must be"),
        (lambda: tiny().sample(2, torch.zeros(2, dtype=torch.long)), "y must be None"),
        (lambda: tiny().log_prob_bound(pixels(2), torch.zeros(2, dtype=torch.long)), "y must be None"),
        (lambda: untrained(2).encode(torch.ones(2, 3).double()), "encoder must return maps"),
    ],
)
def test_bad_arguments_are_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
