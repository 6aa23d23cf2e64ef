"""The jump test: in the middle of an episode the world changes at a stroke, and the policy has to begin anew."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpolicy.evaluation.rollout import Episode, Intervene, Step, VectorEnv, play, policy_seed
from diffpolicy.policies import Policy


def play_jump(
    policy: Policy, vector: VectorEnv, seeds: Sequence[int], *, at: int, after: int, name: str | None = None
) -> list[Episode]:
    """Play one episode per seed in which `teleport` is called before step `at`, the same way for every policy.

    `best_reward` is then that of the `after` steps from the jump on; an episode that had ended before keeps its
    own, since there was nothing left to do. Raises RolloutError as `play` does.
    """
    return _play_window(policy, vector, seeds, at, at + after, Teleport(seeds, vector.num_envs, at), name)


def play_undisturbed(
    policy: Policy, vector: VectorEnv, seeds: Sequence[int], *, steps: int, name: str | None = None
) -> list[Episode]:
    """Play one episode per seed; `best_reward` is that of its first `steps`, to be compared with `play_jump`."""
    return _play_window(policy, vector, seeds, 0, steps, None, name)


class Teleport:
    """Calls `teleport` of every environment before step `at`, with a seed that follows from the episode's."""

    def __init__(self, seeds: Sequence[int], parallel: int, at: int) -> None:
        self._batches = [seeds[first : first + parallel] for first in range(0, len(seeds), parallel)]
        self._at = at
        self._batch = -1

    def __call__(self, vector: Any, step: int, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Move what the task moves in all environments and return what is seen then (n, O)."""
        if step == 0:
            self._batch += 1
        if step != self._at:
            return observations
        seen = observations.copy()
        for row, seed in enumerate(self._batches[self._batch]):
            seen[row] = vector.call("teleport", [row], policy_seed([seed, self._at]))[0]
        return seen


def _play_window(
    policy: Policy,
    vector: VectorEnv,
    seeds: Sequence[int],
    first: int,
    end: int,
    intervene: Intervene | None,
    name: str | None,
) -> list[Episode]:
    """Episodes whose `best_reward` is that of the steps first ... end - 1, where they lasted until then."""
    windows: list[NDArray[np.float64]] = []  # one for each batch

    def record(now: Step) -> None:
        if now.number == 0:
            windows.append(np.full(len(now.seeds), -np.inf))
        if first <= now.number < end:
            windows[-1] = np.where(now.running, np.maximum(windows[-1], now.rewards), windows[-1])

    episodes = play(policy, vector, seeds, record=record, intervene=intervene, name=name)
    best = np.concatenate(windows)[: len(episodes)]
    return [
        replace(episode, best_reward=float(value)) if np.isfinite(value) else episode
        for episode, value in zip(episodes, best, strict=True)
    ]
