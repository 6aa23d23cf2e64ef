"""A two-joint arm in MuJoCo that pushes the T of Push-T over a table, in real time: a robot to try a controller on.

The table is Push-T's arena with a millimetre for a pixel, so that a policy trained on Push-T's demonstrations can
move the arm: it sees where tip and block are [pixel, rad] and says where the tip shall be [pixel]. Physics and servos
are its own; no policy has seen them. Needs MuJoCo and numpy only.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import mujoco  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
PIXEL = 0.001  # [m]
TABLE = 512.0  # side [pixel]
BASE = np.array([256.0, -150.0])  # of the arm [pixel]
LINKS = (350.0, 400.0)  # [pixel]
GOAL = np.array([256.0, 256.0, np.pi / 4])  # where the T belongs [pixel, rad]
COVERED = 0.95  # of the goal: done, as in Push-T
TIME_STEP = 0.002  # [s]
LONGEST_LEAP = 0.5  # [s] of physics in one reading; a process that was suspended longer has lost time
CLEAR = 150.0  # [pixel] between the tip and a block that is put down
PLACING = (120.0, 392.0)  # where blocks are put down [pixel]
PATIENCE = 30.0  # [s] after which the block is put elsewhere

# The T: a bar of 120 x 30 and a stem of 30 x 90 pixels, from the middle of the bar's upper edge.
_MODEL = """
<mujoco>
  <option timestep="{step}" integrator="implicitfast"/>
  <default><geom density="300" friction="0.4 0.005 0.0001" contype="0" conaffinity="0"/></default>
  <worldbody>
    <light pos="0.25 0.25 1.5"/>
    <geom type="box" pos="0.256 0.256 -0.01" size="0.256 0.256 0.01" rgba="0.9 0.9 0.9 1"/>
    <body pos="0.256 -0.15 0.08">
      <joint name="shoulder" type="hinge" axis="0 0 1" damping="0.5" armature="0.05"/>
      <geom type="capsule" fromto="0 0 0 0.35 0 0" size="0.02" rgba="0.3 0.3 0.35 1"/>
      <body pos="0.35 0 0">
        <joint name="elbow" type="hinge" axis="0 0 1" damping="0.2" armature="0.05"/>
        <geom type="capsule" fromto="0 0 0 0.4 0 0" size="0.016" rgba="0.3 0.3 0.35 1"/>
        <geom type="capsule" fromto="0.4 0 0 0.4 0 -0.06" size="0.015" contype="1" rgba="0.2 0.4 0.8 1"/>
        <site name="tip" pos="0.4 0 -0.06"/>
      </body>
    </body>
    <body pos="0 0 0.02">
      <joint name="x" type="slide" axis="1 0 0" range="0.03 0.482" limited="true" frictionloss="0.6" damping="4"/>
      <joint name="y" type="slide" axis="0 1 0" range="0.03 0.482" limited="true" frictionloss="0.6" damping="4"/>
      <joint name="angle" type="hinge" axis="0 0 1" frictionloss="0.02" damping="0.02"/>
      <geom type="box" pos="0 0.015 0" size="0.06 0.015 0.02" conaffinity="1" rgba="0.5 0.55 0.6 1"/>
      <geom type="box" pos="0 0.075 0" size="0.015 0.045 0.02" conaffinity="1" rgba="0.5 0.55 0.6 1"/>
    </body>
  </worldbody>
  <actuator>
    <position joint="shoulder" kp="60" dampratio="1" forcerange="-60 60"/>
    <position joint="elbow" kp="30" dampratio="1" forcerange="-30 30"/>
  </actuator>
