"""What the manipulation tasks have in common: no costs, a success, and perhaps pictures in the information."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.checks import check_action, check_render_mode
from envs.registry import Task

Observation = NDArray[np.float32]
Action = NDArray[np.float32]
Picture = NDArray[np.uint8]


class ManipulationEnv(gymnasium.Env[Observation, Action]):
    """Base: float32 observations, actions in [-1, 1], `info["cost"]` 0.0 and `info["success"]` at every step.

    Image tasks add `info["images"]`, a dictionary of (H, W, 3) uint8 pictures. `raw` is the simulator package's own
    environment. Subclasses give `_begin`, `_advance`, and `_images` or `render` where they draw.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012  gymnasium's own type
    raw: Any

    def __init__(self, task: Task, render_mode: str | None) -> None:
        check_render_mode(render_mode)
        self.render_mode = render_mode
        self.observation_space = spaces.Box(-np.inf, np.inf, (task.observation_size,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (task.action_size,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; the same `seed` gives the same episode for the same actions."""
        super().reset(seed=seed)
        observation = self._begin(seed, options or {})
        return np.asarray(observation, np.float32), self._info(success=False)

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Advance one control step with `action` (A,), which is clipped to [-1, 1].

        Raises ValueError for an action of another shape or one that is not finite.
        """
        checked = np.clip(check_action(action, self.action_space).astype(np.float64), -1.0, 1.0)
        observation, reward, terminated, success = self._advance(checked)
        info = self._info(bool(success))
        return np.asarray(observation, np.float32), float(reward), bool(terminated), False, info

    def _info(self, success: bool) -> dict[str, Any]:
        images = self._images()
        return {"cost": 0.0, "success": success} | ({"images": images} if images else {})

    def _images(self) -> dict[str, Picture]:
        return {}

    def _begin(self, seed: int | None, options: dict[str, Any]) -> NDArray[Any]:
        """Start the simulator's episode and return its observation (O,)."""
        raise NotImplementedError

    def _advance(self, action: NDArray[np.float64]) -> tuple[NDArray[Any], float, bool, bool]:
        """Step the simulator: observation (O,), reward, terminated, success."""
        raise NotImplementedError

    def close(self) -> None:
        """Release the simulator; more than one call is harmless."""
        self.raw.close()
