"""Small models of every kind that obeys the laws of bounds, in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from coursekit.networks import MLP
from coursekit.pixels import Bernoulli
from coursekit.vae import VAE, Beside, GaussianLikelihood, HierarchicalVAE, PixelLikelihood, VariationalModel, point_vae


def points(latent: int = 1, num_classes: int | None = None, **objective: float) -> VAE:
    """Of points (N, 2), by perceptrons."""
    likelihood = GaussianLikelihood(0.6)
    return point_vae(2, latent, (8,), likelihood, num_classes, 3, **objective)


def coins(num_classes: int | None = None, **objective: float) -> VAE:
    """Of six black or white pixels (N, 1, 6): few enough to enumerate."""
    extra = 0 if num_classes is None else 3
    encoder = Beside(nn.Sequential(nn.Flatten(), MLP([6 + extra, 8, 2])))
    decoder = Beside(nn.Sequential(MLP([1 + extra, 8, 6]), nn.Unflatten(1, (1, 6))))
    encoder = Flat(encoder) if num_classes else encoder
    objective = {"num_classes": num_classes, "context": 3, **objective}
    return VAE(encoder, decoder, PixelLikelihood(Bernoulli()), latent=1, **objective)


class Flat(nn.Module):
    """Flattens before the context is put beside."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.network(x.flatten(1), context)


def levels(num_classes: int | None = None, **objective: float) -> HierarchicalVAE:
    """Two levels of one latent each, of points (N, 2)."""
    extra = 0 if num_classes is None else 3
    encoder, decoder = Beside(MLP([2 + extra, 8])), Beside(MLP([1 + extra, 8, 2]))
    objective = {"num_classes": num_classes, "context": 3, **objective}
    return HierarchicalVAE(encoder, decoder, GaussianLikelihood(0.6), features=8, latents=(1, 1), hidden=8, **objective)


MODELS: dict[str, Callable[..., VariationalModel]] = {"points": points, "coins": coins, "two levels": levels}


def make(name: str, seed: int = 0, scale: float = 1.5, **keywords: object) -> VariationalModel:
    """A model whose weights are far from their start, so that its posterior is no Gaussian."""
    torch.manual_seed(seed)
    model = MODELS[name](**keywords).double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(scale)
    return model


def data(name: str, n: int, seed: int = 1) -> Tensor:
    """n of what the model of that name is about."""
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x[:, None].sign() if name == "coins" else x[:, :2].contiguous()


def evidence(model: VariationalModel, x: Tensor, y: Tensor | None = None) -> Tensor:
    """log p(x | y) by the trapezoidal rule over all latents, each of one dimension: to many digits, (N,)."""
    if y is not None:
        return torch.cat([_evidence(model, x[i : i + 1], model.context(y[i : i + 1], 1)) for i in range(len(x))])
    return _evidence(model, x, None)


def _evidence(model: VariationalModel, x: Tensor, context: Tensor | None) -> Tensor:
    two = isinstance(model, HierarchicalVAE)
    grid = torch.linspace(-8, 8, 121 if two else 1001, dtype=torch.float64)[:, None]
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(grid) + (grid[1] - grid[0]).log()
    z = grid
    if two:  # z_1 = m(z_2) + s(z_2) eps, so that every z_2 has its points where its z_1 are
        law = model.prior(grid, _expanded(context, len(grid)))
        z = (law.mean + (law.log_variance / 2).exp() * grid.T).view(-1, 1)
        log_prior = (log_prior + log_prior.T).view(-1, 1)
    parameters = model.parameters_of(z, _expanded(context, len(z)))
    each = [model.likelihood.log_prob(parameters, one.expand(len(z), *one.shape)) for one in x]
    return (torch.stack(each) + log_prior[:, 0]).logsumexp(1)


def _expanded(context: Tensor | None, n: int) -> Tensor | None:
    return None if context is None else context.expand(n, -1)
