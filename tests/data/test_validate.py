from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffpolicy import data
from diffpolicy.data import DataError, Expectations

Arrays = dict[str, Any]
Write = Callable[[Arrays], Path]
EXPECTED = Expectations(3, 2, -1.0, 1.0, 5, True)
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def put(name: str, rows: Any, value: Any) -> Callable[[Arrays], None]:
    def spoil(arrays: Arrays) -> None:
        arrays[name] = arrays[name].copy()
        arrays[name][rows] = value

    return spoil


def swap(name: str, make: Callable[[Any], Any]) -> Callable[[Arrays], None]:
    def spoil(arrays: Arrays) -> None:
        arrays[name] = make(arrays[name])

    return spoil


def keep(rows: int) -> Callable[[Arrays], None]:
    def spoil(arrays: Arrays) -> None:
        for name in arrays:
            arrays[name] = arrays[name][:rows]

    return spoil


def test_a_sound_file_has_no_problems(arrays: Arrays, write_hdf5: Write) -> None:
    path = write_hdf5(arrays)
    assert data.check(path, EXPECTED) == []
    assert data.check(str(path)) == []


@pytest.mark.parametrize(
    ("spoil", "message", "rows"),
    [
        (lambda arrays: arrays.pop("actions"), "error: actions: this key is missing", ()),
        (swap("rewards", lambda x: x[:, None, None]), "error: rewards: has shape (12, 1, 1), not", ()),
        (swap("actions", lambda x: x[:, 0]), "error: actions: has shape (12,), not (transitions, size)", ()),
        (swap("costs", lambda _: 3.0), "error: costs: has shape (), not", ()),
        (swap("costs", lambda _: {}), "error: costs: is a group", ()),
        (swap("costs", lambda _: h5py.Empty("f4")), "error: costs: is empty", ()),
        (swap("observations", lambda x: x[:, :0]), "error: observations: has shape (12, 0)", ()),
        (swap("rewards", lambda _: ["a"] * 12), "error: rewards: holds object, not numbers", ()),
        (
            swap("costs", lambda x: x[:9]),
            "error: file: the columns have different lengths: observations 12",
            (),
        ),
        (swap("next_observations", lambda x: x[:, :2]), "error: next_observations: has shape (12, 2)", ()),
        (keep(0), "error: file: holds 0 episodes", ()),
        (put("observations", [2, 5], np.nan), "error: observations: NaN or infinite", (2, 5)),
        (put("rewards", 7, np.inf), "error: rewards: NaN or infinite", (7,)),
        (
            swap("rewards", lambda x: x.astype(np.float64) + 1e300),
            "error: rewards: NaN or infinite",
            (0, 1, 2, 3, 4),
        ),
        (swap("timeouts", lambda x: x * 2), "error: timeouts: flags must be 0 or 1", (6, 11)),
        (put("next_observations", 1, 0.5), "error: next_observations: differs from", (1,)),
        (put("next_observations", 6, -2e6), "error: next_observations: beyond +-1e+06", (6,)),
        (put("rewards", 3, -2e6), "error: rewards: beyond +-1e+06", (3,)),
        (put("costs", 4, -1), "error: costs: negative", (4,)),
        (put("costs", 4, 2e6), "error: costs: beyond 1e+06", (4,)),
        (put("costs", 4, 0.5), "error: costs: neither 0 nor 1", (4,)),
        (put("actions", (4, 1), 1.1), "error: actions: above the limit 1", (4,)),
        (put("actions", (4, 1), -1.1), "error: actions: below the limit -1", (4,)),
        (put("timeouts", 6, False), "error: timeouts: episodes longer than the task's 5 steps", (4,)),
        (put("timeouts", 3, True), "warning: timeouts: terminal and time-out at once", (3,)),
        (put("timeouts", 11, False), "warning: timeouts: the file ends inside an episode", (7, 8, 9, 10, 11)),
    ],
)
def test_every_problem_is_named_with_its_rows(
    arrays: Arrays, write_hdf5: Write, spoil: Callable[[Arrays], Any], message: str, rows: tuple[int, ...]
) -> None:
    spoil(arrays)
    problems = data.check(write_hdf5(arrays), EXPECTED)
    named = [problem for problem in problems if str(problem).startswith(message)]
    assert named, problems
    assert named[0].rows == rows


def test_huge_observations_are_named_at_both_ends_of_a_step(arrays: Arrays, write_hdf5: Write) -> None:
    arrays["observations"][8] = arrays["next_observations"][7] = 3e6
    (problem,) = data.check(write_hdf5(arrays))
    assert (problem.where, problem.rows, problem.count) == ("observations", (8,), 1)


