"""Every fault of policy, robot, clock and disk ends in a hold, within the limits, and the record tells why."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from controlling import PERIOD, SAFETY, Circle, ToyRobot, assert_held, run

from diffpolicy.deploy.audit import audit
from diffpolicy.deploy.chunks import Chunk


def told(tmp_path: Path) -> str:
    return str(json.loads((tmp_path / "trip-001.json").read_text())["reason"])


def nan(chunk: Chunk, count: int) -> Chunk:
    actions = chunk.actions.copy()
    actions[3:, 1] = np.nan if count >= 2 else actions[3:, 1]
    return Chunk(actions)


def infinite(chunk: Chunk, count: int) -> Chunk:
    return Chunk(chunk.actions + np.float32(np.inf if count >= 2 else 0.0))


def wrong_shape(chunk: Chunk, count: int) -> Chunk:
    return Chunk(chunk.actions[:, :1] if count >= 2 else chunk.actions)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(nan, "right is nan"), (infinite, "left is inf"), (wrong_shape, "expected numbers (2,)")],
)
def test_an_unusable_action_stops_the_robot(tmp_path: Path, spoil: Any, reason: str) -> None:
    control, robot = run(tmp_path, Circle(spoil))
    assert control.shield.counts["invalid"] >= 1
    assert reason in told(tmp_path)
    assert_held(robot)


def test_a_policy_that_fails_stops_the_robot_by_the_watchdog(tmp_path: Path) -> None:
    def fail(chunk: Chunk, count: int) -> Chunk:
        if count >= 1:
            raise RuntimeError("out of memory")
        return chunk

    control, robot = run(tmp_path, Circle(fail))
    assert told(tmp_path).startswith("watchdog: no usable action for")
    assert control.shield.counts["late"] > 0
    assert_held(robot)


class Faulty(ToyRobot):
    """A robot that goes wrong in one of many ways, a quarter of a second after its first reading."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault, self.began = fault, np.inf
        self.last: Any = None

    def broken(self) -> bool:
        return time.monotonic() - self.began > 0.25

    def read(self) -> Any:
        observation, stamp = super().read()
        self.began = min(self.began, stamp)
        state = observation["state"]
        if not self.broken():
            self.last = state, stamp
            return observation, stamp
        if self.fault == "read":
            raise OSError("no such device")
        changed = {
            "nan": {"state": np.array([np.nan, 0.0, 0.0], np.float32)},
            "infinite": {"state": np.array([0.0, 0.0, -np.inf], np.float32)},
            "shape": {"state": state[:2]},
            "dtype": {"state": state.astype(np.float64)},
            "missing": {"other": state},
            "frozen": {"state": self.last[0]},
            "stale": {"state": self.last[0]},
        }
        stamp = self.last[1] if self.fault == "stale" else stamp
        return changed.get(self.fault, observation), stamp

    def send(self, command: Any) -> None:
        if self.fault == "send" and self.broken():
            raise OSError("no such device")
        super().send(command)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("nan", "invalid: observation x is nan"),
        ("infinite", "invalid: observation z is -inf"),
        ("shape", "invalid: observation 'state' is float32 (2,)"),
        ("dtype", "invalid: observation 'state' is float64 (3,)"),
        ("missing", "invalid: observation 'state' is missing"),
        ("frozen", "no reading has changed"),
        ("stale", "ms old"),
        ("read", "stop: the robot cannot be read: OSError: no such device"),
        ("send", "stop: the robot takes no command: OSError: no such device"),
    ],
)
def test_a_faulty_robot_is_stopped(tmp_path: Path, fault: str, reason: str) -> None:
    robot = Faulty(fault)
    control, _ = run(tmp_path, Circle(), robot)
    assert reason in told(tmp_path)
    assert control.shield.events[-1].text == told(tmp_path)
    if fault == "send":  # what it took before
        assert not any(audit(np.array([[5.0, 0.0], *robot.sent]), SAFETY, PERIOD).values())
    else:
        assert_held(robot)


def test_a_full_disk_is_told_and_changes_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("diffpolicy.deploy.recorder._replace", full)
    control, robot = run(tmp_path, Circle(nan))
    assert control.recorder.failures == ["OSError: [Errno 28] No space left on device"]
    assert "could not be written" in caplog.text
    assert_held(robot)


def test_a_jump_of_the_wall_clock_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    monkeypatch.setattr(time, "time", lambda: 0.0 if time.monotonic() - began > 0.3 else 2e9)
    patient = Circle(safety=replace(SAFETY, watchdog=5.0))
    control, robot = run(tmp_path, patient, until=lambda control: time.monotonic() - began > 0.8)
    assert control.report.latched == "stop: the run is over"
    assert_held(robot)


def test_a_process_that_was_suspended_stops_the_robot(tmp_path: Path) -> None:
    """As seen from inside: the monotonic clock is a second further, and every action is too old."""
    readings = [0]

    def clock() -> float:
        return time.monotonic() + (1.0 if readings[0] > 20 else 0.0)

    class Robot(ToyRobot):
        def read(self) -> Any:
            readings[0] += 1
            return super().read()[0], clock()

    control, robot = run(tmp_path, Circle(), Robot(), clock=clock)
    assert control.report.missed >= 49
    assert told(tmp_path).startswith("watchdog")
    assert_held(robot)
