"""A robot of named joints, as ROS 2 knows them: joint states in, joint positions out. Plain functions, no ROS.

The manifest says which joints: an observation element named "elbow" is that joint's position, "elbow.velocity" and
"elbow.effort" the others; action elements name the joints to be moved, in [rad] or [m].
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffpolicy.deploy.errors import DeployError
from diffpolicy.deploy.manifest import Manifest

FIELDS = ("position", "velocity", "effort")


class JointState(NamedTuple):
    """What a sensor_msgs/JointState holds; lists other than `name` may be empty."""

    name: Sequence[str]
    position: Sequence[float]
    velocity: Sequence[float] = ()
    effort: Sequence[float] = ()


class TrajectoryPoint(NamedTuple):
    """What a trajectory_msgs/JointTrajectory with one point holds; `seconds` and `nanoseconds` from its start."""

    names: tuple[str, ...]
    positions: tuple[float, ...]
    seconds: int
    nanoseconds: int


def state_vector(state: JointState, names: Sequence[str]) -> NDArray[np.float32]:
    """Return the elements `names` (O,) of a joint state; DeployError names a joint or value that it does not have."""
    place = {joint: index for index, joint in enumerate(state.name)}
    found = np.empty(len(names), np.float32)
    for row, name in enumerate(names):
        joint, _, field = name.partition(".")
        field = field or "position"
        if field not in FIELDS:
            raise DeployError(f"observation {name!r}: a joint has {', '.join(FIELDS)}, not {field!r}")
        values = getattr(state, field)
        if joint not in place or place[joint] >= len(values):
            raise DeployError(
                f"the joint state has no {field} of {joint!r}; it names {', '.join(state.name)}"
            )
        found[row] = values[place[joint]]
    return found


def trajectory_point(command: NDArray[np.float64], names: Sequence[str], period: float) -> TrajectoryPoint:
    """Return the message that brings the joints `names` to `command` (A,) within `period` [s]."""
    seconds, nanoseconds = divmod(round(period * 1e9), 1_000_000_000)
    return TrajectoryPoint(tuple(names), tuple(float(value) for value in command), seconds, nanoseconds)


def check_joints(manifest: Manifest) -> None:
    """Raise DeployError for a policy that cannot be run on joints alone."""
    signals = [signal.name for signal in manifest.observation]
    if signals != ["state"]:
        raise DeployError(f"the joints' robot reads one signal, state; the policy takes {', '.join(signals)}")
    if not manifest.observation[0].names or not manifest.action.names:
        raise DeployError(
            "the manifest names no joints: export with observation_names and action_names in limits.yaml"
        )


class JointRobot:
    """A `Robot` behind messages: `receive` takes joint states in any thread, `publish` sends what is commanded."""

    rest = None

    def __init__(
        self,
        manifest: Manifest,
        period: float,
        publish: Callable[[TrajectoryPoint], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Command once each `period` [s]. Raises DeployError where the manifest names no joints."""
        check_joints(manifest)
        self._names, self._joints = manifest.observation[0].names, manifest.action.names
        self._period, self._publish, self._clock = period, publish, clock
        self._lock = threading.Lock()
        self._newest: tuple[JointState, float] | None = None
        self._oldest = manifest.safety.max_observation_age
        self._command: NDArray[np.float64] | None = None

    def receive(self, state: JointState, age: float = 0.0) -> None:
        """Take in a joint state that was measured `age` [s] ago."""
        with self._lock:
            self._newest = state, self._clock() - age

    def start(self) -> NDArray[np.float64]:
        """Return where the joints are; DeployError if that is not known, or was last known too long ago."""
        state, stamp = self._last()
        if (age := self._clock() - stamp) > self._oldest:
            raise DeployError(f"the newest joint state is {age:.2f} s old: the joints may be anywhere by now")
        return state_vector(state, self._joints).astype(np.float64)

    def read(self) -> tuple[Mapping[str, NDArray[Any]], float]:
        """Return the newest "state" (O,) and when it was measured."""
        state, stamp = self._last()
        return {"state": state_vector(state, self._names)}, stamp

    def send(self, command: NDArray[np.float64]) -> None:
        """Publish the command for the next period."""
        self._command = command
        self._publish(trajectory_point(command, self._joints, self._period))

    def hold(self) -> None:
        """Publish the last command again; nothing if there was none. Where the joints are measured is not where they
        are held: they would sag.
        """
        if self._command is not None:
            self.send(self._command)

    def _last(self) -> tuple[JointState, float]:
        with self._lock:
            if self._newest is None:
                raise DeployError("no joint state has been received yet")
            return self._newest
