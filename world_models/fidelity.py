"""How true a world model is to held-out episodes: open-loop errors, heads, uncertainty, and whether it listens."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diffpolicy.data import OfflineDataset
from world_models.errors import WorldModelError
from world_models.state import StateWorldModel
from world_models.windows import Window, Windows, advance, known_steps_left


class OpenLoop(NamedTuple):
    """Errors after each of `horizons` steps under the real actions, (H, S) for S starts, in deviations of the data.

    `persistence` is the error of a model in which nothing moves. `rewards` and `costs` are imagined sums up to there,
    `true_rewards` and `true_costs` the real ones; `uncertainty` is that of the last step.
    """

    horizons: tuple[int, ...]
    errors: Tensor
    persistence: Tensor
    rewards: Tensor
    true_rewards: Tensor
    costs: Tensor
    true_costs: Tensor
    uncertainty: Tensor


class Heads(NamedTuple):
    """How well the heads know outcomes from real transitions.

    `reward_r2` is 1 less the share of variance unexplained, NaN where rewards do not vary; recall and precision are of
    costs above 0 and of terminations at a threshold of one half, NaN where there are none.
    """

    reward_r2: float
    cost_recall: float
    cost_precision: float
    termination_recall: float
    termination_precision: float


def hold_out(dataset: OfflineDataset, share: float, seed: int) -> Tensor:
    """Return the numbers (H,) int64, ascending, of a `share` of the episodes, drawn at random; at least one.

    Raises:
        WorldModelError: if no episode would be left to learn from, or the share is not between 0 and 1.
    """
    count = max(1, round(share * dataset.num_episodes)) if 0.0 < share < 1.0 else dataset.num_episodes
    if count >= dataset.num_episodes:
        raise WorldModelError(
            f"a share of {share:g} of {dataset.num_episodes} episodes cannot be held out: it takes a share between 0 "
            "and 1, and two episodes or more"
        )
    order = torch.randperm(dataset.num_episodes, generator=torch.Generator().manual_seed(seed))
    return order[:count].sort().values


def starts_of(dataset: OfflineDataset, steps: int, count: int, seed: int) -> Tensor:
    """Return up to `count` transitions (S,) int64 from which `steps` (1 or more) are known, drawn at random.

    Raises:
        WorldModelError: if no episode is that long.
    """
    possible = (known_steps_left(dataset) >= steps).nonzero().flatten()
    if not len(possible):
        raise WorldModelError(
            f"no held-out episode has {steps} steps whose next observations are known: choose a shorter horizon"
        )
    order = torch.randperm(len(possible), generator=torch.Generator().manual_seed(seed))
    return possible[order[:count]]


def longest(dataset: OfflineDataset, steps: int) -> int:
    """Return `steps`, or the most that are known of any episode if those are fewer.

    Raises:
        WorldModelError: if of none there is a step.
    """
    known = int(known_steps_left(dataset).max())
    if known < 1:
        raise WorldModelError(
            "the held-out episodes are of one transition, and what came of it was not kept: nothing can be judged"
        )
    return min(steps, known)


@torch.no_grad()
def open_loop(
    model: StateWorldModel, windows: Windows, starts: Tensor, horizons: Sequence[int], seed: int = 0
) -> OpenLoop:
    """Return the errors of imagining on from transitions `starts` (S,) with the actions that were taken.

    Member k mod M imagines start k. `horizons` ascend; every start has as many transitions left in its episode.
    """
    generator = torch.Generator(starts.device).manual_seed(seed)
    member = torch.arange(len(starts), device=starts.device) % model.members
    window = windows.window(starts)
    first = window.observations[:, -1]
    sums = torch.zeros(4, len(starts), device=starts.device)
    found: list[Tensor] = []
    for step in range(max(horizons)):
        imagined = model.imagine(window, member, generator)
        true = windows.outcome(starts + step)
        sums += torch.stack([imagined.rewards, true.rewards, imagined.costs, true.costs])
        if step + 1 in horizons:
            errors = [_error(model, each, true.next_observations) for each in (imagined.observations, first)]
            found.append(torch.stack([*errors, *sums, imagined.uncertainty]))
        following = (starts + step + 1).clamp(max=len(windows) - 1)
        window = advance(window, imagined.observations, windows.actions[following])
    errors, persistence, rewards, true_rewards, costs, true_costs, uncertainty = torch.stack(found, dim=1)
    return OpenLoop(
        tuple(horizons), errors, persistence, rewards, true_rewards, costs, true_costs, uncertainty
    )


@torch.no_grad()
def heads(model: StateWorldModel, windows: Windows, index: Tensor) -> Heads:
    """Return how well the heads of all members know the outcomes of real transitions `index` (S,)."""
    window, outcome = windows.window(index), windows.outcome(index)
    features = model.features(window).expand(model.members, len(index), -1)
    change = (outcome.next_observations - window.observations[:, -1]) / model.change
    rewards, costs, terminations = (
        each.mean(0) for each in model.outcomes(features, change.expand(model.members, *change.shape))
    )
    return Heads(
        explained(rewards, outcome.rewards),
        *_recall_and_precision(costs, outcome.costs),
        *_recall_and_precision(terminations, outcome.terminations),
    )


@torch.no_grad()
def action_following(model: StateWorldModel, windows: Windows, index: Tensor, seed: int = 0) -> float:
    """Return how many times larger the one-step error is with actions of other transitions than with the real ones.

    A model that does not listen to actions has 1. Meaningful on data with varied actions only.
    """
    generator = torch.Generator(index.device).manual_seed(seed)
    window, truth = windows.window(index), windows.outcome(index).next_observations
    member = torch.zeros_like(index)
    swapped = Window(window.observations, window.actions.roll(1, dims=0))
    real, other = (
        (model.imagine(each, member, generator).observations - truth) / model.change * model.moving
        for each in (window, swapped)
    )
    return (other.square().mean() / real.square().mean()).sqrt().item()


def explained(predicted: Tensor, true: Tensor) -> float:
    """Return the share of the variance of `true` (S,) that `predicted` explains, NaN where it does not vary."""
    variance = true.var(correction=0)
    if variance < 1e-12 or (true == true[0]).all():  # of equal numbers rounding leaves a variance
        return math.nan
    return 1.0 - ((predicted - true).square().mean() / variance).item()


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Return Spearman's correlation of two lists of numbers (S,), NaN where one of them does not vary."""
    if any((each == each[0]).all() for each in (one, other)):
        return math.nan
    ranks = torch.stack([each.argsort().argsort().double() for each in (one, other)])
    return torch.corrcoef(ranks)[0, 1].item()


def calibration(uncertainty: Tensor, errors: Tensor, bins: int = 10) -> Tensor:
    """Return mean uncertainty and root mean square error (2, bins) of starts (S,), in bins by uncertainty."""
    bins = min(bins, len(errors))  # none is empty
    order = uncertainty.argsort()
    parts = zip(uncertainty[order].tensor_split(bins), errors[order].tensor_split(bins), strict=True)
    return torch.stack(
        [torch.stack([one.mean(), other.square().mean().sqrt()]) for one, other in parts], dim=1
    )


def _error(model: StateWorldModel, imagined: Tensor, true: Tensor) -> Tensor:
    """Return the root mean square error (S,) over the columns that change, in deviations of the data."""
    square = ((imagined - true) / model.std).square() * model.moving
    return (square.sum(1) / model.moving.sum().clamp(min=1.0)).sqrt()


def _recall_and_precision(predicted: Tensor, true: Tensor) -> tuple[float, float]:
    found, there = predicted > 0.5, true > 0.0
    both = (found & there).sum()
    return (both / there.sum()).item(), (both / found.sum()).item()
