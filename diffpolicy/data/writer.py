"""Writes datasets as DSRL HDF5."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np

from .schema import DataError, OfflineDataset

WRITE_ROWS = 65_536
CHUNK_BYTES = 1 << 18


def save(
    dataset: OfflineDataset,
    path: str | Path,
    attributes: Mapping[str, Any] = {},
    *,
    next_observations: bool = True,
) -> None:
    """Writes a DSRL HDF5 file (gzip and shuffle, float32 and bool) under a temporary name, then renames it.

    `attributes` become the file's: text and numbers that HDF5 can hold as they are, the rest as JSON. A dataset
    whose final observations are not known is written without `next_observations`, so that none is made up.
    Raises DataError for an empty dataset, one with pictures (these files have no place for them), and when the
    file cannot be written; an older one then stays.
    """
    path = Path(path)
    if dataset.images:
        raise DataError(
            f"{path}: a DSRL file holds no pictures (cameras {', '.join(sorted(dataset.images))})"
        )
    if dataset.num_episodes == 0:
        raise DataError(f"{path}: a dataset of 0 episodes is not saved")
    texts = {name: _attribute(path, name, value) for name, value in attributes.items()}
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _Sink(partial) as sink:
            with h5py.File(sink, "w") as file:
                _write(file, dataset, with_next=next_observations and dataset.final_observations_known)
                file.attrs.update(texts)
            sink.finish()
        partial.replace(path)
    except OSError as error:
        raise DataError(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # its folder may be what could not be written
            partial.unlink(missing_ok=True)


class _Sink(io.RawIOBase):
    """A new file that remembers its first failed write instead of raising it.

    HDF5 does not survive a full disk: it goes on with half-written structures, prints from destructors and
    may take the process down. So it is told that all is well, and `finish` raises what went wrong.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)
        self._error: OSError | None = None

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        if self._error is None:
            try:
                done = 0
                while done < len(view):
                    done += self._file.write(view[done:])
            except OSError as error:
                self._error = error
        return len(view)

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        count = self._file.readinto(view)
        view[count:] = bytes(len(view) - count)  # what could not be written reads as zeros
        return len(view)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def truncate(self, size: int | None = None, /) -> int:
        try:
            return self._file.truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0

    def finish(self) -> None:
        """Brings everything to the disk; raises the OSError of the first write that failed."""
        if self._error is not None:
            raise self._error
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
        super().close()


def _attribute(path: Path, name: str, value: Any) -> str | int | float:
    if isinstance(value, float) or (isinstance(value, int) and -(2**63) <= value < 2**63):
        return value
    if isinstance(value, str) and "\0" not in value:
        return value
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: attribute {name!r} cannot be stored as JSON: {error}") from error


def _write(file: Any, dataset: OfflineDataset, *, with_next: bool) -> None:
    n, size = dataset.num_transitions, dataset.observation_size
    names = ["observations", *(["next_observations"] if with_next else [])]
    for name in names:
        rows = min(n, max(1, CHUNK_BYTES // (4 * size)))
        column = file.create_dataset(
            name, (n, size), np.float32, chunks=(rows, size), compression="gzip", shuffle=True
        )
        for low in range(0, n, WRITE_ROWS):
            where = dataset.rows[low : low + WRITE_ROWS] + (name == "next_observations")
            column[low : low + WRITE_ROWS] = dataset.observations[where].numpy()
    for name in ("actions", "rewards", "costs", "terminals", "timeouts"):
        file.create_dataset(name, data=getattr(dataset, name).numpy(), compression="gzip", shuffle=True)
