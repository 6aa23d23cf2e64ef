"""FISOR: feasibility-guided safe offline RL with a diffusion policy (Zheng et al., ICLR 2024), and its control arms.

Three supervised parts share one data set: critics (safety.critics), weights (safety.weights) and weighted diffusion
cloning (policies.actors). An *actor* is a way of weighting the data ("none", "safe", "reward", "fisor", "recovery");
several actors and several training seeds are trained at once as members of one stack.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from diffpolicy.data import OfflineDataset, Standardizer
from diffpolicy.policies.actors import ActorConfig, DiffusionActors
from diffpolicy.policies.errors import PolicyError
from diffpolicy.safety import (
    WEIGHTS,
    CriticBatch,
    CriticConfig,
    Critics,
    Values,
    WeightConfig,
    behaviour_values,
    violation_values,
)

ACTORS = ("none", "safe", *WEIGHTS)
CHUNK = 65_536  # transitions weighed at once


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
    timeouts_terminal: bool = True  # as published; False bootstraps through time-outs
    safe_cost: float = 10.0  # the "safe" actor clones episodes with at most this cost
    critic: CriticConfig = field(default_factory=CriticConfig)
    actor: ActorConfig = field(default_factory=ActorConfig)
    weights: WeightConfig = field(default_factory=WeightConfig)


class FisorLearner:
    """Trains the critics and actors of several seeds on one data set; a `training.Learner`."""

    def __init__(
        self,
        dataset: OfflineDataset,
        config: FisorConfig,
        seeds: list[int],
        reward_scale: float,
        device: torch.device,
        description: dict[str, Any] | None = None,
        violations: Tensor | None = None,
    ) -> None:
        """Prepare training on `dataset`; rewards are multiplied by `reward_scale` (paper: T / (R_max - R_min)).

        `violations` (N,) is a continuous constraint function h (> 0 violates) where the task knows one; without it
        h comes from the costs. `description` goes into the checkpoint's manifest. Raises PolicyError for unknown
        actors, no seeds or, with a "safe" actor, a data set without a safe episode.
        """
        unknown = [actor for actor in config.actors if actor not in ACTORS]
        if unknown or not config.actors:
            raise PolicyError(f"policy.actors must name some of {', '.join(ACTORS)}; got {config.actors}")
        if not seeds:
            raise PolicyError("seeds must name at least one training seed, for example seeds=[0]")
        self.config, self.seeds, self.device = config, list(seeds), device
        self.description = description or {}
        self.total_steps = config.updates if config.joint else config.critic_updates + config.actor_updates
        self._load(dataset, reward_scale, violations)
        initial = torch.Generator().manual_seed(_mix(seeds, 0))
        self.generator = torch.Generator(device).manual_seed(_mix(seeds, 1))
        kinds = (
            ("reward", "feasibility", "cost") if "recovery" in config.actors else ("reward", "feasibility")
        )
        sizes = (dataset.observation_size, dataset.action_size)
        self.critics = Critics(len(seeds), *sizes, kinds, config.critic, initial).to(device)
        members = len(config.actors) * len(seeds)
        self.actors = DiffusionActors(members, *sizes, config.actor, initial).to_device(device)
        rate = config.critic.learning_rate
        self.v_optimizer = torch.optim.Adam(self.critics.v.parameters(), rate, fused=True)
        self.q_optimizer = torch.optim.Adam(self.critics.q.parameters(), rate, fused=True)
        rate = config.actor.learning_rate
        self.actor_optimizer = torch.optim.Adam(self.actors.denoiser.parameters(), rate, fused=True)
        self.actor_updates = 0
        self._cumulative: Tensor | None = None

    def _load(self, dataset: OfflineDataset, reward_scale: float, violations: Tensor | None) -> None:
        """Put the data set on the device in the form that updates draw from."""
        config, device = self.config, self.device
        size, observations = dataset.observation_size, dataset.observations
        self.standardizer = Standardizer(torch.zeros(size), torch.ones(size))
        if config.standardize:
            self.standardizer = Standardizer.fit(dataset)
            observations = self.standardizer.normalize(observations)
        self.observations = observations.to(device)
        self.rows = dataset.rows.to(device)
        limit = 1.0 - 1e-5  # as published: exact corners are unreachable for a clipped sampler
        self.actions = dataset.actions.clamp(-limit, limit).to(device)
        self.rewards = (dataset.rewards * reward_scale).to(device)
        self.costs = dataset.costs.to(device)
        if violations is None:
            violations = violation_values(dataset.costs, config.critic.violation_scale)
        self.violations = violations.to(device)
        ended = dataset.terminals | dataset.timeouts if config.timeouts_terminal else dataset.terminals
        self.alive = (~ended).to(device, torch.float32)
        self.bounds: Tensor | None = None
        if config.critic.behaviour_bound:
            ends = dataset.episode_ends.to(device)
            values = behaviour_values(self.rewards, self.costs, self.violations, ends, config.critic.gamma)
            self.bounds = torch.stack(values)
        safe = dataset.episode_costs <= config.safe_cost
        if "safe" in config.actors and not bool(safe.any()):
            raise PolicyError(f"no episode of the data set costs at most safe_cost={config.safe_cost}")
        self.safe = safe[dataset.episode_of].to(device, torch.float32)

    def _critic_batch(self, index: Tensor) -> CriticBatch:
        """Gather the transitions `index` (S, B)."""
        row = self.rows[index]
        kinds = len(self.critics.kinds)
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

    def _update_critics(self, batch: CriticBatch) -> dict[str, Tensor]:
        v_loss = self.critics.v_loss(batch)
        self.v_optimizer.zero_grad(set_to_none=True)
        v_loss.sum().backward()  # type: ignore[no-untyped-call]
        self.v_optimizer.step()
        q_loss = self.critics.q_loss(batch)
        self.q_optimizer.zero_grad(set_to_none=True)
        q_loss.sum().backward()  # type: ignore[no-untyped-call]
        self.q_optimizer.step()
        self.critics.update_target()
        logs = {}
        for index, kind in enumerate(self.critics.kinds):
            logs[f"{kind}/v_loss"] = v_loss.detach()[:, index].mean()
            logs[f"{kind}/q_loss"] = q_loss.detach()[:, index].mean()
        return logs

    def _update_actors(self, index: Tensor, weights: Tensor | None) -> dict[str, Tensor]:
        """Make one step of every actor on the transitions `index` (M, B) with loss weights (M, B)."""
        horizon = self.config.actor.decay_steps
        progress = min(self.actor_updates / max(horizon, 1), 1.0)
        rate = self.config.actor.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))
        for group in self.actor_optimizer.param_groups:
            group["lr"] = rate
        loss = self.actors.loss(
            self.actions[index], self.observations[self.rows[index]], weights, self.generator
        )
        self.actor_optimizer.zero_grad(set_to_none=True)
        loss.sum().backward()  # type: ignore[no-untyped-call]
        self.actor_optimizer.step()
        self.actors.update_average()
        self.actor_updates += 1
        per_actor = loss.detach().view(len(self.config.actors), len(self.seeds)).mean(dim=1)
        return {f"actor/{name}_loss": per_actor[index] for index, name in enumerate(self.config.actors)}

    def _uniform(self, members: int, batch: int) -> Tensor:
        shape = (members, batch)
        return torch.randint(len(self.actions), shape, device=self.device, generator=self.generator)

    def _weights(self, values: Values, index: Tensor) -> Tensor:
        """Return the weights (A, S, B) of every actor for transitions `index` (S, B) with these values."""
        rows = []
        for actor in self.config.actors:
            if actor == "none":
                rows.append(torch.ones_like(self.safe[index]))
            elif actor == "safe":
                rows.append(self.safe[index])
            else:
                rows.append(WEIGHTS[actor](values, self.config.weights))
        return torch.stack(rows)

    def update(self, step: int) -> dict[str, Tensor]:
        """Make update number `step` (from 0)."""
        if self.config.joint:
            return self._update_joint()
        if step < self.config.critic_updates:
            return self._update_critics(
                self._critic_batch(self._uniform(len(self.seeds), self.config.critic.batch))
            )
        return self._update_actors(self._draw_weighted(), None)

    def _update_joint(self) -> dict[str, Tensor]:
        """One published update: two actor steps on the halves of a batch, then the critics on its first part."""
        half, arms = self.config.actor.batch, len(self.config.actors)
        index = self._uniform(len(self.seeds), 2 * half)
        logs: dict[str, Tensor] = {}
        for part in (index[:, :half], index[:, half:]):
            observations, actions = self.observations[self.rows[part]], self.actions[part]
            weights = self._weights(self.critics.values(observations, actions), part)
            logs |= self._update_actors(part.repeat(arms, 1), weights.flatten(0, 1))
        logs |= self._update_critics(self._critic_batch(index[:, : self.config.critic.batch]))
        return logs

    def _draw_weighted(self) -> Tensor:
        """Draw transitions (M, B) in proportion to each actor's weights, computed once from the final critics."""
        if self._cumulative is None:
            total = self.dataset_weights().flatten(0, 1).cumsum(dim=1, dtype=torch.float64)
            empty = (total[:, -1] <= 0).nonzero().flatten().tolist()
            if empty:
                names = sorted({self.config.actors[member // len(self.seeds)] for member in empty})
                raise PolicyError(
                    f"every transition has weight 0 for actor {', '.join(names)}: nothing to learn from"
                )
            self._cumulative = total / total[:, -1:]
        shape = (len(self._cumulative), self.config.actor.batch)
        uniform = torch.rand(shape, dtype=torch.float64, device=self.device, generator=self.generator)
        return torch.searchsorted(self._cumulative, uniform, right=True).clamp(max=len(self.actions) - 1)

    @torch.no_grad()
    def dataset_weights(self) -> Tensor:
        """Return the weights (A, S, N) of the whole data set under the present critics."""
        parts = []
        for start in range(0, len(self.actions), CHUNK):
            index = torch.arange(start, min(start + CHUNK, len(self.actions)), device=self.device)
            index = index.expand(len(self.seeds), -1)
            values = self.critics.values(self.observations[self.rows[index]], self.actions[index])
            parts.append(self._weights(values, index))
        return torch.cat(parts, dim=-1)

    @torch.no_grad()
    def infeasible_share(self, sample: int = 20_000) -> Tensor:
        """Return for each seed (S,) the share of (evenly spaced) data states that the critics call infeasible."""
        count = len(self.actions)
        index = torch.linspace(0, count - 1, min(sample, count), device=self.device).long()
        states = self.observations[self.rows[index]].expand(len(self.seeds), -1, -1)
        return (self.critics.state_values(states)[:, 1] > 0).float().mean(dim=1)

    def state(self) -> dict[str, Any]:
        """Return everything needed to go on bit for bit."""
        return {
            "critics": self.critics.state_dict(),
            "actors": self.actors.state_dict(),
            "v_optimizer": self.v_optimizer.state_dict(),
            "q_optimizer": self.q_optimizer.state_dict(),
            "actor_optimizer": self.actor_optimizer.state_dict(),
            "actor_updates": self.actor_updates,
            "generator": self.generator.get_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a `state()`."""
        self.critics.load_state_dict(state["critics"])
        self.actors.load_state_dict(state["actors"])
        self.v_optimizer.load_state_dict(state["v_optimizer"])
        self.q_optimizer.load_state_dict(state["q_optimizer"])
        self.actor_optimizer.load_state_dict(state["actor_optimizer"])
        self.actor_updates = int(state["actor_updates"])
        self.generator.set_state(state["generator"].cpu())
        self._cumulative = None

    def model(self) -> dict[str, Tensor]:
        """Return what acting needs: averaged actors, target critics, V and the standardiser."""
        groups = {
            "actors": self.actors.average.state_dict(),
            "q": self.critics.q_target.state_dict(),
            "v": self.critics.v.state_dict(),
            "standardizer": self.standardizer.state(),
        }
        return {
            f"{group}.{name}": tensor for group, state in groups.items() for name, tensor in state.items()
        }

    def manifest(self) -> dict[str, Any]:
        """Return what a reader must know to rebuild the policies."""
        return {
            "method": "fisor",
            "seeds": self.seeds,
            "actors": list(self.config.actors),
            "critic_kinds": list(self.critics.kinds),
            "observation_size": self.observations.shape[-1],
            "action_size": self.actions.shape[-1],
            "infeasible_share": [round(float(share), 4) for share in self.infeasible_share()],
            **self.description,
        }


def _mix(seeds: list[int], stream: int) -> int:
    """Return one generator seed from the training seeds; streams do not overlap."""
    mixed = stream
    for seed in seeds:
        mixed = (mixed * 1_000_003 + seed + 1) % (2**63 - 1)
    return mixed
