"""The controller with a policy in the same process."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from controlling import PERIOD, Circle, ToyRobot, assert_held, controller, manifest, run

from diffpolicy.deploy import controller as module
from diffpolicy.deploy.controller import Samples, realtime
from diffpolicy.deploy.local import LocalSource


def test_it_follows_the_policy_and_comes_to_rest(tmp_path: Path) -> None:
    policy = Circle()
    control, robot = run(tmp_path, policy, seconds=2.0)
    report = control.report
    assert report.periods >= 90
    assert report.bypasses == 0
    assert report.chunks >= 4
    assert report.latched == "stop: the run is over"
    assert not list(tmp_path.iterdir())  # the end of a run is no trip
    assert np.abs(np.diff([sent[0] for sent in robot.sent])).max() > 0.01
    assert policy.seen[-1]["state"].shape == (2, 3)  # with what was seen a control step before
    assert policy.seen[-1]["state"][1, 2] - policy.seen[-1]["state"][0, 2] == pytest.approx(0.1, abs=0.03)
    assert_held(robot)


def test_a_stop_from_outside_holds_until_a_new_start(tmp_path: Path) -> None:
    source = LocalSource(Circle())
    robot = ToyRobot()
    control = controller(robot, source, tmp_path)
    threading.Timer(0.3, control.stop, ["pressed by a person"]).start()
    report = control.run(0.8)
    assert report.latched == "stop: pressed by a person"
    assert_held(robot)
    control.start()
    assert control.shield.latched is None
    source.close()


def test_a_dry_run_sends_nothing(tmp_path: Path) -> None:
    control, robot = run(tmp_path, Circle(), seconds=0.5, dry_run=True)
    assert (robot.sent, robot.held, control.report.sent) == ([], 0, 0)
    assert control.shield.commands > 20


def test_sched_fifo_is_asked_for_and_not_needed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    def refuse(process: int, policy: int, parameters: Any) -> None:
        asked.append((policy, parameters.sched_priority))
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(module.os, "sched_setscheduler", refuse)
    with realtime(0):
        assert asked == []
    with realtime(50):
        assert asked == [(module.os.SCHED_FIFO, 50)]
    assert "no SCHED_FIFO (" in caplog.text


def test_requests_come_early_enough_for_the_measured_delay(tmp_path: Path) -> None:
    slow = Circle(wait=0.15, execute=8)  # no spare actions: a chunk ends as its successor is due
    control, robot = run(tmp_path, slow, seconds=3.5)
    late = control.shield.counts["late"] * PERIOD
    assert late < 0.6  # before the first chunk, and until the delay is known
    assert control.shield.counts["watchdog"] == 0
    assert_held(robot)


def test_samples_do_not_grow() -> None:
    samples = Samples()
    assert samples.milliseconds() == {}
    for value in range(1, 101):
        samples.add(value / 1000.0)
    found = samples.milliseconds()
    assert found["p50"] == pytest.approx(50.5)
    assert found["max"] == pytest.approx(100.0)


def test_the_history_holds_control_steps(tmp_path: Path) -> None:
    source = LocalSource(Circle(observation_horizon=3))
    control = controller(ToyRobot(), source, tmp_path)
    for index in range(20):
        observation = {"state": np.full(3, index, np.float32)}
        control._history.append((index * PERIOD, observation))
    readings = control._readings(19 * PERIOD)["state"][:, 0]
    assert readings.tolist() == [9.0, 14.0, 19.0]
    source.close()
    assert manifest().control_period == 0.1
