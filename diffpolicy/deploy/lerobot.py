"""A LeRobot robot as ours: anything with `get_observation`, `send_action` and named features. Does not import lerobot.

LeRobot's robots give and take dictionaries of floats by name ("shoulder_pan.pos") and pictures by camera name. The
manifest's element names say which of them the policy sees and moves.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from diffpolicy.deploy.errors import DeployError
from diffpolicy.deploy.manifest import Manifest


class LeRobotLike(Protocol):
    """The part of `lerobot.robots.Robot` that is used."""

    def get_observation(self) -> dict[str, Any]:
        """Return values by name."""
        ...

    def send_action(self, action: dict[str, Any]) -> Any:
        """Move to values by name."""
        ...


class LeRobotAdapter:
    """A `Robot` around a connected LeRobot robot, whose commands are positions."""

    rest = None

    def __init__(
        self, robot: LeRobotLike, manifest: Manifest, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Wrap `robot`. Raises DeployError where the manifest does not name its elements."""
        if not manifest.action.names or not all(
            s.names for s in manifest.observation if s.dtype == "float32"
        ):
            raise DeployError(
                "the manifest names no elements: export with observation_names and action_names"
            )
        self._robot, self._manifest, self._clock = robot, manifest, clock
        self._command: NDArray[np.float64] | None = None

    def start(self) -> NDArray[np.float64]:
        """Return where the robot is; DeployError if it does not say so by the names of its actions."""
        seen = self._robot.get_observation()
        return np.array([self._value(seen, name) for name in self._manifest.action.names], np.float64)

    def read(self) -> tuple[Mapping[str, NDArray[Any]], float]:
        """Return every signal; the time is that before reading began, since LeRobot gives none."""
        stamp = self._clock()
        seen = self._robot.get_observation()
        found: dict[str, NDArray[Any]] = {}
        for signal in self._manifest.observation:
            if signal.dtype == "float32":
                found[signal.name] = np.array([self._value(seen, name) for name in signal.names], np.float32)
            else:
                found[signal.name] = np.asarray(self._value(seen, signal.name))
        return found, stamp

    def send(self, command: NDArray[np.float64]) -> None:
        """Send positions by name."""
        self._command = command
        named = zip(self._manifest.action.names, command, strict=True)
        self._robot.send_action({name: float(value) for name, value in named})

    def hold(self) -> None:
        """Send the last command again; nothing if there was none."""
        if self._command is not None:
            self.send(self._command)

    @staticmethod
    def _value(seen: Mapping[str, Any], name: str) -> Any:
        if name not in seen:
            raise DeployError(f"the robot says nothing of {name!r}; it knows {', '.join(map(str, seen))}")
        return seen[name]
