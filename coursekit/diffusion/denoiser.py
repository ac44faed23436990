r"""The denoiser: a network that is asked one question, E[x_0 | x_t], in whichever words suit its training.

A network's output F is trained towards a combination of data and noise, F = p_t x_0 + q_t eps. Together
with x_t = alpha_t x_0 + sigma_t eps that is two equations for two unknowns, so each *prediction* is one
function (schedule, t) -> (p, q), and everything else follows:

    x_0 = (q x_t - sigma F) / d,   eps = (alpha F - p x_t) / d,   d = alpha q - sigma p.

    x0        p = 1,          q = 0
    eps       p = 0,          q = 1                     (Ho et al., 2020, arXiv 2006.11239)
    v         p = -sigma,     q = alpha                 (Salimans and Ho, 2022, arXiv 2202.00512, section 4)
    score     p = 0,          q = -1 / sigma            (grad log p_t = -E[eps | x_t] / sigma)
    velocity  p = alpha',     q = sigma'                (dx_t/dt at fixed x_0 and eps; arXiv 2210.02747)
    edm       p = sigma / (s r), q = -alpha s / r, r = sqrt(alpha^2 s^2 + sigma^2), s = sigma_data
              (Karras et al., 2022, arXiv 2206.00364, eq. 7 and table 1, for any alpha)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from coursekit.diffusion.chain import expand
from coursekit.diffusion.likelihood.decoders import Decoder, Levels
from coursekit.diffusion.likelihood.variational import continuous_bound
from coursekit.diffusion.losses import WEIGHTINGS, ImportanceSampled, Stratified, Times, Weighting, edm
from coursekit.diffusion.schedules import Schedule
from coursekit.diffusion.transport import Coupling, refuse_coupled
from coursekit.flows.dequantise import check_levels
from coursekit.gmm import GaussianMixture

__all__ = ["PREDICTIONS", "Denoiser", "ExactDenoiser", "Prediction"]

Prediction = Callable[[Schedule, Tensor, float], tuple[Tensor, Tensor]]
"""(schedule, t (N,), sigma_data) -> (p (N,), q (N,)): the network's target is p x_0 + q eps."""


def _x0(schedule: Schedule, t: Tensor, sigma_data: float) -> tuple[Tensor, Tensor]:
    return torch.ones_like(t), torch.zeros_like(t)


def _eps(schedule: Schedule, t: Tensor, sigma_data: float) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(t), torch.ones_like(t)


def _v(schedule: Schedule, t: Tensor, sigma_data: float) -> tuple[Tensor, Tensor]:
    return -schedule.sigma(t), schedule.alpha(t)


def _score(schedule: Schedule, t: Tensor, sigma_data: float) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(t), -1 / schedule.sigma(t)


def _velocity(schedule: Schedule, t: Tensor, sigma_data: float) -> tuple[Tensor, Tensor]:
    return schedule.d_alpha(t), schedule.d_sigma(t)


def _edm(schedule: Schedule, t: Tensor, sigma_data: float) -> tuple[Tensor, Tensor]:
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    r = torch.sqrt((alpha * sigma_data) ** 2 + sigma**2)
    return sigma / (sigma_data * r), -alpha * sigma_data / r


PREDICTIONS: dict[str, Prediction] = {
    "x0": _x0,
    "eps": _eps,
    "v": _v,
    "score": _score,
    "velocity": _velocity,
    "edm": _edm,
}


def _choose(name: str, value: object, table: dict) -> object:
    if isinstance(value, str) and value not in table:
        raise ValueError(f"{name} must be one of {', '.join(table)}, got {value!r}")
    return table[value] if isinstance(value, str) else value


