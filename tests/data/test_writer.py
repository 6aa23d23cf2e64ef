from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from diffpolicy import data
from diffpolicy.data import REQUIRED, DataError


def test_what_is_saved_is_dsrl_and_loads_the_same(arrays: dict[str, Any], tmp_path: Path) -> None:
    dataset = data.from_transitions(**arrays)
    path = tmp_path / "new" / "data.hdf5"
    data.save(dataset, path, {"task": "OfflineBallRun-v0", "seed": 3, "mix": {"ppo": 2}})
    with h5py.File(path) as file:
        assert set(file) == set(arrays)
        for name, values in arrays.items():
            assert file[name].dtype == values.dtype, name
            assert (file[name].compression, file[name].shuffle) == ("gzip", True)
            np.testing.assert_array_equal(file[name][()], values)
        assert dict(file.attrs) == {"task": "OfflineBallRun-v0", "seed": 3, "mix": '{"ppo": 2}'}
    again = data.load(path)
    assert torch.equal(again.observations, dataset.observations)
    assert torch.equal(again.rows, dataset.rows)
    assert [file.name for file in path.parent.iterdir()] == ["data.hdf5"]


def test_next_observations_can_be_left_out_and_are_never_made_up(
    arrays: dict[str, Any], tmp_path: Path
) -> None:
    dataset = data.from_transitions(**arrays)
    data.save(dataset, tmp_path / "short.hdf5", next_observations=False)
    short = data.load(tmp_path / "short.hdf5")
    assert not short.final_observations_known
    data.save(short, tmp_path / "again.hdf5")
    assert not data.load(tmp_path / "again.hdf5").final_observations_known


def test_an_empty_dataset_is_refused(arrays: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 episodes"):
        data.save(data.from_transitions(**arrays).select([False] * 3), tmp_path / "data.hdf5")


@pytest.mark.parametrize("room", [50, 5_000, 20_000])
def test_a_full_disk_leaves_the_older_file(arrays: dict[str, Any], tmp_path: Path, room: int) -> None:
    path = tmp_path / "data.hdf5"
    data.save(data.from_transitions(**arrays), path)
    before = path.read_bytes()
    larger = data.from_transitions(
        observations=np.random.default_rng(0).standard_normal((5_000, 3)),
        **{name: np.resize(arrays[name], (5_000, *arrays[name].shape[1:])) for name in REQUIRED[1:]},
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(DataError, match=r"could not be written: File too large"):
            data.save(larger, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["data.hdf5"]


def test_a_folder_that_cannot_be_made_is_named(arrays: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match="could not be written"):
        data.save(data.from_transitions(**arrays), tmp_path / "file" / "data.hdf5")


def test_attributes_beyond_hdf5_become_json(arrays: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "data.hdf5"
    data.save(
        data.from_transitions(**arrays),
        path,
        {"big": 2**80, "zero": "a\0b", "none": None, "long": "x" * 10**5},
    )
    with h5py.File(path) as file:
        assert dict(file.attrs) == {
            "big": str(2**80),
            "zero": '"a\\u0000b"',
            "none": "null",
            "long": "x" * 10**5,
        }


def test_attributes_that_cannot_be_stored_are_named(arrays: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="attribute 'x' cannot be stored"):
        data.save(data.from_transitions(**arrays), tmp_path / "data.hdf5", {"x": object()})
    assert list(tmp_path.iterdir()) == []
