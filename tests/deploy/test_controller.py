"""The controller with a policy in the same process."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
from controlling import PERIOD, SAFETY, Circle, ToyRobot, assert_held, controller, manifest, run, run_until

from diffpolicy.deploy.local import LocalSource


def test_it_follows_the_policy_and_comes_to_rest(tmp_path: Path) -> None:
    policy = Circle()
    patient = manifest(safety=replace(SAFETY, watchdog=5.0, max_observation_age=5.0))
    policy.manifest = patient
    control, robot = run(tmp_path, policy, until=lambda control: control.report.chunks >= 4)
    report = control.report
    assert report.bypasses == 0
    assert report.chunks >= 4
    assert report.latched == "stop: the run is over"
    assert not list(tmp_path.iterdir())  # the end of a run is no trip
    assert np.abs(np.diff([sent[0] for sent in robot.sent])).max() > 0.01
    assert policy.seen[-1]["state"].shape == (2, 3)  # with what was seen a control step before
    assert_held(robot)


def test_a_stop_from_outside_holds_until_a_new_start(tmp_path: Path) -> None:
    source = LocalSource(Circle())
    robot = ToyRobot()
    control = controller(robot, source, tmp_path)
    threading.Timer(0.3, control.stop, ["pressed by a person"]).start()
    run_until(control, lambda: control.shield.latched)
    report = control.report
    assert report.latched == "stop: pressed by a person"
    assert_held(robot)
    control.start()
    assert control.shield.latched is None
    source.close()


def test_a_dry_run_sends_nothing(tmp_path: Path) -> None:
    control, robot = run(tmp_path, Circle(), until=lambda control: control.shield.commands > 20, dry_run=True)
    assert (robot.sent, robot.held, control.report.sent) == ([], 0, 0)
    assert control.shield.commands > 20


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
