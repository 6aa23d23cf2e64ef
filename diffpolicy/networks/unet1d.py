"""The conditional one-dimensional UNet of Diffusion Policy (Chi et al. 2023)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffpolicy.networks.embedding import LevelEmbedding, check_level
from diffpolicy.networks.errors import NetworkError
from diffpolicy.networks.layers import conv1d, linear, upsampling


class _ConvBlock(nn.Module):
    """Convolution over time, group norm, Mish."""

    def __init__(self, inputs: int, width: int, kernel: int, groups: int, generator: torch.Generator) -> None:
        super().__init__()
        self.conv = conv1d(inputs, width, kernel, generator)
        self.norm = nn.GroupNorm(groups, width)

    def forward(self, hidden: Tensor) -> Tensor:
        return functional.mish(self.norm(self.conv(hidden)))


class _ResidualBlock(nn.Module):
    """Two convolution blocks with FiLM between them (scale and shift of every channel), plus a skip."""

    def __init__(
        self, inputs: int, width: int, condition: int, kernel: int, groups: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.first = _ConvBlock(inputs, width, kernel, groups, generator)
        self.film = linear(condition, 2 * width, generator)
        self.second = _ConvBlock(width, width, kernel, groups, generator)
        self.skip = nn.Identity() if inputs == width else conv1d(inputs, width, 1, generator)

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        """Map (B, inputs, L) to (B, width, L) under `condition` (B, L or 1, C), Mish already applied to it."""
        scale, shift = self.film(condition).transpose(1, 2).chunk(2, dim=1)
        output: Tensor = self.second(scale * self.first(hidden) + shift) + self.skip(hidden)
        return output


class _Stage(nn.Module):
    """Two residual blocks, one after the other."""

    def __init__(
        self, inputs: int, width: int, condition: int, kernel: int, groups: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.first = _ResidualBlock(inputs, width, condition, kernel, groups, generator)
        self.second = _ResidualBlock(width, width, condition, kernel, groups, generator)

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        output: Tensor = self.second(self.first(hidden, condition), condition)
        return output


class ConditionalUNet1D(nn.Module):
    """Diffusion Policy's UNet over the time steps of a chunk, under FiLM from observation tokens and noise level.

    Each level has two residual blocks and, but for the last, a stride-2 convolution; two more blocks in the middle; and
    on the way up two blocks on what comes from below beside the same level's features. The published sizes are the
    defaults: 65.79 million parameters for Push-T from keypoints (20 numbers, two steps). With `per_step_levels` every
    action has its own level (streaming diffusion policy): its embedding reaches coarser time steps as a mean.
    """

    def __init__(
        self,
        action_size: int,
        observation_horizon: int,
        token_size: int,
        channels: Sequence[int] = (256, 512, 1024),
        kernel: int = 5,
        groups: int = 8,
        step_embedding: int = 256,
        *,
        generator: torch.Generator,
        per_step_levels: bool = False,
    ) -> None:
        super().__init__()
        if any(width % groups for width in channels):
            raise NetworkError(
                f"Every width of channels={tuple(channels)} must be a multiple of groups={groups}."
            )
        if kernel % 2 == 0:
            raise NetworkError(f"The kernel must be odd to keep a chunk's length, not {kernel}.")
        self.per_step_levels = per_step_levels
        self.coarsening = 2 ** (len(channels) - 1)
        self.embed = LevelEmbedding(step_embedding, generator)
        condition = step_embedding + observation_horizon * token_size

        def stage(inputs: int, width: int) -> _Stage:
            return _Stage(inputs, width, condition, kernel, groups, generator)

        self.down = nn.ModuleList(
            stage(before, after) for before, after in pairwise([action_size, *channels])
        )
        self.coarsen = nn.ModuleList(conv1d(width, width, 3, generator, stride=2) for width in channels[:-1])
        self.middle = stage(channels[-1], channels[-1])
        upwards = list(pairwise(reversed(channels)))
        self.up = nn.ModuleList(stage(2 * before, after) for before, after in upwards)
        self.refine = nn.ModuleList(upsampling(width, generator) for _, width in upwards)
        self.last = _ConvBlock(channels[0], channels[0], kernel, groups, generator)
        self.output = conv1d(channels[0], action_size, 1, generator)

    def _conditions(self, level: Tensor, tokens: Tensor) -> list[Tensor]:
        """Return FiLM's input (B, L or 1, C) for each of the UNet's lengths L, finest first."""
        embedded = self.embed(level.reshape(len(tokens), -1))
        observed = tokens.flatten(1).unsqueeze(1).expand(-1, embedded.shape[1], -1)
        conditions = [torch.cat([embedded, observed], dim=-1)]
        for _ in self.coarsen:
            finer = conditions[-1]
            conditions.append(
                finer.view(len(finer), -1, 2, finer.shape[-1]).mean(dim=2) if self.per_step_levels else finer
            )
        return [functional.mish(condition) for condition in conditions]

    def forward(
        self, noisy: Tensor, level: Tensor, tokens: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Map `noisy` (B, H, A) at `level` (B,), or (B, H), given `tokens` (B, To, C) to raw outputs (B, H, A).

        `generator` would draw dropout masks; this network has no dropout.
        """
        check_level(level, noisy, self.per_step_levels)
        if noisy.shape[1] % self.coarsening:
            raise NetworkError(
                f"A chunk of {noisy.shape[1]} actions does not fit the UNet, which halves its length "
                f"{len(self.coarsen)} times: choose a horizon that is a multiple of {self.coarsening}."
            )
        conditions = self._conditions(level, tokens)
        hidden = noisy.transpose(1, 2)
        skips: list[Tensor] = []
        for depth, stage in enumerate(self.down):
            hidden = stage(hidden, conditions[depth])
            skips.append(hidden)
            if depth < len(self.coarsen):
                hidden = self.coarsen[depth](hidden)
        hidden = self.middle(hidden, conditions[-1])
        for stage, refine in zip(self.up, self.refine, strict=True):
            depth = len(skips) - 1
            hidden = refine(stage(torch.cat([hidden, skips.pop()], dim=1), conditions[depth]))
        output: Tensor = self.output(self.last(hidden)).transpose(1, 2)
        return output
