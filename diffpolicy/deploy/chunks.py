"""What a policy on a robot is asked and answers, whatever runs it. Numpy only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from diffpolicy.deploy.manifest import Manifest


@dataclass(frozen=True)
class Chunk:
    """The next actions (H, A) float32 in physical units, the first for the control step of the observation.

    `feasible` is the critics' value of the state or of the first action (<= 0 is feasible), None without critics;
    `flags` says what happened on the way, such as "cold" for a decision that a guard began from pure noise.
    """

    actions: NDArray[np.float32]
    feasible: float | None = None
    flags: tuple[str, ...] = ()


class Runtime(Protocol):
    """A policy that decides for one robot at a time; each robot has a memory of its own."""

    @property
    def manifest(self) -> Manifest:
        """What it expects and gives."""
        ...

    def start(self, seed: int) -> Any:
        """Return the memory of a fresh roll-out; the same seed and observations give the same actions."""
        ...

    def act(
        self, observation: Mapping[str, NDArray[Any]], memory: Any, *, elapsed: int | None = None
    ) -> tuple[Chunk, Any]:
        """Return the next actions and what to remember; `memory` itself is left as it was.

        `observation` holds one robot's newest reading of every signal in `manifest.observation`: "state" (O,) float32,
        cameras (H, W, 3) uint8. The runtime keeps the readings before it. Who decides less often than once per
        control step had better give all `manifest.observation_horizon` readings, oldest first, with a leading axis
        (To, O): otherwise what is remembered is older than the policy was trained for, and looks like speed.

        `elapsed` is the number of control steps since the last decision's observation (None: `manifest.execute`), by
        which a warm start shifts its plan. Raises DeployError for observations that cannot be acted on: a missing
        signal, another shape or dtype, NaN and infinity, whose elements it names.
        """
        ...
