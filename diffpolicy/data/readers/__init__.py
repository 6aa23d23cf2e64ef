"""Reads a dataset of any supported format."""

from __future__ import annotations

import logging
from pathlib import Path

from ..columns import Reading, accept
from ..findings import Findings
from ..schema import OfflineDataset
from .hdf5 import read_hdf5

_log = logging.getLogger(__name__)


def read(path: str | Path) -> Reading:
    """Reads DSRL or D4RL HDF5; never raises for a bad file."""
    path = Path(path)
    if not path.exists():
        found = Findings()
        found.add("error", "file", f"{path} does not exist")
        return Reading(None, found.problems())
    return read_hdf5(path)


def load(path: str | Path) -> OfflineDataset:
    """Loads a dataset; warnings are logged, errors raise DataError, which names all of them with row numbers."""
    reading = read(path)
    dataset = accept(reading, str(path))
    for problem in reading.problems:
        _log.warning("%s: %s", path, problem)
    return dataset
