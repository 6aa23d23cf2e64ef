"""The Safety-Gymnasium and Bullet tasks of DSRL behind one gymnasium interface."""

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs import rendering
from envs.checks import check_action
from envs.dsrl.adapter import adapt_safety_gymnasium
from envs.errors import MissingSimulatorError
from envs.registry import Task

Observation = NDArray[np.float32]
Action = NDArray[np.float32]

_BULLET_WORLDS: dict[str, dict[str, Any]] = {
    "Run": {"task": "RunTask", "world": {"name": "Plane200", "factor": 1}},
    "Circle": {"task": "CircleTask", "world": {"name": "Octagon"}},
}
_INSTALL = "pip install --no-deps safety-gymnasium==0.4.0 bullet-safety-gym==1.4.0"


class NumpyStream:
    """A private copy of numpy's global random state, for simulators that draw from `np.random`."""

    def __init__(self) -> None:
        self._state = np.random.RandomState().get_state(legacy=False)

    def seed(self, seed: int) -> None:
        """Restart the stream; the same numbers follow as after `np.random.seed(seed)`."""
        self._state = np.random.RandomState(seed).get_state(legacy=False)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let `np.random` draw from this stream; the caller's own state is untouched afterwards."""
        callers = np.random.get_state(legacy=False)  # noqa: NPY002
        np.random.set_state(self._state)  # noqa: NPY002
        try:
            yield
        finally:
            self._state = np.random.get_state(legacy=False)  # noqa: NPY002
            np.random.set_state(callers)  # noqa: NPY002


class SimulatorEnv(gymnasium.Env[Observation, Action]):
    """Base of both families: float32 observations, five-tuple steps, `info["cost"]`, private randomness.

    `raw` is the simulator package's own environment.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012  gymnasium's own type

    def __init__(self, build: Callable[[], Any], render_mode: str | None) -> None:
        self.render_mode = render_mode
        self._stream = NumpyStream()
        # errstate: gymnasium rounds infinite limits to other precisions, loudly.
        with self._stream.installed(), np.errstate(over="ignore"):
            self.raw = build()
        low, high = self.raw.action_space.low, self.raw.action_space.high
        self.action_space = spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
        shape = self.raw.observation_space.shape
        self.observation_space = spaces.Box(-np.inf, np.inf, shape, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; the same `seed` gives the same episode for the same actions."""
        super().reset(seed=seed)
        if seed is not None:
            self._stream.seed(seed)
        with self._stream.installed():
            observation, info = self.raw.reset(seed=seed)
        return np.asarray(observation, np.float32), dict(info)

    def step(self, action: Action) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        """Advance one control step with `action` (A,); `info["cost"]` is the step's cost as a float.

        Raises ValueError for an action of another shape or one that is not finite.
        """
        checked = check_action(action, self.action_space)
        observation, reward, cost, terminated, truncated, info = self._raw_step(checked)
        info["cost"] = float(cost)
        return np.asarray(observation, np.float32), float(reward), bool(terminated), bool(truncated), info

    def _raw_step(self, action: NDArray[Any]) -> tuple[Any, float, float, bool, bool, dict[str, Any]]:
        raise NotImplementedError

    def close(self) -> None:
        """Release the simulator; more than one call is harmless."""
        self.raw.close()


class SafetyGymnasiumEnv(SimulatorEnv):
    """A task of Safety-Gymnasium (MuJoCo): navigation or velocity."""

    def __init__(self, build: Callable[[], Any], render_mode: str | None) -> None:
        super().__init__(build, render_mode)
        self._camera = rendering.MujocoCamera()

    def _raw_step(self, action: NDArray[Any]) -> tuple[Any, float, float, bool, bool, dict[str, Any]]:
        step: tuple[Any, float, float, bool, bool, dict[str, Any]] = self.raw.step(action)
        return step

    def render(self) -> NDArray[np.uint8] | None:
        """Return the scene as an (H, W, 3) picture, or None without a render mode; see `RenderingError`."""
        if self.render_mode is None:
            return None
        simulation = getattr(self.raw, "task", self.raw)
        return self._camera.picture(simulation.model, simulation.data)

    def close(self) -> None:
        """Release the simulator and the renderer."""
        self._camera.close()
        super().close()


