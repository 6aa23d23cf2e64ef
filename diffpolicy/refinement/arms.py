"""Ways to refine: what an imagined decision is praised for, return alone, return at a price of cost, or feasibility."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from diffpolicy.alignment import Logs
from diffpolicy.data import Standardizer
from diffpolicy.refinement.branches import Branches
from diffpolicy.refinement.errors import RefinementError
from diffpolicy.refinement.values import Estimates
from diffpolicy.safety import Critics

ArmName = Literal["split", "lagrangian", "reward"]
ARMS: tuple[ArmName, ...] = get_args(ArmName)
CLIP = 5.0  # of advantages, in standard deviations
VIOLATION = 0.5  # imagined costs are probabilities


class Arm(ABC):
    """Makes advantages for the policy of those of reward and cost."""

    @abstractmethod
    def advantages(self, branches: Branches, estimates: Estimates) -> tuple[Tensor, Logs]:
        """Return advantages (T, n) of deviation about 1, and what to log."""

    def state(self) -> dict[str, Any]:
        """Return what is remembered from one roll-out to the next."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        return  # not abstract: most remember nothing


class RewardOnly(Arm):
    """Return alone: the control that shows what a world model is exploited for."""

    def advantages(self, branches: Branches, estimates: Estimates) -> tuple[Tensor, Logs]:
        """Return the advantages of reward."""
        return normalised(estimates.reward.advantages, branches.counted), {}


@dataclass(frozen=True)
class LagrangianConfig:
    """Episodes of `episode_length` steps are to cost at most `margin` times `limit`.

    The margin is what imagination is wrong by: at the limit itself real policies overstep it. The multiplier begins at
    `multiplier` and grows or shrinks by up to the factor `e^rate` with every roll-out.
    """

    limit: float
    episode_length: int
    margin: float = 0.3
    multiplier: float = 1.0
    rate: float = 0.2
    largest: float = 100.0

    def __post_init__(self) -> None:
        if not (self.limit > 0.0 and 0.0 < self.margin <= 1.0 and self.episode_length > 0):
            raise RefinementError(
                f"a limit and an episode length are positive, a margin is above 0 and at most 1, got {self}"
            )
        if not (0.0 < self.multiplier <= self.largest and self.rate > 0.0):
            raise RefinementError(f"a multiplier is above 0 and moves at a positive rate, got {self}")


class Lagrangian(Arm):
    """Reward less a multiplier times cost; the multiplier moves until imagined episodes cost what they may.

    Costs are those of the second half of branches, which the policy has made more its own, and not of those that begin
    with a violation: data may be full of them, and no policy answers for where it was put. Branches that
    uncertainty has cut off end in a violation and are part of them: left out, they made a safe policy unsafe.
    """

    def __init__(self, config: LagrangianConfig) -> None:
        self.config, self.multiplier = config, config.multiplier

    def advantages(self, branches: Branches, estimates: Estimates) -> tuple[Tensor, Logs]:
        """Return the advantages under the multiplier as it was, then move it; logs it and the imagined cost."""
        config, kept = self.config, branches.counted
        late = kept.clone()
        late[: len(late) // 2] = False
        late &= (branches.costs[0] <= VIOLATION) | branches.unknown[0]
        cost = (branches.costs[late].sum() / late.sum().clamp(min=1)).item() * config.episode_length
        reward = normalised(estimates.reward.advantages, kept)
        price = normalised(estimates.cost.advantages, kept)
        found = (reward - self.multiplier * price) / (1.0 + self.multiplier)
        logs = {"multiplier": self.multiplier, "episode_cost": cost}
        excess = max(-1.0, min(cost / (config.margin * config.limit) - 1.0, 1.0))
        moved = self.multiplier * math.exp(config.rate * excess)
        self.multiplier = max(1.0 / config.largest, min(moved, config.largest))
        return found, logs

    def state(self) -> dict[str, Any]:
        """Return the multiplier."""
        return {"multiplier": self.multiplier}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.multiplier = float(state["multiplier"])


class Split(Arm):
    """FISOR's split of what counts (Zheng et al. 2024, eq. 11), of the policy's own imagined decisions.

    Feasible states and actions, V_h <= 0 and Q_h <= 0, are praised for their reward; actions that leave the feasible
    set are blamed by |A_h|; outside it the way back counts, -A_h less its mean. A_h = Q_h - V_h is that of critics
    that were learnt from data and stay as they are, over its deviation. No cost limit is needed.
    """

    def __init__(self, critics: Critics, standardizer: Standardizer) -> None:
        self.critics, self.standardizer = critics.requires_grad_(False).eval(), standardizer

    @torch.no_grad()
    def advantages(self, branches: Branches, estimates: Estimates) -> tuple[Tensor, Logs]:
        """Return the advantages; logs the shares of infeasible states and of actions that leave the feasible set."""
        kept, shape = branches.counted, branches.rewards.shape
        states = self.standardizer.normalize(branches.states.flatten(0, 1)).unsqueeze(0)
        values = self.critics.values(states, branches.actions.flatten(0, 1).unsqueeze(0))["feasibility"]
        q, v = values.q.view(shape), values.v.view(shape)
        outside, leaving = v > 0.0, (v <= 0.0) & (q > 0.0)
        ahead = (q - v) / (q - v)[kept].std(correction=0).clamp(min=1e-6)
        back = -(ahead - ahead[kept & outside].mean()) if (kept & outside).any() else -ahead
        inside = kept & ~outside & ~leaving
        reward = normalised(estimates.reward.advantages, inside if inside.any() else kept)
        found = torch.where(outside, back, torch.where(leaving, -ahead.abs(), reward)).clamp(-CLIP, CLIP)
        logs = {
            "infeasible": outside[kept].float().mean().item(),
            "leaving": leaving[kept].float().mean().item(),
        }
        return found, logs


def normalised(values: Tensor, kept: Tensor) -> Tensor:
    """Return values (T, n) less the mean of those `kept` (T, n) bool, over their deviation, cut to +-5."""
    chosen = values[kept]
    return ((values - chosen.mean()) / (chosen.std(correction=0) + 1e-4)).clamp(-CLIP, CLIP)
