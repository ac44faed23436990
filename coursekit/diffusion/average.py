"""The running average of a model's weights: what is drawn from, while the weights themselves keep moving."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Average", "unaveraged"]


class Average:
    """An exponential moving average of parameters and floating buffers, kept in float32 (or finer).

    With half-life h a weight of n steps ago counts 2^(-n / h). Early in training h is held at `ramp` times
    the step's number, so that the start is forgotten (Karras et al., 2022, arXiv 2206.00364, released code).
    Buffers of integers are copied, and so are those that a module names in its attribute `unaveraged`: the states of
    chains have no mean. All tensors are updated by one fused call.

    Args:
        model: whose tensors are followed.
        half_life: in optimiser steps.
        ramp: the largest share of the steps so far that the half-life may be; None for no such bound.

    Raises:
        ValueError: if the half-life or the ramp is not positive.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.zeros_(layer.weight)
        >>> average = Average(layer, half_life=2, ramp=None)
        >>> _ = nn.init.ones_(layer.weight)
        >>> for step in range(2):
        ...     average.update(step)
        >>> round(average.state["weight"].item(), 6)  # half the way after one half-life
        0.5
    """

    def __init__(self, model: nn.Module, half_life: float, ramp: float | None = 0.1) -> None:
        if not half_life > 0 or (ramp is not None and not ramp > 0):
            raise ValueError(f"half_life and ramp must be positive, got {half_life} and {ramp}")
        self.half_life, self.ramp, self.copied = half_life, ramp, unaveraged(model)
        self.source = {name: tensor.detach() for name, tensor in _tensors(model).items()}
        self.state = {name: _wide(tensor).clone() for name, tensor in self.source.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the model's tensors after optimiser step `step` (counted from 0)."""
        half_life = self.half_life if self.ramp is None else min(self.half_life, self.ramp * (step + 1))
        floating = [name for name, x in self.source.items() if x.is_floating_point() and name not in self.copied]
        pieces = {name for name in floating if hasattr(self.source[name], "full_tensor")}  # of FSDP: not with others
        for some in ([name for name in floating if name not in pieces], [name for name in floating if name in pieces]):
            if some:
                new = [_wide(self.source[name]) for name in some]
                torch._foreach_lerp_([self.state[name] for name in some], new, 1 - 0.5 ** (1 / half_life))
        for name in self.source.keys() - set(floating):
            self.state[name].copy_(self.source[name])

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Put the average in the place of the weights."""
        for name, tensor in self.source.items():
            tensor.copy_(self.state[name])


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def unaveraged(model: nn.Module) -> set[str]:
    """The names of the buffers that modules list in their attribute `unaveraged`."""
    return {
        f"{path}.{name}".lstrip(".") for path, part in model.named_modules() for name in getattr(part, "unaveraged", ())
    }


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
