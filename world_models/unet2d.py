"""The two-dimensional U-Net of a pixel world model, told everything but pictures by one condition vector."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffpolicy.networks.layers import conv2d, linear
from world_models.errors import WorldModelError

CHANNELS_PER_GROUP = 32
EPSILON = 1e-5
HEAD_SIZE = 8  # channels of an attention head


class UNetSize(NamedTuple):
    """Channels of each level, finest first, residual blocks of each, and the size of the condition vector.

    Squares of `patch` x `patch` pixels are the places of the finest level, their pixels channels of one place.
    """

    channels: tuple[int, ...]
    blocks: int
    condition: int
    patch: int = 1

    @property
    def multiple(self) -> int:
        """What the sides of pictures are multiples of."""
        return int(self.patch * 2 ** (len(self.channels) - 1))


SIZES = {
    # 0.8 million parameters: trains in minutes on a CPU core at 32 or 48 pixels.
    "tiny": UNetSize((32, 64), 1, 64, patch=4),
    # 4.4 million: DIAMOND's for Atari (Alonso et al. 2024).
    "diamond": UNetSize((64, 64, 64, 64), 2, 256),
    # 330 million: the size that World4RL names (Jiang et al. 2025), with the channels of DIAMOND's largest model.
    "world4rl": UNetSize((128, 256, 512, 1024), 2, 2048),
}


class AdaGroupNorm(nn.Module):
    """Group norm, in groups of 32 channels, whose scale and shift are linear in the condition vector."""

    def __init__(self, channels: int, condition: int, generator: torch.Generator) -> None:
        super().__init__()
        self.groups = max(1, channels // CHANNELS_PER_GROUP)
        self.affine = linear(condition, 2 * channels, generator)

    def forward(self, maps: Tensor, condition: Tensor) -> Tensor:
        """Normalise maps (B, C, h, w) under `condition` (B, K)."""
        scale, shift = self.affine(condition)[:, :, None, None].chunk(2, dim=1)
        output: Tensor = F.group_norm(maps, self.groups, eps=EPSILON) * (1.0 + scale) + shift
        return output


class _Attention(nn.Module):
    """Self-attention of every place to every other, with a skip; silent at first."""

    def __init__(self, channels: int, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = max(1, channels // HEAD_SIZE)
        self.norm = nn.GroupNorm(max(1, channels // CHANNELS_PER_GROUP), channels, EPSILON)
        self.query_key_value = conv2d(channels, 3 * channels, 1, generator)
        self.output = _silenced(conv2d(channels, channels, 1, generator))

    def forward(self, maps: Tensor) -> Tensor:
        batch, channels, height, width = maps.shape
        shape = (batch, 3, self.heads, channels // self.heads, height * width)
        query, key, value = self.query_key_value(self.norm(maps)).view(shape).transpose(-1, -2).unbind(1)
        seen = F.scaled_dot_product_attention(query, key, value).transpose(-1, -2)
        output: Tensor = maps + self.output(seen.reshape(maps.shape))
        return output


class _ResidualBlock(nn.Module):
    """Twice norm, SiLU and convolution, with a skip; the second convolution is 0 at first."""

    def __init__(self, inputs: int, width: int, condition: int, generator: torch.Generator) -> None:
        super().__init__()
        self.first_norm = AdaGroupNorm(inputs, condition, generator)
        self.first = conv2d(inputs, width, 3, generator)
        self.second_norm = AdaGroupNorm(width, condition, generator)
        self.second = _silenced(conv2d(width, width, 3, generator))
        self.skip = nn.Identity() if inputs == width else conv2d(inputs, width, 1, generator)

    def forward(self, maps: Tensor, condition: Tensor) -> Tensor:
        inner = self.first(F.silu(self.first_norm(maps, condition)))
        output: Tensor = self.skip(maps) + self.second(F.silu(self.second_norm(inner, condition)))
        return output


class UNet2D(nn.Module):
    """Residual blocks at falling and rising resolution, each of which sees the condition.

    Down by convolutions of stride 2, orthogonal at first; up by repeating pixels and a convolution. On the way up a
    level has one block more than on the way down: each is shown what one layer on the way down has left. Attention is
    in the middle only. The output is 0 at first.
    """

    def __init__(self, inputs: int, outputs: int, size: UNetSize, generator: torch.Generator) -> None:
        super().__init__()
        channels, blocks, condition, self.patch = size
        for width in channels:
            if width > CHANNELS_PER_GROUP and width % CHANNELS_PER_GROUP:
                raise WorldModelError(
                    f"a level has up to, or a multiple of, {CHANNELS_PER_GROUP} channels, got {width}"
                )

        def block(before: int, after: int) -> _ResidualBlock:
            return _ResidualBlock(before, after, condition, generator)

        self.multiple = size.multiple
        self.input = conv2d(inputs * self.patch**2, channels[0], 3, generator)
        self.coarsen = nn.ModuleList(_coarsening(width, generator) for width in channels[:-1])
        self.down = nn.ModuleList(
            nn.ModuleList(block(before if not number else width, width) for number in range(blocks))
            for before, width in pairwise((channels[0], *channels))
        )
        last = channels[-1]
        self.middle = nn.ModuleList(block(last, last) for _ in range(2))
        self.attention = _Attention(last, generator)
        below = (*channels[1:], last)
        self.up = nn.ModuleList(
            nn.ModuleList(block(*widths) for widths in _upward(width, under, over, blocks))
            for width, under, over in zip(channels, below, (channels[0], *channels), strict=False)
        )
        self.refine = nn.ModuleList(conv2d(width, width, 3, generator) for width in channels[1:])
        self.norm = nn.GroupNorm(max(1, channels[0] // CHANNELS_PER_GROUP), channels[0], EPSILON)
        self.output = _silenced(conv2d(channels[0], outputs * self.patch**2, 3, generator))

    def forward(self, maps: Tensor, condition: Tensor) -> Tensor:
        """Map pictures (B, inputs, S, S) under `condition` (B, K) to (B, outputs, S, S).

        Raises:
            WorldModelError: if the picture's sides cannot be halved at every level.
        """
        if maps.shape[-1] % self.multiple or maps.shape[-2] % self.multiple:
            raise WorldModelError(
                f"pictures of {maps.shape[-2]} x {maps.shape[-1]} pixels do not fit a U-Net of {len(self.down)} "
                f"levels: choose sides that are multiples of {self.multiple}"
            )
        hidden = self.input(F.pixel_unshuffle(maps, self.patch))
        left = [hidden]
        for level, stage in enumerate(self.down):
            if level:
                hidden = self.coarsen[level - 1](hidden)
                left.append(hidden)
            for block in _blocks(stage):
                hidden = block(hidden, condition)
                left.append(hidden)
        hidden = self.middle[1](self.attention(self.middle[0](hidden, condition)), condition)
        for level in range(len(self.up) - 1, -1, -1):
            for block in _blocks(self.up[level]):
                hidden = block(torch.cat([hidden, left.pop()], dim=1), condition)
            if level:
                hidden = self.refine[level - 1](F.interpolate(hidden, scale_factor=2.0, mode="nearest"))
        return F.pixel_shuffle(self.output(F.silu(self.norm(hidden))), self.patch)


def _upward(width: int, under: int, over: int, blocks: int) -> list[tuple[int, int]]:
    """Return the widths before and after each block of a level on the way up, what was left on the way down included.

    `under` channels come from the level below; the last block is shown what led to this level, `over` channels.
    """
    before = [under] + [width] * blocks
    left = [width] * blocks + [over]
    return [(one + other, width) for one, other in zip(before, left, strict=True)]


def _blocks(stage: nn.Module) -> Sequence[nn.Module]:
    return list(stage.children())


def _silenced(layer: nn.Conv2d) -> nn.Conv2d:
    """Return the layer with all its weights 0."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _coarsening(width: int, generator: torch.Generator) -> nn.Conv2d:
    layer = conv2d(width, width, 3, generator, stride=2)
    nn.init.orthogonal_(layer.weight, generator=generator)
    return layer
