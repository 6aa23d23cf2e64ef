"""NumPy archives: DSRL's keys, or demonstrations with the ends of their episodes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..columns import Column, Reading, read_columns
from ..demonstrations import Selection, named_demonstrations, read_demonstrations, refuse_choice
from ..findings import Findings
from ..pictures import column_pictures, with_pictures
from ..schema import REQUIRED
from .hdf5 import COST_KEYS

ENDS = "episode_ends"


def read_npz(path: Path, selection: Selection) -> Reading:
    """Reads an .npz without any unpickling: demonstrations where it has `episode_ends`, else DSRL's keys.

    DSRL's costs may be named `infos/cost` or `infos/costs`; demonstrations have `state` (or `observations`) and
    `action` (or `actions`). Arrays are decompressed whole: at its peak memory holds the dataset and the
    archive's arrays together. Never raises for a bad file: what is wrong is in the reading's problems.
    """
    found = Findings()
    try:
        with np.load(path, allow_pickle=False) as archive:
            if ENDS in archive:
                return _demonstrations(path, archive, selection, found)
            refuse_choice(selection, (), found)
            columns: dict[str, Column] = {}
            for name in (*REQUIRED, "next_observations"):
                keys = COST_KEYS if name == "costs" else (name,)
                key = next((key for key in keys if key in archive), None)
                if key is not None:
                    columns[name] = archive[key]
        return Reading(None, found.problems()) if found.has_errors else read_columns(columns)
    except (Exception, MemoryError) as error:  # zip and npy headers fail in as many ways as they have fields
        detail = str(error).split("\n")[0]
        found.add("error", "file", f"cannot be read as an .npz of numbers (truncated or damaged): {detail}")
        return Reading(None, found.problems())


def _demonstrations(
    path: Path, archive: Mapping[str, Column], selection: Selection, found: Findings
) -> Reading:
    refuse_choice(selection, ("observations", "images"), found)
    source = named_demonstrations(archive, np.asarray(archive[ENDS][0:]), selection, found)
    if source is None:
        return Reading(None, found.problems())
    reading = read_demonstrations(source, found)
    return with_pictures(reading, column_pictures(archive, selection.images, found), [path], found)
