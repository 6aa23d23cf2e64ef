"""Scripted controllers for the point robot, a labelled alternative to learned behaviour.

They read the observation only. Each draws its habits anew at the start of an episode, so that the data hold
fast and slow, careful and reckless driving, near misses, and starts close to or inside a hazard.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpolicy.collection.config import CollectionError
from diffpolicy.collection.rollouts import Behaviour
from envs import Task
from envs.point_robot import ARENA, GOAL, HAZARD_RADIUS, HAZARDS

TURN_GAIN = 3.0
SPEED_GAIN = 2.0
# Shares of episodes that start just outside a hazard, and inside one; the rest starts where the task says.
NEAR_SHARE, INSIDE_SHARE = 0.2, 0.1


def scripted_behaviours(task: Task) -> list[Behaviour]:
    """The family of controllers for the point robot; CollectionError for any other task."""
    if task.simulator != "point_robot":
        raise CollectionError(
            f"{task.name} has no scripted controllers: PointRobot and Meta-World's tasks have; use source=ppo"
        )
    return [Driver(care=0.0), Driver(care=0.5), Driver(care=1.0), Wanderer()]


class Noise:
    """First-order autoregressive noise: small or large, quick or slow, drawn per episode."""

    def start(self, rng: np.random.Generator, largest: float) -> None:
        """Draws standard deviation and memory."""
        self._scale = rng.uniform(0.0, largest)
        self._memory = rng.choice([0.0, 0.8, 0.95])
        self._value = np.zeros(2)

    def draw(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """The next value (2,), of the episode's standard deviation whatever its memory."""
        fresh = self._scale * np.sqrt(1.0 - self._memory**2)
        self._value = self._memory * self._value + fresh * rng.standard_normal(2)
        return self._value


class Driver:
    """Drives to the goal; with `care` 0 straight through hazards, with 1 nearly always around them."""

    def __init__(self, care: float) -> None:
        self._care = care
        self._noise = Noise()

    def start(self, rng: np.random.Generator) -> dict[str, Any] | None:
        """Draws cruising speed [m/s], distance at which a hazard counts [m] and whether to brake for it."""
        self._cruise = rng.uniform(0.3, 2.0)
        self._clearance = rng.uniform(0.1, 0.9)
        self._attentive = rng.random() < self._care
        self._brakes = rng.random() < 0.5
        self._noise.start(rng, 0.6)
        return random_start(rng)

    def act(self, observation: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """Acceleration and turn rate (2,)."""
        x, y, speed, cosine, sine = observation[:5]
        heading = np.arctan2(sine, cosine)
        error = _angle(np.arctan2(GOAL[1] - y, GOAL[0] - x) - heading)
        cruise = self._cruise
        if self._attentive:
            error, blocked = self._avoid(observation, error)
            cruise = 0.0 if blocked and self._brakes else cruise
        action = np.array([SPEED_GAIN * (cruise - speed), TURN_GAIN * error]) + self._noise.draw(rng)
        return action.astype(np.float32)

    def _avoid(self, observation: NDArray[np.float32], error: float) -> tuple[float, bool]:
        """The turn (rad) that passes the nearest hazard, and whether it lies right ahead."""
        hazards = observation[5:].reshape(len(HAZARDS), 3)
        distance, cosine, sine = hazards[np.argmin(hazards[:, 0])]
        gap = float(distance) - HAZARD_RADIUS
        bearing = float(np.arctan2(sine, cosine))
        if gap > self._clearance + 0.5 * float(observation[2]):
            return error, False
        # Half the angle that the hazard and its clearance fill as seen from here.
        half = float(
            np.arcsin(min(1.0, (HAZARD_RADIUS + 0.5 * self._clearance) / max(float(distance), 1e-3)))
        )
        if gap <= 0.0:
            return _angle(bearing + np.pi), abs(bearing) < np.pi / 2
        if abs(_angle(error - bearing)) < half:
            side = 1.0 if _angle(error - bearing) >= 0 else -1.0
            error = _angle(bearing + side * half)
        return error, abs(bearing) < half and gap < 0.5 * self._clearance + 0.25 * float(observation[2])


class Wanderer:
    """Slowly changing random actions."""

    def __init__(self) -> None:
        self._noise = Noise()

    def start(self, rng: np.random.Generator) -> dict[str, Any] | None:
        """Draws the noise of the episode."""
        self._noise.start(rng, 1.5)
        return random_start(rng)

    def act(self, observation: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """Acceleration and turn rate (2,)."""
        return self._noise.draw(rng).astype(np.float32)


def random_start(rng: np.random.Generator) -> dict[str, Any] | None:
    """Reset options: mostly none (the task's own start), else a state close to a hazard or inside one."""
    kind = rng.random()
    if kind >= NEAR_SHARE + INSIDE_SHARE:
        return None
    near = kind < NEAR_SHARE
    distance = HAZARD_RADIUS + rng.uniform(0.0, 0.6) if near else HAZARD_RADIUS * np.sqrt(rng.random())
    angle = rng.uniform(-np.pi, np.pi)
    position = HAZARDS[rng.integers(len(HAZARDS))] + distance * np.array([np.cos(angle), np.sin(angle)])
    speed, heading = rng.uniform(0.0, 2.0), rng.uniform(-np.pi, np.pi)
    return {"state": (*np.clip(position, -ARENA, ARENA), speed, heading)}


def _angle(value: float) -> float:
    """The same angle in [-pi, pi) (rad)."""
    return float((value + np.pi) % (2 * np.pi) - np.pi)
