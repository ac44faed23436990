r"""One model, many names: a denoiser asked on another noise axis, and in the words of four papers.

A denoiser answers one question, E[x_0 | x], for x = alpha x_0 + sigma eps. Multiplying x by a number changes nothing of
what is known about x_0, so the answer depends on x / rho, rho = sqrt(alpha^2 + sigma^2), and on the log-SNR lambda =
log(alpha^2 / sigma^2) alone. A network trained on one axis (alpha', sigma') therefore answers on any other: look up
the time t' at which its own axis has the same lambda, rescale, ask:

    E[x_0 | x at (alpha, sigma)] = D(rho' x / rho, t'),     rho' / rho = alpha' / alpha = sigma' / sigma.

The ratio of the radii is finite also where alpha or sigma is 0. In the words of the papers:

    score SDE (2011.13456)      dx = f x dt + g dw,  score = (alpha D - x) / sigma^2   (has a sigma in it twice)
    DDPM (2006.11239)           eps_theta(x_k, k) at whole steps k = 1..T, mean of x_{k-1}
    flow matching (2210.02747)  v = E[x_0 - eps | x], x = tau x_0 + (1 - tau) eps     (time runs from noise to data)
    EDM (2206.00364)            D(x; sigma), x = x_0 + sigma eps                      (its x is x_t / alpha_t)

`coursekit.diffusion.foreign` goes the other way, from each of these to a denoiser.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from coursekit.diffusion.chain import DiscreteChain, expand
from coursekit.diffusion.schedules import Schedule
from coursekit.diffusion.transport import refuse_coupled

__all__ = ["DDPMView", "EDMView", "FlowView", "OnSchedule", "Preconditioning", "ScoreSDEView", "expected_data"]


def expected_data(denoiser: nn.Module, x: Tensor, alpha: Tensor, sigma: Tensor, y: Tensor | None = None) -> Tensor:
    """E[x_0 | alpha x_0 + sigma eps = x], whatever axis the denoiser was trained on.

    Where the log-SNR lies outside what the network was trained on, the nearest trained level is asked: beyond the
    noisy end an error of the order of the signal that is left there, beyond the clean end one of sigma^2.

    Args:
        denoiser: anything with `schedule` and `forward(x_t, t, y)`; its `t_min` and `t_max`, if it has them, say which
            times it knows.
        x: (N, ...).
        alpha: share of the data, (N,) or (), not negative.
        sigma: deviation of the noise, of the same shape; alpha and sigma are not both 0.
        y: (N,) labels.

    Example:
        >>> from coursekit.diffusion import EDM, ExactDenoiser, Rectified
        >>> from coursekit.gmm import GaussianMixture
        >>> mixture = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
        >>> level = torch.tensor(0.6), torch.tensor(0.8)  # neither axis passes through it
        >>> for axis in (EDM(), Rectified()):
        ...     print(expected_data(ExactDenoiser(mixture, axis), torch.ones(1, 1), *level))
        tensor([[0.6000]])
        tensor([[0.6000]])
    """
    own, log_snr = denoiser.schedule, 2 * (torch.log(alpha) - torch.log(sigma))
    t = own.time(log_snr).clamp(getattr(denoiser, "t_min", 0.0), getattr(denoiser, "t_max", 1.0))
    ratio = torch.hypot(own.alpha(t), own.sigma(t)) / torch.hypot(alpha, sigma)
    return denoiser(expand(ratio, x) * x, t, y)


def expected_noise(x: Tensor, x_0: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """E[eps | x] = (x - alpha E[x_0 | x]) / sigma, and 0 where sigma is 0: clean data say nothing about the noise."""
    alpha, sigma = expand(alpha, x), expand(sigma, x)
    return torch.where(sigma > 0, (x - alpha * x_0) / torch.where(sigma > 0, sigma, 1.0), 0.0)


class OnSchedule(nn.Module):
    """A trained denoiser on another noise axis: the same function, times matched by log-SNR, inputs rescaled.

    Every sampler and every guidance takes it. Its `t_max` is the noisiest level that the new axis has and the network
    was trained on: a network of `LinearVP`, which keeps some signal at t = 1, begins on the straight line at t = 0.993,
    and one of `EDM`, whose sigma ends at 80, at t = 0.988; on EDM both begin at its own t = 1. Outside of what it was
    trained on the network is asked at its nearest level (see `expected_data`).

    Args:
        denoiser: anything with `schedule` and `forward(x_t, t, y)`.
        schedule: the new axis.

    Example:
        >>> from coursekit.diffusion import EDM, ExactDenoiser, LinearVP, Rectified, sample
        >>> from coursekit.gmm import GaussianMixture
        >>> point = GaussianMixture(torch.ones(1), torch.ones(1, 2), 1e-4 * torch.eye(2)[None])
        >>> moved = OnSchedule(ExactDenoiser(point, LinearVP()), Rectified())
        >>> sample(moved, (1, 2), "euler", 3, generator=torch.Generator().manual_seed(0)).round(), round(moved.t_max, 3)
        (tensor([[1., 1.]]), 0.993)
    """

    def __init__(self, denoiser: nn.Module, schedule: Schedule) -> None:
        super().__init__()
        self.denoiser, self.schedule = denoiser, schedule
        self.num_classes = getattr(denoiser, "num_classes", None)
        ends = (getattr(denoiser, "t_min", 0.0), getattr(denoiser, "t_max", 1.0))
        self.t_min, self.t_max = (float(schedule.time(denoiser.schedule.log_snr(t))) for t in ends)

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """E[x_0 | x_t] (N, ...) for x_t (N, ...) at times t (N,) or () of the new axis."""
        return expected_data(self.denoiser, x_t, self.schedule.alpha(t), self.schedule.sigma(t), y)


@dataclass(frozen=True)
class ScoreSDEView:
    """A denoiser as Song et al., 2021, arXiv 2011.13456, write it: dx = f(x, t) dt + g(t) dw on its own schedule.

    Raises:
        ValueError: if noise and data were coupled in training (then E[eps | x_t] is no score), or for a score asked
            of clean data, which a denoiser does not know.

    Example:
        >>> from coursekit.diffusion import ExactDenoiser, LinearVP
        >>> from coursekit.gmm import GaussianMixture
        >>> normal = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
        >>> ScoreSDEView(ExactDenoiser(normal, LinearVP())).score(torch.ones(1, 1), torch.tensor(0.5))
        tensor([[-1.]])
    """

    denoiser: nn.Module

    def __post_init__(self) -> None:
        refuse_coupled(self.denoiser, "a score")

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """f(x, t) = f_t x (N, ...), eq. 5 there; infinite where alpha is 0."""
        return expand(self.denoiser.schedule.drift(t), x) * x

    def diffusion(self, t: Tensor) -> Tensor:
        """g(t), of t's shape; infinite where alpha is 0."""
        return self.denoiser.schedule.diffusion(t)

    def score(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """The gradient of log p_t by x (N, ...): (alpha D - x) / sigma^2."""
        alpha, sigma = self.denoiser.schedule.alpha(t), self.denoiser.schedule.sigma(t)
        if sigma.device.type == "cpu" and bool((sigma == 0).any()):
            raise ValueError("t must have noise, sigma > 0, for a score, got clean data")
        return (expand(alpha, x) * self.denoiser(x, t, y) - x) / expand(sigma, x) ** 2

    def reverse_drift(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """f - g^2 score, the drift of the SDE that runs backwards with the same g (eq. 6 there)."""
        return self.drift(x, t) - expand(self.diffusion(t), x) ** 2 * self.score(x, t, y)

    def flow(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """f - g^2 score / 2, the field of the probability-flow ODE (eq. 13 there)."""
        return self.drift(x, t) - expand(self.diffusion(t), x) ** 2 * self.score(x, t, y) / 2


@dataclass(frozen=True)
class DDPMView:
    """A denoiser as Ho et al., 2020, arXiv 2006.11239, write it: at whole steps k of a discrete chain.

    The chain need not be that of the denoiser's schedule: its levels are matched by log-SNR. Its tables are float32.

    Args:
        denoiser: anything with `schedule` and `forward(x_t, t, y)`.
        chain: the levels k = 0..T.

    Raises:
        ValueError: if noise and data were coupled in training, or for a step outside 0..T.

    Example:
        >>> from coursekit.diffusion import ExactDenoiser, LinearVP, Rectified
        >>> from coursekit.gmm import GaussianMixture
        >>> zero = GaussianMixture(torch.ones(1), torch.zeros(1, 1), 1e-6 * torch.ones(1, 1, 1))
        >>> view = DDPMView(ExactDenoiser(zero, Rectified()), LinearVP().discretised(1000))
        >>> view.eps(view.chain.sigma[500] * torch.ones(1, 1), torch.tensor([500]))  # all of x_k is noise
        tensor([[1.0000]])
    """

    denoiser: nn.Module
    chain: DiscreteChain

    def __post_init__(self) -> None:
        refuse_coupled(self.denoiser, "an ancestral chain")

    def x0(self, x_k: Tensor, k: Tensor, y: Tensor | None = None) -> Tensor:
        """E[x_0 | x_k] (N, ...) for x_k (N, ...) at steps k (N,) or ()."""
        return expected_data(self.denoiser, x_k, *self._level(x_k, k), y)

    def eps(self, x_k: Tensor, k: Tensor, y: Tensor | None = None) -> Tensor:
        """eps_theta(x_k, k), the expected noise (N, ...)."""
        return expected_noise(x_k, self.x0(x_k, k, y), *self._level(x_k, k))

    def mean(self, x_k: Tensor, k: Tensor, y: Tensor | None = None) -> Tensor:
        """mu_theta(x_k, k) (N, ...), the mean of the step back to x_{k-1} (eq. 7 there, with x_0 estimated), k >= 1."""
        return self.chain.posterior(self.x0(x_k, k, y), x_k, k)[0]

    def variance(self, k: Tensor) -> Tensor:
        """The variance of that step, of k's shape: the posterior's (beta-tilde of eq. 7 there)."""
        return self.chain.posterior_variance[k]

    def _level(self, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.chain.level(k)
        return alpha.to(x.dtype), sigma.to(x.dtype)


@dataclass(frozen=True)
class FlowView:
    """A denoiser as Lipman et al., 2022, arXiv 2210.02747, write it: a velocity from noise (tau = 0) to data (tau = 1).

    On the straight line x = tau x_1 + (1 - tau) x_0 their x_1 is the data and their x_0 the noise, so tau = 1 - t.

    Example:
        >>> from coursekit.diffusion import ExactDenoiser, LinearVP
        >>> from coursekit.gmm import GaussianMixture
        >>> point = GaussianMixture(torch.ones(1), 3 * torch.ones(1, 1), 1e-6 * torch.ones(1, 1, 1))
        >>> FlowView(ExactDenoiser(point, LinearVP())).velocity(torch.zeros(1, 1), torch.tensor(0.5))  # from -3 to 3
        tensor([[6.0000]])
    """

    denoiser: nn.Module

    def velocity(self, x: Tensor, tau: Tensor, y: Tensor | None = None) -> Tensor:
        """v(x, tau) = E[data - noise | x] (N, ...) for x (N, ...) at tau (N,) or (); dx/dtau along the flow."""
        data = expected_data(self.denoiser, x, tau, 1 - tau, y)
        return data - expected_noise(x, data, tau, 1 - tau)


@dataclass(frozen=True)
class Preconditioning:
    """The coefficients around a raw network F: D(x; sigma) = c_skip x + c_out F(c_in x; c_noise).

    Karras et al., 2022, arXiv 2206.00364, eq. 7 and table 1. Each takes sigma > 0 of any shape.

    Attributes:
        sigma_data: the deviation of the data.
    """

    sigma_data: float = 0.5

    def c_skip(self, sigma: Tensor) -> Tensor:
        """What is kept of x."""
        return self.sigma_data**2 / (sigma**2 + self.sigma_data**2)

    def c_out(self, sigma: Tensor) -> Tensor:
        """The scale of the network's share."""
        return sigma * self.sigma_data / torch.sqrt(sigma**2 + self.sigma_data**2)

    def c_in(self, sigma: Tensor) -> Tensor:
        """The scale of the network's input."""
        return torch.rsqrt(sigma**2 + self.sigma_data**2)

    def c_noise(self, sigma: Tensor) -> Tensor:
        """What the network is told of sigma."""
        return torch.log(sigma) / 4


@dataclass(frozen=True)
class EDMView:
    """A denoiser as Karras et al., 2022, arXiv 2206.00364, write it: D(x; sigma) of x = x_0 + sigma eps.

    Example:
        >>> from coursekit.diffusion import ExactDenoiser, LinearVP
        >>> from coursekit.gmm import GaussianMixture
        >>> normal = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
        >>> EDMView(ExactDenoiser(normal, LinearVP())).denoise(torch.ones(1, 1), torch.tensor(2.0))  # x / (1 + 2^2)
        tensor([[0.2000]])
    """

    denoiser: nn.Module
    preconditioning: Preconditioning = Preconditioning()

    def denoise(self, x: Tensor, sigma: Tensor, y: Tensor | None = None) -> Tensor:
        """D(x; sigma) (N, ...) for x (N, ...) and sigma (N,) or (), any positive numbers."""
        return expected_data(self.denoiser, x, torch.ones_like(sigma), sigma, y)

    def raw(self, x: Tensor, sigma: Tensor, y: Tensor | None = None) -> Tensor:
        """F (N, ...), what the network inside the preconditioning would say of x."""
        c = self.preconditioning
        return (self.denoise(x, sigma, y) - expand(c.c_skip(sigma), x) * x) / expand(c.c_out(sigma), x)

    def ode(self, x: Tensor, sigma: Tensor, y: Tensor | None = None) -> Tensor:
        """dx / dsigma = (x - D) / sigma, the field of the probability-flow ODE (eq. 3 and algorithm 1 there)."""
        return (x - self.denoise(x, sigma, y)) / expand(sigma, x)
