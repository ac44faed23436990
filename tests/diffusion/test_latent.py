"""Laws of latent diffusion: the codes' scale, what is frozen and saved, and the law that is drawn."""

import pytest
import torch
from torch import Tensor

from coursekit.diffusion import Denoiser, ExactDenoiser, Rectified, fit
from coursekit.diffusion.latent import LatentDiffusion
from coursekit.gmm import GaussianMixture
from coursekit.networks import TimeMLP
from coursekit.vae import AutoEncoder, conv_auto_encoder, linear_auto_encoder


def rotated(D: int = 3) -> AutoEncoder:
    """Keeps everything: z = 100 R x + 7, on quite another scale than x, and back."""
    auto_encoder = linear_auto_encoder(D, latent=D).double()
    R = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(1)).double())[0]
    with torch.no_grad():
        auto_encoder.encoder.weight.copy_(100 * R)
        auto_encoder.encoder.bias.fill_(7.0)
        auto_encoder.decoder.weight.copy_(R.T / 100)
        auto_encoder.decoder.bias.copy_(-R.T @ torch.full((D,), 0.07).double())
    return auto_encoder


def points(n: int = 5000) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 3, generator=generator).double() * torch.tensor([2.0, 1.0, 0.5]) + torch.tensor([5.0, 0, -1])


def test_codes_have_mean_zero_and_deviation_one_and_nothing_is_lost() -> None:
    model, x = LatentDiffusion(rotated(), Denoiser(TimeMLP(3), Rectified())).double(), points()
    raw = model.encode(x)
    assert raw.std(0).min() > 50
    z = model.standardise(x, batch_size=999).encode(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(3).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(z.std(0), torch.ones(3).double())
    torch.testing.assert_close(model.decode(z), model.auto_encoder.reconstruct(x))
    torch.testing.assert_close(model.decode(z), x)
    torch.testing.assert_close(z * model.std + model.mean, raw)


def test_the_exact_denoiser_of_the_codes_draws_the_law_of_the_data() -> None:
    """A Gaussian of standardised codes, decoded: mean and covariance of the data come back."""
    model, x = LatentDiffusion(rotated(), Denoiser(TimeMLP(3), Rectified())).double(), points()
    z = model.standardise(x).encode(x)
    law = GaussianMixture(torch.ones(1).double(), z.mean(0, keepdim=True), z.T.cov()[None])
    model.denoiser = ExactDenoiser(law, Rectified())
    model = model.float()
    drawn = torch.cat([model.sample(5000, generator=torch.Generator().manual_seed(s), steps=40) for s in range(4)])
    torch.testing.assert_close(drawn.double().mean(0), x.mean(0), rtol=0, atol=0.08)
    torch.testing.assert_close(drawn.double().T.cov(), x.T.cov(), rtol=0.06, atol=0.05)


def test_the_loss_is_the_denoisers_on_standardised_codes() -> None:
    seen = {}

    def network(z: Tensor, t: Tensor) -> Tensor:
        seen["z"], seen["t"] = z, t
        return torch.zeros_like(z)

    model, x = LatentDiffusion(rotated(), Denoiser(network, Rectified(), "x0")).double(), points(64)
    z = model.standardise(points()).encode(x)
    loss = model.loss(x, None, torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss, model.denoiser.loss(z, None, torch.Generator().manual_seed(0)))
    assert 0.5 < seen["z"].square().mean() < 2


def test_only_the_denoiser_learns_and_one_file_holds_all() -> None:
    torch.manual_seed(0)

    def build() -> LatentDiffusion:
        denoiser = Denoiser(TimeMLP(4, 16, num_classes=2), Rectified(), num_classes=2)
        return LatentDiffusion(conv_auto_encoder(4, width=8), denoiser)

    model, other = build(), build()
    x, y = torch.rand(32, 1, 28, 28, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 2
    before = {name: p.clone() for name, p in model.named_parameters()}
    fit(model.standardise(x), (x, y), steps=3, batch_size=16, ema_half_life=1.0, progress=False)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if name.startswith("denoiser")}
    assert {name for name, p in model.named_parameters() if p.requires_grad} == moved
    model.train()
    assert model.denoiser.training
    assert not model.auto_encoder.training
    other.load_state_dict(model.state_dict())
    assert model.num_classes == 2
    first, second = (m.eval().sample(3, y[:3], torch.Generator().manual_seed(0), 4, 2.0) for m in (model, other))
    assert first.shape == (3, 1, 28, 28)
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def test_codes_that_do_not_vary_are_refused() -> None:
    model = LatentDiffusion(linear_auto_encoder(3, latent=2), Denoiser(TimeMLP(2), Rectified()))
    with pytest.raises(ValueError, match="differ in every number"):
        model.standardise(torch.ones(10, 3))