class BulletEnv(SimulatorEnv):
    """A task of Bullet-Safety-Gym (PyBullet)."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; the same `seed` gives the same episode for the same actions."""
        # Bullet's saved state leaves out the motors' set-points: the last command of the previous episode
        # would still drive the car and the drone during the step that every reset takes.
        client, body = self.raw.bc, self.raw.agent.body_id
        for joint in range(client.getNumJoints(body)):
            client.setJointMotorControl2(body, joint, client.VELOCITY_CONTROL, targetVelocity=0, force=0)
        return super().reset(seed=seed, options=options)

    def _raw_step(self, action: NDArray[Any]) -> tuple[Any, float, float, bool, bool, dict[str, Any]]:
        with self._stream.installed():  # Safety-Gymnasium draws only at a reset; Bullet may at any step
            observation, reward, terminated, truncated, info = self.raw.step(action)
        return observation, reward, info["cost"], terminated, truncated, info

    def render(self) -> NDArray[np.uint8] | None:
        """Return the scene as an (H, W, 3) picture, or None without a render mode."""
        if self.render_mode is None:
            return None
        return rendering.bullet_picture(self.raw)


def make_safety_gymnasium(task: Task, render_mode: str | None) -> SafetyGymnasiumEnv:
    """Make one of the 21 Safety-Gymnasium tasks; MissingSimulatorError if the simulator is not installed."""
    try:
        adapt_safety_gymnasium()
    except ImportError as error:
        raise MissingSimulatorError(
            f"{task.name} needs safety-gymnasium 0.4.0 and mujoco, but {error}. Install the `safety` extra "
            f"and then `{_INSTALL}`."
        ) from error
    velocity = re.fullmatch(r"(\w+)Velocity", task.name)
    if velocity:
        robot = velocity[1]
        snake = re.sub(r"(?<!^)(?=[A-Z])", "_", robot).lower()
        module = importlib.import_module(f"safety_gymnasium.tasks.safety_velocity.safety_{snake}_velocity_v1")
        return SafetyGymnasiumEnv(getattr(module, f"Safety{robot}VelocityEnv"), render_mode)
    builder = importlib.import_module("safety_gymnasium.builder").Builder
    agent = "Point" if task.name.startswith("Point") else "Car"
    return SafetyGymnasiumEnv(lambda: builder(f"Safety{task.name}-v0", {"agent_name": agent}), render_mode)


def make_bullet(task: Task, render_mode: str | None) -> BulletEnv:
    """Make one of the 8 Bullet tasks; MissingSimulatorError if PyBullet is not installed."""
    # It silences PyBullet by the file numbers of sys.stdout and sys.stderr, and fails where these are a
    # notebook's, a progress bar's or a test's stand-ins.
    with redirect_stdout(sys.__stdout__), redirect_stderr(sys.__stderr__):
        return _make_bullet(task, render_mode)


def _make_bullet(task: Task, render_mode: str | None) -> BulletEnv:
    try:
        builder = importlib.import_module("bullet_safety_gym.envs.builder").EnvironmentBuilder
    except ImportError as error:
        raise MissingSimulatorError(
            f"{task.name} needs pybullet and bullet-safety-gym 1.4.0, but {error}. PyBullet has ready-made "
            f"packages up to Python 3.11; there, `pip install pybullet` and then `{_INSTALL}`."
        ) from error
    kind = "Run" if task.name.endswith("Run") else "Circle"
    robot = task.name.removesuffix(kind)
    agent = "RaceCar" if robot == "Car" else robot
    return BulletEnv(lambda: builder(agent=agent, obstacles={}, **_BULLET_WORLDS[kind]), render_mode)


def make_metadrive(task: Task, render_mode: str | None) -> SimulatorEnv:
    """Say why MetaDrive cannot run: always raises MissingSimulatorError."""
    raise MissingSimulatorError(
        f"{task.name} can be trained on and scored, but not simulated: DSRL's MetaDrive tasks are written "
        "for a 2022 release of metadrive-simulator, whose settings and pins (gym 0.19, panda3d 1.10.8) no "
        "current Python can meet and whose assets are a separate download. DSRL's tasks would have to be "
        "ported to a current metadrive-simulator."
    )
