"""Meta-World's tasks behind this package's interface: goals in sight, and drawn anew from the seed at every reset."""

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.errors import MissingSimulatorError
from envs.manipulation import ManipulationEnv, Picture
from envs.registry import Task
from envs.rendering import MujocoCamera

# Tasks whose goal is a mere mark in the air or on the table.
FREE_GOALS = (
    "pick-place-v3",
    "pick-place-wall-v3",
    "push-back-v3",
    "push-v3",
    "push-wall-v3",
    "reach-v3",
    "reach-wall-v3",
)


class MetaWorldEnv(ManipulationEnv):
    """A task of Meta-World; an episode goes on after its success, for 500 steps.

    Observations (39,): hand (3,), gripper opening, objects (14,), the same of the step before, goal (3,). Meta-World
    blanks the goal by default; here it is always in sight, as in its multi-task benchmarks. Where things stand and
    where they belong is drawn anew at every reset.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 80}  # noqa: RUF012  gymnasium's own type

    def __init__(self, raw: Any, task: Task, render_mode: str | None) -> None:
        super().__init__(task, render_mode)
        self.raw = raw
        self._name = task.name
        raw._partially_observable = False
        del raw.sawyer_observation_space  # cached with the goal's limits at 0, which would clip it away
        raw._set_task_called = True
        raw._freeze_rand_vec, raw.seeded_rand_vec = False, True
        self._camera = MujocoCamera("corner2", all_geometry=False)

    def teleport(self, seed: int) -> NDArray[np.float32]:
        """Move the goal to another place that a reset may draw, and return what is observed now (39,).

        Raises ValueError in a task whose goal is the place of an object, such as an open door.
        """
        if self._name not in FREE_GOALS:
            raise ValueError(
                f"The goal of {self._name} belongs to an object; free are: {', '.join(FREE_GOALS)}."
            )
        raw, space = self.raw, self.raw._random_reset_space
        fresh = np.random.default_rng(seed).uniform(space.low[-3:], space.high[-3:])
        if self._name.startswith("push"):
            fresh[2] = raw._target_pos[2]  # these lay the goal onto the table, however high it is drawn
        raw._target_pos = fresh
        raw._last_rand_vec = np.concatenate([raw._last_rand_vec[:-3], fresh])
        raw.model.site("goal").pos = raw._target_pos  # the mark in the picture
        observation = np.concatenate([raw._get_curr_obs_combined_no_goal(), raw._prev_obs, raw._target_pos])
        return observation.astype(np.float32)

    def _begin(self, seed: int | None, options: dict[str, Any]) -> NDArray[Any]:
        if seed is not None:
            self.raw.seed(seed)
        self.raw.reset()
        return self._settled()

    def _settled(self) -> NDArray[Any]:
        """Return the observation of the reset scene.

        Meta-World's own is computed before objects are where the reset put them: a dial then jumps by up to 10 cm in
        the first step.
        """
        import mujoco  # type: ignore[import-untyped]

        mujoco.mj_forward(self.raw.model, self.raw.data)
        seen = self.raw._get_curr_obs_combined_no_goal()
        self.raw._prev_obs = seen
        return np.concatenate([seen, seen, self.raw._target_pos])

    def _advance(self, action: NDArray[np.float64]) -> tuple[NDArray[Any], float, bool, bool]:
        observation, reward, terminated, _, info = self.raw.step(action)
        return observation, reward, terminated, info["success"] > 0

    def render(self) -> Picture | None:
        """Return the scene as a (256, 256, 3) picture, or None without a render mode; see `RenderingError`."""
        if self.render_mode is None:
            return None
        # Of its cameras this one shows most, but hangs upside down.
        return self._camera.picture(self.raw.model, self.raw.data)[::-1, ::-1]

    def close(self) -> None:
        """Release the simulator and the renderer."""
        self._camera.close()
        super().close()


def make(task: Task, render_mode: str | None) -> MetaWorldEnv:
    """Make one of the fifty tasks; MissingSimulatorError if Meta-World is not installed."""
    try:
        environments = importlib.import_module("metaworld.env_dict").ALL_V3_ENVIRONMENTS
    except ImportError as error:
        raise MissingSimulatorError(
            f"{task.name} needs metaworld 3, but {error}. Install the `robotics` extra: "
            "`pip install 'diffpolicy[robotics]'`."
        ) from error
    return MetaWorldEnv(environments[task.name](), task, render_mode)
