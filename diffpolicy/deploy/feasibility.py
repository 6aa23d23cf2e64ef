"""The feasibility step, where the critics are: draw again, take the safest, or fall back.

FISOR ranks candidates by Q_h and executes the best whatever its value (Zheng et al., ICLR 2024, section 3.4). Here a
value above the threshold, which predicts a violation, is not simply executed: the policy decides again with other noise
up to `attempts` times; if no decision is feasible, the backup acts, or else the decision with the lowest value.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpolicy.deploy.chunks import Chunk, Runtime
from diffpolicy.deploy.manifest import Manifest
from diffpolicy.deploy.shield import BACKUP

Backup = Callable[[Mapping[str, NDArray[Any]]], Chunk]
RESAMPLED = "resampled"  # the flag of a decision that was not the first


class FeasibleRuntime:
    """A `Runtime` that lets `runtime` decide again where its chunk is infeasible; flags say what it did.

    A chunk without a value passes as it is, and so does everything if the manifest's `feasible_below` is None.
    `backup` gives the chunk for an observation from which nothing feasible was found. `counts` has the decisions that
    were feasible at once, resampled, and backups.
    """

    def __init__(self, runtime: Runtime, *, attempts: int = 4, backup: Backup | None = None) -> None:
        """Decide up to `attempts` times, the first included. Raises ValueError if that is below 1."""
        if attempts < 1:
            raise ValueError(f"attempts counts the first decision too: at least 1, got {attempts}")
        self._runtime, self._attempts, self._backup = runtime, attempts, backup
        self.counts: Counter[str] = Counter()

    @property
    def manifest(self) -> Manifest:
        """That of the runtime inside."""
        return self._runtime.manifest

    def start(self, seed: int) -> Any:
        """Return the memory of a fresh roll-out."""
        return self._runtime.start(seed)

    def act(
        self, observation: Mapping[str, NDArray[Any]], memory: Any, *, elapsed: int | None = None
    ) -> tuple[Chunk, Any]:
        """Return the first feasible chunk of up to `attempts`, else the backup's or the one with the lowest value."""
        threshold = self.manifest.safety.feasible_below
        best: Chunk | None = None
        for attempt in range(self._attempts):
            # The memory that a decision returns holds the noise of the next; decisions are at least a step apart.
            chunk, memory = self._runtime.act(observation, memory, elapsed=elapsed if attempt == 0 else 1)
            if chunk.feasible is None or threshold is None or chunk.feasible <= threshold:
                self.counts["first" if attempt == 0 else RESAMPLED] += 1
                return (chunk if attempt == 0 else _flagged(chunk, RESAMPLED)), memory
            # NaN is the worst of all, whichever comes first.
            if (
                best is None
                or best.feasible is None
                or not best.feasible <= np.nan_to_num(chunk.feasible, nan=np.inf)
            ):
                best = chunk
        assert best is not None
        self.counts[BACKUP] += 1
        if self._backup is not None:
            best = self._backup(observation)
        return _flagged(best, BACKUP), memory


def _flagged(chunk: Chunk, flag: str) -> Chunk:
    return Chunk(np.asarray(chunk.actions), chunk.feasible, (*chunk.flags, flag))
