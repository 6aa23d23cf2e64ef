"""Linear layers and MLPs with a leading member dimension, trained and run as batched matrix products."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


def stacked_linear(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply linear layers (M, I, O) with biases (M, 1, O) to inputs (M, B, I), each to its own batch."""
    if weight.shape[0] == 1:  # one plain product: much faster than the batched kernel with a batch of one
        return torch.addmm(bias.squeeze(0), inputs.squeeze(0), weight.squeeze(0)).unsqueeze(0)
    return torch.baddbmm(bias, inputs, weight)


class StackedLinear(nn.Module):
    """`members` independent linear layers: input (members, batch, inputs), output (members, batch, outputs).

    Weights are Xavier-uniform (Glorot & Bengio 2010), biases zero, drawn from `generator`.
    """

    def __init__(self, members: int, inputs: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = math.sqrt(6.0 / (inputs + outputs))
        weight = torch.empty(members, inputs, outputs).uniform_(-bound, bound, generator=generator)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply each member's layer to its own batch."""
        return stacked_linear(inputs, self.weight, self.bias)


class StackedLayerNorm(nn.Module):
    """Layer normalisation over the last dimension with a scale and shift per member."""

    def __init__(self, members: int, size: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(members, 1, size))
        self.shift = nn.Parameter(torch.zeros(members, 1, size))

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalise (members, batch, size)."""
        if self.scale.shape[0] == 1:
            return functional.layer_norm(
                inputs, inputs.shape[-1:], self.scale.squeeze(), self.shift.squeeze()
            )
        return functional.layer_norm(inputs, inputs.shape[-1:]) * self.scale + self.shift


class StackedMLP(nn.Module):
    """`members` independent multi-layer perceptrons with `activation` after every hidden layer."""

    def __init__(
        self,
        members: int,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        generator: torch.Generator,
        activation: Callable[[Tensor], Tensor] = functional.relu,
    ) -> None:
        super().__init__()
        sizes = [inputs, *hidden, outputs]
        self.layers = nn.ModuleList(
            StackedLinear(members, before, after, generator) for before, after in pairwise(sizes)
        )
        self.activation = activation

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (members, batch, inputs) to (members, batch, outputs)."""
        for layer in self.layers[:-1]:
            inputs = self.activation(layer(inputs))
        output: Tensor = self.layers[-1](inputs)
        return output


def select_members(state: Mapping[str, Tensor], members: Sequence[int]) -> dict[str, Tensor]:
    """Return the state dict of a stack that holds only `members` of a stacked network's `state`."""
    return {name: tensor[list(members)] for name, tensor in state.items()}
