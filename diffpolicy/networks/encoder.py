"""From pictures to features: a small ResNet with spatial soft-max, and a small ViT."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffpolicy.networks.attention import TransformerLayer
from diffpolicy.networks.errors import NetworkError
from diffpolicy.networks.layers import conv2d, linear

CHANNELS_PER_GROUP = 16  # of every group norm, as in Diffusion Policy


def crop_pictures(pictures: Tensor, size: int, generator: torch.Generator | None = None) -> Tensor:
    """Cut (N, H, W, C) to (N, size, size, C): where `generator` says, each picture by itself, else from the centre.

    Raises NetworkError if the pictures are smaller than that.
    """
    count, height, width = pictures.shape[:3]
    if min(height, width) < size:
        raise NetworkError(
            f"Pictures of {height} x {width} pixels are too small for a crop of {size}: choose a smaller crop."
        )
    if generator is None:
        top, left = (height - size) // 2, (width - size) // 2
        return pictures[:, top : top + size, left : left + size]
    span, device = torch.arange(size, device=pictures.device), generator.device
    tops = torch.randint(height - size + 1, (count, 1), generator=generator, device=device)
    lefts = torch.randint(width - size + 1, (count, 1), generator=generator, device=device)
    rows, columns = tops.to(pictures.device) + span, lefts.to(pictures.device) + span
    each = torch.arange(count, device=pictures.device).view(-1, 1, 1)
    return pictures[each, rows.unsqueeze(2), columns.unsqueeze(1)]


def spatial_softmax(maps: Tensor) -> Tensor:
    """Return where maps (N, K, h, w) are bright: expected (x, y) in [-1, 1], (N, K, 2) (Levine et al. 2016)."""
    height, width = maps.shape[-2:]
    weights = maps.flatten(2).softmax(dim=-1).view_as(maps)
    x = (weights.sum(dim=2) * torch.linspace(-1.0, 1.0, width, device=maps.device)).sum(dim=-1)
    y = (weights.sum(dim=3) * torch.linspace(-1.0, 1.0, height, device=maps.device)).sum(dim=-1)
    return torch.stack([x, y], dim=-1)


def _prepared(pictures: Tensor, crop: int, generator: torch.Generator | None) -> Tensor:
    """Crop pictures (N, H, W, 3), uint8 in 0..255 or floats in 0..1, and return (N, 3, crop, crop) in [-1, 1]."""
    cropped = crop_pictures(pictures, crop, generator).permute(0, 3, 1, 2)
    if cropped.dtype == torch.uint8:
        return cropped.to(torch.float32) / 127.5 - 1.0
    return cropped * 2.0 - 1.0


class _ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with group norm, and a skip (He et al. 2016)."""

    def __init__(self, inputs: int, width: int, stride: int, generator: torch.Generator) -> None:
        super().__init__()
        groups = max(1, width // CHANNELS_PER_GROUP)
        self.first = conv2d(inputs, width, 3, generator, stride=stride)
        self.first_norm = nn.GroupNorm(groups, width)
        self.second = conv2d(width, width, 3, generator)
        self.second_norm = nn.GroupNorm(groups, width)
        same = inputs == width and stride == 1
        self.skip = nn.Identity() if same else conv2d(inputs, width, 1, generator, stride=stride)

    def forward(self, maps: Tensor) -> Tensor:
        inner = functional.relu(self.first_norm(self.first(maps)))
        return functional.relu(self.second_norm(self.second(inner)) + self.skip(maps))


class ResNetEncoder(nn.Module):
    """A ResNet with group norm whose feature maps are read by spatial soft-max (Chi et al. 2023).

    The defaults have the sizes of ResNet-18; `widths=(32, 64, 128), blocks=1` is a small one for the CPU. Pictures are
    cropped to `crop` pixels first. Each of `keypoints` maps gives one expected position. Raises NetworkError for
    crops that one place is left of, whose position says nothing.
    """

    def __init__(
        self,
        output_size: int,
        widths: Sequence[int] = (64, 128, 256, 512),
        blocks: int = 2,
        crop: int = 84,
        keypoints: int = 32,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        halved = 2 ** (1 + len(widths))  # by the stem, the pooling and all stages but the first
        if crop <= halved:
            raise NetworkError(
                f"A crop of {crop} pixels is too small for this ResNet: choose more than {halved}."
            )
        self.crop = crop
        self.stem = conv2d(3, widths[0], 7, generator, stride=2)
        self.stem_norm = nn.GroupNorm(max(1, widths[0] // CHANNELS_PER_GROUP), widths[0])
        stages: list[nn.Module] = []
        inputs = widths[0]
        for depth, width in enumerate(widths):
            for block in range(blocks):
                stride = 2 if depth and not block else 1
                stages.append(_ResidualBlock(inputs, width, stride, generator))
                inputs = width
        self.trunk = nn.Sequential(*stages)
        self.maps = conv2d(widths[-1], keypoints, 1, generator)
        self.output = linear(2 * keypoints, output_size, generator)

    def forward(self, pictures: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Encode pictures (N, H, W, 3), uint8 or float in 0..1, as (N, C); a `generator` crops them at random."""
        maps = functional.relu(self.stem_norm(self.stem(_prepared(pictures, self.crop, generator))))
        maps = self.trunk(functional.max_pool2d(maps, 3, stride=2, padding=1))
        output: Tensor = self.output(spatial_softmax(self.maps(maps)).flatten(1))
        return output


class ViTEncoder(nn.Module):
    """A small vision transformer (Dosovitskiy et al. 2021), its output the mean over patches.

    Pictures are cropped to `crop` pixels, a multiple of `patch`.
    """

    def __init__(
        self,
        output_size: int,
        width: int = 192,
        layers: int = 6,
        heads: int = 3,
        patch: int = 12,
        crop: int = 84,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if crop % patch:
            raise NetworkError(f"A crop of {crop} pixels does not divide into patches of {patch}.")
        self.crop = crop
        self.patch = patch
        count = (crop // patch) ** 2
        self.embed = linear(3 * patch**2, width, generator)
        self.position = nn.Parameter(torch.empty(count, width).normal_(0.0, 0.02, generator=generator))
        self.layers = nn.ModuleList(
            TransformerLayer(width, heads, 0.0, generator, cross=False) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.output = linear(width, output_size, generator)

    def forward(self, pictures: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Encode pictures (N, H, W, 3), uint8 or float in 0..1, as (N, C); a `generator` crops them at random."""
        prepared = _prepared(pictures, self.crop, generator)
        side = self.crop // self.patch
        patches = prepared.reshape(len(prepared), 3, side, self.patch, side, self.patch)
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        hidden = self.embed(patches) + self.position
        for layer in self.layers:
            hidden = layer(hidden)
        output: Tensor = self.output(self.norm(hidden).mean(dim=1))
        return output
