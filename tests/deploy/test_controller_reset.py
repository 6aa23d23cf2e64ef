"""Starts, stops and resets of the controller, on a clock of the test's own: nothing depends on the machine."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from controlling import PERIOD, SAFETY, manifest

from diffpolicy.deploy import controller as module
from diffpolicy.deploy.audit import audit
from diffpolicy.deploy.client import Reply
from diffpolicy.deploy.controller import Controller
from diffpolicy.deploy.errors import DeployError
from diffpolicy.deploy.replay import load_recording, rerun


class Clock:
    """Goes on when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    monkeypatch.setattr(module.time, "sleep", made.sleep)
    yield made
    monkeypatch.undo()


class Robot:
    """Is where it was told to be; `before[k]` is called before reading k, for what the test wants then."""

    rest: Any = None

    def __init__(self, clock: Clock) -> None:
        self.clock, self.position = clock, np.array([5.0, 0.0])
        self.sent: list[Any] = []
        self.at: list[float] = []
        self.starts = self.held = self.reads = 0
        self.before: dict[int, Callable[[], Any]] = {}

    def start(self) -> Any:
        self.starts += 1
        return self.position

    def read(self) -> Any:
        self.reads += 1
        self.before.get(self.reads, lambda: None)()
        return {"state": np.array([*self.position, self.clock() % 1000.0], np.float32)}, self.clock()

    def send(self, command: Any) -> None:
        self.sent.append(np.array(command))
        self.at.append(self.clock())
        self.position = np.array(command)

    def hold(self) -> None:
        self.held += 1


class There:
    """A source that says to be at (9, 0.5), at once or after `wait` [s] of `clock`."""

    def __init__(self, clock: Clock, wait: float = 0.0) -> None:
        self.clock, self.wait, self.asked = clock, wait, list[Any]()
        self.reply: Reply | None = None
        self.begun = 0

    def begin(self) -> None:
        self.begun += 1

    def request(self, observation: Any, sequence: int, stamp: float) -> None:
        self.asked.append((observation, sequence, stamp))
        self.reply = Reply(np.tile(np.float32([9.0, 0.5]), (8, 1)), sequence, stamp, stamp + 0.8)

    def poll(self) -> Reply | None:
        if self.reply is None or self.clock() < self.reply.stamp + self.wait:
            return None
        reply, self.reply = self.reply, None
        return reply

    def status(self) -> str:
        return ""

    def close(self) -> None:
        pass


def made(tmp_path: Path, clock: Clock, robot: Any = None, **changes: Any) -> tuple[Controller, Any, There]:
    robot, source = robot or Robot(clock), There(clock)
    known = manifest(**changes)
    return Controller(robot, source, known, tmp_path, rate=1.0 / PERIOD, clock=clock), robot, source


def broken(robot: Robot, safety: Any = SAFETY) -> dict[str, int]:
    """Of all commands in a row, whatever was reset in between."""
    return {k: v for k, v in audit(np.array([[5.0, 0.0], *robot.sent]), safety, PERIOD).items() if v}


def test_a_run_needs_a_start_each_time(tmp_path: Path, clock: Clock) -> None:
    control, robot, _ = made(tmp_path, clock)
    with pytest.raises(DeployError, match="call start before every run"):
        control.run(0.1)
    control.start()
    control.run(0.1)
    with pytest.raises(DeployError, match="call start before every run"):
        control.run(0.1)
    assert robot.held == 1


def test_a_restart_while_the_robot_brakes_waits_until_it_stands(tmp_path: Path, clock: Clock) -> None:
    control, robot, source = made(tmp_path, clock)
    robot.before = {15: lambda: control.stop("a person"), 17: control.restart}
    control.start()
    control.run(3.0)
    assert robot.starts == 2
    assert source.begun == 2
    assert broken(robot) == {}
    assert robot.sent[-1] == pytest.approx([9.0, 0.5], abs=1e-6)  # it went on


def test_a_restart_of_a_robot_that_was_not_stopped_does_nothing(tmp_path: Path, clock: Clock) -> None:
    control, robot, _ = made(tmp_path, clock)
    robot.before = {15: control.restart, 100: lambda: control.stop("a person")}
    control.start()
    report = control.run(4.0)
    assert (robot.starts, report.latched) == (1, "stop: a person")
    assert broken(robot) == {}


