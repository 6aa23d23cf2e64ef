"""Layers whose initial weights come from a given generator, and dropout whose masks do."""

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from diffpolicy.networks.convolution import Convolution1d

Layer = TypeVar("Layer", nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d)


def _drawn(layer: Layer, generator: torch.Generator) -> Layer:
    """Give an empty `layer` weights and biases from U(-1/sqrt(inputs), 1/sqrt(inputs)), PyTorch's own default."""
    layer.to_empty(device=generator.device)
    bound = 1.0 / math.sqrt(layer.weight[0].numel())
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return layer


def linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Return a linear layer (..., inputs) -> (..., outputs) drawn from `generator`."""
    return _drawn(nn.Linear(inputs, outputs, device="meta"), generator)


def conv1d(
    inputs: int, outputs: int, kernel: int, generator: torch.Generator, *, stride: int = 1
) -> nn.Conv1d:
    """Return a convolution (B, inputs, L) -> (B, outputs, ceil(L / stride)) drawn from `generator`."""
    kind = Convolution1d if stride == 1 else nn.Conv1d
    return _drawn(kind(inputs, outputs, kernel, stride=stride, padding=kernel // 2, device="meta"), generator)


def conv2d(
    inputs: int, outputs: int, kernel: int, generator: torch.Generator, *, stride: int = 1
) -> nn.Conv2d:
    """Return a convolution of pictures (B, inputs, H, W), sides divided by `stride`, drawn from `generator`."""
    return _drawn(
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, device="meta"), generator
    )


def upsampling(width: int, generator: torch.Generator) -> nn.ConvTranspose1d:
    """Return a transposed convolution (B, width, L) -> (B, width, 2 L) drawn from `generator`."""
    return _drawn(nn.ConvTranspose1d(width, width, 4, stride=2, padding=1, device="meta"), generator)


def dropout(inputs: Tensor, probability: float, generator: torch.Generator | None) -> Tensor:
    """Zero entries with `probability` and scale the others to keep the mean; without a generator do nothing."""
    if generator is None or probability == 0.0:
        return inputs
    return inputs * dropout_mask(inputs, probability, generator)


def dropout_mask(like: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Return 0 with `probability` (to 16 bits), else 1 / (1 - probability); four entries from each 64-bit draw.

    Drawing is what dropout costs on a CPU, where random bits come one after the other.
    """
    words = torch.empty(-(-like.numel() // 4), dtype=torch.int64, device=like.device)
    words.random_(-(2**63), None, generator=generator)
    kept = words.view(torch.int16)[: like.numel()] >= round(probability * 2**16) - 2**15
    return kept.view(like.shape).to(like.dtype).mul_(1.0 / (1.0 - probability))
