from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffpolicy import data
from diffpolicy.data import DataError, OfflineDataset, columns

Arrays = dict[str, Any]
Write = Callable[[Arrays], Path]
REAL = (
    Path(__file__).resolve().parents[2]
    / ".."
    / "shared/data/safe_rl/generated_SafetyPointGoal1Gymnasium-v0_30ep.hdf5"
)


def assert_same(one: OfflineDataset, other: OfflineDataset) -> None:
    for name in (
        "observations",
        "rows",
        "actions",
        "rewards",
        "costs",
        "terminals",
        "timeouts",
        "episode_ends",
    ):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert one.final_observations_known == other.final_observations_known


def test_hdf5(arrays: Arrays, write_hdf5: Write) -> None:
    assert_same(data.load(write_hdf5(arrays)), data.from_transitions(**arrays))


def test_other_dtypes_and_column_vectors_are_read(arrays: Arrays, write_hdf5: Write) -> None:
    stored = {name: values.astype(np.float64) for name, values in arrays.items()}
    stored["rewards"] = stored["rewards"][:, None]
    stored["costs"] = arrays["costs"].astype(np.int64)[:, None]
    stored["timeouts"] = arrays["timeouts"].astype(np.uint8)
    assert_same(data.load(write_hdf5(stored)), data.from_transitions(**arrays))


@pytest.mark.parametrize("key", ["infos/cost", "infos/costs"])
def test_d4rl_style_costs(arrays: Arrays, write_hdf5: Write, key: str) -> None:
    expected = data.from_transitions(**arrays)
    arrays[key] = arrays.pop("costs")
    assert_same(data.load(write_hdf5(arrays)), expected)


def test_missing_costs_say_which_keys_would_do(arrays: Arrays, write_hdf5: Write) -> None:
    del arrays["costs"]
    with pytest.raises(
        DataError, match="costs: this key is missing; infos/cost and infos/costs are accepted"
    ):
        data.load(write_hdf5(arrays))


def test_without_next_observations_the_last_one_is_repeated(arrays: Arrays, write_hdf5: Write) -> None:
    del arrays["next_observations"]
    dataset = data.load(write_hdf5(arrays))
    assert not dataset.final_observations_known
    ends = dataset.episode_ends - 1
    assert torch.equal(dataset.observations[dataset.rows[ends] + 1], dataset.observations[dataset.rows[ends]])


def test_an_unfinished_last_episode_is_kept_and_logged(
    arrays: Arrays, write_hdf5: Write, caplog: pytest.LogCaptureFixture
) -> None:
    arrays["timeouts"][11] = False
    with caplog.at_level(logging.WARNING):
        dataset = data.load(write_hdf5(arrays))
    assert dataset.episode_ends.tolist() == [4, 7, 12]
    assert bool(dataset.timeouts[11])
    assert "ends inside an episode; it is kept" in caplog.text


def test_slices_and_chunks_change_nothing(
    arrays: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "chunked.hdf5"
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, chunks=(3, *values.shape[1:]), compression="gzip")
    monkeypatch.setattr(columns, "SLICE_ROWS", 5)
    assert_same(data.load(path), data.from_transitions(**arrays))
    arrays["next_observations"][[0, 1, 7, 8, 9, 10]] += 1
    with pytest.raises(DataError, match=r"next_observations: differs .* \(rows 0, 1, 7, 8, 9 and 1 more\)"):
        data.from_transitions(**arrays)


def test_npz(arrays: Arrays, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "data.npz", **arrays)
    assert_same(data.load(tmp_path / "data.npz"), data.from_transitions(**arrays))


def test_npz_is_never_unpickled(arrays: Arrays, tmp_path: Path) -> None:
    arrays["rewards"] = np.array([print] * 12, dtype=object)
    np.savez(tmp_path / "data.npz", allow_pickle=True, **arrays)
    with pytest.raises(DataError, match=r"cannot be read as an .npz of numbers"):
        data.load(tmp_path / "data.npz")


def write_minari(
    folder: Path, arrays: Arrays, cost_key: str = "infos/cost", reset_cost: bool = False
) -> Path:
    (folder / "data").mkdir(parents=True)
    with h5py.File(folder / "data/main_data.hdf5", "w") as file:
        for number, (low, high) in enumerate([(0, 4), (4, 7), (7, 12)]):
            group = file.create_group(f"episode_{number}")
            final = arrays["next_observations"][high - 1 : high]
            group["observations"] = np.concatenate([arrays["observations"][low:high], final])
            group["actions"] = arrays["actions"][low:high]
            group["rewards"] = arrays["rewards"][low:high].astype(np.float64)
            group["terminations"] = arrays["terminals"][low:high]
            group["truncations"] = arrays["timeouts"][low:high]
            group[cost_key] = np.concatenate([np.full(int(reset_cost), 9.0), arrays["costs"][low:high]])
    (folder / "data/metadata.json").write_text(json.dumps({"data_format": "hdf5", "total_episodes": 3}))
    return folder


