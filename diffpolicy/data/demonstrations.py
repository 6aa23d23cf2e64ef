"""From demonstrations (named columns and the ends of episodes) to an `OfflineDataset`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .columns import Column, Reading, read_floats, read_slice, row_slices
from .findings import Findings
from .schema import OfflineDataset

OBSERVATION_KEYS = ("state", "obs", "observations")
ACTION_KEYS = ("action", "actions")
REWARD_KEYS = ("reward", "rewards")
COST_KEYS = ("cost", "costs")

_PART = re.compile(r"(?P<key>.+?)\[(?P<low>\d*):(?P<high>\d*)\]")


class Selection(NamedTuple):
    """What of a file to read: None takes the format's own observations, and every episode.

    Pictures are read when their keys are named; `subset` names a list of episodes that the file keeps.
    """

    observations: tuple[str, ...] | None = None
    images: tuple[str, ...] = ()
    subset: str | None = None


def choose(observations: Sequence[str] | None, images: Sequence[str], subset: str | None) -> Selection:
    """The selection of some keys and one subset."""
    return Selection(None if observations is None else tuple(observations), tuple(images), subset)


def refuse_choice(selection: Selection, offered: Sequence[str], found: Findings) -> None:
    """Notes what a selection asks for beyond what a format offers: an option is never quietly ignored."""
    for name, value in selection._asdict().items():
        if value and name not in offered:
            found.add("error", "file", f"{name} cannot be chosen in a file of this format")


@dataclass(frozen=True)
class Demonstrations:
    """What a reader found in a file: the columns of N steps, and the exclusive ends (E,) of its episodes.

    `columns` holds every array that may be asked for as an observation, by its key in the file.
    """

    columns: Mapping[str, Column]
    observations: Sequence[str]
    actions: str
    episode_ends: NDArray[Any]
    rewards: str | None = None
    costs: str | None = None


def named_demonstrations(
    columns: Mapping[str, Column], episode_ends: NDArray[Any], selection: Selection, found: Findings
) -> Demonstrations | None:
    """The demonstrations of a file that names its columns in the usual ways: state, action and so on."""
    usual = {
        "observations": OBSERVATION_KEYS,
        "actions": ACTION_KEYS,
        "rewards": REWARD_KEYS,
        "costs": COST_KEYS,
    }
    keys = {name: next((key for key in among if key in columns), None) for name, among in usual.items()}
    needed = ["actions"] if selection.observations is not None else ["observations", "actions"]
    for name in needed:
        if keys[name] is None:
            listed, known = " or ".join(usual[name]), ", ".join(sorted(columns)) or "nothing"
            found.add("error", name, f"there is no {listed}; the file has {known}")
    if found.has_errors:
        return None
    observations = (str(keys["observations"]),) if selection.observations is None else selection.observations
    return Demonstrations(
        columns, observations, str(keys["actions"]), episode_ends, keys["rewards"], keys["costs"]
    )


def read_demonstrations(source: Demonstrations, found: Findings) -> Reading:
    """Builds a dataset of demonstrations; what is missing is taken as nothing earned and nothing cost.

    An observation is the listed columns side by side, flattened as actions are; "state[0:2]" takes a part of one.
    Every episode ends in a time-out, and its final observation is not known. Rewards and costs are 0 where the
    file has none. Never raises for bad content: what is wrong is noted in `found`.
    """
    ends = _check_ends(source.episode_ends, found)
    names = [(key, _column(source.columns, key, found)) for key in source.observations]
    if not names:
        found.add("error", "observations", "no key is named")
    parts = [(name, *part) for name, part in names if part is not None]
    singles = [name for name in (source.rewards, source.costs) if name is not None]
    columns = {name: source.columns[name] for name in (source.actions, *singles)}
    lengths = {name: _rows(column, name, name in singles, found) for name, column in columns.items()}
    lengths |= {name: _rows(column, name, False, found) for name, column, _ in parts}
    if found.has_errors:
        return Reading(None, found.problems())
    n, e = int(ends[-1]), len(ends)
    for name, length in lengths.items():
        if length != n:
            found.add("error", name, f"has {length} rows, but the last episode ends at row {n}")
    if found.has_errors:
        return Reading(None, found.problems())
    episode_ends = torch.from_numpy(ends)
    timeouts = torch.zeros(n, dtype=torch.bool)
    timeouts[episode_ends - 1] = True
    rows = torch.arange(n) + timeouts.long().cumsum(0) - timeouts.long()
    numbers = {
        name: read_floats(columns[key], key, found).reshape(n) if key else torch.zeros(n)
        for name, key in (("rewards", source.rewards), ("costs", source.costs))
    }
    dataset = OfflineDataset(
        observations=_observations(parts, rows, timeouts, n + e, found),
        rows=rows,
        actions=read_floats(columns[source.actions], source.actions, found).reshape(n, -1),
        rewards=numbers["rewards"],
        costs=numbers["costs"],
        terminals=torch.zeros(n, dtype=torch.bool),
        timeouts=timeouts,
        episode_ends=episode_ends,
        final_observations_known=False,
    )
    return Reading(None if found.has_errors else dataset, found.problems())


def _check_ends(ends: NDArray[Any], found: Findings) -> NDArray[np.int64]:
    if ends.ndim != 1 or ends.dtype.kind not in "iu":
        found.add(
            "error", "episode_ends", f"is {ends.dtype} of shape {ends.shape}, not whole numbers (episodes,)"
        )
    elif ends.size == 0:
        found.add("error", "file", "holds 0 episodes")
    else:
        whole = ends.astype(np.int64)
        message = "must increase: an episode has at least one step"
        found.add_rows("error", "episode_ends", message, np.diff(whole, prepend=0) <= 0)
        return whole
    return np.zeros(0, np.int64)


def _column(columns: Mapping[str, Column], key: str, found: Findings) -> tuple[Column, slice] | None:
    """The column that an observation key means, and the numbers of its rows; a key as written comes first."""
    if key in columns:
        return columns[key], slice(None)
    part = _PART.fullmatch(key)
    if part and part["key"] in columns:
        column = columns[part["key"]]
        size = int(np.prod(column.shape[1:], dtype=np.int64))
        low, high = int(part["low"] or 0), int(part["high"] or size)
        if low < high <= size:
            return column, slice(low, high)
        found.add("error", key, f"there are {size} numbers a row")
        return None
    found.add("error", key, f"there is no such key; the file has {', '.join(sorted(columns)) or 'none'}")
    return None


def _rows(column: Column, name: str, single: bool, found: Findings) -> int:
    shape = tuple(column.shape)
    if column.dtype.kind not in "biuf":
        found.add("error", name, f"holds {column.dtype}, not numbers")
    if not shape or 0 in shape[1:]:
        found.add("error", name, f"has shape {shape}, not (steps, size)")
    elif single and shape[1:] not in ((), (1,)):
        found.add("error", name, f"has shape {shape}, not (steps,)")
    return shape[0] if shape else 0


def _observations(
    parts: Sequence[tuple[str, Column, slice]], rows: Tensor, last: Tensor, count: int, found: Findings
) -> Tensor:
    sizes = [len(range(int(np.prod(column.shape[1:])))[chosen]) for _, column, chosen in parts]
    observations = torch.empty((count, sum(sizes)))
    left = 0
    for (name, column, chosen), size in zip(parts, sizes, strict=True):
        for low, high in row_slices(column):
            values = read_slice(column, name, low, high, found).reshape(high - low, -1)[:, chosen]
            part = torch.from_numpy(np.ascontiguousarray(values))
            observations[rows[low:high], left : left + size] = part
            ending = last[low:high]
            observations[rows[low:high][ending] + 1, left : left + size] = part[ending]
        left += size
    return observations
