from __future__ import annotations

import json
import pickle
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffpolicy import data
from diffpolicy.data import DataError
from diffpolicy.data.image_cache import cached

zarr = pytest.importorskip("zarr")

Arrays = dict[str, Any]
ENDS = [4, 7, 12]
PUSHT = Path(__file__).resolve().parents[2] / ".." / "shared/data/imitation/pusht"
FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write_replay(folder: Path, arrays: Arrays, ends: Any = ENDS, compressor: Any = "auto") -> Path:
    group = zarr.open_group(folder, mode="w", zarr_format=2)
    for name, values in {
        **{f"data/{key}": value for key, value in arrays.items()},
        "meta/episode_ends": ends,
    }.items():
        values = np.asarray(values)
        chunks = (5, *values.shape[1:])
        array = group.create_array(
            name, shape=values.shape, dtype=values.dtype, chunks=chunks, compressors=compressor
        )
        array[:] = values
    return folder


def zipped(folder: Path, path: Path, inside: str = "pusht/replay.zarr/") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.rglob("*"):
            if file.is_file():
                archive.write(file, inside + file.relative_to(folder).as_posix())
    return path


@pytest.fixture
def replay(demonstrations: Arrays, tmp_path: Path) -> Path:
    arrays = {**demonstrations, "img": demonstrations["img"].astype(np.float32)}
    return write_replay(tmp_path / "replay.zarr", arrays)


@pytest.mark.parametrize("inside", [None, "", "pusht/replay.zarr/"])
def test_a_folder_and_a_zip_are_read(
    replay: Path, demonstrations: Arrays, tmp_path: Path, inside: str | None
) -> None:
    path = replay if inside is None else zipped(replay, tmp_path / "replay.zarr.zip", inside)
    assert data.check(path) == []
    dataset = data.load(path, images=["camera"])
    assert np.array_equal(dataset.observations[dataset.rows].numpy(), demonstrations["state"])
    assert np.array_equal(dataset.actions.numpy(), demonstrations["action"])
    assert np.array_equal(dataset.images["camera"][np.arange(12)], demonstrations["img"])
    assert dataset.episode_ends.tolist() == ENDS
    assert dataset.timeouts.nonzero().flatten().tolist() == [3, 6, 11]
    assert not dataset.terminals.any()
    assert not dataset.rewards.any()
    assert not dataset.costs.any()
    final = dataset.observations[dataset.rows[dataset.episode_ends - 1] + 1].numpy()
    assert np.array_equal(final, demonstrations["state"][[3, 6, 11]])
    assert not dataset.final_observations_known


def test_observations_are_chosen_by_key_and_column(replay: Path, demonstrations: Arrays) -> None:
    dataset = data.load(replay, observations=["keypoint", "state[1:]", "state[:1]"])
    state, keypoint = demonstrations["state"], demonstrations["keypoint"]
    expected = np.concatenate([keypoint.reshape(12, 4), state[:, 1:], state[:, :1]], axis=1)
    assert np.array_equal(dataset.observations[dataset.rows].numpy(), expected)
    assert dataset.images == {}


def test_pictures_are_decoded_once(replay: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = data.load(replay, images=["img"]).images["camera"]
    assert isinstance(first, np.memmap)
    (kept,) = cache.rglob("*.npy")
    before = kept.stat().st_mtime_ns
    assert np.array_equal(data.load(replay, images=["img"]).images["camera"], first)
    assert kept.stat().st_mtime_ns == before
    write_replay(
        replay, {"state": np.ones((12, 1)), "action": np.ones((12, 1)), "img": np.ones((12, 2, 2, 3))}
    )
    assert data.load(replay, images=["img"]).images["camera"].shape == (12, 2, 2, 3)
    assert len(list(cache.rglob("*"))) == 3, "the folder and one file for each version"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"state": None}, "observations: there is no state or obs or observations; the file has action, img"),
        ({"action": None}, "actions: there is no action or actions"),
        ({"action": np.ones((11, 2))}, "action: has 11 rows, but the last episode ends at row 12"),
        ({"action": np.ones((12, 2), complex)}, "action: holds complex128, not numbers"),
        ({"state": np.full((12, 3), np.nan)}, "state: NaN or infinite (rows 0, 1, 2, 3, 4 and 7 more)"),
        ({"reward": np.ones((12, 2))}, "reward: has shape (12, 2), not (steps,)"),
        ({"img": np.ones((12, 6, 8))}, "img: has shape (12, 6, 8), not (12, height, width, 3)"),
        (
            {"img": np.full((12, 6, 8, 3), 0.5)},
            "img: pictures 0 to 11 are not made of whole numbers from 0 to 255",
        ),
        ({"img": np.full((12, 6, 8, 3), 256)}, "img: pictures 0 to 11 are not made of whole numbers"),
        ({"img": np.full((12, 6, 8, 3), np.nan)}, "img: pictures 0 to 11 are not made of whole numbers"),
        ({"img": None}, "img: there is no such key; the file has action, keypoint, state"),
    ],
)
def test_what_is_wrong_is_named(demonstrations: Arrays, tmp_path: Path, spoil: Arrays, message: str) -> None:
    arrays = {key: value for key, value in {**demonstrations, **spoil}.items() if value is not None}
    path = write_replay(tmp_path / "replay.zarr", arrays)
    with pytest.raises(DataError) as raised:
        data.load(path, images=["img"])
    assert f"error: {message}" in str(raised.value)


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ([4, 4, 12], "episode_ends: must increase: an episode has at least one step (row 1)"),
        ([-3, 7, 12], "episode_ends: must increase"),
        ([7, 4, 12], "episode_ends: must increase"),
        ([4, 7, 13], "rows, but the last episode ends at row 13"),
        ([4, 7, 11], "rows, but the last episode ends at row 11"),
        ([4.0, 12.0], "episode_ends: is float64 of shape (2,), not whole numbers"),
        ([[12]], "episode_ends: is int64 of shape (1, 1)"),
        (np.zeros(0, np.int64), "file: holds 0 episodes"),
    ],
)
def test_ends_of_episodes(demonstrations: Arrays, tmp_path: Path, ends: Any, message: str) -> None:
    path = write_replay(tmp_path / "replay.zarr", demonstrations, ends)
    assert message in str(data.check(path)[0])


