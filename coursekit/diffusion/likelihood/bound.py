r"""What a variational bound consists of, term by term.

    -log p(x) <= KL(q(x_T | x) || p(x_T))  +  sum of the diffusion terms  -  E_q[log p(x | x_1)]
                 prior                        diffusion                      reconstruction

The prior p(x_T) is N(0, sigma^2 I) at the noisiest time, where samplers start: where alpha is not 0 there, it is off by

    KL = alpha^2 |x|^2 / (2 sigma^2).

Everything is in nats, for each sample; `Bound.summary` gives bits per dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from coursekit.estimates import Estimate, mean_interval
from coursekit.pixels import bits_per_dim

__all__ = ["Bound", "prior_term"]


@dataclass(frozen=True)
class Bound:
    """An upper bound on -log p(x) of N samples, estimated from R independent draws of noise each.

    Attributes:
        prior: (N,).
        steps: (R, K, N), diffusion terms; their sum over K estimates the whole diffusion part without bias.
        reconstruction: (R, N).
        log_snr: (R, K, N), the noise level at which each term looked.
        dims: of one sample.
    """

    prior: Tensor
    steps: Tensor
    reconstruction: Tensor
    log_snr: Tensor
    dims: int

    @classmethod
    def of(cls, draws: list[tuple[Tensor, Tensor, Tensor]], prior: Tensor, dims: int) -> Self:
        """From (steps (K, N), log_snr (K, N), reconstruction (N,)) of each draw."""
        steps, log_snr, reconstruction = (torch.stack(each) for each in zip(*draws, strict=True))
        return cls(prior, steps, reconstruction, log_snr, dims)

    @property
    def diffusion(self) -> Tensor:
        """(N,), the mean over draws of the sum of the steps."""
        return self.steps.sum(1).mean(0)

    @property
    def nats(self) -> Tensor:
        """The bound, (N,): at least -log p(x) in the mean over the noise."""
        return self.prior + self.diffusion + self.reconstruction.mean(0)

    @property
    def log_prob(self) -> Tensor:
        """The bound from below on log p(x), (N,) in nats."""
        return -self.nats

    @property
    def error(self) -> Tensor:
        """Standard error of `nats`, (N,), from the spread of the draws.

        Raises:
            ValueError: if there is one draw only.
        """
        if len(self.steps) < 2:
            raise ValueError(f"a standard error wants at least 2 draws, got {len(self.steps)}")
        draws = self.steps.sum(1) + self.reconstruction
        return draws.std(0) / len(draws) ** 0.5

    def profile(self) -> tuple[Tensor, Tensor]:
        """Where the diffusion part is spent: log-SNR and bits per dimension of each of its K terms, (K,) each.

        The terms of a chain begin at the data, those of the integral at the noise.
        """
        return self.log_snr.mean((0, 2)), bits_per_dim(-self.steps.mean((0, 2)), self.dims)

    def summary(self, level: float = 0.95) -> dict[str, Estimate]:
        """Means over the samples in bits per dimension, with intervals for the mean of all data from which they come.

        Returns:
            "prior", "diffusion", "reconstruction" and "total".
        """
        parts = {"prior": self.prior, "diffusion": self.diffusion, "reconstruction": self.reconstruction.mean(0)}
        return {
            name: mean_interval(bits_per_dim(-nats, self.dims), level)
            for name, nats in (parts | {"total": self.nats}).items()
        }


def prior_term(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """KL(N(alpha x, sigma^2 I) || N(0, sigma^2 I)) in nats, (N,), for one noise level."""
    return (0.5 * (alpha / sigma) ** 2) * x.square().flatten(1).sum(1)
