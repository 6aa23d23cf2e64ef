"""A residual MLP over whole action chunks: the network of the `fast` preset."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffpolicy.networks.embedding import LevelEmbedding, check_level
from diffpolicy.networks.layers import linear


class _Block(nn.Module):
    """Layer norm, scale and shift by the noise level, linear to twice the width, SiLU, linear; plus a skip."""

    def __init__(self, inputs: int, width: int, embedding: int, generator: torch.Generator) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(inputs)
        self.film = linear(embedding, 2 * inputs, generator)
        self.expand = linear(inputs, 2 * width, generator)
        self.contract = linear(2 * width, width, generator)
        self.skip = nn.Identity() if inputs == width else linear(inputs, width, generator)

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.film(embedding).chunk(2, dim=-1)
        inner = self.norm(hidden) * (1.0 + scale) + shift
        output: Tensor = self.skip(hidden) + self.contract(functional.silu(self.expand(inner)))
        return output


class ChunkMLP(nn.Module):
    """A residual MLP that sees a chunk, the observation tokens and the noise level as one flat vector.

    One block for each entry of `hidden`, of that width and with twice as many units inside: (256, 256, 256) has about
    0.9 million parameters. The level also scales and shifts the input of every block; where the levels of a sampler
    are constants, that work is folded away when it is compiled. With `per_step_levels` every action has its own level.
    """

    def __init__(
        self,
        horizon: int,
        action_size: int,
        observation_horizon: int,
        token_size: int,
        hidden: Sequence[int],
        *,
        generator: torch.Generator,
        step_embedding: int = 64,
        per_step_levels: bool = False,
    ) -> None:
        super().__init__()
        self.per_step_levels = per_step_levels
        levels = horizon if per_step_levels else 1
        self.embed = LevelEmbedding(step_embedding, generator)
        self.mix = linear(levels * step_embedding, step_embedding, generator)
        inputs = horizon * action_size + observation_horizon * token_size + step_embedding
        self.input = linear(inputs, hidden[0], generator)
        self.blocks = nn.ModuleList(
            _Block(before, after, step_embedding, generator)
            for before, after in pairwise([hidden[0], *hidden])
        )
        self.norm = nn.LayerNorm(hidden[-1])
        self.output = linear(hidden[-1], horizon * action_size, generator)

    def forward(
        self, noisy: Tensor, level: Tensor, tokens: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Map `noisy` (B, H, A) at `level` (B,), or (B, H), given `tokens` (B, To, C) to raw outputs (B, H, A).

        `generator` would draw dropout masks; this network has no dropout.
        """
        check_level(level, noisy, self.per_step_levels)
        embedded = functional.silu(
            self.mix(functional.silu(self.embed(level.reshape(len(noisy), -1)).flatten(1)))
        )
        hidden = self.input(torch.cat([noisy.flatten(1), tokens.flatten(1), embedded], dim=-1))
        for block in self.blocks:
            hidden = block(hidden, embedded)
        output: Tensor = self.output(functional.silu(self.norm(hidden)))
        return output.view_as(noisy)
