"""DSRL and D4RL HDF5 files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]

from ..columns import Column, Reading, read_columns
from ..findings import Findings
from ..schema import REQUIRED

COST_KEYS = ("costs", "infos/cost", "infos/costs")
LARGEST_COMPRESSION = 1100
"""Deflate cannot shrink data further than about 1032 times: a file that claims more is damaged."""

TOO_MUCH = "more than this file can hold"


def claims_too_much(node: Any) -> bool:
    """Whether an HDF5 dataset says it is larger than its file can hold; no memory is set aside for it."""
    return int(node.nbytes) > LARGEST_COMPRESSION * int(node.file.id.get_filesize())


def read_hdf5(path: Path) -> Reading:
    """Reads a file of DSRL's keys; costs may lie in `infos/cost` or `infos/costs`, as in D4RL-style files.

    Never raises for a bad file: what is wrong is in the reading's problems.
    """
    found = Findings()
    try:
        with h5py.File(path, "r") as file:
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
