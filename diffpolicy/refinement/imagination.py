"""Imagined experience: a frozen world model in the place of the robot, for any objective of recorded steps."""

from dataclasses import dataclass
from typing import Any

import torch

from diffpolicy.alignment import Experience, Gathered, Logs, Model, Roles, role
from diffpolicy.diffusion import StepRule
from diffpolicy.refinement.arms import Arm
from diffpolicy.refinement.branches import Branches, play_branches, rated
from diffpolicy.refinement.errors import RefinementError
from diffpolicy.refinement.values import BranchValues, Estimates
from world_models import ImaginedEnv


@dataclass(frozen=True)
class ImaginationConfig:
    """Before the policy first learns, values are fitted to `warm_up` roll-outs of it.

    A batch holds every decision `passes` times, as PPO goes over a roll-out several times. With `success` branches end
    at a success that the model predicts with a probability above `certainty`, see `play_branches`.
    """

    warm_up: int = 10
    passes: int = 4
    success: bool = False
    certainty: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 < self.certainty < 1.0:
            raise RefinementError(
                f"successes are believed above a probability, got certainty={self.certainty}"
            )
        if self.warm_up < 0 or self.passes < 1:
            raise RefinementError(f"warm_up is 0 or more and passes 1 or more, got {self}")


class Imagination(Experience):
    """Rated decisions of a Gaussian policy in a world model: begun at real moments, their ends judged by values."""

    def __init__(
        self,
        model: Model,
        env: ImaginedEnv,
        rule: StepRule,
        arm: Arm,
        values: BranchValues,
        config: ImaginationConfig | None = None,
    ) -> None:
        self.model, self.env, self.rule, self.arm, self.values = model, env, rule, arm, values
        self.config = config or ImaginationConfig()
        self._steps = 0

    def gather(self, roles: Roles, generator: torch.Generator) -> Gathered:
        """Return the decisions of one roll-out.

        Raises:
            WorldModelError: if the world model was changed.
        """
        if self._steps == 0:
            for _ in range(self.config.warm_up):
                branches = self._play(roles, generator)
                self.values.fit(branches, self.values.estimates(branches), generator)
        branches = self._play(roles, generator)
        self.env.check_frozen()
        estimates = self.values.estimates(branches)
        advantages, logs = self.arm.advantages(branches, estimates)
        logs = logs | self.values.fit(branches, estimates, generator) | self._logs(branches, estimates)
        batch = rated(branches, advantages, self.config.passes)
        return Gathered(batch, logs, branches.rewards.numel())

    def state(self) -> dict[str, Any]:
        """Return the imagined steps so far, the values, and what the arm remembers."""
        return {"steps": self._steps, "values": self.values.state(), "arm": self.arm.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._steps = int(state["steps"])
        self.values.load_state(state["values"])
        self.arm.load_state(state["arm"])

    def _play(self, roles: Roles, generator: torch.Generator) -> Branches:
        wanted = self.config.certainty if self.config.success else None
        denoiser = role(roles, "train")
        branches = play_branches(self.model, denoiser, self.rule, self.env, generator, wanted)
        self._steps += branches.rewards.numel()
        return branches

    def _logs(self, branches: Branches, estimates: Estimates) -> Logs:
        kept = branches.counted
        return {
            "reward": branches.rewards[kept].mean().item(),
            "cost": branches.costs[kept].mean().item(),
            "uncertainty": branches.uncertainty[kept].mean().item(),
            "unknown": branches.unknown[kept].float().mean().item(),
            "imagined_steps": float(self._steps),
        }
