"""Which action is for now? Chunks laid out in time, the newest blended over the one before."""

import numpy as np
from numpy.typing import NDArray

from diffpolicy.deploy.client import Reply
from diffpolicy.deploy.shield import Proposal


class Timeline:
    """Action k of a chunk is for the time stamp + k `period` of its observation, and lasts one period [s].

    Between two actions is interpolated where they are positions to be at (`interpolate`). A new chunk takes over
    within `blend` [s], so that two plans which disagree do not make a step; whatever was for times gone by is dropped.
    """

    def __init__(self, period: float, *, blend: float | None = None, interpolate: bool = True) -> None:
        self.period, self.interpolate = period, interpolate
        self.blend = period / 2.0 if blend is None else blend
        self.dropped = 0  # actions that came too late
        self.clear()

    def clear(self) -> None:
        """Forget all chunks."""
        self._newest: Reply | None = None
        self._before: Reply | None = None
        self._since = 0.0

    @property
    def stamp(self) -> float | None:
        """The time [s] of the observation behind the newest chunk, None if there is none."""
        return None if self._newest is None else self._newest.stamp

    def add(self, reply: Reply, now: float) -> bool:
        """Take in a chunk that has come at `now` [s]; False if it is older than the newest, or wholly late."""
        if self._newest is not None and reply.stamp <= self._newest.stamp:
            self.dropped += len(reply.actions)
            return False
        late = int(np.clip((now - reply.stamp) // self.period, 0, len(reply.actions)))
        self.dropped += late
        if late == len(reply.actions):
            return False
        self._before, self._newest, self._since = self._newest, reply, now
        return True

    def sample(self, now: float) -> Proposal | None:
        """Return what to do at `now` [s], None if no chunk reaches so far.

        A chunk with a value that is not finite is not to be trusted at all: the action it is in is returned, for the
        shield to refuse.
        """
        if self._newest is None:
            return None
        if len(spoilt := np.flatnonzero(~np.isfinite(self._newest.actions).all(axis=1))):
            return Proposal(self._newest.actions[spoilt[0]], self._newest.valid_until)
        newest = self._at(self._newest, now)
        if newest is None:
            return None
        weight = (now - self._since) / self.blend if self.blend > 0.0 else 1.0
        before = None if self._before is None or weight >= 1.0 else self._at(self._before, now)
        action = newest if before is None else before + max(weight, 0.0) * (newest - before)
        return Proposal(action, self._newest.valid_until, self._newest.feasible, self._newest.flags)

    def _at(self, reply: Reply, now: float) -> NDArray[np.float64] | None:
        place = max((now - reply.stamp) / self.period, 0.0)
        index = int(place)
        if index >= len(reply.actions):
            return None
        action: NDArray[np.float64] = reply.actions[index].astype(np.float64)
        if not self.interpolate or index + 1 == len(reply.actions):
            return action
        following: NDArray[np.float64] = action + (place - index) * (reply.actions[index + 1] - action)
        return following
