"""HDF5 files: DSRL's and D4RL's keys, or robomimic's demonstrations."""

from __future__ import annotations

from pathlib import Path

import h5py  # type: ignore[import-untyped]

from ..columns import Column, Reading, read_columns
from ..demonstrations import Selection, refuse_choice
from ..findings import Findings
from ..schema import REQUIRED
from .hdf5_limits import TOO_MUCH, claims_too_much
from .robomimic import is_robomimic, read_robomimic

COST_KEYS = ("costs", "infos/cost", "infos/costs")


def read_hdf5(path: Path, selection: Selection) -> Reading:
    """Reads a file of DSRL's keys, or of robomimic's demonstrations.

    Costs may lie in `infos/cost` or `infos/costs`, as in D4RL-style files. Never raises for a bad file: what is
    wrong is in the reading's problems.
    """
    found = Findings()
    try:
        with h5py.File(path, "r") as file:
            if is_robomimic(file):
                return read_robomimic(path, file, selection, found)
            refuse_choice(selection, (), found)
            columns: dict[str, Column] = {}
            for name in (*REQUIRED, "next_observations"):
                keys = COST_KEYS if name == "costs" else (name,)
                node = next((file[key] for key in keys if key in file), None)
                if node is None:
                    continue
                if not isinstance(node, h5py.Dataset):
                    found.add("error", name, "is a group, not an array")
                elif node.shape is None:
                    found.add("error", name, "is empty")
                elif claims_too_much(node):
                    found.add("error", name, f"claims shape {node.shape}, {TOO_MUCH}")
                else:
                    columns[name] = node
            if found.has_errors:
                return Reading(None, found.problems())
            return read_columns(columns)
    except (
        Exception,
        MemoryError,
    ) as error:  # damaged bytes make h5py raise nearly anything
        detail = str(error).split("\n")[0]
        found.add("error", "file", f"cannot be read as HDF5 (truncated or damaged): {detail}")
        return Reading(None, found.problems())
