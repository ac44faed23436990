"""Machines of moderate size, and all states of a few units, for the tests of this folder."""

import itertools

import torch
from torch import Tensor

from coursekit.boltzmann import RBM, BoltzmannMachine


def machine(kind=RBM, dims=5, hidden=3, seed=0, scale=0.5, **settings):
    """Any machine with weights and biases of moderate size."""
    torch.manual_seed(seed)
    made = kind(dims, **({} if kind is BoltzmannMachine else {"hidden": hidden}), **settings).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, dtype=torch.float64))
    return made


def signs(units: int) -> Tensor:
    return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=units)), dtype=torch.float64)


def close(a, b, tolerance=1e-10):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
