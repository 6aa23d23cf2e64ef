"""From named columns (HDF5 datasets or arrays) to an `OfflineDataset`, slice by slice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .findings import Findings
from .schema import REQUIRED, DataError, OfflineDataset, Problem

SLICE_ROWS = 65_536
RELATIVE, ABSOLUTE = 1e-5, 1e-6
"""How far a stored next observation may be from the observation after it: float32 rounding, not physics."""


class Column(Protocol):
    """What `numpy.ndarray` and `h5py.Dataset` have in common."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of one entry as stored."""

    def __getitem__(self, rows: slice, /) -> Any: ...


class Reading(NamedTuple):
    """A dataset when it could be built at all, and every problem noticed on the way."""

    dataset: OfflineDataset | None
    problems: list[Problem]


def read_columns(columns: Mapping[str, Column]) -> Reading:
    """Builds a dataset from DSRL columns: observations (N, O), actions (N, A), the other four (N,) or (N, 1).

    `next_observations` (N, O) gives each episode's final observation and must agree with the observations
    inside an episode. A last episode without a done flag is kept, closed by a time-out and reported as a
    warning (DSRL drops it): its transitions are as good as any others.
    """
    found = Findings()
    _check_layout(columns, found)
    if found.has_errors:
        return Reading(None, found.problems())
    flags = {name: _read_flags(columns[name], name, found) for name in ("terminals", "timeouts")}
    if found.has_errors:
        return Reading(None, found.problems())
    done = flags["terminals"] | flags["timeouts"]
    if not done[-1]:
        unfinished = np.cumsum(done[::-1])[::-1] == 0
        message = "the file ends inside an episode; it is kept and closed as a time-out"
        found.add_rows("warning", "timeouts", message, unfinished)
        flags["timeouts"][-1] = done[-1] = True
    ends = torch.from_numpy(np.flatnonzero(done) + 1)
    episode_of = torch.from_numpy(np.concatenate([[0], np.cumsum(done[:-1])]).astype(np.int64))
    rows = torch.arange(done.size) + episode_of
    last = torch.from_numpy(done)
    observations = _read_observations(columns, rows, last, found)
    values = {name: read_floats(columns[name], name, found) for name in ("actions", "rewards", "costs")}
    dataset = OfflineDataset(
        observations=observations,
        rows=rows,
        actions=values["actions"],
        rewards=values["rewards"].reshape(-1),
        costs=values["costs"].reshape(-1),
        terminals=torch.from_numpy(flags["terminals"]),
        timeouts=torch.from_numpy(flags["timeouts"]),
        episode_ends=ends,
        final_observations_known="next_observations" in columns,
    )
    return Reading(dataset, found.problems())


def from_transitions(
    *,
    observations: ArrayLike,
    actions: ArrayLike,
    rewards: ArrayLike,
    costs: ArrayLike,
    terminals: ArrayLike,
    timeouts: ArrayLike,
    next_observations: ArrayLike | None = None,
) -> OfflineDataset:
    """Builds a dataset from arrays in DSRL's layout (see `read_columns`); DataError names every problem."""
    columns = {
        "observations": np.asarray(observations),
        "actions": np.asarray(actions),
        "rewards": np.asarray(rewards),
        "costs": np.asarray(costs),
        "terminals": np.asarray(terminals),
        "timeouts": np.asarray(timeouts),
    }
    if next_observations is not None:
        columns["next_observations"] = np.asarray(next_observations)
    return accept(read_columns(columns), "the arrays")


def accept(reading: Reading, source: str) -> OfflineDataset:
    """The dataset of a reading without errors; otherwise raises DataError with every error in its message."""
    errors = [problem for problem in reading.problems if problem.severity == "error"]
    if errors or reading.dataset is None:
        listed = "\n  ".join(str(problem) for problem in errors)
        raise DataError(f"{source} cannot be used as an offline dataset:\n  {listed}", reading.problems)
    return reading.dataset