def test_a_task_of_other_sizes_is_named(arrays: Arrays, write_hdf5: Write) -> None:
    problems = data.check(write_hdf5(arrays), Expectations(observation_size=60, action_size=3))
    assert [str(problem) for problem in problems] == [
        "error: observations: 3 numbers a row, this task has 60",
        "error: actions: 2 numbers a row, this task has 3",
    ]


def test_all_problems_come_at_once_and_errors_first(arrays: Arrays, write_hdf5: Write) -> None:
    arrays["timeouts"][11] = False
    arrays["actions"][:] = 7
    arrays["rewards"][2] = np.nan
    problems = data.check(write_hdf5(arrays), EXPECTED)
    assert [problem.severity for problem in problems] == ["error", "error", "warning"]
    assert problems[1].count == 12
    with pytest.raises(DataError, match=r"rewards: NaN or infinite \(row 2\)") as raised:
        data.load(write_hdf5(arrays))
    assert len(raised.value.problems) == 2


def test_a_shape_that_the_file_cannot_hold_is_not_allocated(arrays: Arrays, write_hdf5: Write) -> None:
    path = write_hdf5(arrays)
    with h5py.File(path, "a") as file:
        del file["observations"]
        file.create_dataset("observations", (10**12, 3), "f4", chunks=(1000, 3))
    assert "more than this file can hold" in str(data.check(path)[0])


@FUZZ
@given(
    flips=st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 255)), max_size=40),
    cut=st.none() | st.floats(0, 1),
)
def test_damaged_hdf5_never_raises(
    arrays: Arrays, tmp_path: Path, flips: list[tuple[int, int]], cut: float | None
) -> None:
    sound = tmp_path / "sound.hdf5"
    if not sound.exists():
        data.save(data.from_transitions(**arrays), sound, {"task": "any"})
    content = bytearray(sound.read_bytes())
    for position, byte in flips:
        content[position % len(content)] = byte
    damaged = tmp_path / "damaged.hdf5"
    damaged.write_bytes(content if cut is None else content[: int(cut * len(content))])
    problems = data.check(damaged, EXPECTED)
    if cut is not None and cut < 0.9:
        assert problems[0].severity == "error"


@FUZZ
@given(
    flips=st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 255)), max_size=40), cut=st.floats(0.5, 1)
)
def test_damaged_npz_never_raises(
    arrays: Arrays, tmp_path: Path, flips: list[tuple[int, int]], cut: float
) -> None:
    sound = tmp_path / "sound.npz"
    if not sound.exists():
        np.savez(sound, **arrays)
    content = bytearray(sound.read_bytes())
    for position, byte in flips:
        content[position % len(content)] = byte
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(content[: int(cut * len(content))])
    data.check(damaged, EXPECTED)


@pytest.mark.parametrize("suffix", ["hdf5", "npz"])
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300))
def test_any_other_bytes_are_an_error(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"any.{suffix}"
    path.write_bytes(content)
    (problem,) = data.check(path)
    assert "truncated or damaged" in problem.message


STRANGE = st.sampled_from(
    [
        np.float32(1),
        "text",
        b"bytes",
        h5py.Empty("f4"),
        np.zeros((0,)),
        np.zeros((12, 0)),
        np.zeros((12, 2, 2)),
        np.zeros(12, dtype=[("x", "f4"), ("y", "i4")]),
        np.zeros(12, complex),
        np.array(["a"] * 12, dtype="S3"),
        np.full(12, 1e300),
        np.full((12, 3), 2**63, np.uint64),
        np.full((12, 2), -(2**63), np.int64),
        np.full(12, np.nan),
        np.arange(12, dtype=np.float16),
        {},
    ]
)


@FUZZ
@given(st.dictionaries(st.sampled_from((*data.REQUIRED, "next_observations")), STRANGE, min_size=1))
def test_strange_columns_are_errors_and_never_raise(
    arrays: Arrays, write_hdf5: Write, strange: Arrays
) -> None:
    path = write_hdf5({**arrays, **strange})
    errors = [problem for problem in data.check(path, EXPECTED) if problem.severity == "error"]
    assert all(str(error).count("\n") == 0 for error in errors)
    try:
        dataset = data.load(path)
    except DataError:
        assert errors
    else:
        assert dataset.num_transitions == 12
        assert bool(dataset.observations.isfinite().all())
