"""The size of an image as a JPEG file: the reward of a policy that can be trained without any reward model."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diffpolicy.alignment.reward import Reward, Rewards
from diffpolicy.alignment.rewards.images import as_bytes


@dataclass(frozen=True)
class JPEGSize(Reward):
    """Minus the size in kB (1000 bytes) of an image (B, C, H, W) as JPEG, or the size if not `compressible`.

    Black et al. 2024, section 5.1, at quality 95. It has no gradient. The size is also the term "jpeg_kb".
    """

    quality: int = 95
    compressible: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 95:
            raise ValueError(f"JPEG has qualities from 1 to 95, not {self.quality}")

    def __call__(self, samples: Tensor, labels: Sequence[Any]) -> Rewards:
        """Return the rewards of images (B, C, H, W) in [0, 1]; labels do not matter."""
        sizes = [jpeg_bytes(pixels, self.quality) / 1000.0 for pixels in as_bytes(samples)]
        size = torch.tensor(sizes, device=samples.device)
        return Rewards(-size if self.compressible else size, {"jpeg_kb": size})


def jpeg_bytes(pixels: NDArray[np.uint8], quality: int) -> int:
    """Return how many bytes an image (H, W, C) takes as JPEG."""
    file = BytesIO()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.save(file, "JPEG", quality=quality)
    return file.tell()
