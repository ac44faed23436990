r"""The discrete chain x_0 -> x_1 -> ... -> x_T: the tables of DDPM, for any schedule.

With noise levels (alpha_k, sigma_k), k = 0..T, alpha_0 = 1 and sigma_0 = 0, a step of the chain is

    x_k = (alpha_k / alpha_{k-1}) x_{k-1} + sqrt(beta_k) n,
    beta_k = sigma_k^2 - (alpha_k / alpha_{k-1})^2 sigma_{k-1}^2,

so that x_k = alpha_k x_0 + sigma_k eps. For a variance-preserving schedule alpha_bar_k = alpha_k^2 and
alpha_k / alpha_{k-1} = sqrt(1 - beta_k), as in Ho et al., "Denoising Diffusion Probabilistic Models",
2020, arXiv 2006.11239, eq. 2 and 4. By Bayes' rule the step back, given where the chain began, is

    q(x_{k-1} | x_k, x_0) = N(a_k x_0 + b_k x_k, v_k I),
    a_k = alpha_{k-1} beta_k / sigma_k^2,  b_k = (alpha_k / alpha_{k-1}) sigma_{k-1}^2 / sigma_k^2,
    v_k = beta_k sigma_{k-1}^2 / sigma_k^2      (eq. 6 and 7 there).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["DiscreteChain", "expand"]


def expand(coefficient: Tensor, x: Tensor) -> Tensor:
    """Reshape one coefficient per sample, (N,) or (), so that it multiplies x of shape (N, ...).

    Raises:
        ValueError: if there are neither one nor N coefficients.

    Example:
        >>> expand(torch.ones(5), torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 1, 1, 1])
    """
    if coefficient.ndim == 0:
        return coefficient
    if coefficient.shape != x.shape[:1]:
        raise ValueError(
            f"one coefficient per sample is wanted, shape {tuple(x.shape[:1])}, got {tuple(coefficient.shape)}"
        )
    return coefficient.view(-1, *(1,) * (x.ndim - 1))


class DiscreteChain(nn.Module):
    """The chain's tables as buffers of length T + 1, indexed by k itself: entry 0 is the clean data.

    They are computed in float64 and cast once to float32; they follow the module's device.

    Attributes:
        alpha, sigma: the noise levels, alpha_0 = 1 and sigma_0 = 0.
        alpha_bar: alpha^2.
        beta: the variance added by step k; beta_0 = 0.
        posterior_mean_x0, posterior_mean_xk: a_k and b_k above.
        posterior_variance: v_k above, always a variance (never its logarithm or its root); 0 at k = 1.

    Args:
        alpha: (T + 1,) float64, positive up to k = T - 1 and not negative at T.
        sigma: (T + 1,) float64, rising.

    Raises:
        ValueError: if a level is impossible: a wrong start, or a step that would have to remove noise.

    Example:
        >>> from coursekit.diffusion.schedules import LinearVP
        >>> chain = LinearVP().discretised(1000)
        >>> round(chain.beta[1].item(), 6), round(chain.beta[1000].item(), 6)
        (0.0001, 0.02)
        >>> chain.alpha_bar.shape
        torch.Size([1001])
    """

    alpha: Tensor
    sigma: Tensor
    alpha_bar: Tensor
    beta: Tensor
    posterior_mean_x0: Tensor
    posterior_mean_xk: Tensor
    posterior_variance: Tensor

    def __init__(self, alpha: Tensor, sigma: Tensor) -> None:
        super().__init__()
        _check_levels(alpha, sigma)
        self._levels = (alpha.clone(), sigma.clone())  # float64, for chains derived from this one
        keep = alpha[1:] / alpha[:-1]
        variance, before = sigma[1:] ** 2, sigma[:-1] ** 2
        beta = variance - keep**2 * before
        if float(beta.min()) < 0:
            k = int(beta.argmin()) + 1
            raise ValueError(f"noise must grow along the chain, got beta_{k} = {float(beta[k - 1]):.6g}")
        zero, one = alpha.new_zeros(1), alpha.new_ones(1)
        tables = {
            "alpha": alpha,
            "sigma": sigma,
            "alpha_bar": alpha**2,
            "beta": torch.cat([zero, beta]),
            "posterior_mean_x0": torch.cat([one, alpha[:-1] * beta / variance]),
            "posterior_mean_xk": torch.cat([zero, keep * before / variance]),
            "posterior_variance": torch.cat([zero, beta * before / variance]),
        }
        for name, table in tables.items():
            self.register_buffer(name, table.float(), persistent=False)

    @classmethod
    def from_betas(cls, beta: Tensor | Sequence[float]) -> DiscreteChain:
        """The variance-preserving chain with these beta_1, ..., beta_T, each in (0, 1]; 1 only as the last.

        Raises:
            ValueError: if a beta lies outside its range.
        """
        beta = torch.as_tensor(beta, dtype=torch.float64)
        if beta.ndim != 1 or not len(beta) or not bool(((beta > 0) & (beta <= 1)).all()):
            raise ValueError(f"beta must be a list of numbers in (0, 1], got {beta.tolist()[:5]} ...")
        log_alpha_bar = torch.cat([beta.new_zeros(1), torch.log1p(-beta).cumsum(0)])
        return cls(torch.exp(log_alpha_bar / 2), torch.sqrt(-torch.expm1(log_alpha_bar)))

    @property
    def T(self) -> int:
        """The number of steps."""
        return len(self.beta) - 1

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DiscreteChain:
        """Move with the module, but stay float32: in bfloat16 the first ten steps would add no noise at all."""
        device = fn(self.alpha.new_empty(0)).device
        for name, table in self._buffers.items():
            self._buffers[name] = table.to(device)
        return self

    def extra_repr(self) -> str:
        return f"T={self.T}, alpha_bar_T={self.alpha_bar[-1].item():.3g}"

    def add_noise(self, x_0: Tensor, k: Tensor, noise: Tensor, out: Tensor | None = None) -> Tensor:
        """x_k = alpha_k x_0 + sigma_k noise, in float32 (or x_0's precision if that is finer).

        Args:
            x_0: (N, ...) data.
            noise: of the same shape.
            k: (N,) or () integers in 0..T, on the chain's device.
            out: where to write, of x_0's shape; a new tensor if None.

        Raises:
            ValueError: if a step lies outside 0..T (looked at on the CPU only).
        """
        alpha, sigma = (expand(c, x_0) for c in self._gather(k, self.alpha, self.sigma))
        out = torch.mul(x_0, alpha, out=out)
        return out.addcmul_(noise.to(out.dtype), sigma.to(out.dtype))

    def level(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_k and sigma_k, of the shape of the whole numbers k in 0..T.

        Raises:
            ValueError: if a step lies outside 0..T (looked at on the CPU only).
        """
        alpha, sigma = self._gather(k, self.alpha, self.sigma)
        return alpha, sigma

    def posterior(self, x_0: Tensor, x_k: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (N, ...) and variance (N, 1, ...) of q(x_{k-1} | x_k, x_0), for k = 1..T.

        At k = 1 the mean is x_0 and the variance 0.

        Raises:
            ValueError: if a step lies outside 0..T (looked at on the CPU only).
        """
        tables = self._gather(k, self.posterior_mean_x0, self.posterior_mean_xk, self.posterior_variance)
        a, b, variance = (expand(c, x_k) for c in tables)
        return a * x_0 + b * x_k, variance

    def respaced(self, ks: Sequence[int]) -> DiscreteChain:
        """The shorter chain that visits only the steps `ks` (rising, from 1 to T): the same noise levels, new betas.

        Nichol and Dhariwal, arXiv 2102.09672, eq. 19.

        Raises:
            ValueError: if `ks` is not strictly rising within 1..T.
        """
        ks = [int(k) for k in ks]
        if not ks or ks[0] < 1 or ks[-1] > self.T or any(a >= b for a, b in pairwise(ks)):
            raise ValueError(f"ks must rise strictly within 1..{self.T}, got {ks[:8]}")
        alpha, sigma = self._levels
        return DiscreteChain(alpha[[0, *ks]], sigma[[0, *ks]])

    def with_zero_terminal_snr(self) -> DiscreteChain:
        """The variance-preserving chain whose last step keeps no signal and whose first step is unchanged.

        Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", 2023, arXiv 2305.08891,
        algorithm 1: sqrt(alpha_bar) is shifted and stretched. Noise can no longer be predicted from x_T.

        Raises:
            ValueError: if the chain does not preserve variance, or has a single step.
        """
        alpha, sigma = self._levels
        if self.T < 2 or not torch.allclose(alpha**2 + sigma**2, torch.ones_like(alpha)):
            raise ValueError("with_zero_terminal_snr wants a variance-preserving chain of at least two steps")
        first, last = alpha[1], alpha[-1]
        alpha = torch.cat([alpha[:1], (alpha[1:] - last) * (first / (first - last))])
        kept = torch.cat([sigma[:2] ** 2, 1 - alpha[2:] ** 2])
        return DiscreteChain(alpha, torch.sqrt(kept))

    def _gather(self, k: Tensor, *tables: Tensor) -> list[Tensor]:
        if k.device.type == "cpu" and k.numel() and not (int(k.min()) >= 0 and int(k.max()) <= self.T):
            raise ValueError(f"k must lie in 0..{self.T}, got values from {int(k.min())} to {int(k.max())}")
        return [table[k] for table in tables]


def _check_levels(alpha: Tensor, sigma: Tensor) -> None:
    if alpha.ndim != 1 or alpha.shape != sigma.shape or len(alpha) < 2:
        raise ValueError(
            f"alpha and sigma must be lists of one length >= 2, got {tuple(alpha.shape)}, {tuple(sigma.shape)}"
        )
    if float(alpha[0]) != 1 or float(sigma[0]) != 0:
        raise ValueError(f"the chain must start at clean data, got alpha_0 = {alpha[0]}, sigma_0 = {sigma[0]}")
    if not (bool((alpha[:-1] > 0).all()) and float(alpha[-1]) >= 0 and bool((sigma[1:] > 0).all())):
        raise ValueError("alpha must be positive before the last step and sigma after the first")
