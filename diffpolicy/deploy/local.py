"""A policy in the same process as the controller, in a thread of its own: for tests, and robots without a network."""

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpolicy.deploy.chunks import Runtime
from diffpolicy.deploy.client import Reply, Slots
from diffpolicy.deploy.errors import DeployError

log = logging.getLogger(__name__)


class LocalSource:
    """A `Source` that asks `runtime` directly. What the runtime raises is logged, and its answer missing."""

    def __init__(self, runtime: Runtime, seed: int = 0) -> None:
        self.runtime, self.failures = runtime, 0
        self._seed, self._memory, self._slots = seed, runtime.start(seed), Slots()
        self._thread = threading.Thread(target=self._work, name="policy", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """Begin an episode."""
        self._slots.begin()

    def request(self, observation: Mapping[str, NDArray[Any]], sequence: int, stamp: float) -> None:
        """Ask, without waiting."""
        self._slots.put(observation, sequence, stamp)

    def poll(self) -> Reply | None:
        """Return the newest reply."""
        return self._slots.poll()

    def status(self) -> str:
        """Say how often the policy has failed."""
        return f"in this process, {self.failures} failures"

    def close(self) -> None:
        """End the thread after what it is deciding."""
        self._slots.close()
        self._thread.join(1.0)

    def _work(self) -> None:
        manifest = self.runtime.manifest
        last: float | None = None  # [s], the stamp of the decision before
        while not self._slots.closed:
            request = self._slots.take(0.2)
            if request is None:
                continue
            observation, sequence, stamp, begins = request
            begun = time.monotonic()
            try:
                if begins:
                    self._memory, last = self.runtime.start(self._seed), None
                # Decisions are at least a step apart, and no plan reaches further than its horizon.
                steps = None if last is None else (stamp - last) * manifest.control_rate
                elapsed = None if steps is None else round(min(max(steps, 1.0), manifest.horizon))
                chunk, self._memory = self.runtime.act(observation, self._memory, elapsed=elapsed)
                actions = np.asarray(chunk.actions, np.float32)
                if actions.ndim != 2:
                    raise DeployError(f"actions are (H, A), got {actions.shape}")
            except Exception as error:
                self.failures += 1
                log.warning("the policy failed: %s: %s", type(error).__name__, error)
                continue
            last = stamp
            self._slots.answer(
                Reply(
                    actions=actions,
                    sequence=sequence,
                    stamp=stamp,
                    valid_until=stamp + len(actions) * manifest.control_period,
                    feasible=chunk.feasible,
                    flags=chunk.flags,
                    timing={"infer_ms": 1e3 * (time.monotonic() - begun)},
                )
            )
