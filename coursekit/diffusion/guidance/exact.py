r"""Guidance without a network: a Gaussian mixture whose components carry labels, where everything is known.

    p_t(x, y) = sum over the components k of class y of w_k N(x; alpha m_k, alpha^2 C_k + sigma^2 I)

gives the conditional denoiser E[x_0 | x_t, y], the classifier P(y | x_t) of noisy points, and the density towards
which guidance of scale w leans at each noise level,

    p_t(x | y)^w p_t(x)^(1 - w)  ~  p_t(x | y) P(y | x_t)^(w - 1).

What a sampler draws by following these scores is not that density at t = 0, because diffusing p_0(x | y)^w
p_0(x)^(1 - w) does not give p_t(x | y)^w p_t(x)^(1 - w). Where both laws are Gaussians on the line both answers are
formulas, `guided_gaussian` and `tilted_gaussian`. (Bradley and Nakkiran, "Classifier-Free Guidance is a
Predictor-Corrector", 2024, arXiv 2408.09000, section 3, on the difference.)
"""

from __future__ import annotations

import math

import torch
from scipy.special import hyp2f1
from torch import Tensor, nn

from coursekit.diffusion.schedules import Schedule
from coursekit.gmm import GaussianMixture
from coursekit.labels import check_labels

__all__ = ["ExactClassifier", "ExactConditional", "LabelledMixture", "guided_gaussian", "tilted_gaussian"]


