"""NumPy archives with DSRL's keys."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..columns import Column, Reading, read_columns
from ..findings import Findings
from ..schema import REQUIRED
from .hdf5 import COST_KEYS


def read_npz(path: Path) -> Reading:
    """Reads an .npz of DSRL's keys (costs may be named `infos/cost` or `infos/costs`) without any unpickling.

    Arrays are decompressed whole: at its peak memory holds the dataset and the archive's arrays together.
    Never raises for a bad file: what is wrong is in the reading's problems.
    """
    found = Findings()
    try:
        with np.load(path, allow_pickle=False) as archive:
            columns: dict[str, Column] = {}
            for name in (*REQUIRED, "next_observations"):
                keys = COST_KEYS if name == "costs" else (name,)
                key = next((key for key in keys if key in archive), None)
                if key is not None:
                    columns[name] = archive[key]
        return read_columns(columns)
    except (Exception, MemoryError) as error:  # zip and npy headers fail in as many ways as they have fields
        detail = str(error).split("\n")[0]
        found.add("error", "file", f"cannot be read as an .npz of numbers (truncated or damaged): {detail}")
        return Reading(None, found.problems())
