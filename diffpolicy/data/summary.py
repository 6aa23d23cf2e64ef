"""The figures of a dataset that a user asks for first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .schema import DataError, OfflineDataset

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


def describe(dataset: OfflineDataset) -> dict[str, Any]:
    """Sizes, quantiles of episode length, return and cost, and the share of steps and episodes that violate.

    JSON-ready; quantiles are keyed "0", "10", ..., "100" per cent; where there are pictures, `cameras` has their
    heights and widths. Raises DataError for 0 episodes.
    """
    if dataset.num_episodes == 0:
        raise DataError("a dataset of 0 episodes has nothing to describe")
    costs = dataset.episode_costs
    cameras = {camera: list(column.shape[1:3]) for camera, column in sorted(dataset.images.items())}
    return {
        "episodes": dataset.num_episodes,
        "transitions": dataset.num_transitions,
        "observation_size": dataset.observation_size,
        "action_size": dataset.action_size,
        "episode_length": _quantiles(dataset.episode_lengths.float()),
        "episode_return": _quantiles(dataset.episode_returns),
        "episode_cost": _quantiles(costs),
        "violating_steps": float((dataset.costs > 0).float().mean()),
        "violating_episodes": float((costs > 0).float().mean()),
        "terminal_episodes": float(dataset.terminals[dataset.episode_ends - 1].float().mean()),
        "largest_action": float(dataset.actions.abs().max()),
        "final_observations_known": dataset.final_observations_known,
        **({"cameras": cameras} if cameras else {}),
    }


def _quantiles(values: Tensor) -> dict[str, float]:
    at = torch.tensor(QUANTILES, dtype=torch.float64)
    found = torch.quantile(values.double(), at)
    return {f"{100 * q:g}": float(value) for q, value in zip(QUANTILES, found, strict=True)}
