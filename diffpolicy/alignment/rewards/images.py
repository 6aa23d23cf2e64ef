"""Images as rewards want them: prepared for a network with gradients kept, or as bytes."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from diffpolicy.training.errors import FeedbackError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def prepare(
    images: Tensor, size: int, mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD
) -> Tensor:
    """Return images (B, C, H, W) in [0, 1] as a network takes them: (B, 3, size, size), normalised; differentiable.

    The shorter side is resized to `size`, bicubic with antialiasing as Pillow does it, and the centre is cut out. A
    single channel is repeated. The means and deviations are CLIP's unless given.

    Raises:
        FeedbackError: if these are not images.
    """
    check_images(images)
    if images.shape[1] == 1:
        images = images.expand(-1, 3, -1, -1)
    height, width = images.shape[-2:]
    short = min(height, width)
    scaled = (round(height * size / short), round(width * size / short))
    if scaled != (height, width):
        images = F.interpolate(images, scaled, mode="bicubic", align_corners=False, antialias=True)
        images = images.clamp(0.0, 1.0)  # bicubic overshoots at edges, where bytes would saturate
    top, left = (scaled[0] - size) // 2, (scaled[1] - size) // 2
    images = images[..., top : top + size, left : left + size]
    shape = (1, 3, 1, 1)
    return (images - images.new_tensor(mean).view(shape)) / images.new_tensor(std).view(shape)


def as_bytes(images: Tensor) -> NDArray[np.uint8]:
    """Return images (B, C, H, W) in [0, 1], beyond which they are cut, as bytes (B, H, W, C), rounded to the nearest.

    Raises:
        FeedbackError: if these are not images.
    """
    check_images(images)
    scaled = (images.detach().clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
    pixels: NDArray[np.uint8] = scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels


def check_images(images: Tensor) -> None:
    """Check that these are one image or more, (B, C, H, W) of one or three channels, of finite numbers.

    Raises:
        FeedbackError: if they are not.
    """
    if (
        images.ndim != 4
        or images.shape[1] not in (1, 3)
        or not images.is_floating_point()
        or 0 in images.shape
    ):
        raise FeedbackError(
            "this reward rates images, float (B, C, H, W) of one or three channels in [0, 1]; got "
            f"{tuple(images.shape)} of {images.dtype}: it is not for samples of another kind"
        )
    if not torch.isfinite(images).all():
        bad = int((~torch.isfinite(images)).nonzero()[0, 0])
        raise FeedbackError(f"image {bad} holds numbers that are not finite; look at the decoder's precision")
