"""Records and their replay: the same commands again, a table that tells why, and damaged files refused."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from controlling import PERIOD, SAFETY, manifest

from diffpolicy.deploy.errors import DeployError
from diffpolicy.deploy.recorder import Recorder, Tick
from diffpolicy.deploy.replay import Recording, load_recording, plot, rerun, summary
from diffpolicy.deploy.shield import Proposal, Shield


def recorded(folder: Path, *, ticks: int = 100, kept: int = 60) -> tuple[Recording, list[np.ndarray]]:
    """A stormy run, of which the record keeps the end only."""
    generator = np.random.default_rng(3)
    known = manifest(safety=replace(SAFETY, feasible_below=0.0))
    shield, recorder = Shield(known, PERIOD), Recorder(known, PERIOD, folder, ticks=kept)
    shield.reset(np.array([5.0, 0.0]))
    commands, action = [], np.array([5.0, 0.0])
    for index in range(ticks):
        now = 50.0 + index * PERIOD
        if index % 15 == 0:
            action = generator.uniform([-1.0, -2.0], [11.0, 2.0])
        feasible = [None, -1.0, 1.0][index % 3] if index > 30 else None
        proposal = Proposal(action, now + 1.0, feasible, ("backup",) if index % 2 else ())
        proposal = None if index % 10 == 7 else proposal
        observation = {"state": np.array([index, 0.0, 0.0], np.float32 if index < 95 else np.float64)}
        before = shield.state
        verdict = shield.filter(proposal, observation, now, now)
        recorder.add(Tick(before, now, now, observation, proposal, None, verdict, 0.001))
        commands.append(verdict.command)
    recorder.dump(verdict.latched or "nothing", shield.events)
    recorder.wait()
    assert recorder.failures == []
    return load_recording(recorder.dumped[0]), commands[-kept:]


def stored(folder: Path) -> Recording:
    """A small record."""
    known = manifest()
    shield, recorder = Shield(known, PERIOD), Recorder(known, PERIOD, folder)
    for index in range(3):
        now, reading = 50.0 + index * PERIOD, {"state": np.array([index, 0.0, 0.0], np.float32)}
        proposal, before = Proposal(np.array([5.1, 0.1]), now + 1.0), shield.state
        verdict = shield.filter(proposal, reading, now, now)
        recorder.add(Tick(before, now, now, reading, proposal, None, verdict, 0.0))
    recorder.dump("a test")
    recorder.wait()
    return load_recording(recorder.dumped[0])


def test_the_shield_makes_the_same_commands_again(tmp_path: Path) -> None:
    recording, commands = recorded(tmp_path)
    assert np.array_equal(recording.arrays["command"], commands)
    assert np.array_equal(rerun(recording), commands)
    assert np.ptp(np.array(commands), axis=0).min() > 0.1  # it did move


def test_a_changed_record_is_not_replayed_as_if_it_were_whole(tmp_path: Path) -> None:
    recording, _ = recorded(tmp_path)
    arrays = recording.path.with_suffix(".npz")
    arrays.write_bytes(arrays.read_bytes()[:-1] + b"x")
    with pytest.raises(DeployError, match=r"is not the file that trip-001.json was written for"):
        load_recording(recording.path)


@pytest.mark.parametrize("text", ["", "[]", "{", json.dumps({"format": 99})])
def test_what_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "trip.json").write_text(text)
    (tmp_path / "trip.npz").write_bytes(b"")
    with pytest.raises(DeployError, match=r"trip\.json is no"):
        load_recording(tmp_path / "trip.json")


KEYS = ["manifest", "period", "rest", "before", "steps", "reasons", "latched", "stops", "flags"]


@pytest.mark.parametrize("value", ["missing", None, [], {}, "x", 7])
@pytest.mark.parametrize("key", KEYS)
def test_a_document_from_somebody_else_is_refused_or_told(tmp_path: Path, key: str, value: Any) -> None:
    recording = stored(tmp_path)
    document = json.loads(recording.path.read_text())
    if value == "missing":
        del document[key]
    else:
        document[key] = value
    recording.path.write_text(json.dumps(document))
    try:
        changed = load_recording(recording.path)
        summary(changed)
        rerun(changed)
    except DeployError as error:
        assert "trip-001.json" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "key", ["now", "command", "action", "motion/stop", "observation/state", "seen_command"]
)
def test_arrays_of_somebody_else_are_refused(tmp_path: Path, key: str) -> None:
    recording = stored(tmp_path)
    for arrays in (
        {k: v for k, v in recording.arrays.items() if k != key},
        {**recording.arrays, key: np.zeros(1)},
    ):
        np.savez(recording.path.with_suffix(".npz"), **arrays)
        packed = recording.path.with_suffix(".npz").read_bytes()
        document = {**recording.document, "arrays_sha256": hashlib.sha256(packed).hexdigest()}
        recording.path.write_text(json.dumps(document))
        with pytest.raises(DeployError, match=r"trip-001\.json is no complete record"):
            load_recording(recording.path)


def test_the_summary_tells_what_happened_and_when(tmp_path: Path) -> None:
    recording, _ = recorded(tmp_path)
    text = summary(recording)
    assert text.startswith("trip-001.json: invalid: observation 'state' is float64 (3,)")
    assert "feasible value 1 is above 0" in text
    assert "there is no action for this moment" in text
    assert "60 periods of 20 ms" in text


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    recording, _ = recorded(tmp_path)
    plot(recording, tmp_path / "trip.png")
    assert (tmp_path / "trip.png").read_bytes().startswith(b"\x89PNG")


def test_a_dump_leaves_no_half_written_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("diffpolicy.deploy.recorder.os.fsync", full)
    with pytest.raises(AssertionError):
        recorded(tmp_path)
    assert list(tmp_path.iterdir()) == []
