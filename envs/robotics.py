"""Two tasks of gymnasium-robotics: the Adroit hand opens a door, a Franka arm works in a kitchen.

Sources: Rajeswaran et al. 2018 ("Learning Complex Dexterous Manipulation with Deep Reinforcement Learning and
Demonstrations") and Gupta et al. 2019 ("Relay Policy Learning"), both with the reference returns of D4RL (Fu et al.
2020).
"""

import importlib
import io
from contextlib import redirect_stderr
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.errors import MissingSimulatorError
from envs.layout import Body, Layout
from envs.manipulation import ManipulationEnv, Picture
from envs.registry import Task
from envs.rendering import MujocoCamera

DOOR_TASK = Task(
    id="AdroitHandDoor-v1",
    name="AdroitDoor",
    simulator="adroit",
    observation_size=39,
    action_size=28,
    # gymnasium-robotics stops at 200; the 25 human demonstrations take 223 to 300.
    max_episode_steps=300,
    min_episode_reward=-56.512833,
    max_episode_reward=2880.5693087298737,
    min_episode_cost=0.0,
    max_episode_cost=1.0,
    dataset_file="",
    binary_cost=True,
    score="success",
    control_rate=100.0,
    clips_recorded=True,  # the human hand asks for up to 1.37
    layout=Layout(agent=(29, 30, 31), bodies=(Body(position=(32, 33, 34)),)),  # palm and handle
)
KITCHEN_TASK = Task(
    id="FrankaKitchen-v1",
    name="FrankaKitchen",
    simulator="kitchen",
    observation_size=59,
    action_size=9,
    max_episode_steps=280,
    min_episode_reward=0.0,
    max_episode_reward=4.0,
    min_episode_cost=0.0,
    max_episode_cost=1.0,
    dataset_file="",
    binary_cost=True,
    score="return",
    control_rate=12.5,
)
DEMONSTRATED = 4  # subtasks that every human demonstration of the kitchen completes, of seven

_DOOR_VIEW = {"distance": 1.5, "azimuth": 90.0, "elevation": -30.0, "lookat": (0.0, 0.0, 0.25)}
_KITCHEN_VIEW = {"distance": 2.2, "azimuth": 70.0, "elevation": -35.0, "lookat": (-0.2, 0.5, 2.0)}


class _MujocoTask(ManipulationEnv):
    """Draws the scene of `raw`."""

    def __init__(self, raw: Any, task: Task, render_mode: str | None, view: dict[str, Any]) -> None:
        super().__init__(task, render_mode)
        self.raw = raw
        self._camera = MujocoCamera(view, all_geometry=False)

    def render(self) -> Picture | None:
        """Return the scene as a (256, 256, 3) picture, or None without a render mode; see `RenderingError`."""
        if self.render_mode is None:
            return None
        return self._camera.picture(self.raw.model, self.raw.data)

    def close(self) -> None:
        """Release the simulator and the renderer."""
        self._camera.close()
        super().close()


class AdroitDoorEnv(_MujocoTask):
    """Undo the latch and swing the door open; a step counts as success while the door is open by 1.35 rad or more.

    `reset(options={"initial_state_dict": {"qpos": (30,), "qvel": (30,), "door_body_pos": (3,)}})` starts in the
    state of a demonstration.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 100}  # noqa: RUF012  gymnasium's own type

    def _begin(self, seed: int | None, options: dict[str, Any]) -> NDArray[Any]:
        observation: NDArray[Any] = self.raw.reset(seed=seed, options=options)[0]
        return observation

    def _advance(self, action: NDArray[np.float64]) -> tuple[NDArray[Any], float, bool, bool]:
        observation, reward, terminated, _, info = self.raw.step(action)
        return observation, reward, terminated, info["success"]


class FrankaKitchenEnv(_MujocoTask):
    """Seven subtasks in any order: the reward is the number completed in a step, so that a return counts them.

    An episode ends when all seven are done; it counts as success from the fourth on, as many as every human
    demonstration completes.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 12}  # noqa: RUF012  gymnasium's own type

    def _begin(self, seed: int | None, options: dict[str, Any]) -> NDArray[Any]:
        observation: NDArray[Any] = self.raw.reset(seed=seed)[0]["observation"]
        return observation

    def _advance(self, action: NDArray[np.float64]) -> tuple[NDArray[Any], float, bool, bool]:
        observation, reward, terminated, _, info = self.raw.step(action)
        return (
            observation["observation"],
            reward,
            terminated,
            len(info["episode_task_completions"]) >= DEMONSTRATED,
        )


def make_door(task: Task, render_mode: str | None) -> AdroitDoorEnv:
    """Make the Adroit door; MissingSimulatorError if gymnasium-robotics is not installed."""
    build = _simulator(task, "gymnasium_robotics.envs.adroit_hand.adroit_door", "AdroitHandDoorEnv")
    return AdroitDoorEnv(build(), task, render_mode, _DOOR_VIEW)


def make_kitchen(task: Task, render_mode: str | None) -> FrankaKitchenEnv:
    """Make the Franka kitchen; MissingSimulatorError if gymnasium-robotics is not installed."""
    build = _simulator(task, "gymnasium_robotics.envs.franka_kitchen", "KitchenEnv")
    return FrankaKitchenEnv(build(), task, render_mode, _KITCHEN_VIEW)


def _simulator(task: Task, module: str, name: str) -> Any:
    try:
        with redirect_stderr(io.StringIO()):  # at its import it prints news of its versions
            return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise MissingSimulatorError(
            f"{task.name} needs gymnasium-robotics, but {error}. Install the `robotics` extra: "
            "`pip install 'diffpolicy[robotics]'`."
        ) from error
