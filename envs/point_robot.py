"""The point robot of FISOR: a unicycle between two round hazards, with a known feasible set.

State (x, y, speed, heading), action (acceleration, turn rate) in [-1, 1]^2, Euler steps of 0.05 s. The
robot drives to the goal in the upper right corner; being inside a hazard costs 1 a step.
Source: FISOR (Zheng et al. 2024, "Safe Offline Reinforcement Learning with Feasibility-Guided Diffusion
Model").
"""

from functools import cache
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.checks import check_action, check_render_mode
from envs.registry import Task

States = NDArray[np.float64]
Picture = NDArray[np.uint8]

TIME_STEP = 0.05  # [s]
HAZARDS = np.array([[0.4, -1.2], [-0.4, 1.2]])  # centres [m]
HAZARD_RADIUS = 0.8  # [m]
GOAL = np.array([2.2, 2.2])  # [m]
GOAL_RADIUS = 0.3  # [m]
ARENA = 3.0  # half the side of the arena [m]
DRAWN = 3.1  # half the side of a picture [m]
START_LOW = np.array([-ARENA, -ARENA, 0.5, np.pi / 4])
START_HIGH = np.array([ARENA, ARENA, 2.0, 3 * np.pi / 4])

TASK = Task(
    id="PointRobot-v0",
    name="PointRobot",
    simulator="point_robot",
    observation_size=11,
    action_size=2,
    max_episode_steps=300,
    # FISOR publishes no reference returns: 0 is standing still, 5.3 reaching the goal from its start at
    # (-1.8, 0).
    min_episode_reward=0.0,
    max_episode_reward=5.3,
    min_episode_cost=0.0,
    max_episode_cost=100.0,
    dataset_file="",
    binary_cost=True,
)


def advance(states: States, actions: NDArray[Any]) -> States:
    """Return the states (..., 4) one step after `actions` (..., 2), which are clipped to [-1, 1]."""
    speed, heading = states[..., 2], states[..., 3]
    acceleration, turn_rate = np.moveaxis(np.clip(actions, -1.0, 1.0), -1, 0)
    rates = [speed * np.cos(heading), speed * np.sin(heading), acceleration, turn_rate]
    return states + TIME_STEP * np.stack(np.broadcast_arrays(*rates), axis=-1)


def observe(states: States) -> NDArray[np.float32]:
    """Return observations (..., 11) of states (..., 4).

    x, y, speed, cos and sin of the heading; then for each hazard the distance to its centre [m] and the
    cosine and sine of its bearing in the robot's frame.
    """
    x, y, speed, heading = np.moveaxis(states, -1, 0)
    parts = [x, y, speed, np.cos(heading), np.sin(heading)]
    for centre in HAZARDS:
        bearing = np.arctan2(centre[1] - y, centre[0] - x) - heading
        parts += [np.hypot(centre[0] - x, centre[1] - y), np.cos(bearing), np.sin(bearing)]
    return np.stack(parts, axis=-1).astype(np.float32)


