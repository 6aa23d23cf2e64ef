"""LeRobot datasets v3: parquet files of several episodes each, pictures within them or in videos."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..columns import Reading
from ..demonstrations import Demonstrations, Selection, read_demonstrations, refuse_choice
from ..findings import Findings
from ..pictures import with_pictures
from ..schema import DataError
from .lerobot_pictures import film, numbered

INFO = "meta/info.json"
OBSERVATIONS = ("observation.state", "observation.environment_state")
ACTION, REWARD, EPISODE, FRAME = "action", "next.reward", "episode_index", "frame_index"


def is_lerobot(folder: Path) -> bool:
    """Whether a folder looks like a LeRobot dataset."""
    return (folder / INFO).is_file()


def read_lerobot(folder: Path, selection: Selection) -> Reading:
    """Reads a LeRobot v3 folder with pyarrow, its videos with ffmpeg; never raises for a bad one.

    Observations are `observation.state` and `observation.environment_state`, rewards `next.reward` where there
    is one. `next.done` only says that a recording ended, so every episode ends in a time-out.
    """
    found = Findings()
    try:
        import pyarrow.parquet as parquet  # type: ignore[import-untyped]
    except ImportError:
        found.add(
            "error", "file", "LeRobot datasets need the pyarrow package: pip install 'diffpolicy[formats]'"
        )
        return Reading(None, found.problems())
    try:
        refuse_choice(selection, ("observations", "images"), found)
        info = json.loads((folder / INFO).read_text())
        version = str(info["codebase_version"])
        if not version.startswith("v3."):
            raise DataError(
                f"is a LeRobot dataset {version}; convert it to v3.0 with LeRobot's own converter"
            )
        files = numbered(folder / "data", "parquet")
        schema = parquet.read_schema(files[0]).names
        names = selection.observations
        if names is None:
            names = tuple(name for name in OBSERVATIONS if name in schema)
        wanted = {*names, *(name.partition("[")[0] for name in names), ACTION, REWARD, EPISODE, FRAME}
        columns = _columns(parquet, files, [name for name in schema if name in wanted])
        for name in (ACTION, EPISODE, FRAME):
            if name not in columns:
                found.add("error", name, f"this key is missing; the files have {', '.join(schema)}")
        if found.has_errors:
            return Reading(None, found.problems())
        ends = _ends(columns.pop(EPISODE), columns.pop(FRAME), int(info["total_frames"]), found)
        source = Demonstrations(columns, names, ACTION, ends, REWARD if REWARD in columns else None)
        reading = read_demonstrations(source, found)
        if reading.dataset is None:
            return reading
        lengths = reading.dataset.episode_lengths.tolist()
        films = dict(film(parquet, folder, info, name, lengths) for name in selection.images)
        pictures = {key: one.pictures for key, one in films.items()}
        return with_pictures(reading, pictures, [path for one in films.values() for path in one.files], found)
    except DataError as error:
        found.add("error", "file", str(error))
    except (Exception, MemoryError) as error:  # JSON and parquet fail in as many ways as they have fields
        detail = str(error).split("\n")[0] or type(error).__name__
        found.add("error", "file", f"cannot be read as a LeRobot dataset (truncated or damaged): {detail}")
    return Reading(None, found.problems())


def _columns(parquet: Any, files: Sequence[Path], names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Columns of all files one after another, (rows, ...); a list must have one length everywhere."""
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    for path in files:
        table = parquet.read_table(path, columns=list(names))
        for name in names:
            column = table.column(name)
            if column.null_count:
                raise DataError(f"{name}: {path.name} has rows without a value")
            parts[name].append(_array(column.combine_chunks(), name))
    if any(len({part.shape[1:] for part in column}) > 1 for column in parts.values()):
        raise DataError("rows of the files have different sizes")
    return {name: np.concatenate(column) for name, column in parts.items()}


def _array(column: Any, name: str) -> NDArray[Any]:
    """Nested lists of numbers as an array (rows, ...)."""
    shape = [len(column)]
    while hasattr(column, "flatten") and hasattr(column.type, "value_field"):
        flat = column.flatten()
        size = len(flat) // max(len(column), 1)
        if not np.all(np.asarray(column.value_lengths()) == size):
            raise DataError(f"{name}: rows have different sizes")
        shape.append(size)
        column = flat
    if column.null_count:
        raise DataError(f"{name}: has rows without a value")
    return np.asarray(column.to_numpy(zero_copy_only=False)).reshape(shape)


def _ends(episode: NDArray[Any], frame: NDArray[Any], total: int, found: Findings) -> NDArray[np.int64]:
    """Exclusive ends of the episodes of all rows; frames must count up from 0 within each."""
    n = len(episode)
    if n != total:
        found.add("error", "file", f"holds {n} of {total} frames: the copy is incomplete")
    last = np.append(episode[1:] != episode[:-1], True)
    ends = np.flatnonzero(last) + 1
    lengths = np.diff(ends, prepend=0)
    expected = np.arange(n) - np.repeat(ends - lengths, lengths)
    found.add_rows("error", FRAME, "does not count up from 0 within its episode", frame != expected)
    found.add_rows("error", EPISODE, "decreases", np.diff(episode, prepend=episode[:1]) < 0)
    return ends