class LabelledMixture(nn.Module):
    """A mixture each of whose components belongs to a class.

    Args:
        mixture: of K components.
        labels: (K,) whole numbers 0..C - 1, each of them at least once.

    Attributes:
        num_classes: C.

    Raises:
        ValueError: if there is not one label for each component, or a class has none.

    Example:
        >>> mixture = GaussianMixture(torch.ones(3), torch.tensor([[-1.0], [0.0], [1.0]]), torch.ones(3, 1, 1))
        >>> labelled = LabelledMixture(mixture, torch.tensor([0, 1, 0]))
        >>> labelled.log_joint(torch.zeros(1, 1)).exp().sum().isclose(mixture.log_prob(torch.zeros(1, 1)).exp()).item()
        True
    """

    members: Tensor  # (C + 1, K) bool; the last row, "no label", has all components

    def __init__(self, mixture: GaussianMixture, labels: Tensor) -> None:
        super().__init__()
        K = len(mixture.means)
        if labels.shape != (K,) or labels.is_floating_point():
            raise ValueError(f"labels must be whole numbers of shape ({K},), got {labels.dtype} {tuple(labels.shape)}")
        classes = labels.unique()
        if not torch.equal(classes, torch.arange(len(classes), device=labels.device)):
            raise ValueError(f"labels must hold each of 0..C - 1, got {classes.tolist()}")
        self.mixture, self.num_classes = mixture, len(classes)
        members = torch.cat([labels == classes[:, None], labels.new_ones(1, K, dtype=torch.bool)])
        self.register_buffer("members", members.to(mixture.means.device))

    def log_joint(self, x_t: Tensor, alpha: Tensor | float = 1.0, sigma: Tensor | float = 0.0) -> Tensor:
        """log p_t(x_t, y) of every class, (N, C) in nats, at noise levels that are numbers or (N,)."""
        parts = self.mixture.diffused_component_log_prob(x_t, alpha, sigma)  # (N, K)
        return parts[:, None].masked_fill(~self.members[:-1], -math.inf).logsumexp(dim=2)

    def tilted_log_prob(
        self, x_t: Tensor, y: Tensor, scale: float, alpha: Tensor | float = 1.0, sigma: Tensor | float = 0.0
    ) -> Tensor:
        """log p_t(x_t | y) + (scale - 1) log P(y | x_t), (N,): exact for scale 1, else up to a constant of y and t.

        Its gradient is the score of guidance. On a regular grid its softmax divided by the cell is the density.

        Raises:
            ValueError: unless y (N,) holds labels.
        """
        check_labels(y, len(x_t), self.num_classes)
        log_joint, y = self.log_joint(x_t, alpha, sigma), y[:, None]
        prior = self.mixture.log_weights.masked_fill(~self.members[:-1], -math.inf).logsumexp(dim=1)
        log_posterior = log_joint.log_softmax(dim=1).gather(1, y)[:, 0]
        return log_joint.gather(1, y)[:, 0] - prior[y[:, 0]] + (scale - 1) * log_posterior

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        """log p(x | y), (N,) in nats."""
        return self.tilted_log_prob(x, y, scale=1.0)

    def sample(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """n points (n, D) and their classes (n,)."""
        x, k = self.mixture.sample_labelled(n, generator)
        return x, self.members[:-1].int().argmax(dim=0)[k]


class ExactConditional(nn.Module):
    """E[x_0 | x_t, y] of a labelled mixture: what a `Denoiser` with labels would learn.

    Labels are those of the mixture; `num_classes`, or no label at all, gives E[x_0 | x_t].

    Example:
        >>> from coursekit.diffusion.schedules import Rectified
        >>> mixture = GaussianMixture(torch.ones(2), torch.tensor([[-1.0], [1.0]]), 0.01 * torch.ones(2, 1, 1))
        >>> denoiser = ExactConditional(LabelledMixture(mixture, torch.tensor([0, 1])), Rectified())
        >>> denoiser(torch.zeros(3, 1), torch.tensor(1.0), torch.tensor([0, 1, 2])).flatten().tolist()
        [-1.0, 1.0, 0.0]
    """

    t_min, t_max = 0.0, 1.0

    def __init__(self, labelled: LabelledMixture, schedule: Schedule) -> None:
        super().__init__()
        self.labelled, self.schedule, self.num_classes = labelled, schedule, labelled.num_classes

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """E[x_0 | x_t, y] (N, D) for x_t (N, D), times t (N,) or () and labels y (N,)."""
        among = None if y is None else self.labelled.members[y]
        return self.labelled.mixture.denoise(x_t, self.schedule.alpha(t), self.schedule.sigma(t), among)


class ExactClassifier(nn.Module):
    """log P(y | x_t) of a labelled mixture: what a noise-aware classifier would learn.

    Example:
        >>> from coursekit.diffusion.schedules import Cosine
        >>> mixture = GaussianMixture(torch.ones(2), torch.tensor([[-1.0], [1.0]]), 0.01 * torch.ones(2, 1, 1))
        >>> classifier = ExactClassifier(LabelledMixture(mixture, torch.tensor([0, 1])), Cosine())
        >>> classifier(torch.tensor([[0.0]]), torch.tensor(0.5)).exp().tolist()
        [[0.5, 0.5]]
    """

    def __init__(self, labelled: LabelledMixture, schedule: Schedule) -> None:
        super().__init__()
        self.labelled, self.schedule = labelled, schedule

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """log P(y | x_t), (N, C), for x_t (N, D) and times t (N,) or ()."""
        return self.labelled.log_joint(x_t, self.schedule.alpha(t), self.schedule.sigma(t)).log_softmax(dim=1)


def tilted_gaussian(
    mean: float, deviation: float, scale: float, base_mean: float = 0.0, base_deviation: float = 1.0
) -> tuple[float, float]:
    """Mean and deviation of the density p_1^w p_0^(1 - w), p_1 = N(mean, deviation^2), p_0 the base: precisions add.

    Raises:
        ValueError: if that is no density because its precision is not positive.

    Example:
        >>> tilted_gaussian(1.0, 0.5, scale=2.0)
        (1.1429, 0.3780)
    """
    precision = scale / deviation**2 + (1 - scale) / base_deviation**2
    if not precision > 0:
        raise ValueError(f"scale must leave a positive precision, got {precision:.4g} for scale = {scale}")
    sum_of_means = scale * mean / deviation**2 + (1 - scale) * base_mean / base_deviation**2
    return sum_of_means / precision, precision**-0.5


def guided_gaussian(
    mean: float, deviation: float, scale: float, base_mean: float = 0.0, base_deviation: float = 1.0
) -> tuple[float, float]:
    r"""Mean and deviation of what the probability-flow ODE draws with the guided score w s_1 + (1 - w) s_0.

    For p_1 = N(m, s^2) and p_0 = N(m_0, s_0^2), and with u = sigma^2 / alpha^2, the ODE is linear,

        dx/du = (w (x - m) / (s^2 + u) + (1 - w) (x - m_0) / (s_0^2 + u)) / 2.

    Its homogeneous solution (s^2 + u)^(w/2) (s_0^2 + u)^((1-w)/2) grows as sqrt(u), so noise of deviation sqrt(u)
    arrives with the deviation s^w s_0^(1 - w); variation of constants gives the mean
    m_0 + (m - m_0) w (s / s_0)^(w - 1) F(1/2, (1 - w)/2; 3/2; 1 - s_0^2 / s^2), F Gauss's hypergeometric function.
    The schedule does not matter. For s = s_0 this is the tilted law, otherwise it is not.

    Example:
        >>> guided_gaussian(1.0, 0.5, scale=2.0)  # the tilted density has 1.1429 and 0.3780
        (1.3802, 0.2500)
    """
    ratio = deviation / base_deviation
    pull = scale * ratio ** (scale - 1) * float(hyp2f1(0.5, (1 - scale) / 2, 1.5, 1 - ratio**-2))
    return base_mean + (mean - base_mean) * pull, base_deviation * ratio**scale
