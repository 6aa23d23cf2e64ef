"""Windows of demonstrations: what was seen, and the chunk of actions that followed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .schema import DataError, OfflineDataset, concatenated_ranges


class Chunks(NamedTuple):
    """A batch of windows.

    `states` (B, To, O) float32, `actions` (B, Tp, A) float32, `valid` (B, Tp) bool (False where the action is
    a repeated edge sample), and `images` {camera: (B, To, H, W, 3) uint8} where the dataset has pictures.
    """

    states: Tensor
    actions: Tensor
    valid: Tensor
    images: Mapping[str, Tensor] | None = None


class ChunkSampler:
    """All windows of a dataset's episodes, padded by repeating the edge sample, as in Diffusion Policy.

    A window decides at control step t of its episode: it holds the observations of steps t-(To-1) ... t and the
    actions of steps t-(To-1) ... t-(To-1)+Tp-1, of which those at positions To-1 ... To-1+Ta-1 are executed.
    Padding is To-1 steps before an episode and Ta-1 after it; an episode of fewer than Tp-To-Ta+2 steps has no
    window (Chi et al. 2023, `create_indices` of their code).

    Raises DataError when the horizons do not fit into each other, or no episode is long enough.
    """

    def __init__(
        self,
        dataset: OfflineDataset,
        observation_horizon: int,
        prediction_horizon: int,
        execution_horizon: int,
    ) -> None:
        observed, predicted, executed = observation_horizon, prediction_horizon, execution_horizon
        if min(observed, executed) < 1 or observed - 1 + executed > predicted:
            raise DataError(
                f"horizons (observation {observed}, prediction {predicted}, execution {executed}): a chunk of "
                f"{predicted} actions must hold the {observed - 1} before the decision and the {executed} executed"
            )
        counts = (dataset.episode_lengths + observed + executed - 1 - predicted).clamp_min(0)
        if int(counts.sum()) == 0:
            raise DataError(
                f"none of the {dataset.num_episodes} episodes has the {predicted - observed - executed + 2} steps "
                f"that a window needs; choose a shorter prediction horizon"
            )
        self.observation_horizon, self.prediction_horizon = observed, predicted
        self.execution_horizon = executed
        self._dataset = dataset
        episode = torch.repeat_interleave(torch.arange(dataset.num_episodes), counts)
        self._low = dataset.episode_starts[episode]
        self._last = dataset.episode_ends[episode] - 1
        self._first = concatenated_ranges(dataset.episode_starts - (observed - 1), counts)

    def __len__(self) -> int:
        return int(self._first.shape[0])

    def batch(self, index: Tensor) -> Chunks:
        """The windows of some indices (B,) int64, each from 0 to len - 1; IndexError beyond."""
        wanted = self._first[index, None] + torch.arange(self.prediction_horizon)
        steps = wanted.clamp(self._low[index, None], self._last[index, None])
        seen = steps[:, : self.observation_horizon]
        data = self._dataset
        images = None
        if data.images:
            rows = seen.flatten().numpy()  # one look-up for the whole batch
            images = {
                camera: torch.from_numpy(np.asarray(column[rows])).reshape(*seen.shape, *column.shape[1:])
                for camera, column in data.images.items()
            }
        return Chunks(data.observations[data.rows[seen]], data.actions[steps], steps == wanted, images)
