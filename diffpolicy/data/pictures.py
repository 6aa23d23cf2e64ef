"""From the pictures in a file, however they are stored, to the image columns of a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .columns import Column, Reading, row_slices
from .findings import Findings
from .image_cache import cached, fingerprint
from .images import ImageColumn
from .schema import DataError

BLOCK_BYTES = 1 << 26


class Pictures(NamedTuple):
    """Pictures that are yet to be decoded: their shape (N, H, W, 3), and what yields them in blocks, in order."""

    shape: tuple[int, ...]
    blocks: Iterable[NDArray[np.uint8]]


def with_pictures(
    reading: Reading,
    pictures: Mapping[str, Pictures],
    files: Iterable[Path],
    found: Findings,
    subset: str | None = None,
) -> Reading:
    """The reading with pictures by the camera of their key, decoded once for these files and this subset of them."""
    if reading.dataset is None or found.has_errors:
        return Reading(None, found.problems())
    n, files = reading.dataset.num_transitions, list(files)
    images: dict[str, ImageColumn] = {}
    for key, (shape, blocks) in pictures.items():
        camera = camera_name(key)
        if len(shape) != 4 or shape[0] != n or shape[3] != 3 or 0 in shape:
            found.add("error", key, f"has shape {shape}, not ({n}, height, width, 3)")
        elif camera in images:
            found.add("error", key, f"is a second picture of camera {camera!r}")
        else:
            try:
                images[camera] = cached(fingerprint(files, f"{key}\0{subset or ''}"), shape, blocks)
            except DataError as error:
                found.add("error", key, str(error))
    dataset = None if found.has_errors else replace(reading.dataset, images=images)
    return Reading(dataset, found.problems())


def column_pictures(
    columns: Mapping[str, Column], names: Sequence[str], found: Findings
) -> dict[str, Pictures]:
    """The pictures in some columns (N, H, W, 3) of numbers, by key; what is missing is noted."""
    pictures = {}
    for name in names:
        key = picture_key(name, columns)
        if key is None:
            found.add("error", name, f"there is no such key; the file has {', '.join(sorted(columns))}")
        else:
            column = columns[key]
            pictures[key] = Pictures(tuple(column.shape), _blocks(column))
    return pictures


def picture_key(name: str, keys: Iterable[str]) -> str | None:
    """The key that a name means: itself, or the only one of that camera."""
    keys = list(keys)
    meant = [name] if name in keys else [key for key in keys if camera_name(key) == name]
    return meant[0] if len(meant) == 1 else None


def camera_name(key: str) -> str:
    """The camera of a key: "top" of observation.images.top, "agentview" of agentview_image, else "camera"."""
    name = key.removeprefix("observation.").removeprefix("images.").removesuffix("_image")
    return "camera" if name in ("img", "image", "images") else name


def _blocks(column: Column) -> Iterator[NDArray[np.uint8]]:
    row_bytes = int(np.prod(column.shape[1:], dtype=np.int64)) * column.dtype.itemsize
    for low, high in row_slices(column, max(1, BLOCK_BYTES // row_bytes)):
        values = np.asarray(column[low:high])
        with np.errstate(invalid="ignore"):  # NaN and what is out of range come back as something else
            pixels = values.astype(np.uint8, copy=False)
        if not np.array_equal(pixels, values):
            raise DataError(f"pictures {low} to {high - 1} are not made of whole numbers from 0 to 255")
        yield pixels
