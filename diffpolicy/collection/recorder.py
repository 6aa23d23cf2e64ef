"""Keeps every finished episode of several environments as it really happened."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from diffpolicy.data import OfflineDataset

Array = NDArray[np.float32]


@dataclass(frozen=True)
class RecordedEpisode:
    """An episode of T steps: observations (T+1, O), actions (T, A), rewards and costs (T,)."""

    observations: Array
    actions: Array
    rewards: Array
    costs: Array
    terminated: bool
    behaviour: int

    @property
    def episode_return(self) -> float:
        """Sum of the environment's own rewards."""
        return float(self.rewards.sum(dtype=np.float64))

    @property
    def episode_cost(self) -> float:
        """Sum of the environment's own costs."""
        return float(self.costs.sum(dtype=np.float64))


class EpisodeRecorder:
    """Records the steps of `num_envs` environments and hands over finished episodes.

    An unfinished episode never appears in `episodes`, so that an interrupted run leaves whole episodes only.
    """

    def __init__(self, num_envs: int, horizon: int, observation_size: int, action_size: int) -> None:
        self.episodes: list[RecordedEpisode] = []
        self.steps = 0
        self._length = np.zeros(num_envs, dtype=np.int64)
        self._observations = np.zeros((num_envs, horizon + 1, observation_size), dtype=np.float32)
        self._actions = np.zeros((num_envs, horizon, action_size), dtype=np.float32)
        self._rewards = np.zeros((num_envs, horizon), dtype=np.float32)
        self._costs = np.zeros((num_envs, horizon), dtype=np.float32)

    def start(self, index: int, observation: Array) -> None:
        """Begins an episode of environment `index` at `observation` (O,); an unfinished one is forgotten."""
        self._length[index] = 0
        self._observations[index, 0] = observation

    def step(self, index: int, action: Array, reward: float, cost: float, next_observation: Array) -> None:
        """Adds a step: the action (A,) the environment received, and what it answered."""
        length = self._length[index]
        self._actions[index, length] = action
        self._rewards[index, length] = reward
        self._costs[index, length] = cost
        self._observations[index, length + 1] = next_observation
        self._length[index] = length + 1
        self.steps += 1

    def finish(self, index: int, *, terminated: bool, behaviour: int) -> RecordedEpisode:
        """Closes the episode of environment `index`; `behaviour` numbers the policy that acted."""
        length = self._length[index]
        episode = RecordedEpisode(
            self._observations[index, : length + 1].copy(),
            self._actions[index, :length].copy(),
            self._rewards[index, :length].copy(),
            self._costs[index, :length].copy(),
            terminated,
            behaviour,
        )
        self.episodes.append(episode)
        return episode


def to_dataset(episodes: Sequence[RecordedEpisode]) -> OfflineDataset:
    """The episodes one after another as an `OfflineDataset`; what did not terminate ends in a time-out."""
    lengths = np.array([len(episode.rewards) for episode in episodes], dtype=np.int64)
    ends = torch.from_numpy(lengths.cumsum())
    last = torch.zeros(int(lengths.sum()), dtype=torch.bool)
    last[ends - 1] = True
    terminated = torch.zeros_like(last)
    terminated[ends - 1] = torch.tensor([episode.terminated for episode in episodes])
    episode_of = torch.from_numpy(np.repeat(np.arange(len(episodes)), lengths))

    def joined(name: str) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([getattr(episode, name) for episode in episodes]))

    return OfflineDataset(
        observations=joined("observations"),
        rows=torch.arange(len(last)) + episode_of,
        actions=joined("actions"),
        rewards=joined("rewards"),
        costs=joined("costs"),
        terminals=terminated,
        timeouts=last & ~terminated,
        episode_ends=ends,
    )


def join(datasets: Sequence[OfflineDataset]) -> OfflineDataset:
    """All episodes of all datasets, in order."""

    def joined(name: str) -> torch.Tensor:
        return torch.cat([getattr(dataset, name) for dataset in datasets])

    def shifted(name: str, sizes: list[int]) -> torch.Tensor:
        before = np.cumsum([0, *sizes[:-1]])
        parts = [getattr(dataset, name) for dataset in datasets]
        return torch.cat([part + int(shift) for part, shift in zip(parts, before, strict=True)])

    return OfflineDataset(
        observations=joined("observations"),
        rows=shifted("rows", [len(dataset.observations) for dataset in datasets]),
        actions=joined("actions"),
        rewards=joined("rewards"),
        costs=joined("costs"),
        terminals=joined("terminals"),
        timeouts=joined("timeouts"),
        episode_ends=shifted("episode_ends", [dataset.num_transitions for dataset in datasets]),
        final_observations_known=all(dataset.final_observations_known for dataset in datasets),
    )
