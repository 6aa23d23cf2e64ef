"""Minari datasets, read from their HDF5 layout without the minari package."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import torch

from ..columns import Reading
from ..demonstrations import Selection, refuse_choice
from ..findings import Findings
from ..schema import OfflineDataset
from .hdf5_limits import TOO_MUCH, claims_too_much

MAIN_FILES = ("data/main_data.hdf5", "main_data.hdf5")
STEP_KEYS = ("actions", "rewards", "terminations", "truncations")
COST_KEYS = ("infos/cost", "infos/costs")
PER_EPISODE = "; rows are episode numbers"
UNFINISHED = "the episode has no end; it is kept, closed as a time-out"


def read_minari(folder: Path, selection: Selection) -> Reading:
    """Reads a Minari dataset's folder, one group `episode_k` per episode.

    Each holds observations (T+1, O), actions (T, A), rewards, terminations and truncations (T,), and
    `infos/cost` or `infos/costs`, (T,) or (T+1,) with the reset's own first.

    Never raises for a bad folder: what is wrong is in the reading's problems.
    """
    found = Findings()
    refuse_choice(selection, (), found)
    path = next((folder / name for name in MAIN_FILES if (folder / name).is_file()), None)
    if path is None:
        found.add(
            "error",
            "folder",
            f"holds neither {MAIN_FILES[0]} (Minari) nor meta/info.json (LeRobot) nor .zgroup (zarr)",
        )
    if path is None or found.has_errors:
        return Reading(None, found.problems())
    try:
        with h5py.File(path, "r") as file:
            return _read(file, found)
    except (
        Exception,
        MemoryError,
    ) as error:  # damaged bytes make h5py raise nearly anything
        detail = str(error).split("\n")[0]
        found.add("error", "file", f"{path.name} cannot be read as HDF5 (truncated or damaged): {detail}")
        return Reading(None, found.problems())


def _read(file: Any, found: Findings) -> Reading:
    matches = [re.fullmatch(r"episode_(\d+)", name) for name in file]
    numbers = sorted(int(match[1]) for match in matches if match)
    if not numbers:
        found.add("error", "file", "holds 0 episodes (no group named episode_0, episode_1, ...)")
        return Reading(None, found.problems())
    sizes: tuple[int, int] | None = None
    lengths: list[int] = []
    for number in numbers:
        episode_sizes = _check_layout(file[f"episode_{number}"], number, found)
        if episode_sizes is None:
            continue
        length, *own = episode_sizes
        sizes = sizes or (own[0], own[1])
        if sizes != (own[0], own[1]):
            _note(found, number, "observations", f"sizes differ from the first episode's {sizes}")
        lengths.append(length)
    if found.has_errors or sizes is None:
        return Reading(None, found.problems())
    n, e = sum(lengths), len(lengths)
    ends = torch.tensor(lengths).cumsum(0)
    values = {
        "observations": torch.empty((n + e, sizes[0])),
        "actions": torch.empty((n, sizes[1])),
        "rewards": torch.empty(n),
        "costs": torch.empty(n),
        "terminals": torch.zeros(n, dtype=torch.bool),
        "timeouts": torch.zeros(n, dtype=torch.bool),
    }
    for index, number in enumerate(numbers):
        end, length = int(ends[index]), lengths[index]
        steps = slice(end - length, end)
        group = file[f"episode_{number}"]
        costs = _costs(group)[-length:]  # T+1 costs begin with the reset's, which belongs to no transition
        values["observations"][end - length + index : end + index + 1] = _floats(
            group["observations"][: length + 1], number, "observations", found
        )
        values["actions"][steps] = _floats(group["actions"][()], number, "actions", found)
        values["rewards"][steps] = _floats(group["rewards"][()], number, "rewards", found)
        values["costs"][steps] = _floats(costs, number, "costs", found)
        terminated = np.asarray(group["terminations"][()]).astype(bool)
        truncated = np.asarray(group["truncations"][()]).astype(bool)
        if (terminated | truncated)[:-1].any():
            _note(found, number, "terminations", "the episode goes on after its end")
        if not (terminated[-1] or truncated[-1]):
            _note(
                found,
                number,
                "truncations",
                "the episode has no end; it is kept, closed as a time-out",
                "warning",
            )
        values["terminals"][end - 1] = bool(terminated[-1])
        values["timeouts"][end - 1] = bool(truncated[-1] or not terminated[-1])
    order = torch.repeat_interleave(torch.arange(e), torch.tensor(lengths))
    dataset = OfflineDataset(
        observations=values["observations"],
        rows=torch.arange(n) + order,
        actions=values["actions"],
        rewards=values["rewards"],
        costs=values["costs"],
        terminals=values["terminals"],
        timeouts=values["timeouts"],
        episode_ends=ends,
    )
    return Reading(dataset, found.problems())


def _check_layout(group: Any, number: int, found: Findings) -> tuple[int, int, int] | None:
    """Steps, observation size and action size of an episode, or None where something is wrong with it."""
    arrays: dict[str, Any] = {}
    for name in ("observations", *STEP_KEYS):
        node = group.get(name) if isinstance(group, h5py.Group) else None
        if node is None:
            _note(found, number, name, "this key is missing")
        elif not isinstance(node, h5py.Dataset) or node.dtype.kind not in "biuf":
            _note(found, number, name, "is not one array of numbers (dict and tuple spaces cannot be read)")
        elif claims_too_much(node):
            _note(found, number, name, f"claims {TOO_MUCH}")
        else:
            arrays[name] = node
    costs = _costs(group) if isinstance(group, h5py.Group) else None
    if costs is None:
        _note(found, number, "costs", "this key is missing; it may be infos/cost or infos/costs")
    elif not isinstance(costs, h5py.Dataset) or costs.dtype.kind not in "biuf" or len(costs.shape) != 1:
        _note(found, number, "costs", "is not one number per step")
        costs = None
    if len(arrays) < 1 + len(STEP_KEYS) or costs is None:
        return None
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    steps = shapes["rewards"][0] if shapes["rewards"] else 0
    right = (
        steps > 0
        and len(shapes["observations"]) == 2
        and shapes["observations"][0] == steps + 1
        and len(shapes["actions"]) == 2
        and shapes["actions"][0] == steps
        and all(shapes[name] == (steps,) for name in ("rewards", "terminations", "truncations"))
        and costs.shape[0] in (steps, steps + 1)
    )
    if not right:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        _note(found, number, "file", f"shapes do not belong together: {listed}, costs {tuple(costs.shape)}")
        return None
    return steps, shapes["observations"][1], shapes["actions"][1]


def _costs(group: Any) -> Any:
    return next((group[key] for key in COST_KEYS if key in group), None)


def _floats(values: Any, number: int, name: str, found: Findings) -> torch.Tensor:
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite and is reported as such
        array = np.asarray(values).astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        _note(found, number, name, "NaN or infinite")
    return torch.from_numpy(array)


def _note(found: Findings, number: int, where: str, message: str, severity: Any = "error") -> None:
    found.add_rows(severity, where, message + PER_EPISODE, np.ones(1, dtype=bool), first_row=number)
