"""DPOK: policy gradients with a learnt baseline, held to the base where the policy itself goes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diffpolicy.alignment.edges import Likelihoods, Steps, Taken, clipped_loss
from diffpolicy.alignment.objective import Logs, Needs, Objective, Owned, Part, Roles, role
from diffpolicy.alignment.samples import Rated, rows
from diffpolicy.alignment.tree import node_values
from diffpolicy.diffusion import GaussianProcess, StepRule, Tree
from diffpolicy.networks.embedding import sinusoid
from diffpolicy.networks.layers import linear

VALUE = "value"


@dataclass(frozen=True)
class DPOKConfig(Steps):
    """`reward_weight` multiplies the policy's loss and `kl_weight` the distance to the reference.

    The published 10 and 0.01 (1000 and 0.1 for many prompts) go with rewards of about 1 and their distance, the squared
    difference of noise predictions; the exact KL used here is larger where steps are small.
    """

    reward_weight: float = 10.0
    kl_weight: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.reward_weight > 0.0 or not self.kl_weight >= 0.0:
            raise ValueError(
                "DPOK needs reward_weight > 0 and kl_weight >= 0, got "
                f"{self.reward_weight} and {self.kl_weight}"
            )


@dataclass(frozen=True)
class DPOK(Objective[Rated]):
    """`L = mean of w_r max(-A rho, -A clip(rho, 1-eps, 1+eps)) + w_kl KL(p_theta || p_ref)` (Fan et al. 2023, eq. 8).

    The KL is the exact one of each step, at iterates that the policy itself has reached: that tells it from fine-tuning
    on fixed samples. The authors' code clips the ratio without the maximum, so that a step that has gone wrong beyond
    the clip is never called back; the maximum is PPO's.

    With a `value`, see `value_network`, A = r - V(x_t, t, c) of the raw reward and V is regressed on it; without one,
    advantages are those of the batch. In a tree r is the mean over the samples that a step leads to.
    """

    process: GaussianProcess
    rule: StepRule
    config: DPOKConfig = DPOKConfig()
    value: Owned | None = None

    @property
    def needs(self) -> Needs:
        """Rated samples with their steps, and the reference."""
        return Needs(path=True, rewards=True, guided=True, reference=True)

    @property
    def owned(self) -> Mapping[str, Owned]:
        """The value, if there is one."""
        return {} if self.value is None else {VALUE: self.value}

    @property
    def _likelihoods(self) -> Likelihoods:
        return Likelihoods(self.process, self.rule, self.config)

    def parts(self, batch: Rated, roles: Roles, generator: torch.Generator) -> Iterator[Part]:
        """Yield the loss of each step; logs what DDPO does, "kl", and the squared error of the value."""
        for taken in self._likelihoods.taken(batch.rollout, role(roles, "train"), generator):
            advantages, regression, value_logs = self._advantages(taken, batch)
            policy, logs = clipped_loss(taken, advantages)
            reference = self._likelihoods.constant(batch.rollout, taken.edges, role(roles, "reference"))
            kl = taken.step.kl(reference, taken.mask).mean()
            loss = self.config.reward_weight * policy + self.config.kl_weight * kl + regression
            yield Part(taken.weight * loss, logs | {"kl": kl.item()} | value_logs)

    def check(self, batch: Rated, roles: Roles) -> None:
        """Refuse to start unless every likelihood ratio is 1.

        Raises:
            TrainingError: if one is not.
        """
        self._likelihoods.check(batch.rollout, role(roles, "train"))

    def _advantages(self, taken: Taken, batch: Rated) -> tuple[Tensor, Tensor | float, Logs]:
        """Return the advantages (M,) of steps, the loss of the value, and its logs."""
        if self.value is None:
            return taken.advantages(batch.advantages), 0.0, {}
        found = taken.edges
        level = torch.full((len(found.origin),), found.level, device=found.states.device)
        condition = rows(batch.rollout.condition, found.origin)
        value = self.value.module(found.states.float(), level, condition)[found.parent]
        away = self._returns(taken, batch) - value
        error = away.square().mean()
        return taken.discount * away.detach(), error, {"value_error": error.item()}

    def _returns(self, taken: Taken, batch: Rated) -> Tensor:
        """Return the rewards (M,) that steps lead to: the mean over all leaves of a tree that lie beyond a step."""
        path = batch.rollout.path
        if isinstance(path, Tree):
            return node_values(path, batch.rewards)[taken.number + 1].to(batch.rewards)
        return batch.rewards[taken.edges.leaf]


class ValueNetwork(nn.Module):
    """The reward to be expected (N,) of iterates (N, *S) at levels (N,), given a condition (N, ...) if it is a tensor.

    Other conditions, and those it was built without, are not looked at.
    """

    def __init__(
        self,
        elements: int,
        condition_elements: int,
        width: int,
        generator: torch.Generator,
        embedding: int = 32,
    ) -> None:
        super().__init__()
        self.embedding, self.condition_elements = embedding, condition_elements
        self.layers = nn.Sequential(
            linear(elements + embedding + condition_elements, width, generator),
            nn.SiLU(),
            linear(width, width, generator),
            nn.SiLU(),
            linear(width, 1, generator),
        )

    def forward(self, noisy: Tensor, level: Tensor, condition: Any) -> Tensor:
        """Return the values (N,)."""
        seen = [noisy.flatten(1), sinusoid(level, self.embedding)]
        if self.condition_elements:
            seen.append(condition.flatten(1).float())
        values: Tensor = self.layers(torch.cat(seen, dim=1))
        return values[:, 0]


def value_network(
    elements: int,
    generator: torch.Generator,
    condition_elements: int = 0,
    width: int = 256,
    learning_rate: float = 1e-4,
) -> Owned:
    """Return a value for samples of `elements` numbers each, and conditions of `condition_elements`, to be trained.

    Its first weights are the generator's, and on its device. (Fan et al. 2023 train at 1e-4.)
    """
    return Owned(ValueNetwork(elements, condition_elements, width, generator), learning_rate)
