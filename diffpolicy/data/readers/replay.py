"""diffusion_policy's replay buffers: zarr groups `data` and `meta/episode_ends`, in a folder or a zip."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..columns import Column, Reading
from ..demonstrations import Selection, named_demonstrations, read_demonstrations, refuse_choice
from ..findings import Findings
from ..pictures import column_pictures, with_pictures
from ..schema import DataError

ENDS = "meta/episode_ends"
CODECS = frozenset({"blosc", "zstd", "lz4", "zlib", "gzip", "bz2", "lzma"})
"""Compression that only ever yields bytes; anything else (pickle among it) is refused."""

LARGEST_COMPRESSION = 100_000
"""Zstandard shrinks one repeated byte some 10,000 times: what claims far more is damaged."""

SLACK_BYTES = 1 << 20


class _Size(NamedTuple):
    """Bytes of a file of the store: to decode, and on the disk."""

    whole: int
    stored: int


def is_replay(path: Path) -> bool:
    """Whether a path may be a replay buffer: a zip, or a folder with zarr's marks."""
    if path.is_dir():
        return any((path / mark).is_file() for mark in (".zgroup", "zarr.json"))
    return path.suffix == ".zip"


def read_replay(path: Path, selection: Selection) -> Reading:
    """Reads a replay buffer of zarr format 2; a zip may hold it in any of its folders, and stays zipped.

    Observations are `state` (or `obs`); pictures are decoded once into the cache. Never raises for a bad file.
    """
    found = Findings()
    refuse_choice(selection, ("observations", "images"), found)
    try:
        import zarr
    except ImportError:
        found.add("error", "file", "zarr files need the zarr package: pip install 'diffpolicy[formats]'")
        return Reading(None, found.problems())
    try:
        files = _files(path)
        root = _root(files)
        store: Any = zarr.storage.LocalStore(path, read_only=True)
        if not path.is_dir():
            store = zarr.storage.ZipStore(path, mode="r")
        with store:
            group = zarr.open_group(store, mode="r", path=root, zarr_format=2)
            ends = np.asarray(_Arrays(group, files, root, found)[ENDS][0:])
            columns = _Arrays(group["data"], files, f"{root}data/", found)
            source = named_demonstrations(columns, ends, selection, found)
            if source is None:
                return Reading(None, found.problems())
            reading = read_demonstrations(source, found)
            on_disk = [path / name for name in files] if path.is_dir() else [path]
            return with_pictures(reading, column_pictures(columns, selection.images, found), on_disk, found)
    except DataError as error:
        found.add("error", "file", str(error))
    except (Exception, MemoryError) as error:  # zip, JSON and codecs fail in as many ways as they have fields
        detail = str(error).split("\n")[0] or type(error).__name__
        found.add("error", "file", f"cannot be read as a zarr replay buffer (truncated or damaged): {detail}")
    return Reading(None, found.problems())


def _files(path: Path) -> dict[str, _Size]:
    if path.is_dir():
        sizes = {
            file.relative_to(path).as_posix(): file.stat().st_size
            for file in path.rglob("*")
            if file.is_file()
        }
        return {name: _Size(size, size) for name, size in sizes.items()}
    with zipfile.ZipFile(path) as archive:
        return {entry.filename: _Size(entry.file_size, entry.compress_size) for entry in archive.infolist()}


def _root(files: Mapping[str, _Size]) -> str:
    """The folder of the replay buffer with a slash behind it, or nothing where it is the outermost one."""
    for marks, found in ((f"{ENDS}/.zarray", True), (f"{ENDS}/zarr.json", False)):
        root = next(
            (name.removesuffix(marks) for name in sorted(files) if f"/{name}".endswith(f"/{marks}")), None
        )
        if root is not None and found:
            return root
        if root is not None:
            raise DataError("is of zarr format 3; replay buffers are read in format 2")
    raise DataError(f"holds no {ENDS}: not a replay buffer")


class _Arrays(Mapping[str, Column]):
    """The arrays of a group, each refused with a DataError where reading it could not end well."""

    def __init__(self, group: Any, files: Mapping[str, _Size], prefix: str, found: Findings) -> None:
        self._group, self._files, self._prefix, self._found = group, files, prefix, found

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._group.array_keys()))

    def __len__(self) -> int:
        return len(list(self._group.array_keys()))

    def __contains__(self, key: object) -> bool:
        return f"{self._prefix}{key}/.zarray" in self._files

    def __getitem__(self, key: str) -> Column:
        array: Any = self._group[key]
        codecs = {
            getattr(codec, "codec_id", "an unknown codec") for codec in (*array.compressors, *array.filters)
        }
        if codecs - CODECS:
            raise DataError(
                f"{key}: is compressed with {', '.join(sorted(codecs - CODECS))}, which is not read"
            )
        folder = f"{self._prefix}{key}/"
        chunks = [
            size
            for name, size in self._files.items()
            if name.startswith(folder) and not name.removeprefix(folder).startswith(".")
        ]
        wanted = math.prod(-(-length // step) for length, step in zip(array.shape, array.chunks, strict=True))
        if len(chunks) < wanted:
            share = f"{wanted - len(chunks)} of {wanted} chunks are not there and count as zeros"
            self._found.add("warning", key, f"{share}: the copy is incomplete, unless all of them were zeros")
        whole, stored = sum(size.whole for size in chunks), sum(size.stored for size in chunks)
        claimed = wanted * math.prod(array.chunks) * array.dtype.itemsize
        if claimed > LARGEST_COMPRESSION * stored + SLACK_BYTES or whole > claimed + SLACK_BYTES:
            raise DataError(f"{key}: shape {array.shape} is more than its {stored} bytes can hold")
        column: Column = array
        return column
