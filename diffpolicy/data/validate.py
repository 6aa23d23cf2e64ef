"""Names everything that is wrong with a dataset file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .demonstrations import choose
from .findings import Findings
from .readers import read
from .schema import Expectations, OfflineDataset, Problem

HUGE = 1e6
"""Observations and rewards beyond this are taken for damage: no task of the benchmark comes near it."""

ROUNDING = 1e-5
"""How far beyond its limits an action may be: float32 rounding of a clipped action."""

CHECK_ROWS = 65_536


def check(
    path: str | Path,
    expectations: Expectations | None = None,
    observations: Sequence[str] | None = None,
    images: Sequence[str] = (),
    subset: str | None = None,
) -> list[Problem]:
    """All problems of a file, errors first; none means that it is sound. Never raises for a bad file.

    Of demonstrations the keys named are read, as by `load`, and pictures are decoded if they are. Row numbers
    count the file's transitions from 0 (for Minari and robomimic, episodes where the message says so).
    """
    reading = read(path, choose(observations, images, subset))
    if reading.dataset is None:
        return reading.problems
    problems = [*reading.problems, *check_dataset(reading.dataset, expectations)]
    return sorted(problems, key=lambda problem: problem.severity != "error")


def check_dataset(dataset: OfflineDataset, expectations: Expectations | None = None) -> list[Problem]:
    """Problems of a dataset's values, and against what its task expects; readers have seen to the rest."""
    expected = expectations or Expectations()
    found = Findings()
    _check_sizes(dataset, expected, found)
    n = dataset.num_transitions
    for low in range(0, n, CHECK_ROWS):
        high = min(low + CHECK_ROWS, n)
        rows = dataset.rows[low:high]
        _mark(
            found, "observations", f"beyond +-{HUGE:g}", (dataset.observations[rows].abs() > HUGE).any(1), low
        )
        _check_actions(dataset.actions[low:high], expected, found, low)
    if dataset.final_observations_known:
        ends = dataset.episode_ends - 1
        huge = torch.zeros(n, dtype=torch.bool)
        huge[ends] = (dataset.observations[dataset.rows[ends] + 1].abs() > HUGE).any(1)
        _mark(found, "next_observations", f"beyond +-{HUGE:g}", huge)
    _mark(found, "rewards", f"beyond +-{HUGE:g}", dataset.rewards.abs() > HUGE)
    _mark(found, "costs", "negative", dataset.costs < 0)
    _mark(found, "costs", f"beyond {HUGE:g}", dataset.costs > HUGE)
    if expected.binary_cost:
        neither = (dataset.costs != 0) & (dataset.costs != 1)
        _mark(found, "costs", "neither 0 nor 1, and this task's costs are binary", neither)
    both = dataset.terminals & dataset.timeouts
    message = "terminal and time-out at once; methods will take the step for a terminal"
    found.add_rows("warning", "timeouts", message, both.numpy())
    if expected.max_episode_steps is not None:
        long = torch.zeros(n, dtype=torch.bool)
        long[dataset.episode_starts[dataset.episode_lengths > expected.max_episode_steps]] = True
        message = f"episodes longer than the task's {expected.max_episode_steps} steps, by their first rows"
        _mark(found, "timeouts", message, long)
    return found.problems()


def _check_sizes(dataset: OfflineDataset, expected: Expectations, found: Findings) -> None:
    sizes = (
        ("observations", dataset.observation_size, expected.observation_size),
        ("actions", dataset.action_size, expected.action_size),
    )
    for name, size, wanted in sizes:
        if wanted is not None and size != wanted:
            found.add("error", name, f"{size} numbers a row, this task has {wanted}")


def _check_actions(actions: Tensor, expected: Expectations, found: Findings, low: int) -> None:
    if expected.action_low is not None:
        outside = (actions < expected.action_low - ROUNDING).any(1)
        _mark(found, "actions", f"below the limit {expected.action_low:g}", outside, low)
    if expected.action_high is not None:
        outside = (actions > expected.action_high + ROUNDING).any(1)
        _mark(found, "actions", f"above the limit {expected.action_high:g}", outside, low)


def _mark(found: Findings, where: str, message: str, bad: Tensor, first_row: int = 0) -> None:
    found.add_rows("error", where, message, np.asarray(bad), first_row)
