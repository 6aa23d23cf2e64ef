"""Rewards made of rewards: several as one, one with a cap, and an ensemble that doubts itself."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffpolicy.alignment.reward import Reward, Rewards, rate
from diffpolicy.alignment.scalarise import Scalariser


@dataclass(frozen=True)
class RewardSet(Reward):
    """Several rewards by name, one number by a scalariser; the total of a `cost` is what is to be kept low.

    The terms are the total of every reward under its name, its own terms under "name/term", and "cost", which the
    scalariser sees too. Samples of equal labels are a group for it.
    """

    rewards: Mapping[str, Reward]
    scalariser: Scalariser
    cost: Reward | None = None

    def __post_init__(self) -> None:
        if not self.rewards or "cost" in self.rewards:
            raise ValueError("a reward set has one reward or more, and none is named 'cost'")

    @property
    def differentiable(self) -> bool:
        """Whether the scalariser and all rewards are."""
        return self.scalariser.differentiable and all(
            each.differentiable for each in self._members().values()
        )

    def __call__(self, samples: Tensor, labels: Sequence[Any]) -> Rewards:
        """Return the total with its terms and cost."""
        rated = {name: rate(reward, samples, labels) for name, reward in self._members().items()}
        totals = {name: each.total for name, each in rated.items()}
        terms = totals | {
            f"{name}/{term}": values for name, each in rated.items() for term, values in each.terms.items()
        }
        total = self.scalariser(totals, _groups(labels, samples.device))
        return Rewards(total, {k: v.detach() for k, v in terms.items() if k != "cost"}, totals.get("cost"))

    def state(self) -> dict[str, Any]:
        """Return what the scalariser and the rewards remember."""
        members = {name: reward.state() for name, reward in self._members().items()}
        return {"scalariser": self.scalariser.state(), "rewards": members}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.scalariser.load_state(state["scalariser"])
        for name, reward in self._members().items():
            reward.load_state(state["rewards"][name])

    def _members(self) -> dict[str, Reward]:
        return dict(self.rewards) | ({} if self.cost is None else {"cost": self.cost})


@dataclass(frozen=True)
class Capped(Reward):
    """`min(r, cap)`: nothing is gained beyond the cap, and the gradient there is 0. The term "uncapped" is r."""

    reward: Reward
    cap: float

    @property
    def differentiable(self) -> bool:
        """Whether the reward is."""
        return self.reward.differentiable

    def __call__(self, samples: Tensor, labels: Sequence[Any]) -> Rewards:
        """Return the capped rewards, with the terms of the reward."""
        given = rate(self.reward, samples, labels)
        return given._replace(
            total=given.total.clamp(max=self.cap), terms={**given.terms, "uncapped": given.total.detach()}
        )

    def state(self) -> dict[str, Any]:
        """Return what the reward remembers."""
        return self.reward.state()

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.reward.load_state(state)


@dataclass(frozen=True)
class Pessimistic(Reward):
    """`mean - k std` over an ensemble of rewards, std being the `uncertainty`, so that doubt is not exploited.

    The deviation is not corrected for the ensemble's size. The term "mean" is the mean.
    """

    rewards: Sequence[Reward]
    k: float = 1.0

    def __post_init__(self) -> None:
        if len(self.rewards) < 2 or self.k < 0.0:
            raise ValueError(
                f"an ensemble has two rewards or more and k >= 0, got {len(self.rewards)} and k={self.k}"
            )

    @property
    def differentiable(self) -> bool:
        """Whether all of its rewards are."""
        return all(reward.differentiable for reward in self.rewards)

    def __call__(self, samples: Tensor, labels: Sequence[Any]) -> Rewards:
        """Return the pessimistic rewards."""
        values = torch.stack([rate(reward, samples, labels).total for reward in self.rewards])
        mean, variance = values.mean(0), values.var(0, correction=0)
        # Where all agree the root has no gradient: 0 is a subgradient, NaN is not.
        agree = variance == 0.0
        deviation = torch.where(agree, 0.0, torch.where(agree, 1.0, variance).sqrt())
        return Rewards(mean - self.k * deviation, {"mean": mean.detach()}, uncertainty=deviation.detach())

    def state(self) -> dict[str, Any]:
        """Return what the rewards remember."""
        return {"rewards": [reward.state() for reward in self.rewards]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        for reward, stored in zip(self.rewards, state["rewards"], strict=True):
            reward.load_state(stored)


def _groups(labels: Sequence[Hashable], device: torch.device) -> Tensor:
    """Return the number of the label of every sample, (B,) int64."""
    numbers: dict[Hashable, int] = {}
    return torch.tensor([numbers.setdefault(label, len(numbers)) for label in labels], device=device)