def _check_layout(columns: Mapping[str, Column], found: Findings) -> None:
    for name in REQUIRED:
        if name not in columns:
            hint = "; infos/cost and infos/costs are accepted too" if name == "costs" else ""
            found.add("error", name, f"this key is missing{hint}")
    lengths = {}
    for name in (*REQUIRED, "next_observations"):
        if name not in columns:
            continue
        column = columns[name]
        shape = tuple(column.shape)
        if column.dtype.kind not in "biuf":
            found.add("error", name, f"holds {column.dtype}, not numbers")
        if name in ("observations", "next_observations", "actions"):
            if len(shape) != 2 or shape[1] == 0:
                found.add("error", name, f"has shape {shape}, not (transitions, size)")
        elif not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)):
            found.add("error", name, f"has shape {shape}, not (transitions,)")
        if shape:
            lengths[name] = shape[0]
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        found.add("error", "file", f"the columns have different lengths: {listed}")
    elif lengths and next(iter(lengths.values())) == 0:
        found.add("error", "file", "holds 0 episodes")
    if not found.has_errors and "next_observations" in columns:
        shapes = columns["observations"].shape, columns["next_observations"].shape
        if shapes[0] != shapes[1]:
            found.add("error", "next_observations", f"has shape {shapes[1]}, observations have {shapes[0]}")


def row_slices(column: Column, rows: int | None = None) -> Iterator[tuple[int, int]]:
    """Ranges of about `rows` (default SLICE_ROWS) rows, in whole storage chunks so that none is decoded twice."""
    chunks = getattr(column, "chunks", None)
    chunk_rows = int(chunks[0]) if chunks else 1
    step = max(1, (rows or SLICE_ROWS) // chunk_rows) * chunk_rows
    for low in range(0, column.shape[0], step):
        yield low, min(low + step, column.shape[0])


def read_slice(column: Column, name: str, low: int, high: int, found: Findings) -> NDArray[np.float32]:
    """Rows low ... high-1 of a column as float32; those that are not finite are noted."""
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite and is reported as such
        values = np.asarray(column[low:high]).astype(np.float32, copy=False)
    bad = np.asarray((~np.isfinite(values)).reshape(high - low, -1).any(axis=1))
    found.add_rows("error", name, "NaN or infinite", bad, low)
    return values


def read_floats(column: Column, name: str, found: Findings) -> Tensor:
    """A whole column as float32; rows that are not finite are noted."""
    values = torch.empty(tuple(column.shape), dtype=torch.float32)
    for low, high in row_slices(column):
        values[low:high] = torch.from_numpy(read_slice(column, name, low, high, found))
    return values


def _read_flags(column: Column, name: str, found: Findings) -> NDArray[np.bool_]:
    values = np.asarray(column[0 : column.shape[0]]).reshape(-1)
    found.add_rows("error", name, "flags must be 0 or 1", np.isin(values, (0, 1), invert=True))
    return values.astype(bool)


def _read_observations(columns: Mapping[str, Column], rows: Tensor, last: Tensor, found: Findings) -> Tensor:
    column = columns["observations"]
    count = rows.numel() + int(last.sum())
    observations = torch.empty((count, column.shape[1]), dtype=torch.float32)
    for low, high in row_slices(column):
        part = torch.from_numpy(read_slice(column, "observations", low, high, found))
        observations[rows[low:high]] = part
        ending = last[low:high]
        observations[rows[low:high][ending] + 1] = part[ending]
    if "next_observations" not in columns:
        return observations
    column = columns["next_observations"]
    for low, high in row_slices(column):
        part = torch.from_numpy(read_slice(column, "next_observations", low, high, found))
        ending = last[low:high]
        following = rows[low:high] + 1
        observations[following[ending]] = part[ending]
        near = torch.isclose(part, observations[following], rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True)
        message = "differs from the observation of the row after it, in the same episode"
        found.add_rows("error", "next_observations", message, (~near.all(1)).numpy(), low)
    return observations
