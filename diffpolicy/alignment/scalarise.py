"""One number out of several rewards: sums, the worst of them, a constraint with its price, and what Pareto keeps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from diffpolicy.alignment.advantages import group_advantages


class Scalariser(Protocol):
    """Makes one number of several. Implementations inherit from this class."""

    @property
    def differentiable(self) -> bool:
        """Whether gradients flow from the total to the terms."""
        return True

    def __call__(self, terms: Mapping[str, Tensor], group: Tensor) -> Tensor:
        """Return the total (B,) of terms (B,) by name, of samples in groups (B,) int64.

        Raises:
            ValueError: if a term that it names is missing.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Return what is remembered from one call to the next."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        if state:
            raise ValueError(
                f"{type(self).__name__} remembers nothing, yet {', '.join(state)} was stored of it"
            )


@dataclass(frozen=True)
class WeightedSum(Scalariser):
    """`sum_k w_k r_k`, of the terms that have a weight."""

    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        if not self.weights:
            raise ValueError("a weighted sum needs the weight of one reward or more")

    def __call__(self, terms: Mapping[str, Tensor], group: Tensor) -> Tensor:
        """Return the sum (B,)."""
        return torch.stack([weight * _term(terms, name) for name, weight in self.weights.items()]).sum(0)


@dataclass(frozen=True)
class Chebyshev(Scalariser):
    """`-max_k w_k (z_k - r_k)`: minus the largest weighted distance to the `ideal` z, so that no reward is given up."""

    weights: Mapping[str, float]
    ideal: Mapping[str, float]

    def __post_init__(self) -> None:
        if self.weights.keys() != self.ideal.keys() or min(self.weights.values(), default=0.0) <= 0.0:
            raise ValueError(
                "Chebyshev needs a positive weight and an ideal for each of the same rewards, got "
                f"{dict(self.weights)} and {dict(self.ideal)}"
            )

    def __call__(self, terms: Mapping[str, Tensor], group: Tensor) -> Tensor:
        """Return minus the largest distance (B,)."""
        away = [weight * (self.ideal[name] - _term(terms, name)) for name, weight in self.weights.items()]
        return -torch.stack(away).amax(0)


@dataclass(frozen=True)
class NormalisedSum(Scalariser):
    """`sum_k w_k (r_k - mean)/std` over each group, so that no reward's scale decides; see `normalised_advantages`.

    It is an advantage already: take it with advantages "none", and with whole groups in a call.
    """

    weights: Mapping[str, float]

    @property
    def differentiable(self) -> bool:
        """It is not: advantages are weights of samples, not values."""
        return False

    def __call__(self, terms: Mapping[str, Tensor], group: Tensor) -> Tensor:
        """Return the sum (B,)."""
        return normalised_advantages(terms, self.weights, group)


@dataclass(frozen=True)
class Lagrangian(Scalariser):
    """`sum_k w_k r_k - sum_j lam_j max(0, c_j - d_j)`: costs c_j above their `limits` d_j are paid for.

    Every call then moves the prices, `lam_j <- [lam_j + rate (mean c_j - d_j)]_+`, by dual ascent on the batch. A
    judge takes an instance of its own, since its calls would move them too.
    """

    weights: Mapping[str, float]
    limits: Mapping[str, float]
    rate: float = 0.1
    multipliers: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.weights.keys() & self.limits.keys() or not self.limits or not self.rate > 0.0:
            raise ValueError(
                "a Lagrangian needs costs with limits, other than the weighted rewards, and rate > 0, got "
                f"{dict(self.weights)}, {dict(self.limits)} and {self.rate}"
            )
        self.multipliers.update({name: self.multipliers.get(name, 0.0) for name in self.limits})

    def __call__(self, terms: Mapping[str, Tensor], group: Tensor) -> Tensor:
        """Return the total (B,) at the present prices, and move the prices."""
        total = WeightedSum(self.weights)(terms, group)
        for name, limit in self.limits.items():
            cost = _term(terms, name)
            total = total - self.multipliers[name] * (cost - limit).clamp(min=0.0)
            moved = self.multipliers[name] + self.rate * (cost.mean().item() - limit)
            self.multipliers[name] = max(0.0, moved)
        return total

    def state(self) -> dict[str, Any]:
        """Return the prices."""
        return {"multipliers": dict(self.multipliers)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from prices."""
        self.multipliers.update(state["multipliers"])


def normalised_advantages(terms: Mapping[str, Tensor], weights: Mapping[str, float], group: Tensor) -> Tensor:
    """Return `sum_k w_k (r_k - mean)/std` (B,), each reward against its own group (DanceGRPO, Xue et al. 2025).

    Raises:
        ValueError: if a term is missing or not finite, or there are no weights.
    """
    if not weights:
        raise ValueError("normalised advantages need the weight of one reward or more")
    parts = [
        weight * group_advantages(_term(terms, name).detach(), group, "group", clip=None).values
        for name, weight in weights.items()
    ]
    return torch.stack(parts).sum(0)


def pareto_mask(terms: Mapping[str, Tensor], group: Tensor) -> Tensor:
    """Return which samples (B,) bool no other of their group dominates: none is as good in all and better in one."""
    values = torch.stack([value.detach() for value in terms.values()], dim=1)
    no_worse = (values[None] >= values[:, None]).all(2)
    better = (values[None] > values[:, None]).any(2)
    together = group[None] == group[:, None]
    return ~(no_worse & better & together).any(1)


def pareto_advantages(advantages: Tensor, terms: Mapping[str, Tensor], group: Tensor) -> Tensor:
    """Return advantages (B,) of those samples that nothing dominates, times `size of the group / how many they are`.

    The others have 0, so that the mean over a group is that over its Pareto set (Parrot, Lee et al. 2024).
    """
    mask = pareto_mask(terms, group)
    _, index, count = torch.unique(group, return_inverse=True, return_counts=True)
    kept = torch.zeros(len(count), device=group.device).index_add(0, index, mask.float())
    return torch.where(mask, advantages * (count / kept)[index].to(advantages), 0.0)


def _term(terms: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in terms:
        raise ValueError(f"there is no reward {name!r} to weigh; those there are: {', '.join(terms)}")
    return terms[name]
