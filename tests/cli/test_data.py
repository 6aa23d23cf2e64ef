"""The data verb on good files, bad files and files that are not there."""

from pathlib import Path

import h5py
import numpy as np
import pytest

import envs
from diffpolicy import data
from diffpolicy.cli.common import load_dataset

EPISODES, STEPS = 3, 200


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Return a file that is as a file of BallCircle should be."""
    generator = np.random.default_rng(0)
    n = EPISODES * STEPS
    timeouts = np.zeros(n, dtype=bool)
    timeouts[STEPS - 1 :: STEPS] = True
    observations = generator.normal(size=(n, 8)).astype(np.float32)
    path = tmp_path / "good.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"] = observations
        file["next_observations"] = np.roll(observations, -1, axis=0)
        file["actions"] = generator.uniform(-1, 1, size=(n, 2)).astype(np.float32)
        file["rewards"] = np.ones(n, dtype=np.float32)
        file["costs"] = (np.arange(n) % 10 == 0).astype(np.float32)
        file["terminals"] = np.zeros(n, dtype=bool)
        file["timeouts"] = timeouts
    return path


def spoil(path: Path, key: str, row: int, value: float) -> None:
    with h5py.File(path, "r+") as file:
        file[key][row] = value


def test_a_sound_file_passes(command, dataset):
    status, out, _ = command("data", "check", str(dataset), "--task", "BallCircle")
    assert status == 0
    assert "0 errors" in out
    assert "held to BallCircle" in out


def test_errors_are_named_with_their_rows_and_fail_the_command(command, dataset):
    spoil(dataset, "actions", 17, 3.0)
    spoil(dataset, "costs", 23, 0.5)
    status, out, _ = command("data", "check", str(dataset), "--task", "OfflineBallCircle-v0")
    assert status == 1
    assert "row 17" in out
    assert "row 23" in out
    assert "2 errors, 0 warnings" in out


def test_a_task_of_other_sizes_is_an_error(command, dataset):
    status, out, _ = command("data", "check", str(dataset), "--task", "CarGoal1")
    assert status == 1
    assert "72" in out


def test_a_published_name_is_held_to_its_task(command, dataset):
    published = dataset.rename(dataset.with_name("SafetyBallCircle-v0-80-886.hdf5"))
    assert "held to BallCircle" in command("data", "check", str(published))[1]


def test_no_task_is_said(command, dataset):
    assert "name one with --task" in command("data", "check", str(dataset))[1]


@pytest.mark.parametrize("content", [b"", b"not a dataset", b"\x89HDF\r\n\x1a\n" + b"\0" * 200])
def test_a_bad_file_is_an_error_and_no_traceback(command, tmp_path, content):
    path = tmp_path / "bad.hdf5"
    path.write_bytes(content)
    status, out, _ = command("data", "check", str(path))
    assert status == 1
    assert out.startswith("error: ")
    assert command("data", "info", str(path))[0] == 1


def test_a_missing_file(command):
    assert command("data", "check", "nowhere.hdf5")[0] == 1
    status, _, err = command("data", "info", "nowhere.hdf5")
    assert status == 1
    assert "nowhere.hdf5" in err
    assert err.count("\n") == 1


def test_an_unknown_task_names_the_nearest(command, dataset):
    status, _, err = command("data", "check", str(dataset), "--task", "BalCircle")
    assert status == 1
    assert "BallCircle" in err


def test_info_prints_sizes_returns_and_hash(command, dataset):
    status, out, _ = command("data", "info", str(dataset))
    assert status == 0
    lines = {line[:25].strip(): line[26:] for line in out.splitlines()}
    assert lines["episodes"] == "3"
    assert lines["transitions"] == "600"
    assert lines["sha256"] == data.sha256(dataset)
    assert "50%: 200" in lines["episode return"]


@pytest.mark.parametrize(
    ("what", "name"),
    [("BallCircle", "SafetyBallCircle-v0-80-886.hdf5"), ("SafetyX-v0-1-2.hdf5", "SafetyX-v0-1-2.hdf5")],
)
def test_fetch_asks_for_the_published_file(command, monkeypatch, tmp_path, what, name):
    asked = []

    def fetch(file_name, folder, *, progress):
        asked.append((file_name, folder))
        progress(data.Progress(1, 2, None))
        return folder / file_name

    monkeypatch.setattr(data, "fetch", fetch)
    monkeypatch.setenv("DSRL_DATASET_DIR", str(tmp_path / "default"))
    assert command("data", "fetch", what)[:2] == (0, f"{tmp_path / 'default' / name}\n")
    assert command("data", "fetch", what, "--to", "here")[:2] == (0, f"here/{name}\n")
    assert asked == [(name, tmp_path / "default"), (name, Path("here"))]


def test_fetch_of_a_local_path_is_that_path(command, dataset):
    assert command("data", "fetch", str(dataset)) == (0, f"{dataset}\n", "")


def test_fetch_of_a_task_without_a_published_dataset_says_how_to_make_one(command):
    status, _, err = command("data", "fetch", "PointRobot")
    assert status == 2
    assert "diffpolicy collect task=PointRobot" in err


def test_tasks_of_pictures_are_not_collected_without_them(command):
    status, _, err = command("collect", "task=reach-v3-pixels")
    assert status == 2
    assert "this verb keeps no pictures" in err
    status, _, err = command("data", "fetch", "reach-v3-pixels")
    assert status == 2
    assert "diffpolicy collect" not in err


def test_fetch_without_a_network_is_one_sentence(command, monkeypatch):
    def fetch(file_name, folder, *, progress):
        raise data.DownloadError("not reachable")

    monkeypatch.setattr(data, "fetch", fetch)
    assert command("data", "fetch", "BallCircle") == (1, "", "error: not reachable\n")


@pytest.mark.parametrize("words", [(), ("chek", "x"), ("check",), ("check", "x", "--tsak", "y")])
def test_a_wrong_command(command, words):
    assert command("data", *words)[0] == 2


@pytest.mark.parametrize(("what", "to"), [("pusht", None), ("PushTImage", "here")])
def test_push_t_goes_by_its_name_and_into_the_cache(command, monkeypatch, what, to):
    asked = []

    def fetch(name, folder, *, progress):
        asked.append((name, folder))
        return Path("replay.zarr.zip")

    monkeypatch.setattr(data, "fetch", fetch)
    words = [what] if to is None else [what, "--to", to]
    assert command("data", "fetch", *words) == (0, "replay.zarr.zip\n", "")
    assert asked == [(what, to and Path(to))]


@pytest.fixture
def demonstrations(tmp_path, monkeypatch):
    """Return Push-T-like demonstrations with pictures, raw actions in pixels."""
    monkeypatch.setenv("DIFFPOLICY_CACHE", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    path = tmp_path / "demos.npz"
    np.savez(
        path,
        state=generator.uniform(0, 512, (20, 5)),
        action=generator.uniform(0, 512, (20, 2)),
        img=generator.integers(0, 256, (20, 6, 8, 3)),
        episode_ends=[8, 20],
    )
    return path


def test_demonstrations_are_held_to_the_raw_units_of_their_task(command, demonstrations):
    assert command("data", "check", str(demonstrations), "--task", "pusht")[0] == 0
    keys = ("--observations", "state[:2]", "--images", "img")
    assert command("data", "check", str(demonstrations), "--task", "PushTImage", *keys)[0] == 0
    status, out, _ = command("data", "check", str(demonstrations), "--task", "pick-place-v3")
    assert status == 1
    assert "actions: above the limit 1" in out


def test_info_of_demonstrations_with_pictures(command, demonstrations):
    status, out, _ = command("data", "info", str(demonstrations), "--images", "img")
    assert status == 0
    lines = {line[:25].strip(): line[26:] for line in out.splitlines()}
    assert lines["pictures of camera"] == "6 x 8"
    assert lines["episodes"] == "2"
    status, out, err = command("data", "info", str(demonstrations), "--observations", "velocity")
    assert status == 1
    assert "velocity: there is no such key" in err


def test_the_name_of_the_published_demonstrations_is_their_task(command, demonstrations):
    published = demonstrations.rename(demonstrations.with_name("pusht_cchi_v7_replay.zarr.zip"))
    assert "held to PushT" in command("data", "check", str(published))[1]


def test_a_file_is_checked_as_training_reads_it(command):
    shipped = str(Path(data.__file__).parents[1] / "assets" / "pusht.npz")
    status, out, _ = command("data", "check", shipped, "--task", "PushTImage")
    assert status == 0, "the first two numbers of five are what this task observes"
    assert "held to PushTImage" in out


def test_demonstrations_that_the_simulator_clipped_are_sound_and_clipped(command, tmp_path):
    path, task = tmp_path / "door.npz", envs.task("AdroitDoor")
    actions = np.linspace(-1.4, 1.4, 30 * 28, dtype=np.float32).reshape(30, 28)
    np.savez(path, observations=np.zeros((30, 39), np.float32), actions=actions, episode_ends=[30])
    status, out, _ = command("data", "check", str(path), "--task", "AdroitDoor")
    assert status == 0, out
    loaded = load_dataset(task, path).actions.numpy()
    np.testing.assert_array_equal(loaded, np.clip(actions, -1, 1))
