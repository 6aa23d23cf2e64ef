"""Which decisions made an episode good: advantages of decisions, against episodes of the same start or a learnt value.

Both see the best score that an episode has reached so far; what raises it is the reward of a decision.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffpolicy.alignment import Logs, gae, group_advantages
from diffpolicy.alignment.values import ValueNetwork
from diffpolicy.policies.alignment_play import Decisions

CLIP = 5.0  # of advantages, in standard deviations


class Credit(ABC):
    """Gives every decision of a roll-out its advantage."""

    @abstractmethod
    def advantages(self, played: Decisions, group: Tensor, generator: torch.Generator) -> tuple[Tensor, Logs]:
        """Return advantages (T, n) of standard deviation about 1, for episodes in groups (n,), and what to log."""

    def state(self) -> dict[str, Any]:
        """Return what is remembered from one roll-out to the next, copied."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        assert not state, "this credit remembers nothing"


class GroupCredit(Credit):
    """An episode's score less the mean of its group, over the deviation of all, shared by its decisions (GRPO)."""

    def advantages(self, played: Decisions, group: Tensor, generator: torch.Generator) -> tuple[Tensor, Logs]:
        """Return the advantages (T, n); logs the share of groups whose episodes all scored the same."""
        found = group_advantages(played.score[-1], group, "global", clip=CLIP)
        groups = len(torch.unique(group))
        return found.values.expand(len(played.score), -1), {"flat_groups": found.flat_groups / groups}


@dataclass(frozen=True)
class ValueConfig:
    """`gamma` and `lam` of GAE, per decision; the value network is fitted for `epochs` passes in batches of `batch`.

    Before the first advantages it is fitted to that roll-out's returns to go for `warm_up` passes: without a value,
    early decisions would look better than late ones, whatever they are.
    """

    gamma: float = 0.99
    lam: float = 0.95
    learning_rate: float = 1e-3
    epochs: int = 5
    warm_up: int = 20
    batch: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0.0 <= self.gamma <= 1.0 and 0.0 <= self.lam <= 1.0):
            raise ValueError(f"gamma and lam lie between 0 and 1, got {self.gamma} and {self.lam}")
        if not self.learning_rate > 0.0 or min(self.epochs, self.batch) < 1 or self.warm_up < 0:
            raise ValueError(
                "a value is learnt at a positive rate, in one epoch or more, in batches of one or more, after no or "
                f"some warm-up, got {self.learning_rate}, {self.epochs}, {self.batch} and {self.warm_up}"
            )


class ValueCredit(Credit):
    """Generalised advantages of decisions (Schulman et al. 2016) from a value network, over their deviation.

    A decision's reward is by how much it raised the best score. The value sees `tokens` numbers of an observation, the
    best score so far and the share of the time that has passed. It begins at 0 everywhere, and is fitted to the returns
    of a roll-out after their advantages have been taken.
    """

    def __init__(
        self,
        tokens: int,
        decisions: int,
        config: ValueConfig | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.config, self.decisions = config or ValueConfig(), decisions
        rate, batch, seed = self.config.learning_rate, self.config.batch, self.config.seed
        self.value = ValueNetwork(tokens + 2, rate, batch, seed, device)

    def advantages(self, played: Decisions, group: Tensor, generator: torch.Generator) -> tuple[Tensor, Logs]:
        """Return the advantages (T, n), then fit the value; logs how much of the returns it had explained."""
        config, running = self.config, played.running
        before = torch.cat([torch.zeros_like(played.score[:1]), played.score[:-1]])
        inputs = self._inputs(played, before)
        rewards, ends = played.score - before, torch.cat([~running[1:], torch.ones_like(running[:1])])
        none = torch.zeros_like(torch.cat([rewards, rewards[:1]]))
        if not self.value.fitted:
            to_go = gae(rewards, none, ends, config.gamma, 1.0)
            self.value.fit(inputs[running], to_go[running], config.warm_up, generator)
        values = self.value(inputs)
        found = gae(rewards, torch.cat([values, none[:1]]), ends, config.gamma, config.lam)
        returns, counted = (found + values)[running], found[running]
        spread = counted.std(correction=0)
        scaled = ((found - counted.mean()) / (spread + 1e-4)).clamp(-CLIP, CLIP)
        explained = 1.0 - (returns - values[running]).var(correction=0) / (returns.var(correction=0) + 1e-8)
        self.value.fit(inputs[running], returns, config.epochs, generator)
        return scaled, {"explained": explained.item(), "value": values[running].mean().item()}

    def state(self) -> dict[str, Any]:
        """Return weights and optimiser."""
        return self.value.state()

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.value.load_state(state)

    def _inputs(self, played: Decisions, before: Tensor) -> Tensor:
        passed = torch.arange(len(before), device=before.device) / self.decisions
        seen = played.condition["tokens"].flatten(2)
        return torch.cat([seen, before.unsqueeze(-1), passed.view(-1, 1, 1).expand(*before.shape, 1)], dim=-1)
