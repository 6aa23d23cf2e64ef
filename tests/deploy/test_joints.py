"""Joint states to observations and commands to trajectories, without ROS."""

import ast
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from controlling import PERIOD, Circle, manifest
from controlling import controller as make_controller

import diffpolicy.deploy.ros2
from diffpolicy.deploy.errors import DeployError
from diffpolicy.deploy.joints import JointRobot, JointState, TrajectoryPoint, state_vector, trajectory_point
from diffpolicy.deploy.local import LocalSource
from diffpolicy.deploy.manifest import Signal

STATE = JointState(["right", "left"], [0.5, 4.0], [0.1, 0.2], [9.0])
JOINTS = manifest(observation=(Signal("state", (3,), "float32", names=("left", "right", "left.velocity")),))


def test_elements_are_found_by_name_whatever_their_order() -> None:
    found = state_vector(STATE, ["left", "right.velocity", "right.effort"])
    assert found.dtype == np.float32
    assert found.tolist() == pytest.approx([4.0, 0.1, 9.0])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("elbow", "no position of 'elbow'; it names right, left"),
        ("left.effort", "no effort of 'left'"),
        ("left.colour", "a joint has position, velocity, effort"),
    ],
)
def test_what_is_not_there_is_named(name: str, message: str) -> None:
    with pytest.raises(DeployError, match=message):
        state_vector(STATE, [name])


@pytest.mark.parametrize(
    ("period", "time"), [(0.02, (0, 20_000_000)), (1.5, (1, 500_000_000)), (0.9999999999, (1, 0))]
)
def test_a_command_becomes_a_point_to_reach(period: float, time: tuple[int, int]) -> None:
    point = trajectory_point(np.array([1.0, 2.0]), ["a", "b"], period)
    assert point == TrajectoryPoint(("a", "b"), (1.0, 2.0), *time)


def test_a_robot_of_joints_reads_and_publishes() -> None:
    sent: list[TrajectoryPoint] = []
    robot = JointRobot(JOINTS, 0.02, sent.append, clock=lambda: 50.0)
    with pytest.raises(DeployError, match="no joint state"):
        robot.read()
    robot.receive(STATE, age=0.5)
    observation, stamp = robot.read()
    assert (observation["state"].tolist(), stamp) == (pytest.approx([4.0, 0.5, 0.2]), 49.5)
    with pytest.raises(DeployError, match=r"0\.50 s old: the joints may be anywhere"):
        robot.start()
    robot.hold()
    robot.receive(STATE)
    assert robot.start().tolist() == [4.0, 0.5]
    robot.send(np.array([4.1, 0.4]))
    robot.hold()
    assert [point.positions for point in sent] == [(4.1, 0.4), (4.1, 0.4)]


def test_policies_that_need_more_than_joints_are_refused() -> None:
    with pytest.raises(DeployError, match="names no joints"):
        JointRobot(manifest(action=Signal("action", (2,), "float32")), 0.02, print)
    camera = Signal("camera", (4, 4, 3), "uint8")
    with pytest.raises(DeployError, match="takes state, camera"):
        JointRobot(manifest(observation=(*JOINTS.observation, camera)), 0.02, print)


def test_the_controller_drives_joints_and_is_reset_from_another_thread(tmp_path: Path) -> None:
    """The node without ROS: messages in from one thread, commands out, the reset service from a third."""
    sent: list[TrajectoryPoint] = []
    robot = JointRobot(JOINTS, PERIOD, sent.append)
    over = threading.Event()

    def joints() -> None:
        while True:
            left, right = sent[-1].positions if sent else (5.0, 0.0)
            robot.receive(JointState(["left", "right"], [left, right], [time.monotonic() % 100.0, 0.0]))
            time.sleep(0.005)

    threading.Thread(target=joints, daemon=True).start()
    while not hasattr(robot._newest, "__len__"):
        time.sleep(0.005)
    policy = Circle()
    policy.manifest = JOINTS
    source = LocalSource(policy)
    control = make_controller(robot, source, tmp_path)

    def person() -> None:
        for action, wanted in ((lambda: control.stop("service"), True), (control.restart, False)):
            time.sleep(0.3)
            while (control.shield.latched is not None) != wanted:
                action()  # again, where a busy machine has latched it by itself
                time.sleep(0.02)
        over.set()

    threading.Thread(target=person, daemon=True).start()
    report = control.run(20.0, over)
    source.close()
    assert report.steps["latched"] >= 1
    assert "service" in [event.text.rpartition(" ")[2] for event in control.shield.events]
    assert len(sent) == report.sent + 1  # and what holding sent
    assert report.bypasses == 0


@pytest.mark.parametrize("name", ["node.py", "policy_launch.py"])
def test_what_needs_ros_at_least_compiles_and_the_package_imports_without_it(name: str) -> None:
    path = Path(diffpolicy.deploy.ros2.__file__).with_name(name)
    tree = ast.parse(path.read_text())
    if name == "node.py":
        top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not any("rclpy" in ast.unparse(node) for node in top)
    assert "rclpy" not in sys.modules
