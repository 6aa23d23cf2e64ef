"""What a network is told about the noise level."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffpolicy.networks.errors import NetworkError
from diffpolicy.networks.layers import linear


def sinusoid(position: Tensor, size: int) -> Tensor:
    """Return sines and cosines (..., size) of `position` (...) at size / 2 frequencies from 1 down to 1e-4.

    Vaswani et al. 2017, section 3.5, with all sines before all cosines as in Ho et al. 2020.
    """
    if size < 4 or size % 2:
        raise NetworkError(f"A sinusoidal embedding has an even size of at least 4, not {size}.")
    half = size // 2
    exponent = torch.arange(half, dtype=torch.float32, device=position.device) / (half - 1)
    phase = position.to(torch.float32).unsqueeze(-1) * torch.exp(-math.log(1e4) * exponent)
    return torch.cat([phase.sin(), phase.cos()], dim=-1)


class LevelEmbedding(nn.Module):
    """Sinusoid, linear layer, Mish, linear layer: levels (...) to features (..., size), each level for itself."""

    def __init__(self, size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.size = size
        self.expand = linear(size, 4 * size, generator)
        self.contract = linear(4 * size, size, generator)

    def forward(self, level: Tensor) -> Tensor:
        """Embed `level` (...) int64."""
        embedded: Tensor = self.contract(functional.mish(self.expand(sinusoid(level, self.size))))
        return embedded


def check_level(level: Tensor, noisy: Tensor, per_step_levels: bool) -> None:
    """Raise NetworkError unless there is one noise level per chunk, or with `per_step_levels` one per action."""
    expected = noisy.shape[:2] if per_step_levels else noisy.shape[:1]
    if level.shape != expected:
        kind = "one per time step" if per_step_levels else "one per chunk"
        raise NetworkError(
            f"Noise levels of shape {tuple(level.shape)} do not fit chunks {tuple(noisy.shape)}: this network "
            f"takes {kind}, {tuple(expected)}. It was built with per_step_levels={per_step_levels}."
        )