def violation_from_observation(observations: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return h (...,) [m] of observations (..., 11), as `violation_value` does of states."""
    first, second = observations[..., 5], observations[..., 8]
    return np.asarray(HAZARD_RADIUS - np.minimum(first, second), np.float32)


def violation_value(states: States) -> States:
    """Return h (...,) [m] of states (..., 4): positive inside a hazard, else minus its distance."""
    distances = np.linalg.norm(states[..., None, :2] - HAZARDS, axis=-1)
    nearest: States = np.asarray(distances.min(axis=-1))
    return HAZARD_RADIUS - nearest


def feasible(states: States) -> NDArray[np.bool_]:
    """Return (...,) whether the robot in states (..., 4) can keep out of the hazards for ever.

    The ground truth of FISOR's figure: brake fully and turn fully away from the hazard until standing
    still. Which way is away can be unclear between two hazards, so a state counts as feasible if braking
    with a full left turn, a full right turn or no turn is safe. Leaving the arena is not a violation. Of
    814 random states that it calls infeasible, none could escape by first holding any of 25 other actions
    for 0.1 to 2 s.
    """
    turns = np.array([-1.0, 0.0, 1.0]).reshape(3, *[1] * (np.ndim(states) - 1))
    states = np.repeat(np.asarray(states, float)[None], 3, axis=0)
    safe = np.asarray(violation_value(states) <= 0)
    while np.any(states[..., 2] != 0):
        braking = -states[..., 2] / TIME_STEP  # clipped to full braking but for the last step, to a stand
        states = advance(states, np.stack(np.broadcast_arrays(braking, turns), axis=-1))
        states[..., 2] = np.where(np.abs(states[..., 2]) < 1e-9, 0.0, states[..., 2])  # rounding errors
        safe &= violation_value(states) <= 0
    return np.asarray(safe.any(axis=0))


def feasible_grid(
    speed: float, heading: float, n: int = 201
) -> tuple[States, States, NDArray[np.bool_], NDArray[np.float32]]:
    """Return the true feasible set on an n x n grid over the arena, at one speed [m/s] and heading [rad].

    xs (n,), ys (n,), feasible (n, n) with rows of equal y, and observations (n * n, 11) in the same order.
    FISOR's figure shows (speed, heading) = (0.5, pi/4), (1, pi/2) and (1.5, pi/4).
    """
    axis = np.linspace(-ARENA, ARENA, n)
    x, y = np.meshgrid(axis, axis)
    states = np.stack([x, y, np.full_like(x, speed), np.full_like(x, heading)], axis=-1)
    return axis, axis.copy(), feasible(states), observe(states).reshape(n * n, -1)


class PointRobotEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """The point robot as a gymnasium task; its 300 steps are limited by the registration.

    `reset(options={"state": (x, y, speed, heading)})` starts in a given state, otherwise episodes start in
    a random feasible one. `info["violation_value"]` is h, and `state` the present state (4,).
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012  gymnasium's

    def __init__(self, render_mode: str | None = None) -> None:
        check_render_mode(render_mode)
        self.render_mode = render_mode
        self.observation_space = spaces.Box(-np.inf, np.inf, (11,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.state = np.zeros(4)
        self._trail: list[States] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode; ValueError if `options["state"]` is not four finite numbers."""
        super().reset(seed=seed)
        if options is not None and "state" in options:
            self.state = np.array(options["state"], float)
            if self.state.shape != (4,) or not np.isfinite(self.state).all():
                raise ValueError(f"options['state'] is (x, y, speed, heading), not {options['state']!r}.")
        else:
            self.state = self._random_state()
        self._trail = [self.state[:2]]
        return observe(self.state), {"violation_value": float(violation_value(self.state))}

    def _random_state(self) -> States:
        while True:
            state = self.np_random.uniform(START_LOW, START_HIGH)
            if feasible(state):
                return state

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Drive for 0.05 s; reaching the goal or leaving the arena ends the episode.

        The reward is the way gained towards the goal [m], and 1 for reaching it. Raises ValueError for an
        action of another shape or one that is not finite.
        """
        checked = check_action(action, self.action_space)
        before = float(np.linalg.norm(self.state[:2] - GOAL))
        self.state = advance(self.state, checked)
        self._trail.append(self.state[:2])
        after = float(np.linalg.norm(self.state[:2] - GOAL))
        reached = after <= GOAL_RADIUS
        left = bool(np.any(np.abs(self.state[:2]) > ARENA))
        violation = float(violation_value(self.state))
        info = {"cost": float(violation > 0), "violation_value": violation, "goal_reached": reached}
        return observe(self.state), before - after + float(reached), reached or left, False, info

    def render(self) -> Picture | None:
        """Return the scene as a (256, 256, 3) picture, or None without a render mode."""
        if self.render_mode is None:
            return None
        return draw(self.state, np.array(self._trail))


def draw(state: States, trail: States, size: int = 256) -> Picture:
    """Return a (size, size, 3) picture of the arena with the robot in `state` (4,) and its `trail` (t, 2)."""
    points, background = _background(size)
    canvas = background.copy()
    pixel = 2 * DRAWN / (size - 1)
    columns = np.rint((trail[:, 0] + DRAWN) / pixel).astype(int)
    rows = np.rint((DRAWN - trail[:, 1]) / pixel).astype(int)
    visible = (rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)
    canvas[rows[visible], columns[visible]] = (90, 90, 90)
    nose = state[:2] + 0.16 * np.array([np.cos(state[3]), np.sin(state[3])])
    colour = (200, 30, 30) if violation_value(state) > 0 else (40, 80, 170)
    _paint(canvas, np.linalg.norm(points - state[:2], axis=-1) - 0.1, pixel, colour)
    _paint(canvas, np.linalg.norm(points - nose, axis=-1) - 0.05, pixel, colour)
    return canvas.astype(np.uint8)


@cache
def _background(size: int) -> tuple[States, States]:
    axis = np.linspace(-DRAWN, DRAWN, size)
    points = np.stack(np.meshgrid(axis, -axis), axis=-1)
    pixel = 2 * DRAWN / (size - 1)
    canvas = np.full((size, size, 3), 200.0)
    _paint(canvas, np.abs(points).max(axis=-1) - ARENA, pixel, (255, 255, 255))
    for centre in HAZARDS:
        _paint(canvas, np.linalg.norm(points - centre, axis=-1) - HAZARD_RADIUS, pixel, (240, 170, 160))
    _paint(canvas, np.linalg.norm(points - GOAL, axis=-1) - GOAL_RADIUS, pixel, (160, 215, 165))
    return points, canvas


def _paint(canvas: States, distance: States, pixel: float, colour: tuple[int, int, int]) -> None:
    """Colour where the distance [m] to a shape is negative, with a soft edge of one pixel."""
    cover = np.clip(0.5 - distance / pixel, 0.0, 1.0)[..., None]
    canvas[:] = canvas * (1 - cover) + cover * np.array(colour)
