"""Time per step around the network, against diffusers: schedule look-up, one sampler step, noising a batch.

    python -m benchmarks.schedulers

Everything is measured in one run on one thread pool, in turns (ours, theirs, ours, ...), and given as medians and as
ratios ours / theirs: below 1 is faster than diffusers. Wall-clock times differ between machines; ratios differ little.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

from coursekit.diffusion import LinearVP
from coursekit.diffusion.grids import Path, time_grid
from coursekit.diffusion.samplers import ddim, ddpm, dpmpp_2m, unipc

STEPS, SHAPE, ANIMALS = 50, (16, 1, 28, 28), (4096, 1, 28, 28)
SAMPLERS = {  # both with their coefficients computed on the way
    "DDPM": (ddpm, lambda: DDPMScheduler(1000, clip_sample=False, prediction_type="sample")),
    "DDIM": (ddim, lambda: DDIMScheduler(1000, clip_sample=False, prediction_type="sample")),
    "DPM-Solver++ 2M": (dpmpp_2m, lambda: DPMSolverMultistepScheduler(1000, prediction_type="sample")),
    "UniPC": (unipc, lambda: UniPCMultistepScheduler(1000, prediction_type="sample")),
}


def medians(functions: dict[str, Callable[[], object]], rounds: int = 30) -> dict[str, float]:
    """The median time of each function in seconds, called in turns after one call to warm up."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for i in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if i:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def look_up() -> tuple[Callable[[], object], Callable[[], object]]:
    """The coefficients of all steps of a sampling run: our `Path`, their `set_timesteps` and table look-ups."""
    schedule, theirs = LinearVP(), DDIMScheduler(1000)

    def of_diffusers() -> None:
        theirs.set_timesteps(STEPS)
        for t in theirs.timesteps:
            before = t - theirs.config.num_train_timesteps // theirs.num_inference_steps
            theirs.alphas_cumprod[t]
            theirs.alphas_cumprod[before] if before >= 0 else theirs.final_alpha_cumprod
            theirs._get_variance(t, before)

    return lambda: Path.along(schedule, time_grid(schedule, STEPS)), of_diffusers


def overhead(name: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """A whole run of STEPS steps whose network costs nothing: what remains is the sampler."""
    (step, scheduler), schedule = SAMPLERS[name], LinearVP()
    theirs, x, estimate = scheduler(), torch.randn(SHAPE), torch.randn(SHAPE)

    def ours() -> None:
        for _ in step(lambda x, t: estimate, x, Path.along(schedule, time_grid(schedule, STEPS))):
            pass

    def of_diffusers() -> None:
        theirs.set_timesteps(STEPS)  # multi-step schedulers hold the state of one run
        state = x
        for t in theirs.timesteps:
            state = theirs.step(estimate, t, state).prev_sample

    return ours, of_diffusers


def main() -> None:
    """Print the table."""
    torch.manual_seed(0)
    rows: list[tuple[str, float, float]] = []

    def measure(name: str, pair: tuple[Callable[[], object], Callable[[], object]], count: int = 1) -> None:
        found = medians({"ours": pair[0], "theirs": pair[1]})
        rows.append((name, found["ours"] / count * 1e6, found["theirs"] / count * 1e6))

    measure("schedule look-up, per step", look_up(), STEPS)
    for name in SAMPLERS:
        measure(f"{name} without the network, per step", overhead(name), STEPS)

    chain, theirs = LinearVP().discretised(1000), DDPMScheduler(1000)
    x, noise, out = torch.randn(ANIMALS), torch.randn(ANIMALS), torch.empty(ANIMALS)
    k = torch.randint(1000, ANIMALS[:1])
    torch.testing.assert_close(chain.add_noise(x, k + 1, noise), theirs.add_noise(x, noise, k), rtol=1e-4, atol=1e-4)
    noising = medians(
        {
            "ours": lambda: chain.add_noise(x, k + 1, noise),
            "ours in place": lambda: chain.add_noise(x, k + 1, noise, out=out),
            "theirs": lambda: theirs.add_noise(x, noise, k),
            "copy": lambda: (out.copy_(x), out.copy_(noise)),  # the bytes that must be read, and as many written
        }
    )
    rows.append(("add_noise, 4,096 animals", noising["ours"] * 1e6, noising["theirs"] * 1e6))
    rows.append(
        ("add_noise, 4,096 animals, into a given tensor", noising["ours in place"] * 1e6, noising["theirs"] * 1e6)
    )
    print(f"{'':48}{'ours, us':>12}{'diffusers, us':>16}{'ours / theirs':>16}")
    for name, ours, others in rows:
        print(f"{name:48}{ours:12.1f}{others:16.1f}{ours / others:16.2f}")
    copy = noising["copy"] * 1e6
    print(f"{'a plain copy of both inputs':48}{copy:12.1f}{'':16}{noising['ours in place'] * 1e6 / copy:15.2f}x")


if __name__ == "__main__":
    main()
