"""robomimic's HDF5 files: one group `data/demo_k` per demonstration."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from ..columns import Column, Reading
from ..demonstrations import Demonstrations, Selection, read_demonstrations
from ..findings import Findings
from ..pictures import column_pictures, with_pictures
from .hdf5_limits import TOO_MUCH, claims_too_much

ACTIONS, REWARDS, OBS = "actions", "rewards", "obs/"
_DEMO = re.compile(r"demo_(\d+)")
PER_DEMO = "; rows are numbers of demonstrations"


class Joined:
    """Arrays of several episodes as one column, read piece by piece."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *(len(part) for part in parts)])

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows of all parts, ...)."""
        return (int(self._starts[-1]), *self._parts[0].shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the first part."""
        dtype: np.dtype[Any] = self._parts[0].dtype
        return dtype

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        low, high, _ = rows.indices(int(self._starts[-1]))
        pieces = [
            part[max(low - start, 0) : high - start]
            for part, start, end in zip(self._parts, self._starts, self._starts[1:], strict=False)
            if start < high and end > low
        ]
        return np.concatenate(pieces) if pieces else np.empty((0, *self.shape[1:]), self.dtype)


def is_robomimic(file: Any) -> bool:
    """Whether an open HDF5 file holds demonstrations in robomimic's layout."""
    data = file.get("data")
    return isinstance(data, h5py.Group) and any(name.startswith("demo_") for name in data)


def read_robomimic(path: Path, file: Any, selection: Selection, found: Findings) -> Reading:
    """Reads the demonstrations of an open file: actions (T, A), obs/KEY (T, ...) and rewards (T,) where it has them.

    Observations are named by their keys in `obs`; without names all those of one number or vector a step are
    taken, in alphabetical order. `selection.subset` names a filter of `mask` ("train"). Whatever its `dones` say,
    a demonstration ends in a time-out. What is wrong is noted in `found`; h5py's errors are the caller's.
    """
    demos = _demos(file, selection.subset, found)
    columns = {} if found.has_errors else _columns(demos, found)
    if found.has_errors:
        return Reading(None, found.problems())
    observed = {key.removeprefix(OBS): column for key, column in columns.items() if key.startswith(OBS)}
    vectors = sorted(key for key, column in observed.items() if len(column.shape) <= 2)
    source = Demonstrations(
        columns={**columns, **observed},
        observations=vectors if selection.observations is None else selection.observations,
        actions=ACTIONS,
        episode_ends=np.cumsum([len(demo[ACTIONS]) for demo in demos.values()]),
        rewards=REWARDS if REWARDS in columns else None,
    )
    reading = read_demonstrations(source, found)
    pictures = column_pictures(observed, selection.images, found)
    return with_pictures(reading, pictures, [path], found, selection.subset)


def _demos(file: Any, subset: str | None, found: Findings) -> dict[int, Any]:
    """The groups of the demonstrations wanted, by their numbers."""
    numbers = {int(match[1]) for match in map(_DEMO.fullmatch, file["data"]) if match}
    if subset is not None:
        mask = file.get(f"mask/{subset}")
        if not isinstance(mask, h5py.Dataset):
            known = ", ".join(file["mask"]) if isinstance(file.get("mask"), h5py.Group) else "none"
            found.add("error", "mask", f"there is no subset {subset!r}; the file has {known}")
            return {}
        names = [name.decode() if isinstance(name, bytes) else str(name) for name in mask[()].tolist()]
        wanted = {int(match[1]) for match in map(_DEMO.fullmatch, names) if match}
        if len(wanted) != len(names) or not wanted <= numbers:
            found.add("error", f"mask/{subset}", "names demonstrations that the file does not have")
        numbers &= wanted
    if not numbers:
        found.add("error", "file", "holds 0 episodes")
    return {number: file[f"data/demo_{number}"] for number in sorted(numbers)}


def _columns(demos: Mapping[int, Any], found: Findings) -> dict[str, Column]:
    """The columns that the first demonstration has; whatever another one lacks is noted."""
    first = next(iter(demos.values()))
    obs = first.get("obs")
    if not isinstance(obs, h5py.Group):
        what = "robomimic extracts observations from states with its own dataset_states_to_obs"
        found.add("error", "obs", f"the first demonstration has no observations: {what}")
        return {}
    keys = [ACTIONS, *([REWARDS] if REWARDS in first else []), *(f"{OBS}{key}" for key in obs)]
    columns: dict[str, Column] = {}
    for key in keys:
        parts: list[Any] = []
        for number, demo in demos.items():
            node, actions = demo.get(key), demo.get(ACTIONS)
            problem = _problem(node, actions, parts[0].shape[1:] if parts else None)
            if problem:
                found.add_rows("error", key, problem + PER_DEMO, np.ones(1, dtype=bool), first_row=number)
            else:
                parts.append(node)
        if parts:
            columns[key] = Joined(parts)
    return columns


def _problem(node: Any, actions: Any, shape: tuple[int, ...] | None) -> str:
    """Why an array of a demonstration cannot be read, or nothing; `shape` is that of the others' rows."""
    if node is None:
        return "this key is missing"
    if not isinstance(node, h5py.Dataset) or node.shape is None or node.dtype.kind not in "biuf":
        return "is not an array of numbers"
    if claims_too_much(node):
        return f"claims shape {node.shape}, {TOO_MUCH}"
    if not node.shape or not isinstance(actions, h5py.Dataset) or node.shape[:1] != actions.shape[:1]:
        return "has another number of steps than the actions"
    if shape is not None and node.shape[1:] != shape:
        return f"has rows of shape {node.shape[1:]}, earlier ones {shape}"
    return ""
