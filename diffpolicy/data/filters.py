"""DSRL's data filters: harder or easier versions of a dataset, each a new dataset, the old one untouched.

They follow `pre_process_data` of dsrl 0.1.0, without its prints, plots and hidden seeding; where one differs,
it says so. A filter that leaves no episode raises DataError.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from .density import Grid
from .schema import DataError, OfflineDataset

OUTLIER_REWARD = 1.5


class Range(NamedTuple):
    """A band of episodes as fractions of the ranges of cost, and of the returns found at those costs."""

    cost_low: float
    cost_high: float
    return_low: float
    return_high: float


def thin(dataset: OfflineDataset, grid: Grid, generator: torch.Generator) -> OfflineDataset:
    """Keeps at most `grid.largest` episodes, drawn at random, per cell of the cost-return plane.

    Cells with at most `grid.smallest` episodes are emptied, unless they already exceed `grid.largest`. As in
    DSRL the episode of the highest cost or return lies in a cell of its own, beyond the last bin.
    """
    costs, returns = dataset.episode_costs.double(), dataset.episode_returns.double()
    cells = torch.stack([_bins(costs, grid.cost_bins), _bins(returns, grid.return_bins)], dim=1)
    _, cell_of = torch.unique(cells, dim=0, return_inverse=True)
    keep = torch.zeros(dataset.num_episodes, dtype=torch.bool)
    for cell in range(int(cell_of.max()) + 1):
        members = (cell_of == cell).nonzero().squeeze(1)
        if len(members) > grid.largest:
            chosen = torch.randperm(len(members), generator=generator)[: grid.largest]
            keep[members[chosen]] = True
        elif len(members) > grid.smallest:
            keep[members] = True
    return _kept(dataset, keep, "thin")


def inpaint(dataset: OfflineDataset, ranges: Sequence[Range]) -> OfflineDataset:
    """Removes the episodes of each band, one band after another; a band that holds none removes none."""
    costs, returns = dataset.episode_costs, dataset.episode_returns
    low, high = costs.min(), costs.max()
    keep = torch.ones(dataset.num_episodes, dtype=torch.bool)
    for band in ranges:
        inside = keep & _between(costs, low, high, band.cost_low, band.cost_high)
        if not bool(inside.any()):
            continue
        least, most = returns[inside].min(), returns[inside].max()
        keep &= ~(inside & _between(returns, least, most, band.return_low, band.return_high))
    return _kept(dataset, keep, "inpaint")


def drop_best(dataset: OfflineDataset, epsilon: float, cost_limit: float) -> OfflineDataset:
    """Removes the episodes whose return is within |epsilon| of the best.

    A positive epsilon removes among those within the cost limit (a harder dataset), a negative one among
    those beyond it (an easier one); zero removes nothing.
    """
    if epsilon == 0:
        return dataset
    returns, safe = dataset.episode_returns, dataset.episode_costs <= cost_limit
    group = safe if epsilon > 0 else ~safe
    if not bool(group.any()):
        return dataset
    return _kept(dataset, ~(group & (returns >= returns[group].max() - abs(epsilon))), "drop_best")


def add_outliers(
    dataset: OfflineDataset,
    fraction: float,
    cost_limit: float,
    max_episode_cost: float,
    max_episode_return: float,
    generator: torch.Generator,
) -> OfflineDataset:
    """Makes some risky, rewarding episodes look safe: rewards times 1.5, and a random cost below the limit.

    Draws `fraction` of all episodes (at least one) among those of at least half the task's maximal cost and
    return. Raises DataError where there are fewer, or the limit is below 1.
    """
    eligible = (dataset.episode_costs >= max_episode_cost / 2) & (
        dataset.episode_returns >= max_episode_return / 2
    )
    candidates = eligible.nonzero().squeeze(1)
    count = max(1, int(dataset.num_episodes * fraction))
    if count > len(candidates):
        raise DataError(
            f"{count} outliers wanted, but only {len(candidates)} episodes are risky and rewarding enough"
        )
    if cost_limit < 1:
        raise DataError(f"outliers need a cost limit of at least 1, not {cost_limit:g}")
    chosen = candidates[torch.randperm(len(candidates), generator=generator)[:count]]
    rewards, costs = dataset.rewards.clone(), dataset.costs.clone()
    starts, ends = dataset.episode_starts, dataset.episode_ends
    new_costs = torch.randint(int(cost_limit), (count,), generator=generator)
    for episode, cost in zip(chosen.tolist(), new_costs.tolist(), strict=True):
        start, end = int(starts[episode]), int(ends[episode])
        rewards[start:end] *= OUTLIER_REWARD
        costs[start:end] = 0
        costs[start + torch.randperm(end - start, generator=generator)[:cost]] = 1
    return replace(dataset, rewards=rewards, costs=costs)


def add_noise(dataset: OfflineDataset, scale: float, generator: torch.Generator) -> OfflineDataset:
    """Adds Gaussian noise of `scale` times the standard deviation of all observation entries together.

    DSRL draws noise for observations and next observations apart; here an observation is stored once, so it
    has the same noise at the end of one transition and at the start of the next.
    """
    std = scale * float(dataset.observations.std(correction=0))
    noisy = dataset.observations.clone()
    for part in torch.split(noisy, 65_536):
        part.add_(torch.randn(part.shape, generator=generator), alpha=std)
    return replace(dataset, observations=noisy)


def _bins(values: Tensor, count: int) -> Tensor:
    low, high = values.min(), values.max()
    if low == high:
        return torch.zeros_like(values, dtype=torch.int64)
    return ((values - low) // ((high - low) / count)).long()


def _between(values: Tensor, low: Tensor, high: Tensor, from_part: float, to_part: float) -> Tensor:
    return (values >= low + (high - low) * from_part) & (values <= low + (high - low) * to_part)


def _kept(dataset: OfflineDataset, keep: Tensor, name: str) -> OfflineDataset:
    if not bool(keep.any()):
        raise DataError(f"{name} leaves none of the {dataset.num_episodes} episodes")
    return dataset.select(keep)
