"""A LeRobot robot seen as ours, by its names."""

from typing import Any

import numpy as np
import pytest
from controlling import manifest

from diffpolicy.deploy.errors import DeployError
from diffpolicy.deploy.lerobot import LeRobotAdapter
from diffpolicy.deploy.manifest import Signal

CAMERA = np.full((4, 6, 3), 7, np.uint8)
KNOWN = manifest(
    observation=(
        Signal("state", (2,), "float32", names=("wrist.pos", "elbow.pos")),
        Signal("front", (4, 6, 3), "uint8"),
    ),
    action=Signal("action", (2,), "float32", names=("elbow.pos", "wrist.pos")),
)


class Arm:
    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.seen: dict[str, Any] = {"elbow.pos": 1.0, "wrist.pos": 2.0, "front": CAMERA, "gripper.pos": 3.0}

    def get_observation(self) -> dict[str, Any]:
        return self.seen

    def send_action(self, action: dict[str, Any]) -> None:
        self.sent.append(action)


def test_values_go_by_name_both_ways() -> None:
    arm = Arm()
    robot = LeRobotAdapter(arm, KNOWN, clock=lambda: 5.0)
    observation, stamp = robot.read()
    assert stamp == 5.0
    assert observation["state"].tolist() == [2.0, 1.0]
    assert observation["state"].dtype == np.float32
    assert observation["front"] is CAMERA
    assert robot.start().tolist() == [1.0, 2.0]
    robot.hold()
    robot.send(np.array([1.5, 2.5]))
    robot.hold()
    assert arm.sent == [{"elbow.pos": 1.5, "wrist.pos": 2.5}] * 2


def test_what_is_not_named_is_refused() -> None:
    with pytest.raises(DeployError, match="names no elements"):
        LeRobotAdapter(Arm(), manifest(action=Signal("action", (2,), "float32")))
    arm = Arm()
    del arm.seen["wrist.pos"]
    with pytest.raises(DeployError, match=r"nothing of 'wrist\.pos'; it knows elbow\.pos, front"):
        LeRobotAdapter(arm, KNOWN).read()