class Denoiser(nn.Module):
    """A network on a noise axis: `forward` gives E[x_0 | x_t], `loss` trains it.

    Times, coefficients and the loss stay float32 whatever the network computes in.

    Args:
        network: called as network(c x_t, t) or, with `num_classes`, network(c x_t, t, y), c the scale below.
        schedule: the noise axis.
        prediction: what the network's output means, a name in `PREDICTIONS` or such a function.
        weighting: how the errors count, a name in `WEIGHTINGS` or such a function.
        times: draws the times of a batch; stratified uniform if None.
        num_classes: labels are 0..num_classes - 1, and num_classes itself says "no label"; None without labels.
        label_dropout: the share of labels hidden in training, so that one network learns both laws
            (Ho and Salimans, "Classifier-Free Diffusion Guidance", 2022, arXiv 2207.12598).
        sigma_data: the data's standard deviation; inputs are scaled by 1 / sqrt(alpha^2 sigma_data^2 + sigma^2)
            to unit variance, which for sigma_data = 1 leaves a variance-preserving x_t as it is.
        t_min, t_max: the times the network meets; t_min > 0 keeps 1 / sigma finite.
        coupling: which noise goes with which x_0 in a batch, such as `MinibatchTransport()`; as drawn if None. With
            one the model has a velocity but no score: see `coursekit.diffusion.transport`.

    Raises:
        ValueError: for an unknown name, an impossible range, or a prediction of eps or of the score where the
            schedule leaves no signal at t_max: there x_0 = (x_t - sigma eps) / alpha divides by zero; for a velocity
            that is infinite there, as on `SigmoidAlphaBar` at t = 1; for a score under a coupling.

    Example:
        >>> from coursekit.diffusion.schedules import Rectified
        >>> denoiser = Denoiser(lambda x, t: torch.zeros_like(x), Rectified(), prediction="velocity")
        >>> denoiser(torch.ones(2, 3), torch.tensor([0.25, 0.5])).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        schedule: Schedule,
        prediction: str | Prediction = "v",
        weighting: str | Weighting = "simple",
        times: Times | None = None,
        num_classes: int | None = None,
        label_dropout: float = 0.1,
        sigma_data: float = 1.0,
        t_min: float = 1e-5,
        t_max: float = 1.0,
        coupling: Coupling | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= t_min < t_max <= 1:
            raise ValueError(f"0 <= t_min < t_max <= 1 is wanted, got t_min = {t_min}, t_max = {t_max}")
        if not 0 <= label_dropout <= 1:
            raise ValueError(f"label_dropout must lie in [0, 1], got {label_dropout}")
        if not sigma_data > 0:
            raise ValueError(f"sigma_data must be positive, got {sigma_data}")
        self.network, self.schedule = network, schedule
        self.prediction: Prediction = _choose("prediction", prediction, PREDICTIONS)
        weighting = edm(sigma_data) if weighting == "edm" else weighting
        self.weighting: Weighting = _choose("weighting", weighting, WEIGHTINGS)
        self.times: Times = Stratified() if times is None else times
        self.num_classes, self.label_dropout = num_classes, label_dropout
        self.sigma_data, self.t_min, self.t_max, self.coupling = sigma_data, t_min, t_max, coupling
        if self.prediction in (_eps, _score) and float(schedule.alpha(t_max)) < 1e-6:
            raise ValueError(
                f"prediction {prediction!r} says nothing about x_0 at t_max = {t_max}, where {schedule} "
                "leaves no signal: predict 'v' or 'x0', or take t_max below 1"
            )
        if not all(bool(c.isfinite()) for c in self.prediction(schedule, torch.tensor([float(t_max)]), sigma_data)):
            raise ValueError(
                f"prediction {prediction!r} has no finite target at t_max = {t_max} on {schedule}: predict 'v' or "
                "'x0', or take t_max below 1"
            )
        if self.prediction is _score:
            refuse_coupled(self, "a score")

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """E[x_0 | x_t] (N, ...) for x_t (N, ...), times t (N,) or (), and labels y (N,)."""
        return self.estimates(x_t, t, y)[0]

    def estimates(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """E[x_0 | x_t] and E[eps | x_t], each (N, ...), from one call of the network.

        Neither is computed from the other, so both keep their digits where sigma or alpha is small.
        """
        t = torch.as_tensor(t, dtype=torch.float32, device=x_t.device) if not isinstance(t, Tensor) else t
        t = t.expand(len(x_t)) if t.ndim == 0 else t
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        p, q = self.prediction(self.schedule, t, self.sigma_data)
        F = self._network(x_t, t, alpha, sigma, y)
        alpha, sigma, p, q = (expand(c, x_t) for c in (alpha, sigma, p, q))
        d = alpha * q - sigma * p
        return (q * x_t - sigma * F) / d, (alpha * F - p * x_t) / d

    def eps(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """E[eps | x_t], the expected noise."""
        return self.estimates(x_t, t, y)[1]

    def score(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """The gradient of log p_t by x_t: -E[eps | x_t] / sigma_t.

        Raises:
            ValueError: if the noise was coupled with the data in training; then this is no score.
        """
        refuse_coupled(self, "a score")
        return -self.eps(x_t, t, y) / expand(self.schedule.sigma(t), x_t)

    def velocity(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """E[dx_t/dt | x_t] = alpha' E[x_0 | x_t] + sigma' E[eps | x_t], the field of the probability-flow ODE."""
        x_0, eps = self.estimates(x_t, t, y)
        return expand(self.schedule.d_alpha(t), x_t) * x_0 + expand(self.schedule.d_sigma(t), x_t) * eps

    def loss(self, x_0: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """The weighted mean squared error, one time and one noise per sample; a scalar.

        Args:
            x_0: (N, ...) data.
            y: (N,) labels, if the network takes them.
            generator: the source of times, noise and hidden labels, on x_0's device.
        """
        u, time_weight = self.times(len(x_0), generator, x_0.device)
        t = self.t_min + (self.t_max - self.t_min) * u
        noise = torch.empty_like(x_0, dtype=torch.float32).normal_(generator=generator)
        noise = noise if self.coupling is None else self.coupling(x_0, noise, y)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        p, q = self.prediction(self.schedule, t, self.sigma_data)
        x_t = expand(alpha, x_0) * x_0 + expand(sigma, x_0) * noise
        target = expand(p, x_0) * x_0 + expand(q, x_0) * noise
        error = (self._network(x_t, t, alpha, sigma, self._hide(y, generator)).float() - target).square()
        error = error.flatten(1).mean(1)
        log_scale = 2 * torch.log(sigma / (alpha * q - sigma * p).abs())
        weight = torch.exp(self.weighting(self.schedule.log_snr(t), log_scale) + log_scale)
        if isinstance(self.times, ImportanceSampled) and self.training:
            self.times.update(u, (weight * error).detach())
        return (time_weight * weight * error).mean()

    def log_prob_bound(
        self,
        x: Tensor,
        y: Tensor | None = None,
        generator: torch.Generator | None = None,
        decoder: Decoder | None = None,
        t_min: float | None = None,
        times: int = 32,
    ) -> Tensor:
        """A bound from below on log P(x | y) of pictures with the 256 levels in [-1, 1], (N,) in nats.

        `likelihood.continuous_bound` with one draw of noise, which also serves data that are no pictures.

        Args:
            x: (N, ...).
            y: labels (N,), if the network takes them; None means its law without labels.
            generator: of times and noise, on x's device.
            decoder: of the last step; `Levels()` if None.
            t_min: where the decoder begins; the denoiser's own if None.
            times: looked at for each picture.

        Raises:
            ValueError: if a pixel is not one of the levels.
        """
        decoder = Levels().to(x) if decoder is None else decoder
        settings = {"decoder": decoder, "t_min": t_min, "times": times, "generator": generator}
        return continuous_bound(self, check_levels(x, "x") / 127.5 - 1, y, **settings).log_prob

    def _network(self, x_t: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor, y: Tensor | None) -> Tensor:
        x = x_t * expand(torch.rsqrt((alpha * self.sigma_data) ** 2 + sigma**2), x_t)
        if self.num_classes is None:
            return self.network(x, t)
        return self.network(x, t, torch.full((len(x),), self.num_classes, device=x.device) if y is None else y)

    def _hide(self, y: Tensor | None, generator: torch.Generator | None) -> Tensor | None:
        if y is None or self.num_classes is None or self.label_dropout == 0:
            return y
        hidden = torch.rand(y.shape, generator=generator, device=y.device) < self.label_dropout
        return torch.where(hidden, self.num_classes, y)


class ExactDenoiser(nn.Module):
    """The best denoiser there is, for data of a known law: E[x_0 | x_t] in closed form.

    The law is a Gaussian mixture or, for pictures, `Levels`: anything with `denoise(x_t, alpha, sigma)`. It stands
    wherever a trained `Denoiser` can: the truth that samplers, losses and likelihoods are compared with.

    Example:
        >>> from coursekit.diffusion.schedules import LinearVP
        >>> mixture = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
        >>> ExactDenoiser(mixture, LinearVP())(torch.ones(1, 2), torch.tensor([1.0])).shape
        torch.Size([1, 2])
    """

    t_max = 1.0

    def __init__(self, mixture: GaussianMixture | Levels, schedule: Schedule) -> None:
        super().__init__()
        self.mixture, self.schedule = mixture, schedule

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """E[x_0 | x_t] (N, ...) for x_t (N, ...) and times t (N,) or (); labels are ignored."""
        return self.mixture.denoise(x_t, self.schedule.alpha(t), self.schedule.sigma(t))