@pytest.mark.parametrize(
    ("observations", "message"),
    [
        (["velocity"], "velocity: there is no such key; the file has action, img, keypoint, state"),
        (["state[1:9]"], "state[1:9]: there are 3 numbers a row"),
        (["state[2:2]"], "state[2:2]: there are 3 numbers a row"),
        ([], "observations: no key is named"),
    ],
)
def test_keys_that_are_not_there(replay: Path, observations: list[str], message: str) -> None:
    with pytest.raises(DataError) as raised:
        data.load(replay, observations=observations)
    assert f"error: {message}" in str(raised.value)


def test_a_subset_is_not_quietly_ignored(replay: Path) -> None:
    with pytest.raises(DataError, match="subset cannot be chosen in a file of this format"):
        data.load(replay, subset="train")


def test_missing_chunks_are_a_warning(replay: Path) -> None:
    (replay / "data/state/1.0").unlink()  # what writers leave out when a chunk is all zeros
    (problem,) = data.check(replay)
    assert str(problem).startswith("warning: state: 1 of 3 chunks are not there and count as zeros")
    assert not data.load(replay).observations[6:11].any()


@pytest.mark.parametrize("field", ["filters", "compressor"])
def test_nothing_is_unpickled(demonstrations: Arrays, tmp_path: Path, field: str) -> None:
    path = write_replay(tmp_path / "replay.zarr", demonstrations)
    described = path / "data/state/.zarray"
    codec = {"id": "pickle", "protocol": 5}
    layout = {
        **json.loads(described.read_text()),
        "compressor": None,
        field: [codec] if field == "filters" else codec,
    }
    described.write_text(json.dumps(layout))
    (path / "data/state/0.0").write_bytes(pickle.dumps(_MakesAFolder(tmp_path / "unpickled")))
    (problem,) = data.check(path)
    assert problem.severity == "error"
    assert "pickle" in str(problem)
    assert not (tmp_path / "unpickled").exists()


class _MakesAFolder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.path,)


def test_a_shape_that_the_file_cannot_hold_is_not_allocated(replay: Path) -> None:
    for name, shape, chunks in (("state", [10**12, 3], [10**12, 3]), ("action", [10**12, 2], [5, 2])):
        described = replay / "data" / name / ".zarray"
        layout = {**json.loads(described.read_text()), "shape": shape, "chunks": chunks}
        described.write_text(json.dumps(layout))
        message = str(data.check(replay)[0])
        assert "can hold" in message
        shutil.copy(replay / "data/keypoint/.zarray", described)


def test_other_zips_and_newer_zarr_are_named(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "new.zarr", mode="w", zarr_format=3).create_array(
        "meta/episode_ends", shape=(1,), dtype="i8"
    )
    assert "zarr format 3" in str(data.check(tmp_path / "new.zarr")[0])
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme", "nothing")
    assert "not a replay buffer" in str(data.check(tmp_path / "other.zip")[0])


@FUZZ
@given(
    flips=st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 255)), max_size=20), cut=st.floats(0.3, 1)
)
def test_damaged_zips_never_raise(
    replay: Path, tmp_path: Path, flips: list[tuple[int, int]], cut: float
) -> None:
    sound = tmp_path / "sound.zip"
    if not sound.exists():
        zipped(replay, sound)
    content = bytearray(sound.read_bytes())
    for position, byte in flips:
        content[position % len(content)] = byte
    damaged = tmp_path / "damaged.zip"
    damaged.write_bytes(content[: int(cut * len(content))])
    problems = data.check(damaged)
    assert all(str(problem).count("\n") == 0 for problem in problems)
    if cut < 0.99:
        assert problems[0].severity == "error"


