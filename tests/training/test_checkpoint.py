"""Checkpoints are whole or absent, and damage is told in words."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from diffpolicy.training import (
    CheckpointError,
    StateError,
    checkpoint,
    latest_checkpoint,
    read_checkpoint,
    read_training_state,
    write_checkpoint,
)

FILES = ["model.safetensors", "config.yaml", "manifest.json", "training.safetensors"]


def write(folder: Path, step: int, **changes: Any) -> Path:
    contents: dict[str, Any] = {
        "model": {"actor.weight": torch.full((2, 3), float(step))},
        "state": {"step": step, "moments": [torch.arange(step)]},
        "config": {"seed": 1, "limits": (0.5, 1e-05)},
        "manifest": {"policy": "fisor"},
    }
    return write_checkpoint(folder, step, **{**contents, **changes})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, 7)
    assert path == tmp_path / "checkpoints" / "step-00000007"
    assert sorted(file.name for file in path.iterdir()) == sorted(FILES)
    for place in (path, tmp_path, tmp_path / "checkpoints", str(tmp_path)):
        found = read_checkpoint(place)
        assert found.step == 7
        assert found.path == path
        assert found.config == {"seed": 1, "limits": [0.5, 1e-05]}
        assert found.manifest["policy"] == "fisor"
        assert torch.equal(found.model["actor.weight"], torch.full((2, 3), 7.0))
    assert torch.equal(read_training_state(tmp_path)["moments"][0], torch.arange(7))


def test_tied_weights_are_stored(tmp_path: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    write(tmp_path, 1, model={"a": weight, "b": weight.T, "c": weight[0]})
    assert torch.equal(read_checkpoint(tmp_path).model["b"], weight.T)


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        write(tmp_path, step)
    assert names(tmp_path) == ["step-00000015", "step-00000020"]
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoints" / "step-00000020"


def test_acting_needs_no_training_state(tmp_path: Path) -> None:
    (write(tmp_path, 3) / "training.safetensors").unlink()
    assert read_checkpoint(tmp_path).step == 3
    with pytest.raises(CheckpointError, match=r"training\.safetensors"):
        read_training_state(tmp_path)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def empty(file: Path) -> None:
    os.truncate(file, 0)


@pytest.mark.parametrize("damage", [truncate, flip, empty, Path.unlink])
@pytest.mark.parametrize("name", FILES)
def test_damage_is_told_and_the_last_good_one_is_used(tmp_path: Path, name: str, damage: Any) -> None:
    good, bad = write(tmp_path, 1), write(tmp_path, 2)
    damage(bad / name)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")) as raised:
        read_training_state(bad) if name == "training.safetensors" else read_checkpoint(bad)
    assert str(bad) in str(raised.value)
    assert "delete" in str(raised.value)
    with pytest.warns(UserWarning, match="skipping an unreadable checkpoint"):
        assert latest_checkpoint(tmp_path) == good


@pytest.mark.parametrize(
    "text", ["[1, 2]", '{"format": 1}', '{"format": 99, "step": 2, "sha256": {}}', "\x00"]
)
def test_a_manifest_of_another_kind_is_refused(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, 2)
    (path / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        read_checkpoint(path)


def test_a_changed_word_in_a_manifest_is_noticed(tmp_path: Path) -> None:
    manifest = write(tmp_path, 2) / "manifest.json"
    manifest.write_text(manifest.read_text().replace("fisor", "fiser"))
    with pytest.raises(CheckpointError, match=r"manifest\.json.*SHA-256"):
        read_checkpoint(tmp_path / "checkpoints" / "step-00000002")


def test_well_hashed_rubbish_is_a_checkpoint_error(tmp_path: Path) -> None:
    path = write(tmp_path, 2)
    manifest = json.loads((path / "manifest.json").read_text())
    for name in ("model.safetensors", "training.safetensors"):
        (path / name).write_bytes(b"rubbish")
        manifest["sha256"][name] = checkpoint.hashlib.sha256(b"rubbish").hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))
    for read in (read_checkpoint, read_training_state):
        with pytest.raises(CheckpointError, match="cannot read"):
            read(path)


def test_no_readable_checkpoint_at_all(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    for missing in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CheckpointError, match="no checkpoint"):
            read_checkpoint(missing)
    empty(write(tmp_path, 1) / "manifest.json")
    with (
        pytest.warns(UserWarning, match="skipping"),
        pytest.raises(CheckpointError, match="none of the 1 checkpoints"),
    ):
        latest_checkpoint(tmp_path)


def test_disk_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = write(tmp_path, 1)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device") as raised:
        write(tmp_path, 2)
    assert str(good) in str(raised.value)
    assert names(tmp_path) == [good.name]
    assert read_checkpoint(tmp_path).step == 1


def test_writes_cut_short_by_the_system(tmp_path: Path) -> None:
    """A real failing write: the largest file the process may write is smaller than the weights."""
    good = write(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
    try:
        with pytest.raises(CheckpointError, match="File too large"):
            write(tmp_path, 2, model={"big": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == [good.name]


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that another user may enter, which pytest's own is not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_read_only_folder(public_folder: Path) -> None:
    good = write(public_folder, 1)
    good.parent.chmod(0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)  # root may write anywhere, so be nobody for a moment
    try:
        with pytest.raises(CheckpointError, match="Permission denied"):
            write(public_folder, 2)
    finally:
        if is_root:
            os.seteuid(0)
        good.parent.chmod(0o755)
    assert read_checkpoint(public_folder).step == 1


@pytest.mark.parametrize("calls", range(6))
def test_killed_at_every_stage_of_a_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    class Killed(BaseException):
        pass

    good = write(tmp_path, 1)
    left = iter(range(calls))
    sync = os.fsync

    def killed_later(descriptor: int) -> None:
        if next(left, None) is None:
            raise Killed
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "fsync", killed_later)
        with pytest.raises(Killed):
            write(tmp_path, 2)
    renamed = calls == 5
    assert read_checkpoint(tmp_path).step == (2 if renamed else 1)
    assert read_checkpoint(good).step == 1
    write(tmp_path, 3)
    assert names(tmp_path) == ["step-00000002" if renamed else "step-00000001", "step-00000003"]


def test_an_unreadable_checkpoint_is_written_again(tmp_path: Path) -> None:
    write(tmp_path, 1)
    flip(write(tmp_path, 2) / "model.safetensors")
    write(tmp_path, 2)
    assert names(tmp_path) == ["step-00000001", "step-00000002"]
    assert read_checkpoint(tmp_path).step == 2


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"manifest": {"step": 3}}, CheckpointError, "reserved"),
        ({"manifest": {"limit": float("nan")}}, CheckpointError, "JSON"),
        ({"manifest": {"path": Path()}}, CheckpointError, "JSON"),
        ({"config": {"path": Path()}}, CheckpointError, "YAML"),
        ({"state": {"x": object()}}, StateError, "state.x"),
    ],
)
def test_what_cannot_be_stored_is_refused_before_writing(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        write(tmp_path, 1, **changes)
    assert not (tmp_path / "checkpoints").exists()


def test_reading_needs_neither_hydra_nor_simulators_nor_tensorboard(tmp_path: Path) -> None:
    write(tmp_path, 4)
    code = (
        "import sys; from diffpolicy.training import read_checkpoint;"
        "print(read_checkpoint(sys.argv[1]).step);"
        "print([m for m in ('hydra', 'gymnasium', 'mujoco', 'h5py', 'tensorboard') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["4", "[]"]