def test_a_stop_after_a_restart_holds(tmp_path: Path, clock: Clock) -> None:
    control, robot, _ = made(tmp_path, clock)

    def both() -> None:
        control.restart()
        control.stop("again")

    robot.before = {15: lambda: control.stop("first"), 80: both}
    control.start()
    assert control.run(3.0).latched == "stop: first"
    assert robot.starts == 1


def test_a_stop_while_the_robot_starts_holds(tmp_path: Path, clock: Clock) -> None:
    class Slow(Robot):
        def start(self) -> Any:
            if self.starts == 1:
                control.stop("while it starts")
            return super().start()

    control, robot, _ = made(tmp_path, clock, Slow(clock))
    robot.before = {15: lambda: control.stop("first"), 80: control.restart}
    control.start()
    assert control.run(3.0).latched == "stop: while it starts"
    assert robot.starts == 2


def test_answers_to_questions_before_a_restart_are_not_played(tmp_path: Path, clock: Clock) -> None:
    control, robot, source = made(tmp_path, clock)
    control.start()
    source.request({}, 0, clock())  # as if it came in just now
    control._sequence = 1
    control.start()
    control.tick()
    assert control.timeline.stamp is None
    assert np.array_equal(robot.sent[-1], [5.0, 0.0])
    assert source.asked[-1][1] == 1
    control.tick()
    assert control.timeline.stamp is not None


def test_a_robot_that_stops_slowly_is_at_rest_when_the_run_is_over(tmp_path: Path, clock: Clock) -> None:
    slow = replace(SAFETY, velocity=(3.0, 1.0), acceleration=(0.8, 1.0), jerk=(4.0, 10.0))  # 4 s
    control, robot, _ = made(tmp_path, clock, safety=slow)
    robot.position = np.array([0.0, 0.0])
    control.start()
    control.run(2.0)
    assert robot.held == 1
    assert np.allclose(robot.sent[-1], robot.sent[-2], rtol=0.0, atol=1e-9)
    assert audit(np.array(robot.sent), slow, PERIOD)["jerk"] == 0


def test_a_robot_moved_by_velocities_is_brought_to_its_rest(tmp_path: Path, clock: Clock) -> None:
    robot = Robot(clock)
    robot.rest = np.array([5.0, 0.0])
    control, _, _ = made(tmp_path, clock, robot)
    robot.before = {100: lambda: control.stop("a person"), 101: control.restart}
    control.start()
    assert control.run(6.0).latched == "stop: the run is over"
    assert robot.starts == 2
    assert np.allclose(robot.sent[-1], robot.rest, atol=1e-8)
    assert broken(robot) == {}
    recording = load_recording(tmp_path / "trip-001.json")
    assert np.array_equal(rerun(recording), recording.arrays["command"])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError("no more")])
def test_whatever_ends_a_run_the_robot_is_held_and_the_record_written(
    tmp_path: Path, clock: Clock, error: BaseException
) -> None:
    control, robot, _ = made(tmp_path, clock)

    def fail(*_: Any) -> None:
        raise error

    robot.before = {20: lambda: setattr(control.shield, "filter", fail)}
    control.start()
    with pytest.raises(type(error)):
        control.run(2.0)
    assert robot.held == 1
    assert broken(robot) == {}
    assert (
        load_recording(tmp_path / "trip-001.json")
        .document["reason"]
        .startswith(f"crash: {type(error).__name__}")
    )


def test_a_robot_that_cannot_hold_costs_no_report(tmp_path: Path, clock: Clock) -> None:
    control, robot, _ = made(tmp_path, clock)
    robot.hold = lambda: [][0]
    control.start()
    assert control.run(0.5).sent > 20


@pytest.mark.parametrize(
    "reading", [None, (None, 0.0), ({}, None), ({"state": [[1.0], [1.0, 2.0]]}, 0.0), 5, ({1: 2},)]
)
def test_a_reading_that_is_none_stops_the_robot(tmp_path: Path, clock: Clock, reading: Any) -> None:
    control, robot, _ = made(tmp_path, clock)
    robot.before = {20: lambda: setattr(robot, "read", lambda: reading)}
    control.start()
    assert "the robot cannot be read" in (control.run(1.0).latched or "")
    assert broken(robot) == {}


