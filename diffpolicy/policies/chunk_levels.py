"""Noise levels that training draws: one per chunk, or one per action (streaming diffusion policy)."""

import torch
from torch import Tensor


def draw_levels(batch: int, horizon: int, levels: int, per_step: bool, generator: torch.Generator) -> Tensor:
    """Return levels (batch,) uniform in 0 ... levels-1, or with `per_step` (batch, horizon) of a mixture.

    The mixture has equal parts of levels constant over the chunk, rising linearly from a random level to another,
    random for every action, and rising by blocks of random length with a common phase, as in the buffer that
    streaming executes from (Hoeg et al. 2024, "Streaming Diffusion Policy").
    """
    device = generator.device
    constant = torch.randint(levels, (batch,), device=device, generator=generator)
    if not per_step:
        return constant

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, device=device, generator=generator)

    position = torch.arange(horizon, device=device)
    ends = uniform(batch, 2).sort(dim=1).values * (levels - 1)
    linear = ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * position / max(horizon - 1, 1)
    independent = uniform(batch, horizon) * levels
    block = torch.randint(1, horizon + 1, (batch, 1), device=device, generator=generator)
    blocks = -(-horizon // block)
    phase = uniform(batch, 1) * levels / blocks
    blockwise = levels * (position // block + 1) / blocks - 1 - phase
    kinds = torch.stack([constant.unsqueeze(1).expand(-1, horizon).float(), linear, independent, blockwise])
    which = torch.randint(len(kinds), (batch,), device=device, generator=generator)
    chosen = kinds[which, torch.arange(batch, device=device)]
    return chosen.floor().long().clamp(0, levels - 1)
