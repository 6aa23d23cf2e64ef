"""The point robot of FISOR: a unicycle between two round hazards, with a known feasible set.

State (x, y, speed, heading), action (acceleration, turn rate) in [-1, 1]^2, Euler steps of 0.05 s.  The robot starts
anywhere outside the hazards and drives to the goal in the upper right corner; being inside a hazard costs 1 a step.
Source: FISOR (Zheng et al. 2024, "Safe Offline Reinforcement Learning with Feasibility-Guided Diffusion Model").
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.registry import Task

States = NDArray[np.float64]

TIME_STEP = 0.05  # [s]
HAZARDS = np.array([[0.4, -1.2], [-0.4, 1.2]])  # centres [m]
HAZARD_RADIUS = 0.8  # [m]
GOAL = np.array([2.2, 2.2])  # [m]
GOAL_RADIUS = 0.3  # [m]
ARENA = 3.0  # half the side of the arena [m]
MAX_STEPS = 300

TASK = Task(
    id="PointRobot-v0",
    name="PointRobot",
    simulator="point_robot",
    observation_size=11,
    action_size=2,
    max_episode_steps=MAX_STEPS,
    # No published reference: 0 stands still, and the longest way to the goal plus its bonus is below 8.
    min_episode_reward=0.0,
    max_episode_reward=5.0,
    min_episode_cost=0.0,
    max_episode_cost=100.0,
    dataset_file="",
    binary_cost=True,
)


def advance(states: States, actions: NDArray[Any]) -> States:
    """Return the states (..., 4) one step after `actions` (..., 2), which are clipped to [-1, 1]."""
    x, y, speed, heading = np.moveaxis(states, -1, 0)
    acceleration, turn_rate = np.moveaxis(np.clip(actions, -1.0, 1.0), -1, 0)
    rates = [speed * np.cos(heading), speed * np.sin(heading), acceleration, turn_rate]
    return states + TIME_STEP * np.stack(np.broadcast_arrays(*rates), axis=-1)


def observe(states: States) -> NDArray[np.float32]:
    """Return observations (..., 11) of states (..., 4).

    x, y, speed, cos and sin of the heading; then for each hazard the distance to its centre [m] and the cosine and
    sine of its bearing in the robot's frame.
    """
    x, y, speed, heading = np.moveaxis(states, -1, 0)
    parts = [x, y, speed, np.cos(heading), np.sin(heading)]
    for centre in HAZARDS:
        bearing = np.arctan2(centre[1] - y, centre[0] - x) - heading
        parts += [np.hypot(centre[0] - x, centre[1] - y), np.cos(bearing), np.sin(bearing)]
    return np.stack(parts, axis=-1).astype(np.float32)


def violation_value(states: States) -> NDArray[np.float64]:
    """Return h (...,) [m] of states (..., 4): positive inside a hazard, otherwise minus the distance to the nearest."""
    offsets = states[..., None, :2] - HAZARDS
    return HAZARD_RADIUS - np.linalg.norm(offsets, axis=-1).min(axis=-1)


class PointRobotEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """The point robot as a gymnasium task; its 300 steps are limited by the registration.

    `reset(options={"state": (x, y, speed, heading)})` starts in a given state.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(self, render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode is None or 'rgb_array', not {render_mode!r}.")
        self.render_mode = render_mode
        self.observation_space = spaces.Box(-np.inf, np.inf, (11,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.state = np.zeros(4)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start outside the hazards, or in `options["state"]`; ValueError if that is not four finite numbers."""
        super().reset(seed=seed)
        if options is not None and "state" in options:
            state = np.asarray(options["state"], float)
            if state.shape != (4,) or not np.isfinite(state).all():
                raise ValueError(f"options['state'] is (x, y, speed, heading), not {options['state']!r}.")
            self.state = state
        else:
            self.state = self._random_state()
        return observe(self.state), {"violation_value": float(violation_value(self.state))}

    def _random_state(self) -> States:
        low = np.array([-ARENA, -ARENA, 0.5, np.pi / 4])
        high = np.array([ARENA, ARENA, 2.0, 3 * np.pi / 4])
        while True:
            state = self.np_random.uniform(low, high)
            if violation_value(state) <= 0:
                return state

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Drive for 0.05 s; reaching the goal or leaving the arena ends the episode."""
        before = float(np.linalg.norm(self.state[:2] - GOAL))
        self.state = advance(self.state, np.asarray(action))
        after = float(np.linalg.norm(self.state[:2] - GOAL))
        reached = after <= GOAL_RADIUS
        left = bool(np.any(np.abs(self.state[:2]) > ARENA))
        violation = float(violation_value(self.state))
        info = {"cost": float(violation > 0), "violation_value": violation, "goal_reached": reached}
        return observe(self.state), before - after + float(reached), reached or left, False, info
