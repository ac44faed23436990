"""RealNVP and spline flows against zuko and normflows: a training step, and sampling, with networks of the same widths.

    python -m benchmarks.flows [--threads 2] [--cpu]

Every library gets the same number of couplings, hidden layers and bins, the same data and batch; everything is measured
in one run, in turns (ours, zuko, normflows, ours, ...), and given as medians and as the ratio of ours to the faster of
the other two: below 1 is faster than both. Wall-clock times differ between machines; ratios differ little. On a machine
that is busy with other work, `--threads 1 --cpu` counts the processor's time instead.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import normflows
import torch
import zuko
from torch import Tensor, nn

from coursekit import flows


@dataclass(frozen=True)
class Setting:
    """What is measured: `layers` couplings of points in D dimensions, batches of `batch`."""

    D: int
    layers: int
    width: int
    batch: int
    bins: int | None = None  # of a spline flow; RealNVP if None

    @property
    def hidden(self) -> list[int]:
        """Widths of the hidden layers: three, since that is what a residual network of normflows with one block has."""
        return [self.width] * 3

    def __str__(self) -> str:
        kind = "RealNVP" if self.bins is None else f"spline flow, {self.bins} bins"
        return f"{kind}, D = {self.D}, {self.layers} layers of width {self.width}, batch {self.batch}"


Pair = tuple[nn.Module, Callable[[Tensor], Tensor], Callable[[int], Tensor]]
"""A model, its log_prob and its sampler."""


def ours(setting: Setting) -> Pair:
    """coursekit."""
    make = flows.real_nvp if setting.bins is None else flows.spline_flow
    more = {} if setting.bins is None else {"bins": setting.bins}
    flow = make(setting.D, layers=setting.layers, hidden=setting.hidden, activation=nn.ReLU, **more)
    return flow, flow.log_prob, flow.sample


def of_zuko(setting: Setting) -> Pair:
    """zuko: its general coupling, affine or with splines."""
    univariate = {}
    if setting.bins is not None:
        K = setting.bins
        univariate = {"univariate": zuko.transforms.MonotonicRQSTransform, "shapes": [(K,), (K,), (K - 1,)]}
    flow = zuko.flows.NICE(
        setting.D, transforms=setting.layers, hidden_features=setting.hidden, activation=nn.ReLU, **univariate
    )
    return flow, lambda x: flow().log_prob(x), lambda n: flow().sample((n,))


def of_normflows(setting: Setting) -> Pair:
    """normflows: affine coupling blocks with permutations, or coupled rational-quadratic splines."""
    D, layers = setting.D, []
    for k in range(setting.layers):
        if setting.bins is None:
            network = normflows.nets.MLP([D // 2, *setting.hidden, D], init_zeros=True)
            layers += [normflows.flows.AffineCouplingBlock(network), normflows.flows.Permute(D, mode="swap")]
        else:
            layers.append(
                normflows.flows.CoupledRationalQuadraticSpline(
                    D, 1, setting.width, num_bins=setting.bins, tail_bound=5.0, reverse_mask=k % 2 == 1
                )
            )
    flow = normflows.NormalizingFlow(normflows.distributions.DiagGaussian(D, trainable=False), layers)
    return flow, flow.log_prob, lambda n: flow.sample(n)[0]


def training_step(pair: Pair, x: Tensor) -> Callable[[], None]:
    """The likelihood of a batch, its gradient, and Adam."""
    model, log_prob, _ = pair
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        (-log_prob(x).mean()).backward()
        optimizer.step()

    return step


def sampling(pair: Pair, n: int) -> Callable[[], None]:
    """n points, without gradients."""

    def draw() -> None:
        with torch.no_grad():
            pair[2](n)

    return draw


def medians(functions: list[Callable[[], None]], rounds: int, clock: Callable[[], float]) -> list[float]:
    """The median time of each function in seconds, called in turns after three calls to warm up."""
    times: list[list[float]] = [[] for _ in functions]
    for i in range(rounds + 3):
        for function, found in zip(functions, times, strict=True):
            start = clock()
            function()
            if i >= 3:
                found.append(clock() - start)
    return [statistics.median(found) for found in times]


SETTINGS = [
    Setting(D=2, layers=8, width=64, batch=256),
    Setting(D=64, layers=8, width=128, batch=512),
    Setting(D=2, layers=4, width=64, batch=256, bins=8),
    Setting(D=64, layers=4, width=128, batch=512, bins=8),
]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--cpu", action="store_true", help="processor time instead of wall-clock time")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu else time.perf_counter
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    unit = "ms of processor time" if arguments.cpu else "ms"
    print(f"{arguments.threads} threads, median of {arguments.rounds}, {unit}")
    for setting in SETTINGS:
        pairs = [make(setting) for make in (ours, of_zuko, of_normflows)]
        x = torch.randn(setting.batch, setting.D)
        print(f"\n{setting}; parameters {', '.join(f'{sum(p.numel() for p in m.parameters()):,}' for m, *_ in pairs)}")
        print(f"{'':16}{'ours':>10}{'zuko':>10}{'normflows':>12}{'ours / faster of the two':>28}")
        jobs = {
            "training step": [training_step(pair, x) for pair in pairs],
            "sampling": [sampling(pair, setting.batch) for pair in pairs],
        }
        for name, functions in jobs.items():
            mine, zukos, normflowss = (1e3 * t for t in medians(functions, arguments.rounds, clock))
            print(f"{name:16}{mine:10.2f}{zukos:10.2f}{normflowss:12.2f}{mine / min(zukos, normflowss):28.2f}")


if __name__ == "__main__":
    main()
