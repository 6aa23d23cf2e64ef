"""Samples as pictures: grids that can be looked at, before and after alignment side by side."""

import io
import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

Picture = NDArray[np.uint8]

SMALLEST, LARGEST = 40, 128  # pixels of an image's longer side in a grid
GAP = 2  # pixels between images
BACKGROUND = 255


def are_images(samples: Tensor) -> bool:
    """Return whether samples are images (B, 1|3, H, W)."""
    return samples.ndim == 4 and samples.shape[1] in (1, 3)


def grid(images: Tensor, columns: int = 8) -> Picture:
    """Return images (B, 1|3, H, W) in [0, 1] in rows of `columns`, as one picture (height, width, 3) uint8.

    Values beyond are cut. Tiny images are enlarged pixel by pixel, huge ones are averaged down.

    Raises:
        ValueError: if these are no images, there are none, or there is no column.
    """
    if not are_images(images) or not len(images) or columns < 1:
        raise ValueError(
            f"a grid has images (B, 1|3, H, W) in one column or more, got {tuple(images.shape)} in {columns}"
        )
    seen = _scaled(images.detach().float().cpu().clamp(0.0, 1.0)).expand(-1, 3, -1, -1)
    pixels = (seen * 255.0).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    count, high, wide, _ = pixels.shape
    lines, columns = math.ceil(count / columns), min(columns, count)
    shape = (lines * (high + GAP) - GAP, columns * (wide + GAP) - GAP, 3)
    picture: Picture = np.full(shape, BACKGROUND, np.uint8)
    for number, each in enumerate(pixels):
        top, left = number // columns * (high + GAP), number % columns * (wide + GAP)
        picture[top : top + high, left : left + wide] = each
    return picture


def before_after(before: Tensor, after: Tensor, columns: int = 4) -> Picture:
    """Return two grids side by side, of images (B, 1|3, H, W) that were made of the same noise."""
    if before.shape != after.shape:
        raise ValueError(
            f"before and after are as many images of one shape, got {tuple(before.shape)} and {tuple(after.shape)}"
        )
    left, right = grid(before, columns), grid(after, columns)
    between: Picture = np.full((len(left), 8 * GAP, 3), BACKGROUND, np.uint8)
    return np.concatenate([left, between, right], axis=1)


def encode(picture: Picture, kind: str) -> bytes:
    """Return a picture as the bytes of a "PNG" or a one-frame "GIF"."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, kind)
    return stream.getvalue()


def _scaled(images: Tensor) -> Tensor:
    longest = max(images.shape[-2:])
    if longest < SMALLEST:
        factor = math.ceil(SMALLEST / longest)
        return functional.interpolate(images, scale_factor=factor, mode="nearest")
    if longest > LARGEST:
        size = [max(1, round(side * LARGEST / longest)) for side in images.shape[-2:]]
        return functional.interpolate(images, size=size, mode="area")
    return images
