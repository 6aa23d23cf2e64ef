"""Reads a dataset of any supported format."""

from __future__ import annotations

import logging
from pathlib import Path

from ..columns import Reading, accept
from ..findings import Findings
from ..schema import OfflineDataset
from .hdf5 import read_hdf5
from .minari import read_minari
from .npz import read_npz

_log = logging.getLogger(__name__)


def read(path: str | Path) -> Reading:
    """Reads a Minari folder, an .npz or, by any other name, HDF5; never raises for bad content."""
    path = Path(path)
    if path.is_dir():
        return read_minari(path)
    if not path.exists():
        found = Findings()
        found.add("error", "file", "does not exist")
        return Reading(None, found.problems())
    if path.suffix == ".npz":
        return read_npz(path)
    return read_hdf5(path)


def load(path: str | Path) -> OfflineDataset:
    """Loads a dataset; warnings are logged, errors raise one DataError that names all with row numbers."""
    reading = read(path)
    dataset = accept(reading, str(path))
    for problem in reading.problems:
        _log.warning("%s: %s", path, problem)
    return dataset
