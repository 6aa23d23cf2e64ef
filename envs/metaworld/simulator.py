"""Meta-World's tasks behind this package's interface: goals in sight, and drawn anew from the seed at every reset."""

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.errors import MissingSimulatorError
from envs.manipulation import ManipulationEnv, Picture
from envs.metaworld.tasks import HELD, PICTURE, WITH_PICTURES
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

# What pictures of a task show: from the side, where y and z are seen, and from the front and above, where x and y are.
VIEWS: tuple[dict[str, Any], ...] = (
    {"azimuth": 0.0, "elevation": -10.0, "distance": 0.62, "lookat": np.array([0.0, 0.75, 0.17])},
    {"azimuth": 270.0, "elevation": -60.0, "distance": 0.68, "lookat": np.array([0.0, 0.77, 0.13])},
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
        self._name = task.name.removesuffix(WITH_PICTURES)
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


class PictureEnv(MetaWorldEnv):
    """A task of Meta-World in pictures, 20 times a second: an action is held for four steps of the simulator.

    `info["images"]["camera"]` is (32, 32, 3) uint8: above, the table from its side, where one sees how far and how high
    the hand is, below, the table from the front and above; one view alone does not tell depth. Each is squeezed to half
    its height. The observation (39,) is for the scripted expert: whoever acts from pictures does not look at it.
    Rewards of held steps are added up. Success is that of the moment in the picture.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012  gymnasium's own type

    def __init__(self, raw: Any, task: Task, render_mode: str | None) -> None:
        super().__init__(raw, task, render_mode)
        self._eye = MujocoCamera(all_geometry=False, size=2 * PICTURE, sky=False)

    def _advance(self, action: NDArray[np.float64]) -> tuple[NDArray[Any], float, bool, bool]:
        earned = 0.0
        for _ in range(HELD):
            observation, reward, terminated, success = super()._advance(action)
            earned += reward
        return observation, earned, terminated, success

    def _images(self) -> dict[str, Picture]:
        pictures = [self._eye.picture(self.raw.model, self.raw.data, view) for view in VIEWS]
        return {"camera": np.concatenate([_squeezed(picture) for picture in pictures])}

    def close(self) -> None:
        """Release the simulator and both renderers."""
        self._eye.close()
        super().close()


def _squeezed(picture: Picture) -> Picture:
    """Return a (2 S, 2 S, 3) picture as (S / 2, S, 3), each pixel the mean of the eight it covers."""
    mean = picture.reshape(PICTURE // 2, 4, PICTURE, 2, 3).mean((1, 3))
    return np.asarray(mean.round(), np.uint8)


def make(task: Task, render_mode: str | None) -> MetaWorldEnv:
    """Make one of the tasks; MissingSimulatorError if Meta-World is not installed."""
    try:
        environments = importlib.import_module("metaworld.env_dict").ALL_V3_ENVIRONMENTS
    except ImportError as error:
        raise MissingSimulatorError(
            f"{task.name} needs metaworld 3, but {error}. Install the `robotics` extra: "
            "`pip install 'diffpolicy[robotics]'`."
        ) from error
    raw = environments[task.name.removesuffix(WITH_PICTURES)]()
    return (MetaWorldEnv if task.image_size is None else PictureEnv)(raw, task, render_mode)
