"""FISOR: feasibility-guided safe offline RL with a diffusion policy (Zheng et al., ICLR 2024), and its control arms.

Three supervised parts share one data set: critics (safety.critics), weights (safety.weights) and weighted diffusion
cloning (policies.actors). An *actor* is a way of weighting the data ("none", "safe", "reward", "fisor", "recovery");
several actors and several training seeds are trained at once as members of one stack.
"""

import math
from typing import Any

import torch
from torch import Tensor

from diffpolicy.data import OfflineDataset
from diffpolicy.policies.actors import DiffusionActors
from diffpolicy.policies.errors import PolicyError
from diffpolicy.policies.transitions import FisorConfig, Transitions
from diffpolicy.safety import WEIGHTS, Critics, Values

ACTORS = ("none", "safe", *WEIGHTS)
CHUNK = 65_536  # transitions weighed at once


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
        actors, no seeds, no updates or, with a "safe" actor, a data set without a safe episode.
        """
        unknown = [actor for actor in config.actors if actor not in ACTORS]
        if unknown or not config.actors:
            raise PolicyError(f"policy.actors must name some of {', '.join(ACTORS)}; got {config.actors}")
        if not seeds:
            raise PolicyError("seeds must name at least one training seed, for example seeds=[0]")
        phases = ("updates",) if config.joint else ("critic_updates", "actor_updates")
        counts = [getattr(config, name) for name in phases]
        if min(counts) < 0 or not sum(counts):
            raise PolicyError(
                f"with policy.joint={str(config.joint).lower()} training takes 1 update or more, got "
                + " and ".join(f"policy.{name}={count}" for name, count in zip(phases, counts, strict=True))
            )
        self.config, self.seeds, self.device = config, list(seeds), device
        self.description = description or {}
        self.total_steps = sum(counts)
        self.data = Transitions.prepare(dataset, config, reward_scale, device, violations)
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

    def _update_critics(self, index: Tensor) -> dict[str, Tensor]:
        """Make one step of every critic on the transitions `index` (S, B)."""
        batch = self.data.critic_batch(index, len(self.critics.kinds))
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
        for column, kind in enumerate(self.critics.kinds):
            logs[f"{kind}/v_loss"] = v_loss.detach()[:, column].mean()
            logs[f"{kind}/q_loss"] = q_loss.detach()[:, column].mean()
        return logs

    def _update_actors(self, index: Tensor, weights: Tensor | None) -> dict[str, Tensor]:
        """Make one step of every actor on the transitions `index` (M, B) with loss weights (M, B)."""
        horizon = self.config.actor.decay_steps
        progress = min(self.actor_updates / max(horizon, 1), 1.0)
        rate = self.config.actor.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))
        for group in self.actor_optimizer.param_groups:
            group["lr"] = rate
        loss = self.actors.loss(self.data.actions[index], self.data.states(index), weights, self.generator)
        self.actor_optimizer.zero_grad(set_to_none=True)
        loss.sum().backward()  # type: ignore[no-untyped-call]
        self.actor_optimizer.step()
        self.actors.update_average()
        self.actor_updates += 1
        per_actor = loss.detach().view(len(self.config.actors), len(self.seeds)).mean(dim=1)
        return {f"actor/{name}_loss": per_actor[index] for index, name in enumerate(self.config.actors)}

    def _uniform(self, members: int, batch: int) -> Tensor:
        shape = (members, batch)
        return torch.randint(len(self.data), shape, device=self.device, generator=self.generator)

    def _weights(self, values: Values, index: Tensor) -> Tensor:
        """Return the weights (A, S, B) of every actor for transitions `index` (S, B) with these values."""
        rows = []
        for actor in self.config.actors:
            if actor == "none":
                rows.append(torch.ones_like(self.data.safe[index]))
            elif actor == "safe":
                rows.append(self.data.safe[index])
            else:
                rows.append(WEIGHTS[actor](values, self.config.weights))
        return torch.stack(rows)

    def update(self, step: int) -> dict[str, Tensor]:
        """Make update number `step` (from 0)."""
        if self.config.joint:
            return self._update_joint()
        if step < self.config.critic_updates:
            return self._update_critics(self._uniform(len(self.seeds), self.config.critic.batch))
        return self._update_actors(self._draw_weighted(), None)

    def _update_joint(self) -> dict[str, Tensor]:
        """One published update: two actor steps on the halves of a batch, then the critics on its first part."""
        half, arms = self.config.actor.batch, len(self.config.actors)
        index = self._uniform(len(self.seeds), 2 * half)
        logs: dict[str, Tensor] = {}
        for part in (index[:, :half], index[:, half:]):
            observations, actions = self.data.states(part), self.data.actions[part]
            weights = self._weights(self.critics.values(observations, actions), part)
            logs |= self._update_actors(part.repeat(arms, 1), weights.flatten(0, 1))
        logs |= self._update_critics(index[:, : self.config.critic.batch])
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
        return torch.searchsorted(self._cumulative, uniform, right=True).clamp(max=len(self.data) - 1)

    @torch.no_grad()
    def dataset_weights(self) -> Tensor:
        """Return the weights (A, S, N) of the whole data set under the present critics."""
        parts = []
        for start in range(0, len(self.data), CHUNK):
            index = torch.arange(start, min(start + CHUNK, len(self.data)), device=self.device)
            index = index.expand(len(self.seeds), -1)
            values = self.critics.values(self.data.states(index), self.data.actions[index])
            parts.append(self._weights(values, index))
        return torch.cat(parts, dim=-1)

    @torch.no_grad()
    def infeasible_share(self, sample: int = 20_000) -> Tensor:
        """Return for each seed (S,) the share of (evenly spaced) data states that the critics call infeasible."""
        count = len(self.data)
        index = torch.linspace(0, count - 1, min(sample, count), device=self.device).long()
        states = self.data.states(index).expand(len(self.seeds), -1, -1)
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
            "standardizer": self.data.standardizer.state(),
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
            "observation_size": self.data.observations.shape[-1],
            "action_size": self.data.actions.shape[-1],
            "infeasible_share": [round(float(share), 4) for share in self.infeasible_share()],
            **self.description,
        }


def _mix(seeds: list[int], stream: int) -> int:
    """Return one generator seed from the training seeds; streams do not overlap."""
    mixed = stream
    for seed in seeds:
        mixed = (mixed * 1_000_003 + seed + 1) % (2**63 - 1)
    return mixed
