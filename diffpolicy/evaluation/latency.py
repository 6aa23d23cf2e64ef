"""How long a policy takes to decide, measured while it plays: one robot, every decision, its worst cases included."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffpolicy.evaluation.rollout import RolloutError, rollout
from diffpolicy.policies import ActionChunk, Memory, Observation, Policy


@dataclass(frozen=True, slots=True)
class Latency:
    """Time of a decision [ms] over `decisions`, the first of each episode left out and given as `first`.

    `steps_per_second` is how many control steps a second of deciding alone lasts for.
    """

    p50: float
    p95: float
    p99: float
    max: float
    first: float
    decisions: int
    steps_per_second: float


class Timed:
    """A policy that acts as another does and notes how long each decision takes, in [s]."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.episodes: list[list[float]] = []
        self.actions = 0  # planned by all decisions together

    @property
    def observation_horizon(self) -> int:
        """Control steps that an observation holds."""
        return self._policy.observation_horizon

    def start(self, batch: int, seed: int) -> Memory:
        """Return the memory of fresh roll-outs."""
        self.episodes.append([])
        return self._policy.start(batch, seed)

    def act(self, observation: Observation, memory: Memory) -> tuple[ActionChunk, Memory]:
        """Decide, and note how long it took."""
        started = time.perf_counter()
        chunk, memory = self._policy.act(observation, memory)
        chunk.actions.cpu()  # a device answers when its work is done
        self.episodes[-1].append(time.perf_counter() - started)
        self.actions += chunk.actions.shape[1]
        return chunk, memory


def measure(policy: Policy, task: str, seed: int, *, decisions: int = 200) -> Latency:
    """Play whole episodes of `task`, one at a time, until `decisions` are timed; the first episode is warm-up.

    Everything that slows a robot's controller counts: cold starts of a guard, the simulator's use of the caches,
    garbage collection. Raises RolloutError if episodes hold one decision only.
    """
    rollout(policy, task, [seed], workers=0)
    timed = Timed(policy)
    later: list[float] = []
    while len(later) < decisions:
        seed += 1
        rollout(timed, task, [seed], workers=0)
        if len(timed.episodes[-1]) < 2:
            raise RolloutError(
                f"{task}: an episode holds one decision; there is nothing to time after the first"
            )
        later += timed.episodes[-1][1:]
    return summarize(timed.episodes, timed.actions)


def summarize(episodes: Sequence[Sequence[float]], actions: int) -> Latency:
    """The latency of `episodes`, each the times [s] of its decisions, which planned so many `actions`."""
    later = [second for episode in episodes for second in episode[1:]]
    p50, p95, p99 = (float(value) for value in 1e3 * np.percentile(later, [50, 95, 99]))
    everything = sum(sum(episode) for episode in episodes)
    return Latency(
        p50=p50,
        p95=p95,
        p99=p99,
        max=1e3 * max(later),
        first=1e3 * statistics.median(episode[0] for episode in episodes),
        decisions=len(later),
        steps_per_second=actions / everything,
    )
