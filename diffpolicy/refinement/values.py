"""What branches are worth: values of reward and cost, and generalised advantages that look beyond a branch's end."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffpolicy.alignment import Logs, gae
from diffpolicy.alignment.values import Unit, ValueNetwork
from diffpolicy.data import OfflineDataset, Standardizer
from diffpolicy.refinement.branches import Branches
from diffpolicy.refinement.errors import RefinementError
from diffpolicy.safety import behaviour_values, violation_values


@dataclass(frozen=True)
class BranchValueConfig:
    """`gamma` and `lam` of GAE per step; networks are fitted for `epochs` passes over every roll-out.

    They begin as the values of the policy that made the data, fitted to its returns for `data_epochs` passes.
    """

    gamma: float = 0.99
    lam: float = 0.95
    hidden: tuple[int, ...] = (128, 128)
    learning_rate: float = 1e-3
    epochs: int = 4
    data_epochs: int = 5
    batch: int = 1024

    def __post_init__(self) -> None:
        if not (0.0 <= self.gamma < 1.0 and 0.0 <= self.lam <= 1.0):
            raise RefinementError(f"gamma lies in [0, 1) and lam in [0, 1], got {self.gamma} and {self.lam}")
        if not self.learning_rate > 0.0 or min(self.epochs, self.batch) < 1 or self.data_epochs < 0:
            raise RefinementError(f"values are learnt at a positive rate, in an epoch or more, got {self}")


class Estimate(NamedTuple):
    """Advantages and returns (T, n) of one signal."""

    advantages: Tensor
    returns: Tensor


class Estimates(NamedTuple):
    """Estimates of rewards and of costs."""

    reward: Estimate
    cost: Estimate


class BranchValues:
    """A value network for rewards and one for costs, of standardised states.

    `features` turns states (..., O) into what the observations of `dataset` are, where those are not states: pictures
    into the features of a frozen encoder.
    """

    def __init__(
        self,
        dataset: OfflineDataset,
        config: BranchValueConfig | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        features: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.config = config = config or BranchValueConfig()
        self._features = features
        self.standardizer = Standardizer.fit(dataset).to(device)
        generator = torch.Generator(device).manual_seed(seed)
        h = violation_values(dataset.costs)
        achieved = behaviour_values(dataset.rewards, dataset.costs, h, dataset.episode_ends, config.gamma)
        inputs = self.standardizer.normalize(dataset.observations[dataset.rows].to(device))
        self.networks: list[ValueNetwork] = []
        for number, returns in enumerate((achieved[0], achieved[2])):
            network = ValueNetwork(
                dataset.observation_size,
                config.learning_rate,
                config.batch,
                2 * seed + number,
                device,
                config.hidden,
                Unit.of(returns),
            )
            network.fit(inputs, returns.to(device), config.data_epochs, generator)
            self.networks.append(network)

    def estimates(self, branches: Branches) -> Estimates:
        """Return advantages and returns under the present values."""
        return Estimates(*(self._estimate(branches, number) for number in range(2)))

    def fit(self, branches: Branches, estimates: Estimates, generator: torch.Generator) -> Logs:
        """Fit both networks to the returns of branches; logs the mean returns and how much was explained before."""
        kept = branches.counted
        inputs = self._inputs(branches.states[kept])
        logs: Logs = {}
        for name, network, found in zip(("reward", "cost"), self.networks, estimates, strict=True):
            returns = found.returns[kept]
            left = found.advantages[kept].var(correction=0) / (returns.var(correction=0) + 1e-8)
            logs |= {f"value/{name}": returns.mean().item(), f"explained/{name}": 1.0 - left.item()}
            network.fit(inputs, returns, self.config.epochs, generator)
        return logs

    def state(self) -> list[dict[str, Any]]:
        """Return weights and optimisers, copied."""
        return [network.state() for network in self.networks]

    def load_state(self, state: list[dict[str, Any]]) -> None:
        """Go on from what `state` returned."""
        for network, stored in zip(self.networks, state, strict=True):
            network.load_state(stored)

    def _inputs(self, states: Tensor) -> Tensor:
        seen = states if self._features is None else self._features(states)
        return self.standardizer.normalize(seen)

    def _estimate(self, branches: Branches, number: int) -> Estimate:
        config, network = self.config, self.networks[number]
        signal = (branches.rewards, branches.costs)[number]
        now, after = network(self._inputs(branches.states)), network(self._inputs(branches.following))
        # Nobody knows what comes after the unknown: no gain of it is believed, and its cost is that of the step itself,
        # which is a violation, and of what is to be expected from there.
        after = torch.where(
            branches.unknown, after.clamp(max=0.0) if number == 0 else after.clamp(min=0.0), after
        )
        paid = signal + config.gamma * torch.where(branches.truncated, after, 0.0)
        values = torch.cat([now, torch.zeros_like(now[:1])])
        advantages = gae(paid, values, branches.ended, config.gamma, config.lam)
        return Estimate(advantages, advantages + now)
