"""Reads a dataset of any supported format."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from ..columns import Reading, accept
from ..demonstrations import Selection, choose
from ..findings import Findings
from ..schema import OfflineDataset
from .hdf5 import read_hdf5
from .lerobot import is_lerobot, read_lerobot
from .minari import read_minari
from .npz import read_npz
from .replay import is_replay, read_replay

_log = logging.getLogger(__name__)


def read(path: str | Path, selection: Selection) -> Reading:
    """Reads a file or folder of any supported format, by what it is and is called; never raises for bad content."""
    path = Path(path)
    if not path.exists():
        found = Findings()
        found.add("error", "file", "does not exist")
        return Reading(None, found.problems())
    if is_replay(path):
        return read_replay(path, selection)
    if path.is_dir():
        return read_lerobot(path, selection) if is_lerobot(path) else read_minari(path, selection)
    if path.suffix == ".npz":
        return read_npz(path, selection)
    return read_hdf5(path, selection)


def load(
    path: str | Path,
    observations: Sequence[str] | None = None,
    images: Sequence[str] = (),
    subset: str | None = None,
) -> OfflineDataset:
    """Loads a dataset; warnings are logged, errors raise one DataError that names all with row numbers.

    Formats: DSRL, D4RL and robomimic HDF5, Minari and LeRobot folders, zarr replay buffers (folder or .zip),
    .npz. Of demonstrations, `observations` are the keys to put side by side (default: the format's own; "state[0:2]"
    takes some numbers of one), `images` the keys or cameras of the pictures to decode (default: none); `subset`
    is the name of a robomimic filter ("train").
    """
    reading = read(path, choose(observations, images, subset))
    dataset = accept(reading, str(path))
    for problem in reading.problems:
        _log.warning("%s: %s", path, problem)
    return dataset
