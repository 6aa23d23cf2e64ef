"""What happened in a controller's run: counts, and times that take no more memory the longer it lasts."""

from dataclasses import dataclass, field

import numpy as np

KEPT = 2**17  # samples of each time; 40 minutes at 50 Hz


class Samples:
    """The last 131072 times [s] of something, in memory that does not grow."""

    def __init__(self) -> None:
        self._values = np.full(KEPT, np.nan, np.float32)
        self.count = 0

    def add(self, value: float) -> None:
        """Note one."""
        self._values[self.count % KEPT] = value
        self.count += 1

    def milliseconds(self) -> dict[str, float]:
        """Return p50, p95, p99 and the maximum in [ms], nothing if there is none."""
        if self.count == 0:
            return {}
        values = 1e3 * self._values[: min(self.count, KEPT)].astype(np.float64)
        p50, p95, p99 = np.percentile(values, [50, 95, 99])
        return {"p50": float(p50), "p95": float(p95), "p99": float(p99), "max": float(values.max())}


@dataclass
class Report:
    """What happened in a run: counts, and times in [ms].

    `missed` periods had no command. `bypasses` are sent commands that break a limit, found by an `Auditor`; it is zero.
    """

    seconds: float = 0.0
    periods: int = 0
    missed: int = 0
    sent: int = 0
    bypasses: int = 0
    broken: dict[str, int] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    chunks: int = 0
    dropped_actions: int = 0
    latched: str | None = None
    lateness: dict[str, float] = field(default_factory=dict)  # of a command, after its period's beginning
    delay: dict[str, float] = field(default_factory=dict)  # of a chunk, after its observation
    inference: dict[str, float] = field(default_factory=dict)  # as the server tells

    @property
    def missed_share(self) -> float:
        """Missed periods of all."""
        return self.missed / max(self.periods, 1)
