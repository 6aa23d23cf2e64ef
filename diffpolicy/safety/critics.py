"""Expectile critics of reward, feasibility and cost, learnt side by side from offline transitions (FISOR, eq. 8-10)."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffpolicy.networks import StackedMLP
from diffpolicy.safety.errors import SafetyError
from diffpolicy.safety.feasibility import feasible_target, return_target
from diffpolicy.safety.weights import Value, Values

KINDS = ("reward", "feasibility", "cost")


@dataclass(frozen=True)
class CriticConfig:
    """Sizes and constants of the critics (defaults: the paper's)."""

    hidden: list[int] = field(default_factory=lambda: [256, 256])
    batch: int = 256
    learning_rate: float = 3e-4
    gamma: float = 0.99
    expectile: float = 0.9  # of the reward critic
    reversed_expectile: float = 0.9  # of the feasibility and cost critics
    polyak: float = 0.005
    violation_scale: float = 25.0
    # Kinds whose targets are bounded by what the data achieved (behaviour_values); ours.
    behaviour_bound: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if min(self.hidden, default=1) < 1 or self.batch < 1:
            raise SafetyError(
                f"critic.hidden and critic.batch are 1 or more, got {self.hidden} and {self.batch}"
            )
        if not 0.0 <= self.learning_rate < math.inf or not 0.0 < self.violation_scale < math.inf:
            raise SafetyError(
                "critic.learning_rate is 0 or more and critic.violation_scale above 0, both finite, got "
                f"{self.learning_rate} and {self.violation_scale}"
            )
        for name in ("expectile", "reversed_expectile"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise SafetyError(f"critic.{name} lies between 0 and 1, got {getattr(self, name)}")
        for name in ("gamma", "polyak"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise SafetyError(f"critic.{name} is at least 0 and at most 1, got {getattr(self, name)}")


class CriticBatch(NamedTuple):
    """Transitions for every seed: tensors (S, B, ...). `bounds` (K, S, B) are behaviour values, or None."""

    observations: Tensor
    actions: Tensor
    next_observations: Tensor
    rewards: Tensor
    costs: Tensor
    violations: Tensor
    alive: Tensor
    bounds: Tensor | None


class Critics(nn.Module):
    """Twin Q networks and a V network for each seed and kind, all in two stacks of batched products.

    The reward critic takes the lower of its twins and an upper expectile of V; the feasibility and cost critics take
    the higher of their twins (pessimistic) and the reversed expectile, which tends to the minimum over in-data actions.
    """

    def __init__(
        self,
        seeds: int,
        observation_size: int,
        action_size: int,
        kinds: Sequence[str],
        config: CriticConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        unknown = set(kinds) - set(KINDS)
        if unknown or tuple(kinds[:2]) != KINDS[:2]:
            raise ValueError(f"critic kinds start with {KINDS[:2]} and may add 'cost', got {tuple(kinds)}")
        self.seeds, self.kinds, self.config = seeds, tuple(kinds), config
        members = seeds * len(kinds)
        self.q = StackedMLP(2 * members, observation_size + action_size, config.hidden, 1, generator)
        self.v = StackedMLP(members, observation_size, config.hidden, 1, generator)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)
        sign = torch.tensor([1.0 if kind == "reward" else -1.0 for kind in kinds])
        self.sign: Tensor
        self.register_buffer("sign", sign.view(-1, 1), persistent=False)
        self.tau: Tensor
        tau = torch.where(sign > 0, config.expectile, config.reversed_expectile)
        self.register_buffer("tau", tau.view(-1, 1), persistent=False)

    def _twins(self, network: nn.Module, observations: Tensor, actions: Tensor) -> Tensor:
        """Return (S, K, 2, B) for observations (S, B, O) and actions (S, B, A)."""
        inputs = torch.cat([observations, actions], dim=-1)
        seeds, batch, size = inputs.shape
        copies = 2 * len(self.kinds)
        stacked = inputs.unsqueeze(1).expand(seeds, copies, batch, size).reshape(seeds * copies, batch, size)
        output: Tensor = network(stacked)
        return output.view(seeds, len(self.kinds), 2, batch)

    def state_values(self, observations: Tensor) -> Tensor:
        """Return V (S, K, B) for observations (S, B, O)."""
        seeds, batch, size = observations.shape
        kinds = len(self.kinds)
        stacked = (
            observations.unsqueeze(1).expand(seeds, kinds, batch, size).reshape(seeds * kinds, batch, size)
        )
        output: Tensor = self.v(stacked)
        return output.view(seeds, kinds, batch)

    def action_values(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Return the target critics' pessimistic Q (S, K, B): the lower twin of reward, the higher of the others."""
        twins = self._twins(self.q_target, observations, actions)
        return self.sign * (self.sign.unsqueeze(-1) * twins).amin(dim=2)

    @torch.no_grad()
    def values(self, observations: Tensor, actions: Tensor) -> Values:
        """Return Q and V by kind, each (S, B), for the weights."""
        q, v = self.action_values(observations, actions), self.state_values(observations)
        return {kind: Value(q[:, index], v[:, index]) for index, kind in enumerate(self.kinds)}

    def v_loss(self, batch: CriticBatch) -> Tensor:
        """Return the expectile loss of V, (S, K): `|tau - 1[Q < V]| (Q - V)^2`, reversed for feasibility and cost."""
        with torch.no_grad():
            q = self.action_values(batch.observations, batch.actions)
        difference = q - self.state_values(batch.observations)
        weight = torch.where(self.sign * difference.detach() > 0, self.tau, 1.0 - self.tau)
        return (weight * difference.square()).mean(dim=-1)

    @torch.no_grad()
    def q_targets(self, batch: CriticBatch) -> Tensor:
        """Return the Bellman targets (S, K, B) of all kinds."""
        gamma, future = self.config.gamma, self.state_values(batch.next_observations)
        targets = [
            return_target(batch.rewards, future[:, 0], batch.alive, gamma),
            feasible_target(batch.violations, future[:, 1], batch.alive, gamma),
        ]
        if "cost" in self.kinds:
            targets.append(return_target(batch.costs, future[:, 2], batch.alive, gamma))
        target = torch.stack(targets, dim=1)
        if batch.bounds is not None:
            target = self.sign * torch.maximum(self.sign * target, self.sign * batch.bounds.transpose(0, 1))
        return target

    def q_loss(self, batch: CriticBatch) -> Tensor:
        """Return the squared error of both twins to the target, (S, K)."""
        twins = self._twins(self.q, batch.observations, batch.actions)
        return (twins - self.q_targets(batch).unsqueeze(2)).square().mean(dim=-1).sum(dim=-1)

    @torch.no_grad()
    def update_target(self) -> None:
        """Move the target critics towards the online ones by the Polyak rate."""
        online: list[Tensor] = list(self.q.parameters())
        target: list[Tensor] = list(self.q_target.parameters())
        torch._foreach_lerp_(target, online, self.config.polyak)
