r"""Stepwise EM: data that come in batches, because memory does not hold them.

The moments of each batch are blended into a running average, s <- (1 - eta_t) s + eta_t s_batch with
eta_t = (t + 2)^(-0.7), and an M-step follows each batch (Cappe and Moulines, "Online EM Algorithm for Latent Data
Models", 2009, arXiv 0712.4273, eq. 13; Liang and Klein, "Online EM for Unsupervised Models", 2009).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from coursekit.gmm.em import EMHistory, Parameters, Settings, e_step, m_step

__all__ = ["Shuffled", "run_stepwise"]


@dataclass(frozen=True)
class Shuffled:
    """An array of points in random batches, a new order in each pass; only a batch at a time is read.

    Attributes:
        x: (N, D), a tensor or anything that indexes like a NumPy array, such as a memory map.
        batch_size: points in a batch; a last smaller one is left for another pass.
        generator: source of the order.
    """

    x: Any
    batch_size: int
    generator: torch.Generator | None = None

    def __iter__(self) -> Iterator[Tensor]:
        device = None if self.generator is None else self.generator.device
        order = torch.randperm(len(self.x), generator=self.generator, device=device).cpu()
        for rows in order.split(self.batch_size):
            if len(rows) == min(self.batch_size, len(self.x)):
                rows = rows.sort().values  # a memory map is read forwards
                if isinstance(self.x, Tensor):
                    yield self.x[rows.to(self.x.device)]
                else:
                    yield torch.as_tensor(self.x[rows.numpy()])


def run_stepwise(now: Parameters, batches: Iterable[Tensor], settings: Settings) -> tuple[Parameters, EMHistory]:
    """Passes over the batches from `now` on; a pass's log-likelihood is that of each batch before its M-step."""
    history, running, step, N = EMHistory(), None, 0, 0
    for _ in range(settings.steps):
        total, seen = 0.0, 0
        for batch in batches:
            totals, moments = e_step(now, batch, settings.chunk)
            moments = moments.scaled(1 / len(batch))
            running = moments if running is None else running.blend(moments, (step + 2) ** -0.7)
            total, seen, step = total + totals.sum(), seen + len(batch), step + 1
            N = max(N, seen)
            now, shift = m_step(now, running.scaled(N), settings)
            running = now.covariance.moved(running, shift)
        history.note(float(total) / seen, float(now.log_prior(settings.belief)) / N, settings.tol)
        if history.converged:
            break
    return now, history
