r"""MADE: a perceptron whose masks make each output a factor of the joint density, in any order of the variables.

    p(x | y) = prod_k p(x_o(k) | x_o(1), ..., x_o(k-1), y)

Each hidden unit has a degree, the number of variables in the order o that it may see; masks cut every path from a
variable to a factor that must not see it (`coursekit.networks.autoregressive_masks`). Beside the hidden layers each
variable is connected directly to all later ones, as in a logistic regression on those before. To draw, a unit is
computed once, as soon as the variables that it sees are known: all the drawing is the arithmetic of one pass.

Reference: Germain et al., "MADE: Masked Autoencoder for Distribution Estimation", 2015, arXiv 1502.03509.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coursekit.bayesnet.autoregressive import Autoregressive
from coursekit.networks import MaskedLinear, MaskedMLP, autoregressive_masks
from coursekit.pixels import PixelDistribution

__all__ = ["MADE"]


class MADE(Autoregressive):
    """A masked perceptron as a Bayesian network in which each variable has all earlier ones as parents.

    Args:
        shape: of one x, or the number of variables D.
        hidden: the widths of the hidden layers.
        order: a permutation of 0..D-1: `order[k]` is the variable that comes k-th. As they are if None.
        num_classes: C; None without labels.
        head: the law of one variable; `Bernoulli()`, values -1 and 1, if None.

    Raises:
        ValueError: if the order is no permutation, or a size is not positive.

    Example:
        >>> model = MADE(3, hidden=(8,), order=(2, 0, 1))
        >>> every = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
        >>> model.log_prob(every).exp().sum()
        tensor(1.0000, grad_fn=<SumBackward0>)
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        hidden: Sequence[int] = (256, 256),
        order: Sequence[int] | Tensor | None = None,
        num_classes: int | None = None,
        head: PixelDistribution | None = None,
    ) -> None:
        dims = int(torch.Size([shape] if isinstance(shape, int) else shape).numel())
        order = torch.arange(dims) if order is None else torch.as_tensor(order)
        if len(order) != dims:
            raise ValueError(f"order must be a permutation of 0..{dims - 1}, got {len(order)} numbers")
        super().__init__(shape, order, head, num_classes)
        sizes = {"outputs": self.head.channels, "context": num_classes or 0}
        self.network = MaskedMLP(order, hidden, **sizes)
        self.direct = MaskedLinear(*autoregressive_masks(order, (), **sizes), bias=False)
        nn.init.zeros_(self.direct.weight)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """What the head is given for each variable, (N, channels, H, W) of pictures, else (N, channels, D).

        The output for a variable depends on the label and on the variables before it in the order.
        """
        self._check_given(y)
        inputs = self._inputs(x, y)
        outputs = (self.network(inputs) + self.direct(inputs)).view(len(x), self.dims, -1).mT
        picture = len(self.shape) == 3 and self.shape[0] == 1
        return outputs.reshape(len(x), -1, *self.shape[1:]) if picture else outputs

    def _inputs(self, x: Tensor, y: Tensor | None) -> Tensor:
        """Variables and one-hot labels side by side, (N, D + C)."""
        flat = x.flatten(1)
        return flat if y is None else torch.cat([flat, F.one_hot(y, self.num_classes).to(flat)], dim=1)

    def _complete(self, x: Tensor, observed: Tensor, y: Tensor | None, generator: torch.Generator | None) -> Tensor:
        inputs, observed = self._inputs(x, y).clone(), observed.flatten(1)
        units = _Units(self, inputs)
        for k, i in enumerate(self.order.tolist()):
            drawn = self.head.sample(units.outputs(i, seen=k), generator)[:, 0, 0]
            inputs[:, i] = torch.where(observed[:, i], inputs[:, i], drawn)
        return inputs[:, : self.dims].reshape(x.shape)


class _Units:
    """The units of a masked perceptron, each computed once: when the variables that it may see are known."""

    def __init__(self, model: MADE, inputs: Tensor) -> None:
        linear = [layer for layer in model.network if isinstance(layer, MaskedLinear)]
        self.weights = [layer.weight * layer.mask for layer in linear]
        self.biases = [layer.bias for layer in linear]
        self.direct = model.direct.weight * model.direct.mask
        self.activations, self.channels = list(model.network)[1::2], model.head.channels
        self.layers = [inputs, *(inputs.new_zeros(len(inputs), len(bias)) for bias in self.biases[:-1])]
        self.ends = [_known(reach, model.dims) for reach in _reaches(linear, model)]

    def outputs(self, i: int, seen: int) -> Tensor:
        """What the head is given for variable i, (N, channels, 1), once the first `seen` variables are known."""
        for depth, (ends, activation) in enumerate(zip(self.ends, self.activations, strict=True)):
            new = slice(ends[seen - 1] if seen else 0, ends[seen])
            pre = F.linear(self.layers[depth], self.weights[depth][new], self.biases[depth][new])
            self.layers[depth + 1][:, new] = activation(pre)
        last = slice(i * self.channels, (i + 1) * self.channels)
        hidden = F.linear(self.layers[-1], self.weights[-1][last], self.biases[-1][last])
        return (hidden + F.linear(self.layers[0], self.direct[last]))[..., None]


def _reaches(linear: list[MaskedLinear], model: MADE) -> list[Tensor]:
    """How many variables, in the order, each unit of each hidden layer sees through all layers below it."""
    reaches, reach = [], torch.zeros(linear[0].in_features, dtype=torch.long)
    reach[model.order.cpu()] = torch.arange(1, model.dims + 1)
    for layer in linear[:-1]:
        reach = (layer.mask.cpu() * reach).amax(dim=1)
        reaches.append(reach)
    return reaches


def _known(reach: Tensor, dims: int) -> list[int]:
    """How many of the units, which come in ascending order of reach, are known after 0..D-1 variables."""
    return torch.searchsorted(reach, torch.arange(dims), right=True).tolist()
