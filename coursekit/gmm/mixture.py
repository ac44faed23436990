r"""Gaussian mixtures, exactly: the truth that every other model of the course can be compared with.

    p(x) = sum_k w_k N(x; m_k, C_k),    x in R^D,  k = 1..K.

A mixture under noise, x_t = alpha x_0 + sigma eps, is a mixture again, with means alpha m_k and covariances
alpha^2 C_k + sigma^2 I, so its density, its score and its best denoiser

    E[x_0 | x_t] = sum_k r_k(x_t) (m_k + alpha C_k (alpha^2 C_k + sigma^2 I)^{-1} (x_t - alpha m_k)),

r_k(x_t) the responsibilities, are known in closed form (Bishop, "Pattern Recognition and Machine Learning", 2006,
eq. 2.113-2.117 and 9.13); so are its marginals and, given some dimensions, the law of the others (eq. 2.81-2.98).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from coursekit.gmm.covariances import Covariance, Residuals
from coursekit.gmm.em import EMHistory, Settings, chunks
from coursekit.gmm.fitting import StartCovariance, fit
from coursekit.gmm.matrices import Full
from coursekit.gmm.moments import Prior
from coursekit.gmm.starts import KMeansPlusPlus, Start

__all__ = ["GaussianMixture"]


class GaussianMixture(nn.Module):
    """A mixture of K Gaussians in D dimensions; log-densities are in nats.

    Args:
        weights: (K,) positive; they are divided by their sum.
        means: (K, D).
        covariances: (K, D, D), symmetric and positive definite, or a structure: `Full`, `Tied`, `Diagonal`,
            `Spherical` or `LowRank`.

    Raises:
        ValueError: if shapes disagree, a weight is not positive or a covariance is not positive definite.

    Example:
        >>> mixture = GaussianMixture(torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.ones(2, 1, 1))
        >>> round(mixture.log_prob(torch.zeros(1, 1)).item(), 4)  # log N(1; 0, 1)
        -1.4189
    """

    log_weights: Tensor
    means: Tensor

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor | Covariance) -> None:
        super().__init__()
        _check(weights, means)
        structure = Full(covariances) if isinstance(covariances, Tensor) else covariances
        structure.check(*means.shape)
        structure.decompose()
        self.register_buffer("log_weights", torch.log(weights / weights.sum()))
        self.register_buffer("means", means)
        self.structure = structure

    @classmethod
    def fit(
        cls,
        x: Any,
        K: int,
        covariance: type[Covariance] | StartCovariance = Full,
        *,
        start: Start | GaussianMixture | None = None,
        restarts: int = 1,
        steps: int = 100,
        tol: float = 1e-3,
        floor: float | None = None,
        prior: Prior | None = None,
        chunk: int | None = None,
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Self, EMHistory]:
        """The mixture of K components that EM finds: the most likely one or, with a prior, the most probable one.

        Args:
            x: points (N, D), float32 or float64; the mixture lives on their device, in their dtype. With `batch_size`
                also an array of any length on disk (`numpy.memmap`), or instead any iterable of batches (n, D).
            K: components.
            covariance: `Full`, `Tied`, `Diagonal`, `Spherical` or `LowRank.of_rank(R)`, a mixture of factor analysers.
            start: `KMeansPlusPlus()`, `RandomPoints()`, another function of that kind, or a mixture, whose structure
                is then kept. `KMeansPlusPlus()` if None.
            restarts: runs of EM from different starts; the best one counts.
            steps: M-steps at most; passes over the data if it comes in batches.
            tol: stop when the log-likelihood (with a prior: plus its log-density) changes by less, in nats a point.
            floor: a variance added to every diagonal. None is 1e-6, as in scikit-learn, but then data without
                variance in some direction are refused and collapsed components give a warning.
            prior: makes the estimate MAP.
            chunk: points at a time; by default what fits the processor's cache.
            batch_size: stepwise EM on batches of so many points, for data larger than memory.
            generator: source of starts and batches.

        Returns:
            The mixture, and what happened on the way.

        Raises:
            ValueError: for too few or singular points, a wrong shape, NaN, or a setting outside its range.
            TypeError: for points that are not float32 or float64.

        Example:
            >>> x = torch.tensor([[0.0], [0.2], [5.0], [5.2]])
            >>> mixture, history = GaussianMixture.fit(x, 2, generator=torch.Generator().manual_seed(0))
            >>> mixture.means.sort(dim=0).values
            tensor([[0.1000],
                    [5.1000]])
        """
        first = covariance.start if isinstance(covariance, type) else covariance
        settings = Settings(steps, tol, floor, prior, chunk)
        found, history = fit(x, K, first, start or KMeansPlusPlus(), settings, restarts, batch_size, generator)
        return cls(found.log_weights.exp(), found.means, found.covariance), history

    @property
    def weights(self) -> Tensor:
        """The mixing proportions (K,), summing to one."""
        return self.log_weights.exp()

    @property
    def covariances(self) -> Tensor:
        """The matrices C_k, (K, D, D), whatever their structure."""
        return self.structure.dense(*self.means.shape)

    @property
    def num_parameters(self) -> int:
        """How many numbers are free: weights, means and covariances."""
        K, D = self.means.shape
        return K - 1 + K * D + self.structure.count_parameters(K, D)

    def component_log_prob(self, x: Tensor) -> Tensor:
        """log w_k + log N(x_n; m_k, C_k), (N, K)."""
        self._check_points(x)
        parts = [self.structure.residuals(part, self.means)[0] for part in chunks(x, len(self.means))]
        return self.log_weights + self.structure.log_normal(torch.cat(parts, dim=1), x.shape[1]).T

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), (N,) in nats, for x (N, D)."""
        return torch.logsumexp(self.component_log_prob(x), dim=1)

    def loss(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Minus the mean log-likelihood, in nats, a scalar."""
        return -self.log_prob(x).mean()

    def bic(self, x: Tensor) -> float:
        """Bayesian information criterion, in nats: parameters log N - 2 log-likelihood; lower is better."""
        return self.num_parameters * math.log(len(x)) - 2 * float(self.log_prob(x).double().sum())

    def aic(self, x: Tensor) -> float:
        """Akaike information criterion, in nats: 2 parameters - 2 log-likelihood; lower is better."""
        return 2 * self.num_parameters - 2 * float(self.log_prob(x).double().sum())

    def responsibilities(self, x: Tensor) -> Tensor:
        """p(k | x), (N, K), rows summing to one."""
        return torch.softmax(self.component_log_prob(x), dim=1)

    def score(self, x: Tensor) -> Tensor:
        """The gradient of log p by x, (N, D)."""
        return self.diffused_score(x, 1.0, 0.0)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n independent points, (n, D)."""
        return self.sample_labelled(n, generator)[0]

    def sample_labelled(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """n points (n, D) and the components (n,) that they came from."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        return self.means[k] + self.structure.sample(k, self.means.shape[1], generator), k

    def marginal(self, dims: Sequence[int] | Tensor) -> GaussianMixture:
        """The law of some dimensions, in the order given (or where a mask (D,) is true): a mixture again.

        Raises:
            ValueError: for dimensions that do not exist, are repeated, or none.
        """
        dims = self._dims(dims)
        return GaussianMixture(self.weights, self.means[:, dims], self.structure.marginal(dims))

    def conditional(self, dims: Sequence[int] | Tensor, values: Tensor) -> GaussianMixture:
        """The law of the other dimensions, in their order, once `dims` have the given values (d,): a mixture again.

        With seen part a and hidden part b of component k, b has the mean m_b + C_ba C_aa^-1 (a - m_a), the covariance
        C_bb - C_ba C_aa^-1 C_ab and a weight proportional to w_k N(a; m_a, C_aa).

        Raises:
            ValueError: for impossible dimensions or as many values as do not fit.
        """
        seen, hidden = self._seen_and_hidden(dims)
        if values.shape != seen.shape:
            raise ValueError(f"values must have shape {tuple(seen.shape)}, got {tuple(values.shape)}")
        weights, means = self._given(values[None], seen, hidden)
        tiny = torch.finfo(weights.dtype).tiny  # a component that is ruled out keeps a weight that has a logarithm
        return GaussianMixture(weights[0].clamp(min=tiny), means[:, :, 0], self.structure.conditional(seen, hidden))

    def conditional_mean(self, x: Tensor, observed: Sequence[int] | Tensor) -> Tensor:
        """x (N, D) with the dimensions that are not observed replaced by their mean given the others, (N, D)."""
        seen, hidden = self._seen_and_hidden(observed, "observed")
        self._check_points(x)
        r, means = self._given(x[:, seen], seen, hidden)
        return x.index_copy(1, hidden, torch.einsum("nk,kdn->nd", r, means))

    def fill_in(self, x: Tensor, observed: Sequence[int] | Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x (N, D) with the dimensions that are not observed drawn from their law given the others, (N, D)."""
        seen, hidden = self._seen_and_hidden(observed, "observed")
        self._check_points(x)
        r, means = self._given(x[:, seen], seen, hidden)
        k = torch.multinomial(r, 1, generator=generator)[:, 0]
        noise = self.structure.conditional(seen, hidden).sample(k, len(hidden), generator)
        return x.index_copy(1, hidden, means[k, :, torch.arange(len(x), device=x.device)] + noise)

    def diffused(self, alpha: float, sigma: float) -> GaussianMixture:
        """The mixture of alpha x + sigma eps, for one noise level.

        Raises:
            ValueError: if alpha and sigma leave no variance.
        """
        alpha, sigma = float(alpha), float(sigma)
        return GaussianMixture(self.weights, alpha * self.means, self.structure.diffused(alpha, sigma))

    def diffused_log_prob(self, x_t: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """log p_t(x_t), (N,) in nats; alpha and sigma are numbers or (N,), one noise level a sample."""
        return torch.logsumexp(self._at_level(x_t, alpha, sigma)[0], dim=1)

    def diffused_score(self, x_t: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """The gradient of log p_t by x_t, (N, D)."""
        log_joint, noisy = self._at_level(x_t, alpha, sigma)
        return -self.structure.precise(torch.softmax(log_joint, dim=1), noisy)

    def diffused_component_log_prob(self, x_t: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """log w_k + log N(x_t; alpha m_k, alpha^2 C_k + sigma^2 I), (N, K)."""
        return self._at_level(x_t, alpha, sigma)[0]

    def denoise(self, x_t: Tensor, alpha: Tensor | float, sigma: Tensor | float, among: Tensor | None = None) -> Tensor:
        """E[x_0 | x_t], (N, D): the best denoiser in mean square, finite for alpha = 0 and for sigma = 0.

        Args:
            x_t: (N, D).
            alpha: a number or (N,), one noise level a sample.
            sigma: as alpha.
            among: (N, K) bool, the components that a sample may come from, at least one; all if None.
        """
        log_joint, noisy = self._at_level(x_t, alpha, sigma)
        r = torch.softmax(log_joint if among is None else log_joint.masked_fill(~among, -math.inf), dim=1)
        return r @ self.means + self.structure.shrunk(r, noisy, _column(alpha, x_t))

    def _at_level(self, x_t: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> tuple[Tensor, Residuals]:
        """log w_k + log N(x_t; alpha m_k, alpha^2 C_k + sigma^2 I), (N, K), and the residuals."""
        self._check_points(x_t)
        log_normal, noisy = self.structure.noisy(x_t, self.means, _column(alpha, x_t), _column(sigma, x_t))
        return self.log_weights + log_normal, noisy

    def _given(self, values: Tensor, seen: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Given values (N, d): the weights of components (N, K) and the means of the hidden part (K, h, N)."""
        difference = values.T - self.means[:, seen, None]  # (K, d, N)
        means = self.means[:, hidden, None] + self.structure.regress(seen, hidden, difference)
        return self.marginal(seen).responsibilities(values), means

    def _seen_and_hidden(self, dims: Sequence[int] | Tensor, name: str = "dims") -> tuple[Tensor, Tensor]:
        seen = self._dims(dims, name)
        hidden = torch.ones(self.means.shape[1], dtype=torch.bool, device=seen.device).index_fill(0, seen, False)
        if not bool(hidden.any()):
            raise ValueError(f"{name} must leave a dimension to predict, got all {len(seen)}")
        return seen, torch.nonzero(hidden)[:, 0]

    def _dims(self, dims: Sequence[int] | Tensor, name: str = "dims") -> Tensor:
        D, found = self.means.shape[1], torch.as_tensor(dims, device=self.means.device)
        if found.dtype == torch.bool and found.shape == (D,):
            found = torch.nonzero(found)[:, 0]
        whole = found.ndim == 1 and len(found) and not found.is_floating_point() and found.dtype != torch.bool
        if not whole or int(found.min()) < 0 or int(found.max()) >= D or len(found.unique()) < len(found):
            raise ValueError(f"{name} must be different numbers in 0..{D - 1} or a mask of shape ({D},), got {dims}")
        return found

    def _check_points(self, x: Tensor) -> None:
        if x.ndim != 2 or x.shape[1] != self.means.shape[1]:
            raise ValueError(f"x must have shape (N, {self.means.shape[1]}), got {tuple(x.shape)}")


def _column(value: Tensor | float, x: Tensor) -> Tensor:
    value = torch.as_tensor(value, dtype=x.dtype, device=x.device).reshape(-1, 1)
    if len(value) not in (1, len(x)):
        raise ValueError(f"one noise level, or one for each of {len(x)} samples, is wanted, got {len(value)}")
    return value


def _check(weights: Tensor, means: Tensor) -> None:
    if means.ndim != 2 or weights.shape != means.shape[:1]:
        shapes = f"{tuple(weights.shape)} and {tuple(means.shape)}"
        raise ValueError(f"weights (K,) and means (K, D) are wanted, got {shapes}")
    if not bool((weights > 0).all() & torch.isfinite(weights).all()):
        raise ValueError(f"weights must be positive and finite, got {weights.tolist()}")
    if not bool(torch.isfinite(means).all()):
        raise ValueError("means must be finite, got NaN or infinity")
