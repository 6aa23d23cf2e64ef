"""The options of FISOR, and the offline transitions on the device in the form that its updates draw from."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffpolicy.data import OfflineDataset, Standardizer
from diffpolicy.policies.actors import ActorConfig
from diffpolicy.policies.errors import PolicyError
from diffpolicy.safety import (
    KINDS,
    CriticBatch,
    CriticConfig,
    WeightConfig,
    behaviour_values,
    violation_values,
)

ACTION_LIMIT = 1.0 - 1e-5  # as published: a clipped sampler cannot reach the exact corners
# By kind: the value of a reward is at least its bound, the others at most.
NO_BOUNDS = torch.tensor([-torch.inf, torch.inf, torch.inf])


@dataclass(frozen=True)
class FisorConfig:
    """Everything that decides what is learnt (defaults: the paper's)."""

    actors: list[str] = field(default_factory=lambda: ["fisor"])
    joint: bool = (
        True  # as published: critics and weighted actors together; False: critics first, then actors on
    )
    #                     batches drawn in proportion to the weights (the same objective with far less variance)
    updates: int = 1_000_000  # joint: of everything
    critic_updates: int = 0  # not joint
    actor_updates: int = 0  # not joint
    standardize: bool = False
    timeouts_terminal: bool = True  # as published; False bootstraps through time-outs, and what an episode
    #                                 achieved before one bounds nothing
    safe_cost: float = 10.0  # the "safe" actor clones episodes with at most this cost
    critic: CriticConfig = field(default_factory=CriticConfig)
    actor: ActorConfig = field(default_factory=ActorConfig)
    weights: WeightConfig = field(default_factory=WeightConfig)


@dataclass(frozen=True)
class Transitions:
    """N transitions: observations (N+E, O) as in `OfflineDataset`, the rest (N, ...); `bounds` (3, N) or None.

    `safe` is 1 for transitions of episodes that cost at most `safe_cost`, `alive` 0 where the future ends.
    """

    standardizer: Standardizer
    observations: Tensor
    rows: Tensor
    actions: Tensor
    rewards: Tensor
    costs: Tensor
    violations: Tensor
    alive: Tensor
    safe: Tensor
    bounds: Tensor | None

    @classmethod
    def prepare(
        cls,
        dataset: OfflineDataset,
        config: FisorConfig,
        reward_scale: float,
        device: torch.device,
        violations: Tensor | None,
    ) -> "Transitions":
        """Scale, clip and standardise `dataset` as `config` asks; PolicyError if a "safe" actor finds no episode."""
        size, observations = dataset.observation_size, dataset.observations
        standardizer = Standardizer(torch.zeros(size), torch.ones(size))
        if config.standardize:
            standardizer = Standardizer.fit(dataset)
            observations = standardizer.normalize(observations)
        if violations is None:
            violations = violation_values(dataset.costs, config.critic.violation_scale)
        ended = dataset.terminals | dataset.timeouts if config.timeouts_terminal else dataset.terminals
        safe = dataset.episode_costs <= config.safe_cost
        if "safe" in config.actors and not bool(safe.any()):
            raise PolicyError(f"no episode of the data set costs at most safe_cost={config.safe_cost}")
        rewards = dataset.rewards * reward_scale
        bounds = _bounds(dataset, rewards, violations, config.critic)
        if bounds is not None and not config.timeouts_terminal:
            cut = dataset.timeouts & ~dataset.terminals
            open_ended = cut[dataset.episode_ends - 1][dataset.episode_of]
            bounds = torch.where(open_ended, NO_BOUNDS[:, None], bounds)
        return cls(
            standardizer=standardizer,
            observations=observations.to(device),
            rows=dataset.rows.to(device),
            actions=dataset.actions.clamp(-ACTION_LIMIT, ACTION_LIMIT).to(device),
            rewards=rewards.to(device),
            costs=dataset.costs.to(device),
            violations=violations.to(device),
            alive=(~ended).to(device, torch.float32),
            safe=safe[dataset.episode_of].to(device, torch.float32),
            bounds=None if bounds is None else bounds.to(device),
        )

    def __len__(self) -> int:
        return len(self.actions)

    def states(self, index: Tensor) -> Tensor:
        """Return the observations (..., O) in which the transitions `index` (...) begin."""
        return self.observations[self.rows[index]]

    def critic_batch(self, index: Tensor, kinds: int) -> CriticBatch:
        """Gather the transitions `index` (S, B) with the bounds of the first `kinds` critics."""
        row = self.rows[index]
        return CriticBatch(
            observations=self.observations[row],
            actions=self.actions[index],
            next_observations=self.observations[row + 1],
            rewards=self.rewards[index],
            costs=self.costs[index],
            violations=self.violations[index],
            alive=self.alive[index],
            bounds=None if self.bounds is None else self.bounds[:kinds, index],
        )


def _bounds(
    dataset: OfflineDataset, rewards: Tensor, violations: Tensor, config: CriticConfig
) -> Tensor | None:
    """Return the bounds (3, N) of the critics' targets in the order of `KINDS`, infinite for kinds without one."""
    unknown = set(config.behaviour_bound) - set(KINDS)
    if unknown:
        raise PolicyError(
            f"critic.behaviour_bound names some of {', '.join(KINDS)}; got {config.behaviour_bound}"
        )
    if not config.behaviour_bound:
        return None
    achieved = behaviour_values(rewards, dataset.costs, violations, dataset.episode_ends, config.gamma)
    named = torch.tensor([kind in config.behaviour_bound for kind in KINDS])
    return torch.where(named[:, None], torch.stack(achieved), NO_BOUNDS[:, None])
