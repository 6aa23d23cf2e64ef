"""From episodes to judgements: what every arm earned and cost by DSRL's protocol, all with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from diffpolicy.evaluation.rollout import Episode
from diffpolicy.evaluation.statistics import (
    Array,
    Estimate,
    clopper_pearson_upper,
    cvar,
    estimate,
    paired_difference,
)

LIMITS = (10.0, 20.0, 40.0)
RULE = (
    "safe at a limit: the whole 95 % interval of the mean normalised cost lies at or below 1"
    " (DSRL asks this of the mean alone)"
)

Episodes = tuple[tuple[Episode, ...], ...]  # one row per training seed


class EvaluationError(Exception):
    """An evaluation that cannot be made or compared as asked."""


class Scores(Protocol):
    """What judging asks of a task; `envs.Task` is one."""

    @property
    def id(self) -> str:
        """Full id."""

    def normalized_return(self, episode_return: float) -> float:
        """0 at the data's lowest episode return, 1 at its highest."""

    def normalized_cost(self, episode_cost: float, limit: float) -> float:
        """1 at the limit."""


@dataclass(frozen=True, slots=True)
class LimitSummary:
    """One arm at one cost limit: DSRL's normalised cost (1 = the limit) and how often episodes exceed it."""

    limit: float
    normalized_cost: Estimate
    exceeded: int
    exceed_probability_upper: float  # one-sided 95 % Clopper-Pearson
    safe: bool  # see RULE


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """One arm over all its training seeds and episodes."""

    training_seeds: int
    episodes: int  # of all training seeds together
    normalized_return: Estimate
    cost: Estimate  # undiscounted, per episode
    cost_cvar: float  # mean cost of the worst 10 % of episodes
    violating_episodes: int  # with any step of cost > 0
    violation_probability_upper: float  # one-sided 95 % Clopper-Pearson
    limits: tuple[LimitSummary, ...]

    @property
    def violation_share(self) -> float:
        """Share of episodes with any violating step."""
        return self.violating_episodes / self.episodes

    def at(self, limit: float) -> LimitSummary:
        """The summary at one of the evaluated limits; EvaluationError for another."""
        for one in self.limits:
            if one.limit == limit:
                return one
        raise EvaluationError(
            f"cost limit {limit:g} was not evaluated; there are {[one.limit for one in self.limits]}"
        )


@dataclass(frozen=True, slots=True)
class Difference:
    """An arm minus the reference arm on the same (training seed, episode seed) pairs."""

    arm: str
    reference: str
    normalized_return: Estimate
    cost: Estimate


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm: every episode it played and what they add up to."""

    name: str
    episodes: Episodes
    summary: ArmSummary


def summarize(task: Scores, episodes: Episodes, limits: Sequence[float] = LIMITS) -> ArmSummary:
    """Judge one arm's episodes (a row per training seed, rows of equal length) at every cost limit."""
    require_rectangular("arm", episodes)
    costs = cost_table(episodes)
    return ArmSummary(
        training_seeds=costs.shape[0],
        episodes=costs.size,
        normalized_return=estimate(return_table(task, episodes)),
        cost=estimate(costs),
        cost_cvar=cvar(costs),
        violating_episodes=(violating := sum(e.violation for row in episodes for e in row)),
        violation_probability_upper=clopper_pearson_upper(violating, costs.size),
        limits=tuple(_at_limit(task, costs, float(limit)) for limit in limits),
    )


def differences(task: Scores, arms: Mapping[str, Episodes], reference: str) -> tuple[Difference, ...]:
    """Every other arm minus the reference arm; EvaluationError unless they played the same seeds."""
    if reference not in arms:
        raise EvaluationError(f"the reference arm {reference!r} was not evaluated; arms are {sorted(arms)}")
    base = arms[reference]
    result = []
    for name, episodes in arms.items():
        if name == reference:
            continue
        if _seeds(episodes) != _seeds(base):
            raise EvaluationError(
                f"arms {name!r} and {reference!r} played different seeds; they cannot be paired"
            )
        returns = paired_difference(return_table(task, episodes), return_table(task, base))
        result.append(
            Difference(name, reference, returns, paired_difference(cost_table(episodes), cost_table(base)))
        )
    return tuple(result)


def return_table(task: Scores, episodes: Episodes) -> Array:
    """Normalised returns (K, M)."""
    return np.array([[task.normalized_return(e.episode_return) for e in row] for row in episodes])


def cost_table(episodes: Episodes) -> Array:
    """Episode costs (K, M), not normalised."""
    return np.array([[e.episode_cost for e in row] for row in episodes])


def require_rectangular(name: str, episodes: Episodes) -> None:
    """EvaluationError unless there is a training seed and each has the same number of episodes, not zero."""
    lengths = {len(row) for row in episodes}
    if len(lengths) != 1 or 0 in lengths:
        raise EvaluationError(
            f"{name}: each training seed needs the same number of episodes; got {sorted(lengths)}"
        )


def _at_limit(task: Scores, costs: Array, limit: float) -> LimitSummary:
    normalized = estimate([[task.normalized_cost(float(cost), limit) for cost in row] for row in costs])
    exceeded = int((costs > limit).sum())
    return LimitSummary(
        limit=limit,
        normalized_cost=normalized,
        exceeded=exceeded,
        exceed_probability_upper=clopper_pearson_upper(exceeded, costs.size),
        safe=normalized.mean_interval.high <= 1.0,
    )


def _seeds(episodes: Episodes) -> list[list[int]]:
    return [[episode.seed for episode in row] for row in episodes]
