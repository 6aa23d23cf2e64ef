"""What a world model is shown of a dataset: some observations and actions, and what came of them."""

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from diffpolicy.data import OfflineDataset


class Window(NamedTuple):
    """B moments: `observations` (B, L, O) up to now and `actions` (B, L, A), of which the last is taken now."""

    observations: Tensor
    actions: Tensor


class FrameWindow(NamedTuple):
    """B moments in pictures: `observations` (B, L, S, S, 3) uint8, `actions` (B, L, A) and `tasks` (B,) int64."""

    observations: Tensor
    actions: Tensor
    tasks: Tensor


W = TypeVar("W", Window, FrameWindow)


class Outcome(NamedTuple):
    """What followed: `next_observations` (B, O), and rewards, costs and terminations (B,) in float32."""

    next_observations: Tensor
    rewards: Tensor
    costs: Tensor
    terminations: Tensor


class Windows:
    """The windows of every transition of a dataset, on a device.

    Before the beginning of an episode the first observation is repeated and actions are zero. `known` (M,) int64 are
    the transitions whose next observation is in the data: all, or all but the last of each episode.
    """

    def __init__(self, dataset: OfflineDataset, history: int, device: torch.device | str = "cpu") -> None:
        self.history = history
        self.observations = dataset.observations.to(device)
        self.actions = dataset.actions.to(device)
        self.rows = dataset.rows.to(device)
        self._outcomes = torch.stack([dataset.rewards, dataset.costs, dataset.terminals.float()], dim=1).to(
            device
        )
        starts = dataset.episode_starts.repeat_interleave(dataset.episode_lengths)
        self._begun = (torch.arange(dataset.num_transitions) - starts).to(device)
        self.known = (known_steps_left(dataset) > 0).nonzero().flatten().to(device)

    def __len__(self) -> int:
        """How many transitions there are."""
        return len(self.actions)

    def window(self, index: Tensor) -> Window:
        """Return the windows of transitions `index` (B,)."""
        ago = torch.arange(self.history - 1, -1, -1, device=index.device)
        there = ago <= self._begun[index][:, None]
        back = torch.minimum(ago, self._begun[index][:, None])
        actions = self.actions[index[:, None] - back]
        return Window(
            self.observations[self.rows[index][:, None] - back], torch.where(there[..., None], actions, 0.0)
        )

    def outcome(self, index: Tensor) -> Outcome:
        """Return what followed transitions `index` (B,), which are some of `known`."""
        return Outcome(self.observations[self.rows[index] + 1], *self._outcomes[index].unbind(1))


def known_steps_left(dataset: OfflineDataset) -> Tensor:
    """Return how many steps of its episode whose next observation is known follow from each transition on, (N,) int64.

    A copy in place of a final observation that nobody kept would say that nothing moved in the last step.
    """
    ends = dataset.episode_ends if dataset.final_observations_known else dataset.episode_ends - 1
    return ends.repeat_interleave(dataset.episode_lengths) - torch.arange(dataset.num_transitions)


def advance(window: W, next_observations: Tensor, next_actions: Tensor) -> W:
    """Return the windows one step later, with observations (B, ...) and the actions (B, A) taken on them."""
    return window._replace(
        observations=torch.cat([window.observations[:, 1:], next_observations[:, None]], dim=1),
        actions=torch.cat([window.actions[:, 1:], next_actions[:, None]], dim=1),
    )


def blend(chosen: Tensor, one: W, other: W) -> W:
    """Return the windows of `one` where `chosen` (B,) bool, and of `other` elsewhere."""
    return type(one)(
        *(
            torch.where(chosen.view(-1, *(1,) * (new.ndim - 1)), new, old)
            for new, old in zip(one, other, strict=True)
        )
    )
