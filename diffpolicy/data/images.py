"""Pictures of a dataset, one per transition and camera, that stay on the disk until a batch asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class ImageColumn(Protocol):
    """What a memory map (N, H, W, 3) uint8 and anything that stands for one have in common."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, 3)."""

    def __getitem__(self, rows: NDArray[np.int64], /) -> Any:
        """The pictures of some rows, (len(rows), H, W, 3) uint8, in their order."""


@dataclass(frozen=True, eq=False)
class PickedImages:
    """Some rows of another column, in an order of their own; no picture is copied."""

    source: ImageColumn
    rows: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, H, W, 3)."""
        return (len(self.rows), *self.source.shape[1:])

    def __getitem__(self, rows: NDArray[np.int64], /) -> Any:
        return self.source[self.rows[rows]]


def pick(images: ImageColumn, rows: NDArray[np.int64]) -> ImageColumn:
    """A column of the given rows; a pick of a pick stays one step from its source."""
    if isinstance(images, PickedImages):
        return PickedImages(images.source, images.rows[rows])
    return PickedImages(images, rows)
