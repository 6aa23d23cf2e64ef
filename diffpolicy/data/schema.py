"""What an offline dataset is, what a task expects of one, and how something wrong with one is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from .images import ImageColumn, pick

REQUIRED = ("observations", "actions", "rewards", "costs", "terminals", "timeouts")
"""Keys that every DSRL file has; `next_observations` may be left out."""

ROWS_SHOWN = 5
"""How many row numbers a `Problem` keeps; `Problem.count` says how many there are."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a dataset: where, what, and the first rows (of `count`) that show it."""

    severity: Literal["error", "warning"]
    where: str
    message: str
    rows: tuple[int, ...] = ()
    count: int = 0

    def __str__(self) -> str:
        text = f"{self.severity}: {self.where}: {self.message}"
        if not self.rows:
            return text
        shown = ", ".join(str(row) for row in self.rows)
        more = self.count - len(self.rows)
        noun = "row" if self.count == 1 else "rows"
        return f"{text} ({noun} {shown}{f' and {more} more' if more else ''})"


class DataError(ValueError):
    """A dataset cannot be read, written or used; `problems` names what is wrong with a file."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


@dataclass(frozen=True)
class Expectations:
    """What a task expects of its data; None leaves a point unchecked; limits are for every dimension."""

    observation_size: int | None = None
    action_size: int | None = None
    action_low: float | None = None
    action_high: float | None = None
    max_episode_steps: int | None = None
    binary_cost: bool | None = None


@dataclass(frozen=True, eq=False)
class OfflineDataset:
    """N transitions in E episodes, as CPU tensors that store no observation twice.

    `observations` (N+E, O) holds each episode's observations followed by its final one, so that transition i
    starts in row `rows[i]` and ends in row `rows[i] + 1`. `episode_ends` (E,) is exclusive. Where the source
    kept no final observations, `final_observations_known` is False and each is a copy of the one before it.
    `images` maps a camera's name to the pictures (N, H, W, 3) uint8 seen at each transition's start, on the disk.
    Raises DataError when shapes or dtypes do not belong together.
    """

    observations: Tensor
    rows: Tensor
    actions: Tensor
    rewards: Tensor
    costs: Tensor
    terminals: Tensor
    timeouts: Tensor
    episode_ends: Tensor
    final_observations_known: bool = True
    images: Mapping[str, ImageColumn] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n, e = self.num_transitions, self.num_episodes
        layout = {
            "observations": (torch.float32, (n + e, self.observations.shape[-1])),
            "rows": (torch.int64, (n,)),
            "actions": (torch.float32, (n, self.actions.shape[-1])),
            "rewards": (torch.float32, (n,)),
            "costs": (torch.float32, (n,)),
            "terminals": (torch.bool, (n,)),
            "timeouts": (torch.bool, (n,)),
            "episode_ends": (torch.int64, (e,)),
        }
        for name, (dtype, shape) in layout.items():
            tensor: Tensor = getattr(self, name)
            if tensor.dtype != dtype or tuple(tensor.shape) != shape:
                raise DataError(
                    f"{name}: expected {dtype} {shape} for {n} transitions in {e} episodes, "
                    f"got {tensor.dtype} {tuple(tensor.shape)}"
                )
        if n and (e == 0 or int(self.episode_ends[-1]) != n):
            raise DataError(f"episode_ends: the last episode must end at transition {n}")
        for camera, pictures in self.images.items():
            shape = tuple(pictures.shape)
            if len(shape) != 4 or shape[0] != n or shape[3] != 3:
                raise DataError(f"images of {camera!r}: expected shape ({n}, height, width, 3), got {shape}")

    @property
    def num_transitions(self) -> int:
        """N."""
        return int(self.rewards.shape[0])

    @property
    def num_episodes(self) -> int:
        """E."""
        return int(self.episode_ends.shape[0])

    @property
    def observation_size(self) -> int:
        """O."""
        return int(self.observations.shape[1])

    @property
    def action_size(self) -> int:
        """A."""
        return int(self.actions.shape[1])

    @property
    def episode_starts(self) -> Tensor:
        """First transition of every episode, (E,) int64."""
        return torch.cat([self.episode_ends.new_zeros(1), self.episode_ends])[: self.num_episodes]

    @property
    def episode_lengths(self) -> Tensor:
        """Transitions of every episode, (E,) int64."""
        return self.episode_ends - self.episode_starts

    @property
    def episode_of(self) -> Tensor:
        """Index of every transition's episode, (N,) int64."""
        return torch.repeat_interleave(torch.arange(self.num_episodes), self.episode_lengths)

    @property
    def episode_returns(self) -> Tensor:
        """Undiscounted sum of rewards of every episode, (E,) float32."""
        return self._episode_sums(self.rewards)

    @property
    def episode_costs(self) -> Tensor:
        """Undiscounted sum of costs of every episode, (E,) float32."""
        return self._episode_sums(self.costs)

    def _episode_sums(self, values: Tensor) -> Tensor:
        # Summed in float64: a thousand float32 additions would lose digits that the DSRL scores show.
        sums = torch.zeros(self.num_episodes, dtype=torch.float64)
        return sums.index_add_(0, self.episode_of, values.double()).float()

    def select(self, episodes: Tensor | Sequence[bool] | Sequence[int]) -> OfflineDataset:
        """The dataset of some episodes: a mask (E,) bool, or indices in the order wanted.

        Raises DataError for a mask of another length or an index out of range.
        """
        chosen = torch.as_tensor(episodes)
        if chosen.dtype == torch.bool:
            if chosen.shape != (self.num_episodes,):
                raise DataError(
                    f"select: a mask must have shape ({self.num_episodes},), not {tuple(chosen.shape)}"
                )
            chosen = chosen.nonzero().squeeze(1)
        chosen = chosen.long()
        if chosen.numel() and not bool(((chosen >= 0) & (chosen < self.num_episodes)).all()):
            raise DataError(f"select: episode numbers go from 0 to {self.num_episodes - 1}")
        lengths, starts = self.episode_lengths[chosen], self.episode_starts[chosen]
        transitions = concatenated_ranges(starts, lengths)
        order = torch.arange(chosen.numel())
        return OfflineDataset(
            observations=self.observations[concatenated_ranges(starts + chosen, lengths + 1)],
            rows=torch.arange(transitions.numel()) + torch.repeat_interleave(order, lengths),
            actions=self.actions[transitions],
            rewards=self.rewards[transitions],
            costs=self.costs[transitions],
            terminals=self.terminals[transitions],
            timeouts=self.timeouts[transitions],
            episode_ends=lengths.cumsum(0),
            final_observations_known=self.final_observations_known,
            images={camera: pick(column, transitions.numpy()) for camera, column in self.images.items()},
        )

    def scaled_actions(self, low: float, high: float) -> OfflineDataset:
        """The dataset with its actions taken from raw units [low, high] to [-1, 1]; nothing is clipped.

        Raises DataError unless low < high.
        """
        if not low < high:
            raise DataError(
                f"scaled_actions: raw actions must go from low to high, not from {low:g} to {high:g}"
            )
        centre, half = (high + low) / 2, (high - low) / 2
        return replace(self, actions=(self.actions - centre) / half)


def concatenated_ranges(starts: Tensor, lengths: Tensor) -> Tensor:
    """The numbers start, ..., start + length - 1 of every pair, one after another."""
    before = lengths.cumsum(0) - lengths
    return torch.arange(int(lengths.sum())) + torch.repeat_interleave(starts - before, lengths)