@FUZZ
@given(name=st.sampled_from([".zarray", "0.0", "1.0"]), content=st.binary(max_size=200))
def test_damaged_folders_never_raise(
    demonstrations: Arrays, tmp_path: Path, name: str, content: bytes
) -> None:
    path = tmp_path / "replay.zarr"
    if not path.exists():
        write_replay(path, demonstrations)
    target = path / "data/state" / name
    sound = target.read_bytes()
    target.write_bytes(content)
    problems = data.check(path)
    target.write_bytes(sound)
    assert problems[0].severity == "error"
    assert all(str(problem).count("\n") == 0 for problem in problems)


def test_a_camera_with_two_pictures_is_not_guessed(demonstrations: Arrays, tmp_path: Path) -> None:
    path = write_replay(tmp_path / "replay.zarr", {**demonstrations, "image": demonstrations["img"]})
    with pytest.raises(DataError, match="camera: there is no such key"):
        data.load(path, images=["camera"])
    with pytest.raises(DataError, match="image: is a second picture of camera 'camera'"):
        data.load(path, images=["img", "image"])


def test_without_the_zarr_package(replay: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)
    (problem,) = data.check(replay)
    assert problem.message == "zarr files need the zarr package: pip install 'diffpolicy[formats]'"


def test_npz_demonstrations(demonstrations: Arrays, tmp_path: Path) -> None:
    path = tmp_path / "demos.npz"
    np.savez_compressed(path, episode_ends=ENDS, rewards=np.arange(12), **demonstrations)
    dataset = data.load(path, images=["img"])
    assert np.array_equal(dataset.observations[dataset.rows].numpy(), demonstrations["state"])
    assert np.array_equal(dataset.images["camera"][np.array([7, 2])], demonstrations["img"][[7, 2]])
    assert dataset.episode_returns.tolist() == [6, 15, 45]
    np.savez(tmp_path / "bare.npz", episode_ends=ENDS, img=demonstrations["img"])
    assert [problem.where for problem in data.check(tmp_path / "bare.npz")] == ["observations", "actions"]


def test_pictures_are_not_kept_where_they_do_not_fit(replay: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFPOLICY_CACHE", "/proc/nowhere")
    with pytest.raises(DataError, match=r"img: decoded pictures .* could not be kept .* DIFFPOLICY_CACHE"):
        data.load(replay, images=["img"])


def test_saving_pictures_is_refused(replay: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="pictures"):
        data.save(data.load(replay, images=["img"]), tmp_path / "out.hdf5")


@pytest.mark.skipif(not PUSHT.exists(), reason="the Push-T demonstrations are not here")
def test_push_t_is_its_raw_arrays() -> None:
    path = PUSHT / "pusht_cchi_v7_replay.zarr.zip"
    dataset = data.load(path)
    raw = np.load(PUSHT / "pusht_cchi_v7_lowdim.npz")
    assert np.array_equal(dataset.observations[dataset.rows].numpy(), raw["state"])
    assert np.array_equal(dataset.actions.numpy(), raw["action"])
    assert np.array_equal(dataset.episode_ends.numpy(), raw["episode_ends"])
    same = data.load(PUSHT / "pusht_cchi_v7_lowdim.npz", observations=["keypoint"])
    assert same.observation_size == 18
    assert dataset.num_episodes == 206


@pytest.mark.skipif(not PUSHT.exists(), reason="the Push-T demonstrations are not here")
def test_push_t_pictures_are_the_raw_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    raw = np.load(PUSHT / "pusht_cchi_v7_img_first20ep.npz")
    with zipfile.ZipFile(PUSHT / "pusht_cchi_v7_replay.zarr.zip") as archive:
        archive.extractall(tmp_path)
    (folder,) = tmp_path.iterdir()
    keep = 17  # chunks of 161 steps: 2,737 steps, of which the raw pictures are the first 2,598
    for name in ("img", "state", "action"):
        described = folder / "data" / name / ".zarray"
        layout = json.loads(described.read_text())
        layout["shape"][0] = 2598
        described.write_text(json.dumps(layout))
        for file in (folder / "data" / name).iterdir():
            if not file.name.startswith(".") and int(file.name.split(".")[0]) >= keep:
                file.unlink()
    shutil.rmtree(folder / "meta")
    group = zarr.open_group(folder, mode="a", zarr_format=2)
    group.create_array("meta/episode_ends", shape=(20,), dtype="i8", chunks=(20,))[:] = raw["episode_ends"]
    pictures = data.load(folder, images=["img"]).images["camera"]
    assert np.array_equal(pictures[np.arange(2598)], raw["img"])


def test_a_kept_file_of_another_shape_is_named(cache: Path) -> None:
    one = np.zeros((1, 2, 2, 3), np.uint8)
    cached("a", one.shape, [one])
    with pytest.raises(DataError, match=r"a\.npy holds pictures of shape \(1, 2, 2, 3\).*delete it"):
        cached("a", (2, 2, 2, 3), [one, one])
