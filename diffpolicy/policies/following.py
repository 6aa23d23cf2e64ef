"""Demonstrations as a policy would have met them: what calibration asks of a dataset."""

import math
from typing import Protocol

import torch
from torch import Tensor

from diffpolicy.data import OfflineDataset
from diffpolicy.policies.errors import PolicyError
from diffpolicy.policies.guard import difference
from diffpolicy.policies.inference import ChunkDenoiser
from diffpolicy.policies.policy import Observation

COLUMN_QUANTILE = 0.99  # of a column's changes: its usual one
FLOOR = 1e-3  # of a column's range: the least that counts as its usual change
SEARCHED = 20_000  # windows among which nearest neighbours are sought
DRAWN = 100_000  # changes of which quantiles are taken


class CalibratedDenoiser(ChunkDenoiser, Protocol):
    """A chunk model that can also tell what recorded actions are in its own units."""

    def from_actions(self, actions: Tensor) -> Tensor:
        """Return normalised actions of actions in [-1, 1]."""
        ...


class Following:
    """A dataset as a policy would have met it, control step by control step."""

    def __init__(self, dataset: OfflineDataset, model: CalibratedDenoiser, device: torch.device) -> None:
        self.dataset, self.model, self.device = dataset, model, device
        self.first = dataset.episode_starts[dataset.episode_of]
        self.last = dataset.episode_ends[dataset.episode_of] - 1
        self.states = dataset.observations[dataset.rows]

    def draw(self, count: int, elapsed: int, generator: torch.Generator) -> Tensor:
        """Return control steps (count,) that have another one `elapsed` later in their episode."""
        able = self._followed(elapsed)
        if not len(able):
            raise PolicyError(f"no demonstration goes on for {elapsed} control steps after a decision")
        return able[torch.randint(len(able), (count,), generator=generator)]

    def decisions(self, wanted: int, stride: int) -> int:
        """Return how many decisions (2 to `wanted`) fit in half of the demonstrations."""
        return max(2, min(wanted, int(self.dataset.episode_lengths.median()) // stride))

    def seen(self, steps: Tensor) -> Observation:
        """Return the observations of control steps (n,), as if the world had stood still before an episode."""
        horizon = self.model.observation_horizon
        wanted = steps.unsqueeze(1) + torch.arange(1 - horizon, 1)
        wanted = torch.maximum(wanted, self.first[steps].unsqueeze(1))
        images = None
        if self.dataset.images:
            images = {}
            for camera, column in self.dataset.images.items():
                pictures = torch.as_tensor(column[wanted.flatten().numpy()])
                images[camera] = pictures.view(*wanted.shape, *pictures.shape[1:]).to(self.device)
        return Observation(self.states[wanted].to(self.device), images)

    def usual_changes(self, most: int, angles: tuple[int, ...]) -> Tensor:
        """Return the usual change (most, O) of every column over 1, 2, ... control steps; never quite nothing."""
        extent = self.states.amax(dim=0) - self.states.amin(dim=0)
        floor = (FLOOR * extent).clamp(min=1e-6)
        rows: list[Tensor] = []
        for elapsed in range(1, most + 1):
            able = self._followed(elapsed)
            if len(able):
                change = difference(self.states[able], self.states[able + elapsed], angles).abs()
                rows.append(
                    torch.quantile(change[:: -(-len(change) // DRAWN)], COLUMN_QUANTILE, dim=0).clamp(
                        min=floor
                    )
                )
            elif not rows:
                raise PolicyError(
                    "every demonstration is one control step long: nothing can be learnt of changes"
                )
            else:
                rows.append(rows[-1])
        return torch.stack(rows)

    def changes(self, usual: Tensor, elapsed: int, angles: tuple[int, ...]) -> Tensor:
        """Return the largest change of a column in units of its usual one, at each step that is followed by one."""
        able = self._followed(elapsed)
        change = difference(self.states[able], self.states[able + elapsed], angles).abs()
        return (change / usual[elapsed - 1]).amax(dim=1)

    def longest_run(self, still: Tensor, elapsed: int) -> int:
        """Return the most control steps in a row at which `still` (of the steps followed by `elapsed` others)."""
        able = self._followed(elapsed)
        longest = current = 0
        previous = -2
        for step, stands in zip(able.tolist(), still.tolist(), strict=True):
            current = (current + 1 if step == previous + 1 else 1) if stands else 0
            longest, previous = max(longest, current), step
        return longest

    def neighbour_spread(self, steps: Tensor, angles: tuple[int, ...]) -> Tensor:
        """Return the spread (A,) between the chunks of windows and of their nearest neighbours in other episodes."""
        data, model = self.dataset, self.model
        stride = -(-len(self.states) // SEARCHED)
        others = torch.arange(0, len(self.states), stride)
        distance = torch.cdist(self._place(steps, angles), self._place(others, angles))
        same = data.episode_of[steps].unsqueeze(1) == data.episode_of[others]
        if bool(same.all()):
            return torch.full((model.action_size,), math.nan)
        nearest = others[distance.masked_fill(same, math.inf).argmin(dim=1)]
        ahead = torch.arange(model.execution_horizon)

        def chunks(at: Tensor) -> Tensor:
            wanted = torch.minimum(at.unsqueeze(1) + ahead, self.last[at].unsqueeze(1))
            return model.from_actions(data.actions[wanted].to(self.device)).cpu()

        return ((chunks(steps) - chunks(nearest)).square().mean(dim=(0, 1)) / 2).sqrt()

    def _place(self, steps: Tensor, angles: tuple[int, ...]) -> Tensor:
        """Return states (n, .) in which distances mean something: standardised, angles as points on a circle."""
        states = self.states[steps]
        plain = [column for column in range(states.shape[1]) if column not in angles]
        scale = self.states[:, plain].std(dim=0).clamp(min=1e-6)
        turned = states[:, list(angles)]
        return torch.cat([states[:, plain] / scale, turned.cos(), turned.sin()], dim=1)

    def _followed(self, elapsed: int) -> Tensor:
        steps = torch.arange(len(self.first))
        return steps[steps + elapsed <= self.last]
