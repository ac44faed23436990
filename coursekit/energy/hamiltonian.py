r"""Hamiltonian Monte Carlo: the point gets a push and then rolls along the energy, so that proposals lie far away.

With a momentum p ~ N(0, I) beside x, the total energy H(x, p) = E(x) + |p|^2 / 2 is kept by dx/dt = p, dp/dt = -grad E.
The leapfrog scheme follows these equations in steps of length eps,

    p <- p - eps/2 grad E(x),    x <- x + eps p,    p <- p - eps/2 grad E(x),

each line a shear, so that volume is kept exactly, and with the sign of p turned the same steps lead back. What H is off
at the end decides, min(1, exp(H(x, p) - H(x', p'))), and the law exp(-E) / Z is exact for every eps. References: Duane
et al., "Hybrid Monte Carlo", 1987; Neal, "MCMC Using Hamiltonian Dynamics", 2011, arXiv 1206.1901.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from coursekit.energy.moves import Chains, accept, check_settings, choose, noise_like, run, squares
from coursekit.energy.scores import Energy, Score, energy_and_score, score_of

__all__ = ["hmc", "leapfrog"]


def leapfrog(score: Score, x: Tensor, p: Tensor, step: float, leaps: int) -> tuple[Tensor, Tensor]:
    """Points and momenta, both (N, ...), after some leaps of length `step` along -E.

    Example:
        >>> x, p = torch.tensor([[1.0]]), torch.tensor([[0.0]])
        >>> x, p = leapfrog(lambda x: -x, x, p, step=0.01, leaps=157)  # a quarter of a turn, nearly
        >>> [round(x.item(), 2), round(p.item(), 2)]
        [0.0, -1.0]
    """
    p = p + step / 2 * score(x)
    for leap in range(leaps):
        x = x + step * p
        p = p + (step if leap < leaps - 1 else step / 2) * score(x)
    return x, p


def hmc(
    energy: Energy,
    x: Tensor,
    step: float,
    steps: int,
    leaps: int = 10,
    *,
    generator: torch.Generator | None = None,
    trajectory: bool = False,
) -> Chains:
    """Hamiltonian Monte Carlo of N chains.

    Args:
        energy: E, a function (N, ...) -> (N,).
        x: where the chains start, (N, ...).
        step: eps; the leapfrog is stable below 2 standard deviations of the narrowest direction.
        steps: proposals.
        leaps: a proposal; one of them makes it the adjusted Langevin dynamics of step eps^2 / 2. A direction with
            deviation s swings with period 2 pi s: where step times leaps is half of that, a chain only changes sides.
        generator: source of momenta and decisions.
        trajectory: keep all states.

    Raises:
        ValueError: for impossible settings, or an energy that is not finite.

    Example:
        >>> chains = hmc(lambda x: 0.5 * x.square().sum(1), torch.zeros(20000, 1), step=0.3, steps=10, leaps=5)
        >>> abs(chains.x.var().item() - 1) < 0.05, bool(chains.acceptance.mean() > 0.95)
        (True, True)
    """
    check_settings(step, steps)
    if leaps < 1:
        raise ValueError(f"leaps must be at least 1, got {leaps}")
    accepted, score = x.new_zeros(len(x)), score_of(energy)

    def walk(x: Tensor) -> Iterator[Tensor]:
        E = energy_and_score(energy, x)[0]
        while True:
            p = noise_like(x, generator)
            new, p_new = leapfrog(score, x, p, step, leaps)
            E_new = energy_and_score(energy, new)[0]
            taken = accept(E - E_new + (squares(p) - squares(p_new)) / 2, generator)
            accepted.add_(taken.to(accepted.dtype))
            x, E = choose(taken, new, x), torch.where(taken, E_new, E)
            yield x

    with torch.no_grad():
        return Chains(run(walk(x), x, steps, trajectory), accepted / max(1, steps))
