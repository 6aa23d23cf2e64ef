"""What the controller asks of a robot; an arm in MuJoCo is in `push_arm`, adapters in `lerobot` and `ros2`."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Robot(Protocol):
    """A robot that is told where to be, once each control period. Any method may raise: the controller then stops it.

    `rest` (A,) is the command with which it stands still, None where commands are positions.
    """

    @property
    def rest(self) -> NDArray[np.float64] | None:
        """The command of standing still."""
        ...

    def start(self) -> NDArray[np.float64]:
        """Get ready; return the command (A,) that leaves the robot as it is."""
        ...

    def read(self) -> tuple[Mapping[str, NDArray[Any]], float]:
        """Return the newest reading of every signal and when it was taken [s, time.monotonic()]."""
        ...

    def send(self, command: NDArray[np.float64]) -> None:
        """Carry out a command (A,) [physical units] that has passed the shield."""
        ...

    def hold(self) -> None:
        """Stand still until the next `start`, by the robot's own means."""
        ...
