"""Writes datasets as DSRL HDF5."""

from __future__ import annotations

import contextlib
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

    `attributes` become the file's attributes: text and numbers as they are, anything else as JSON. A dataset
    whose final observations are not known is written without `next_observations`, so that none is made up.
    Raises DataError for an empty dataset, and when the file cannot be written; an older one then stays.
    """
    path = Path(path)
    if dataset.num_episodes == 0:
        raise DataError(f"{path}: a dataset of 0 episodes is not saved")
    texts = {name: _attribute(path, name, value) for name, value in attributes.items()}
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(partial, "w") as file:
            _write(file, dataset, with_next=next_observations and dataset.final_observations_known)
            file.attrs.update(texts)
        with partial.open("rb+") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # h5py reports a full disk as either
        reason = str(error).split("\n")[0]
        raise DataError(f"{path} could not be written ({reason}): disk full, or folder read-only?") from error
    finally:
        with contextlib.suppress(OSError):  # its folder may be what could not be written
            partial.unlink(missing_ok=True)


def _attribute(path: Path, name: str, value: Any) -> str | int | float:
    if isinstance(value, str | int | float):
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