@pytest.mark.parametrize(("cost_key", "reset_cost"), [("infos/cost", False), ("infos/costs", True)])
def test_minari(arrays: Arrays, tmp_path: Path, cost_key: str, reset_cost: bool) -> None:
    folder = write_minari(tmp_path / "minari", arrays, cost_key, reset_cost)
    assert_same(data.load(folder), data.from_transitions(**arrays))
    assert_same(data.load(folder / "data"), data.from_transitions(**arrays))


def test_minari_written_by_minari(arrays: Arrays, tmp_path: Path) -> None:
    storage = pytest.importorskip("minari.dataset._storages.hdf5_storage")
    buffers = pytest.importorskip("minari.data_collector")
    spaces = pytest.importorskip("gymnasium.spaces")
    episodes = []
    for number, (low, high) in enumerate([(0, 4), (4, 7), (7, 12)]):
        final = arrays["next_observations"][high - 1 : high]
        episodes.append(
            buffers.EpisodeBuffer(
                id=number,
                observations=list(np.concatenate([arrays["observations"][low:high], final])),
                actions=list(arrays["actions"][low:high]),
                rewards=arrays["rewards"][low:high].tolist(),
                terminations=arrays["terminals"][low:high].tolist(),
                truncations=arrays["timeouts"][low:high].tolist(),
                infos={"cost": [0.0, *arrays["costs"][low:high].tolist()]},
            )
        )
    folder = tmp_path / "minari" / "data"
    folder.mkdir(parents=True)
    written = storage.HDF5Storage.new(
        folder,
        observation_space=spaces.Box(-100, 100, (3,)),
        action_space=spaces.Box(-1, 1, (2,)),
        data_format="hdf5",
    )
    written.update_episodes(episodes)
    assert_same(data.load(folder.parent), data.from_transitions(**arrays))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("infos/cost", None, "costs: this key is missing; it may be infos/cost or infos/costs"),
        ("actions", None, "actions: this key is missing"),
        ("observations", {}, "observations: is not one array of numbers"),
        ("observations", np.zeros((3, 3)), "file: shapes do not belong together"),
        ("observations", np.zeros((4, 2)), "observations: sizes differ from the first"),
        ("rewards", np.array([0, np.nan, 0]), "rewards: NaN or infinite"),
        ("terminations", np.array([1, 0, 0]), "terminations: the episode goes on after its end"),
        ("rewards", (10**12,), "rewards: claims more than this file can hold"),
        ("rewards", 3.0, "file: shapes do not belong together"),
        ("infos/cost", np.array(["a", "b", "c"], dtype="S1"), "costs: is not one number per step"),
    ],
)
def test_bad_minari_episodes_are_numbered(
    arrays: Arrays, tmp_path: Path, name: str, value: Any, message: str
) -> None:
    folder = write_minari(tmp_path / "minari", arrays)
    with h5py.File(folder / "data/main_data.hdf5", "a") as file:
        group = file["episode_1"]
        del group[name]
        if isinstance(value, dict):
            group.create_group(name)
        elif isinstance(value, tuple):
            group.create_dataset(name, value, "f4", chunks=(1000,))
        elif value is not None:
            group[name] = value
    problem = data.check(folder)[0]
    assert str(problem).startswith(f"error: {message}")
    assert problem.rows == (1,)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flips=st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 255)), min_size=1, max_size=40),
    cut=st.floats(0.5, 1),
)
def test_damaged_minari_files_never_raise(
    arrays: Arrays, tmp_path: Path, flips: list[tuple[int, int]], cut: float
) -> None:
    main = tmp_path / "minari/data/main_data.hdf5"
    sound = tmp_path / "sound"
    if not sound.exists():
        write_minari(tmp_path / "minari", arrays)
        sound.write_bytes(main.read_bytes())
    content = bytearray(sound.read_bytes())
    for position, byte in flips:
        content[position % len(content)] = byte
    main.write_bytes(content[: int(cut * len(content))])
    problems = data.check(tmp_path / "minari")
    assert all(str(problem).count("\n") == 0 for problem in problems)


def test_a_minari_episode_without_an_end_is_a_warning(arrays: Arrays, tmp_path: Path) -> None:
    arrays["timeouts"][6] = False
    folder = write_minari(tmp_path / "minari", arrays)
    (problem,) = data.check(folder)
    assert (problem.severity, problem.rows) == ("warning", (1,))
    assert bool(data.load(folder).timeouts[6])


def test_other_folders_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds neither data"):
        data.load(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        data.load(tmp_path / "nothing.hdf5")


@pytest.mark.skipif(not REAL.exists(), reason="the recorded dataset is not here")
def test_a_recorded_file() -> None:
    dataset = data.load(REAL)
    assert dataset.observations.shape == (30_030, 60)
    assert dataset.episode_lengths.tolist() == [1000] * 30
    expected = data.Expectations(60, 2, -1.0, 1.0, 1000, True)
    assert data.check(REAL, expected) == []
