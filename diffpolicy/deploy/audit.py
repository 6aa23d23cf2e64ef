"""Did commands keep the limits? Asked of what was sent, by arithmetic that shares nothing with the limiter."""

from collections import deque

import numpy as np
from numpy.typing import NDArray

from diffpolicy.deploy.manifest import Safety

TOLERANCE = 1e-6  # of a limit; positions are rounded, and their differences divided by small numbers
ORDERS = ("position", "velocity", "acceleration", "jerk")


class Auditor:
    """Counts the commands that break each limit; they come one each `period` [s], the first from rest."""

    def __init__(self, safety: Safety, period: float) -> None:
        self._low, self._high = np.array(safety.position_low), np.array(safety.position_high)
        self._limits = [np.array(getattr(safety, name)) for name in ORDERS[1:]]
        self._period = period
        self._path: deque[NDArray[np.float64]] = deque(maxlen=4)
        self.counts = dict.fromkeys(ORDERS, 0)
        self.commands = 0

    def restart(self, command: NDArray[np.float64]) -> None:
        """The robot stands at `command` (A,): the next one starts there, from rest."""
        self._path.clear()
        self._path.extend([np.array(command, np.float64)] * 4)

    def add(self, command: NDArray[np.float64]) -> None:
        """Judge one more command (A,); one that is not finite breaks the limit of position."""
        self.commands += 1
        if not np.isfinite(command).all():
            self.counts["position"] += 1
            return
        value = np.array(command, np.float64)
        self._path.extend([value] * (1 if self._path else 4))
        self.counts["position"] += bool(((value < self._low) | (value > self._high)).any())
        path = np.stack(self._path)
        for order, (name, limit) in enumerate(zip(ORDERS[1:], self._limits, strict=True), start=1):
            rate = np.abs(np.diff(path, n=order, axis=0)[-1]) / self._period**order
            rounding = 2**order * 1e-15 * (np.abs(path).max() + 1.0) / self._period**order
            self.counts[name] += bool((rate > limit * (1.0 + TOLERANCE) + rounding).any())

    @property
    def broken(self) -> int:
        """How often a limit was broken."""
        return sum(self.counts.values())


def audit(commands: NDArray[np.float64], safety: Safety, period: float) -> dict[str, int]:
    """Count the commands (n, A) that break each limit."""
    auditor = Auditor(safety, period)
    for command in commands:
        auditor.add(command)
    return auditor.counts
