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
from diffpolicy.data import DataError, columns

Arrays = dict[str, Any]
BOUNDS = {0: (0, 4), 2: (4, 7), 10: (7, 12)}  # demonstrations of 4, 3 and 5 steps; 10 comes after 2


@pytest.fixture
def robomimic(demonstrations: Arrays, tmp_path: Path) -> Path:
    """A file as `dataset_states_to_obs` leaves it."""
    path = tmp_path / "image.hdf5"
    with h5py.File(path, "w") as file:
        group = file.create_group("data")
        group.attrs["env_args"] = "{}"
        for number, (low, high) in BOUNDS.items():
            demo = group.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = high - low
            demo["actions"] = demonstrations["action"][low:high].astype(np.float64)
            demo["rewards"] = np.arange(low, high, dtype=np.float64)
            demo["dones"] = np.ones(high - low, dtype=np.int64)
            demo["states"] = np.zeros((high - low, 32))
            for part in ("obs", "next_obs"):
                demo[f"{part}/robot0_eef_pos"] = demonstrations["state"][low:high].astype(np.float64)
                demo[f"{part}/gripper"] = demonstrations["state"][low:high, 0]
                demo[f"{part}/agentview_image"] = demonstrations["img"][low:high]
        file["mask/train"] = np.array([b"demo_10", b"demo_0"])
    return path


def test_demonstrations_are_read_in_the_order_of_their_numbers(
    robomimic: Path, demonstrations: Arrays
) -> None:
    assert data.check(robomimic) == []
    dataset = data.load(robomimic)
    assert dataset.episode_ends.tolist() == [4, 7, 12]
    assert np.array_equal(dataset.actions.numpy(), demonstrations["action"])
    state = demonstrations["state"]
    assert np.array_equal(
        dataset.observations[dataset.rows].numpy(), np.concatenate([state[:, :1], state], axis=1)
    )
    assert dataset.rewards.tolist() == list(range(12))
    assert dataset.timeouts.nonzero().flatten().tolist() == [3, 6, 11]
    assert not dataset.terminals.any()
    assert dataset.images == {}


def test_keys_pictures_and_a_subset_are_chosen(
    robomimic: Path, demonstrations: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "SLICE_ROWS", 5)
    dataset = data.load(robomimic, ["robot0_eef_pos"], ["agentview_image"], subset="train")
    chosen = np.r_[0:4, 7:12]
    assert np.array_equal(dataset.observations[dataset.rows].numpy(), demonstrations["state"][chosen])
    assert np.array_equal(dataset.images["agentview"][np.arange(9)], demonstrations["img"][chosen])
    assert dataset.episode_ends.tolist() == [4, 9]


def test_another_subset_has_other_pictures_in_the_cache(robomimic: Path, demonstrations: Arrays) -> None:
    every = data.load(robomimic, images=["agentview_image"]).images["agentview"]
    some = data.load(robomimic, images=["agentview_image"], subset="train").images["agentview"]
    assert (every.shape[0], some.shape[0]) == (12, 9)
    assert np.array_equal(every[np.array([11])], some[np.array([8])])


@pytest.mark.parametrize(
    ("spoil", "message", "rows"),
    [
        (("actions", None), "actions: this key is missing", (2,)),
        (("obs/gripper", None), "obs/gripper: this key is missing", (2,)),
        (("obs/gripper", np.zeros(2)), "obs/gripper: has another number of steps than the actions", (2,)),
        (
            ("obs/robot0_eef_pos", np.zeros((3, 4))),
            "obs/robot0_eef_pos: has rows of shape (4,), earlier ones (3,)",
            (2,),
        ),
        (("rewards", np.array([b"a", b"b", b"c"])), "rewards: is not an array of numbers", (2,)),
        (("rewards", np.array([0, np.nan, 0])), "rewards: NaN or infinite", (5,)),
        (("actions", (10**12, 2)), "actions: claims shape", (2,)),
    ],
)
def test_what_is_wrong_is_named(
    robomimic: Path, spoil: tuple[str, Any], message: str, rows: tuple[int, ...]
) -> None:
    name, value = spoil
    with h5py.File(robomimic, "a") as file:
        demo = file["data/demo_2"]
        del demo[name]
        if isinstance(value, tuple):
            demo.create_dataset(name, value, "f4", chunks=(1000, 2))
        elif value is not None:
            demo[name] = value
    named = [problem for problem in data.check(robomimic) if str(problem).startswith(f"error: {message}")]
    assert named[0].rows == rows


def test_files_without_observations_say_where_to_get_them(robomimic: Path) -> None:
    with h5py.File(robomimic, "a") as file:
        del file["data/demo_0/obs"]
    assert "dataset_states_to_obs" in str(data.check(robomimic)[0])


@pytest.mark.parametrize(
    ("spoil", "subset", "message"),
    [
        (lambda file: None, "valid", "there is no subset 'valid'; the file has train"),
        (lambda file: file.pop("mask"), "valid", "the file has none"),
        (lambda file: file.pop("data/demo_10"), "train", "names demonstrations that the file does not have"),
        (lambda file: [file.pop(f"data/demo_{number}") for number in (0, 2)], None, ""),
    ],
)
def test_subsets(robomimic: Path, spoil: Callable[[Any], Any], subset: str | None, message: str) -> None:
    with h5py.File(robomimic, "a") as file:
        spoil(file)
    if not message:
        assert data.load(robomimic, subset=subset).num_episodes == 1
        return
    with pytest.raises(DataError, match=message):
        data.load(robomimic, subset=subset)


def test_choices_are_not_quietly_ignored_by_other_files(
    arrays: Arrays, write_hdf5: Callable[[Arrays], Path]
) -> None:
    with pytest.raises(DataError, match="observations cannot be chosen in a file of this format"):
        data.load(write_hdf5(arrays), observations=["state"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flips=st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 255)), max_size=40), cut=st.floats(0.5, 1)
)
def test_damaged_files_never_raise(
    robomimic: Path, tmp_path: Path, flips: list[tuple[int, int]], cut: float
) -> None:
    content = bytearray(robomimic.read_bytes())
    for position, byte in flips:
        content[position % len(content)] = byte
    damaged = tmp_path / "damaged.hdf5"
    damaged.write_bytes(content[: int(cut * len(content))])
    assert all(str(problem).count("\n") == 0 for problem in data.check(damaged))
