"""The arm in MuJoCo: it goes where it is told, in real time, and pushes the block."""

import numpy as np
import pytest

from diffpolicy.deploy.push_arm import GOAL, PIXEL, PushArm


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def driven(robot: PushArm, clock: Clock, target: tuple[float, float], seconds: float) -> np.ndarray:
    for _ in range(round(seconds / 0.02)):
        robot.send(np.array(target))
        clock.now += 0.02
        observation, stamp = robot.read()
        assert stamp == pytest.approx(clock.now, abs=0.003)
    return observation["state"]


@pytest.mark.parametrize("target", [(20.0, 20.0), (490.0, 490.0), (256.0, 10.0), (20.0, 490.0)])
def test_the_tip_goes_where_it_is_told(target: tuple[float, float]) -> None:
    clock = Clock()
    robot = PushArm(0, clock)
    robot.data.qpos[2:5] = [256 * PIXEL, 380 * PIXEL, 0.0]  # the block out of the way
    state = driven(robot, clock, target, 1.5)
    assert np.abs(state[:2] - target).max() < 3.0
    assert state.dtype == np.float32


def test_it_starts_and_holds_where_it_is() -> None:
    clock = Clock()
    robot = PushArm(0, clock)
    begin = robot.start()
    assert begin == pytest.approx([256.0, 100.0], abs=1e-6)
    driven(robot, clock, (100.0, 100.0), 0.3)
    robot.hold()
    held = robot.tip
    clock.now += 0.4
    robot.read()
    assert np.abs(robot.tip - held).max() < 40.0  # it brakes


def test_a_push_moves_the_block() -> None:
    clock = Clock()
    robot = PushArm(0, clock)
    robot.data.qpos[2:5] = [256 * PIXEL, 300 * PIXEL, 0.0]
    before = robot.block
    driven(robot, clock, (256.0, 350.0), 2.0)
    assert robot.block[1] - before[1] > 20.0


def test_coverage_is_one_at_the_goal_and_none_far_away() -> None:
    robot = PushArm(0, Clock())
    robot.data.qpos[2:4], robot.data.qpos[4] = GOAL[:2] * PIXEL, GOAL[2]
    assert robot.coverage() == 1.0
    robot.data.qpos[2] = 0.0
    assert robot.coverage() == 0.0


def test_a_covered_goal_and_lost_patience_put_the_block_elsewhere() -> None:
    clock = Clock()
    robot = PushArm(0, clock)
    robot.data.qpos[2:4], robot.data.qpos[4] = GOAL[:2] * PIXEL, GOAL[2]
    robot.read()
    assert len(robot.coverages) == 2
    assert robot.coverages[0] == 1.0
    robot.data.time += 31.0
    robot.read()
    assert len(robot.coverages) == 3


def test_a_suspended_process_does_not_simulate_for_ever() -> None:
    clock = Clock()
    robot = PushArm(0, clock)
    clock.now += 3600.0
    robot.read()
    assert robot.data.time < 1.0
    assert robot.read()[1] == pytest.approx(clock.now, abs=0.003)
