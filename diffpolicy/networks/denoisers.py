"""Noise-prediction networks for actions: FISOR's residual network and a small MLP."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffpolicy.networks.layers import dropout_mask
from diffpolicy.networks.stacked import StackedLayerNorm, StackedLinear, StackedMLP, stacked_linear


def _one_hot(step: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    """Return (M, B, steps): a product with it gathers per-step rows, and its gradient is a product too."""
    return (step.unsqueeze(-1) == torch.arange(steps, device=step.device)).to(dtype)


class MLPDenoiser(nn.Module):
    """A plain SiLU MLP on [noisy sample, condition, one-hot step]; `members` of them side by side."""

    def __init__(
        self,
        members: int,
        sample_size: int,
        condition_size: int,
        steps: int,
        hidden: Sequence[int],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.steps = steps
        inputs = sample_size + condition_size + steps
        self.trunk = StackedMLP(members, inputs, hidden, sample_size, generator, functional.silu)

    def forward(
        self, noisy: Tensor, step: Tensor, condition: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Predict the noise (M, B, D) in `noisy` (M, B, D) at `step` (M, B) given `condition` (M, B, C)."""
        features = torch.cat([noisy, condition, _one_hot(step, self.steps, noisy.dtype)], dim=-1)
        output: Tensor = self.trunk(features)
        return output


class ResidualDenoiser(nn.Module):
    """FISOR's noise network (the LN-ResNet of IDQL): Fourier step features, residual LayerNorm blocks, Mish.

    Trunk: Linear -> `width`, `blocks` x {dropout, LayerNorm, Linear 4 width, Mish, Linear width, + skip}, Mish, Linear.
    The step enters through learnable Fourier features (N(0, 0.2^2), 32 frequencies) and an MLP 128-128. Since there are
    only `steps` distinct steps, their embedding is computed once per call and gathered, which is exact and saves a
    tenth of the work.
    """

    FREQUENCIES = 32
    EMBEDDING = 128

    def __init__(
        self,
        members: int,
        sample_size: int,
        condition_size: int,
        steps: int,
        generator: torch.Generator,
        width: int = 256,
        blocks: int = 3,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.steps = steps
        self.dropout = dropout
        kernel = torch.empty(members, 1, self.FREQUENCIES).normal_(0.0, 0.2, generator=generator)
        self.frequencies = nn.Parameter(kernel)
        embedding = [self.EMBEDDING]
        self.embed = StackedMLP(
            members, 2 * self.FREQUENCIES, embedding, self.EMBEDDING, generator, functional.mish
        )
        self.input = StackedLinear(members, sample_size + condition_size + self.EMBEDDING, width, generator)
        self.norms = nn.ModuleList(StackedLayerNorm(members, width) for _ in range(blocks))
        self.expand = nn.ModuleList(
            StackedLinear(members, width, 4 * width, generator) for _ in range(blocks)
        )
        self.contract = nn.ModuleList(
            StackedLinear(members, 4 * width, width, generator) for _ in range(blocks)
        )
        self.output = StackedLinear(members, width, sample_size, generator)

    def _input_weight(self, features: int) -> Tensor:
        """Return the first layer's weight (M, D + C + steps, width) with the step embedding multiplied in."""
        index = torch.arange(self.steps, dtype=self.frequencies.dtype, device=self.frequencies.device)
        phase = 2.0 * math.pi * index.view(1, -1, 1) * self.frequencies
        embedded = self.embed(torch.cat([phase.cos(), phase.sin()], dim=-1))
        weight = self.input.weight
        return torch.cat([weight[:, :features], torch.bmm(embedded, weight[:, features:])], dim=1)

    def forward(
        self, noisy: Tensor, step: Tensor, condition: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Predict the noise (M, B, D) in `noisy` (M, B, D) at `step` (M, B) given `condition` (M, B, C).

        Dropout is on exactly when a `generator` for its masks is passed.
        """
        features = torch.cat([noisy, condition, _one_hot(step, self.steps, noisy.dtype)], dim=-1)
        weight = self._input_weight(noisy.shape[-1] + condition.shape[-1])
        hidden = stacked_linear(features, weight, self.input.bias)
        for norm, expand, contract in zip(self.norms, self.expand, self.contract, strict=True):
            inner = hidden
            if generator is not None and self.dropout > 0.0:
                inner = inner * dropout_mask(inner, self.dropout, generator)
            hidden = hidden + contract(functional.mish(expand(norm(inner))))
        output: Tensor = self.output(functional.mish(hidden))
        return output