@pytest.mark.parametrize("shift", [50.0, -50.0, np.nan])
def test_a_reading_from_another_time_is_not_asked_about(tmp_path: Path, clock: Clock, shift: float) -> None:
    """Its answer would be played at that time, and every later one be older."""
    control, robot, source = made(tmp_path, clock)
    usual = robot.read

    def read() -> Any:
        observation, stamp = usual()
        return observation, stamp + (shift if 20 <= robot.reads < 23 else 0.0)

    robot.read = read
    control.start()
    report = control.run(3.0)
    assert all(abs(stamp - 100.0) < 5.0 for _, _, stamp in source.asked)
    assert len(source.asked) >= 7
    assert report.steps["stale"] == 3
    assert report.latched == "stop: the run is over"
    assert broken(robot) == {}


def test_readings_that_stop_do_not_fill_the_memory(tmp_path: Path, clock: Clock) -> None:
    control, robot, source = made(tmp_path, clock)
    last = robot.read()
    robot.read = lambda: last
    control.start()
    control.run(20.0)
    assert len(control._history) <= 1
    assert len(source.asked) <= 1


def test_a_robot_may_write_into_the_same_arrays_again(tmp_path: Path, clock: Clock) -> None:
    control, robot, source = made(tmp_path, clock)
    same, usual = np.zeros(3, np.float32), robot.read

    def read() -> Any:
        observation, stamp = usual()
        same[:] = observation["state"]
        return {"state": same}, stamp

    robot.read = read
    control.start()
    control.run(1.0)
    before, newest = source.asked[-1][0]["state"][:, 2]
    assert newest - before == pytest.approx(0.1, abs=1e-3)


def test_a_late_command_is_not_followed_at_once_by_the_next(tmp_path: Path, clock: Clock) -> None:
    """Two commands in quick succession would be a movement at twice the speed."""
    control, robot, _ = made(tmp_path, clock)
    delays = itertools.cycle([0.0, 0.6 * PERIOD, 0.95 * PERIOD, 1.3 * PERIOD, 3.7 * PERIOD, 0.3 * PERIOD])
    usual = robot.read

    def read() -> Any:
        clock.sleep(next(delays))
        return usual()

    robot.read = read
    control.start()
    report = control.run(10.0)
    assert np.diff(robot.at).min() >= PERIOD / 2.0 - 1e-9
    assert broken(robot) == {}
    ran = [at for at in robot.at if at <= 110.0]
    assert report.periods == pytest.approx(500, abs=5)
    assert report.missed == pytest.approx(report.periods - len(ran), abs=2)


def test_a_refused_command_is_replayed_as_it_was(tmp_path: Path, clock: Clock) -> None:
    control, robot, _ = made(tmp_path, clock)
    usual = robot.send

    def send(command: Any) -> None:
        if robot.reads >= 20:
            raise OSError("no such device")
        usual(command)

    robot.send = send
    control.start()
    control.run(1.0)
    recording = load_recording(tmp_path / "trip-001.json")
    assert np.array_equal(rerun(recording), recording.arrays["command"])


def test_a_second_trip_has_a_record_of_its_own(tmp_path: Path, clock: Clock) -> None:
    control, robot, _ = made(tmp_path, clock)
    robot.before = {
        15: lambda: control.stop("first"),
        80: control.restart,
        100: lambda: control.stop("second"),
    }
    control.start()
    control.run(4.0)
    again, other, _ = made(tmp_path, clock)  # another process, later
    other.before = {15: lambda: again.stop("third")}
    again.start()
    again.run(1.0)
    for number, reason in enumerate(("first", "second", "third"), start=1):
        recording = load_recording(tmp_path / f"trip-{number:03d}.json")
        assert recording.document["reason"] == f"stop: {reason}"
        assert np.array_equal(rerun(recording), recording.arrays["command"])


def test_requests_come_early_enough_for_the_measured_delay(tmp_path: Path, clock: Clock) -> None:
    control, _, source = made(
        tmp_path, clock, execute=8
    )  # no spare actions: a chunk ends as its successor is due
    source.wait = 0.15
    control.start()
    report = control.run(6.0)
    assert (
        report.steps["late"] * PERIOD < 0.15 + 0.15 + 4 * PERIOD
    )  # the first chunk, and until the delay is known
    assert report.steps["watchdog"] == 0
