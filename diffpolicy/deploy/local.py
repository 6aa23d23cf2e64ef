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

log = logging.getLogger(__name__)


class LocalSource:
    """A `Source` that asks `runtime` directly. What the runtime raises is logged, and its answer missing."""

    def __init__(self, runtime: Runtime, seed: int = 0) -> None:
        self.runtime, self.failures = runtime, 0
        self._memory, self._slots = runtime.start(seed), Slots()
        self._thread = threading.Thread(target=self._work, name="policy", daemon=True)
        self._thread.start()

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
        manifest, last = self.runtime.manifest, None
        while not self._slots.closed:
            request = self._slots.take(0.2)
            if request is None:
                continue
            observation, sequence, stamp = request
            begun = time.monotonic()
            elapsed = None if last is None else max(round((stamp - last) / manifest.control_period), 0)
            try:
                chunk, self._memory = self.runtime.act(observation, self._memory, elapsed=elapsed)
            except Exception as error:
                self.failures += 1
                log.warning("the policy failed: %s: %s", type(error).__name__, error)
                continue
            last = stamp
            self._slots.answer(
                Reply(
                    actions=np.asarray(chunk.actions, np.float32),
                    sequence=sequence,
                    stamp=stamp,
                    valid_until=stamp + len(chunk.actions) * manifest.control_period,
                    feasible=chunk.feasible,
                    flags=chunk.flags,
                    timing={"infer_ms": 1e3 * (time.monotonic() - begun)},
                )
            )
