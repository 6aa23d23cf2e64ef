"""Acting with a diffusion actor: draw candidates, let the critics choose one (FISOR, section 3.4)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from diffpolicy.data import Standardizer
from diffpolicy.policies.actors import DiffusionActors
from diffpolicy.policies.policy import ActionChunk, Memory, Observation
from diffpolicy.safety import Critics

Rule = Callable[[Mapping[str, Tensor]], Tensor]
"""Maps action values by kind, each (B, N), to the index (B,) of the chosen candidate."""


def _first(values: Mapping[str, Tensor]) -> Tensor:
    return torch.zeros_like(values["reward"][:, 0], dtype=torch.int64)


def _safest(values: Mapping[str, Tensor]) -> Tensor:
    return values["feasibility"].argmin(dim=1)


def _highest_reward(values: Mapping[str, Tensor]) -> Tensor:
    return values["reward"].argmax(dim=1)


def _feasible_else(values: Mapping[str, Tensor], fallback: Tensor) -> Tensor:
    feasible = values["feasibility"] <= 0
    best = torch.where(feasible, values["reward"], -torch.inf).argmax(dim=1)
    return torch.where(feasible.any(dim=1), best, fallback)


def _best_feasible(values: Mapping[str, Tensor]) -> Tensor:
    return _feasible_else(values, _safest(values))


def _recover(values: Mapping[str, Tensor]) -> Tensor:
    return _feasible_else(values, values["cost"].argmin(dim=1))


RULES: Mapping[str, Rule] = {
    "first": _first,  # no selection
    "safest": _safest,  # lowest feasible value: the published rule
    "highest_reward": _highest_reward,  # as IDQL, knows no cost
    "best_feasible": _best_feasible,  # highest reward value among candidates with Q_h <= 0, else the safest (ours)
    "recover": _recover,  # the same, but with no feasible candidate the one with the least cost to come (ours)
}


@dataclass(frozen=True)
class Arm:
    """A way to act: which actor proposes, how many candidates, which rule chooses."""

    actor: str
    rule: str
    candidates: int


ARMS: Mapping[str, Arm] = {
    "bc": Arm("none", "first", 1),
    "bc_safe": Arm("safe", "first", 1),
    "bc_safest": Arm("none", "safest", 16),  # FISOR's selection without its weights
    "bc_best_feasible": Arm("none", "best_feasible", 16),  # our selection without FISOR's weights
    "reward": Arm("reward", "first", 1),
    "reward_max_q": Arm("reward", "highest_reward", 16),
    "fisor_1": Arm("fisor", "first", 1),
    "fisor_4": Arm("fisor", "safest", 4),
    "fisor": Arm("fisor", "safest", 16),  # as published
    "best_feasible_4": Arm("fisor", "best_feasible", 4),
    "best_feasible": Arm("fisor", "best_feasible", 16),
    "recovery": Arm("recovery", "recover", 16),
}


class CandidatePolicy:
    """Draws `arm.candidates` actions per observation from one actor and executes the one its rule chooses.

    With `compiled`, denoising and selection become one fused graph (a minute at the first call for each batch size;
    needs a C++ compiler); with `precision` bfloat16 the denoiser computes in it, the critics never do.
    """

    def __init__(
        self,
        actors: DiffusionActors,
        critics: Critics,
        standardizer: Standardizer,
        arm: Arm,
        *,
        precision: torch.dtype = torch.float32,
        compiled: bool = False,
    ) -> None:
        """Wrap single-member `actors` and single-seed `critics`, all on one device; the policy owns them."""
        self.actors, self.critics, self.standardizer, self.arm = actors, critics, standardizer, arm
        self.device = critics.sign.device
        self.actors.average.to(precision)
        self._decide = torch.compile(self.choose, options={"freezing": True}) if compiled else self.choose

    observation_horizon = 1

    def start(self, batch: int, seed: int) -> Memory:
        """Return the memory of `batch` fresh roll-outs."""
        return Memory(torch.Generator(self.device).manual_seed(seed))

    @torch.no_grad()
    def act(self, observation: Observation, memory: Memory) -> tuple[ActionChunk, Memory]:
        """Return one action (B, 1, A) for each roll-out, with the feasible value of the chosen one."""
        state = observation.newest.to(self.device)
        noise = self.actors.draw(1, len(state) * self.arm.candidates, memory.generator)
        action, feasible_value = self._decide(state, noise)
        return ActionChunk(action.unsqueeze(1), feasible_value), memory

    def choose(self, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the chosen actions (B, A) and their feasible values (B,)."""
        count = self.arm.candidates
        states = self.standardizer.normalize(observation).repeat_interleave(count, dim=0).unsqueeze(0)
        actions = self.actors.sample(states, noise)
        q = self.critics.action_values(states, actions)[0].view(
            len(self.critics.kinds), -1, count
        )  # (K, B, N)
        values = dict(zip(self.critics.kinds, q, strict=True))
        chosen = RULES[self.arm.rule](values).unsqueeze(1)
        actions = actions.view(len(observation), count, -1)
        picked = actions.gather(1, chosen.unsqueeze(2).expand(-1, -1, actions.shape[2])).squeeze(1)
        return picked, values["feasibility"].gather(1, chosen).squeeze(1)
