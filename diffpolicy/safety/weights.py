"""How much each recorded action counts when the diffusion actor clones it (FISOR, eq. 11; energy-guided weights).

Training with the weight outside the noise expectation gives exactly the distribution proportional to
`behaviour x weight`, so no classifier guidance is needed (FISOR, theorem 2).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from diffpolicy.safety.errors import SafetyError


class Value(NamedTuple):
    """Critic values of recorded transitions, both of one shape: `q` of the action, `v` of the state."""

    q: Tensor
    v: Tensor

    @property
    def advantage(self) -> Tensor:
        """Return q - v."""
        return self.q - self.v


Values = Mapping[str, Value]
"""By kind: "reward" is better when high; "feasibility" (<= 0 is feasible) and "cost" are better when low."""


@dataclass(frozen=True)
class WeightConfig:
    """Temperatures and clips of the weights (FISOR: 3, 5, 100, 150)."""

    reward_temperature: float = 3.0
    feasibility_temperature: float = 5.0
    reward_clip: float = 100.0
    feasibility_clip: float = 150.0

    def __post_init__(self) -> None:
        # Beyond any number, a weight times 0 is not a number.
        for name in ("reward_temperature", "feasibility_temperature"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise SafetyError(f"weights.{name} is 0 or more, and finite, got {getattr(self, name)}")
        for name in ("reward_clip", "feasibility_clip"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise SafetyError(f"weights.{name} is above 0, and finite, got {getattr(self, name)}")


def reward_weights(values: Values, config: WeightConfig) -> Tensor:
    """Return `exp(reward_temperature (Q - V))`, clipped: advantage weighting that knows no cost (IQL, IDQL)."""
    return torch.exp(config.reward_temperature * values["reward"].advantage).clamp(max=config.reward_clip)


def _split(values: Values, outside: str, config: WeightConfig) -> Tensor:
    """Weigh by reward inside the feasible set, by low `outside` value outside it, 0 for actions that leave it."""
    feasible = values["feasibility"]
    inside = reward_weights(values, config) * (feasible.q <= 0)
    escape = torch.exp(-config.feasibility_temperature * values[outside].advantage)
    return torch.where(feasible.v > 0, escape.clamp(max=config.feasibility_clip), inside)


def fisor_weights(values: Values, config: WeightConfig) -> Tensor:
    """Return FISOR's weights: outside the feasible set, by the advantage of the feasible value."""
    return _split(values, "feasibility", config)


def recovery_weights(values: Values, config: WeightConfig) -> Tensor:
    """Return FISOR's weights with the cost still to be paid deciding outside the feasible set (ours).

    Inside a violation the feasible value of every action is the same (h is at its maximum already), so nothing
    teaches the way back. The discounted cost-to-come does differ: it is lower for actions that leave sooner.
    """
    return _split(values, "cost", config)


WEIGHTS: Mapping[str, Callable[[Values, WeightConfig], Tensor]] = {
    "reward": reward_weights,
    "fisor": fisor_weights,
    "recovery": recovery_weights,
}