</mujoco>
"""


class PushArm:
    """The arm, its table and its block; a `Robot` whose commands are positions of the tip (2,) [pixel]."""

    rest = None

    def __init__(self, seed: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.model = mujoco.MjModel.from_xml_string(_MODEL.format(step=TIME_STEP))
        self.data = mujoco.MjData(self.model)
        self._clock, self._random = clock, np.random.default_rng(seed)
        self._simulated = clock()  # what the clock showed at the present state
        self._target = self._joints(np.array([256.0, 100.0]))
        self.data.qpos[:2] = self.data.ctrl[:] = self._target
        self.coverages: list[float] = []  # the best of each block that was put down
        self._place()

    def start(self) -> Array:
        """Return where the tip is: the command that leaves it there."""
        mujoco.mj_forward(self.model, self.data)
        self._simulated = self._clock()
        return self.tip

    def read(self) -> tuple[Mapping[str, NDArray[Any]], float]:
        """Simulate until now, and return the "state" (5,): tip x, y, block x, y [pixel], angle [rad]."""
        now = self._clock()
        steps = int(min(now - self._simulated, LONGEST_LEAP) / TIME_STEP)
        if now - self._simulated > LONGEST_LEAP:
            self._simulated = now - LONGEST_LEAP
        for _ in range(steps):
            mujoco.mj_step(self.model, self.data)
        self._simulated += steps * TIME_STEP
        self.coverages[-1] = max(self.coverages[-1], self.coverage())
        if self.coverages[-1] >= COVERED or self.data.time - self._placed > PATIENCE:
            self._place()
        x, y, angle = self.block
        return {"state": np.array([*self.tip, x, y, angle % (2 * np.pi)], np.float32)}, self._simulated

    def send(self, command: Array) -> None:
        """Let the servos draw the tip to `command` (2,)."""
        self.data.ctrl[:] = self._joints(np.asarray(command, np.float64))

    def hold(self) -> None:
        """Stay: the servos keep the joints where they are."""
        self.data.ctrl[:] = self.data.qpos[:2]

    @property
    def tip(self) -> Array:
        """Where the tip is (2,) [pixel]."""
        first, second = self.data.qpos[0], self.data.qpos[0] + self.data.qpos[1]
        reach = LINKS[0] * np.array([np.cos(first), np.sin(first)])
        return np.asarray(BASE + reach + LINKS[1] * np.array([np.cos(second), np.sin(second)]))

    @property
    def block(self) -> Array:
        """Where the block is (3,): x, y [pixel], angle [rad]."""
        return np.array([*self.data.qpos[2:4] / PIXEL, self.data.qpos[4]])

    def coverage(self) -> float:
        """Return the share of the goal that the block covers, over a grid of points five pixels apart."""
        world = _rotation(self.block[2]) @ _POINTS + self.block[:2, None]
        x, y = _rotation(-GOAL[2]) @ (world - GOAL[:2, None])
        inside = (np.abs(x) <= 60.0) & (y >= 0.0) & (y <= 30.0)
        inside |= (np.abs(x) <= 15.0) & (y >= 30.0) & (y <= 120.0)
        return float(inside.mean())

    def _joints(self, tip: Array) -> Array:
        """Return the angles (2,) of shoulder and elbow for a tip position, the elbow to the right of the line there."""
        offset = tip - BASE
        shortest, longest = abs(LINKS[0] - LINKS[1]) + 1.0, sum(LINKS) - 1.0
        distance = np.clip(np.hypot(*offset), shortest, longest)
        cosine = (distance**2 - LINKS[0] ** 2 - LINKS[1] ** 2) / (2.0 * LINKS[0] * LINKS[1])
        elbow = np.arccos(cosine)
        inner = np.arctan2(LINKS[1] * np.sin(elbow), LINKS[0] + LINKS[1] * np.cos(elbow))
        return np.array([np.arctan2(offset[1], offset[0]) - inner, elbow])

    def _place(self) -> None:
        """Put the block down somewhere clear of the tip."""
        while True:
            position = self._random.uniform(*PLACING, 2)
            if np.hypot(*(position - self.tip)) > CLEAR:
                break
        self.data.qpos[2:4] = position * PIXEL
        self.data.qpos[4] = self._random.uniform(-np.pi, np.pi)
        self.data.qvel[2:5] = 0.0
        self._placed = self.data.time
        mujoco.mj_forward(self.model, self.data)
        self.coverages.append(self.coverage())


def _rotation(angle: float) -> Array:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _grid() -> Array:
    """Points (2, n) of the T, in its own frame [pixel]."""
    bar = np.meshgrid(np.arange(-57.5, 60.0, 5.0), np.arange(2.5, 30.0, 5.0))
    stem = np.meshgrid(np.arange(-12.5, 15.0, 5.0), np.arange(32.5, 120.0, 5.0))
    return np.concatenate([np.stack(part).reshape(2, -1) for part in (bar, stem)], axis=1)


_POINTS = _grid()
