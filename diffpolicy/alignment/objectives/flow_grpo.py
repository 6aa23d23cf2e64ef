"""Flow-GRPO: group-relative advantages on the steps of a flow made stochastic, and a distance to the base."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from diffpolicy.alignment.edges import Likelihoods, Steps, Taken, clipped_loss
from diffpolicy.alignment.objective import Needs, Objective, Part, Roles, role
from diffpolicy.alignment.samples import Rated
from diffpolicy.diffusion import GaussianProcess, StepRule


@dataclass(frozen=True)
class FlowGRPOConfig(Steps):
    """`beta` multiplies the distance to the reference, 0.04 for compositional rewards and 0.01 for preference models.

    The last step is left out, as published.
    """

    beta: float = 0.04
    skip_last: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.beta >= 0.0:
            raise ValueError(f"the beta of Flow-GRPO is 0 or more, got {self.beta}")


@dataclass(frozen=True)
class FlowGRPO(Objective[Rated]):
    """`L = mean of max(-A rho, -A clip(rho, 1-eps, 1+eps)) + beta |mu - mu_ref|^2/(2 sigma_t^2)` (Liu et al. 2025).

    sigma_t is the diffusion and not the step's deviation sigma_t sqrt(dt): the authors drop dt on purpose (issue 22 of
    their code), since time steps grow towards the clean sample and would weaken the distance where quality is made.
    The distance is thus dt times the step's exact KL, dt in the time noise/(signal + noise). Its own rule is
    "flow_sde", its advantages divide by the deviation of all rewards.
    """

    process: GaussianProcess
    rule: StepRule
    config: FlowGRPOConfig = FlowGRPOConfig()

    @property
    def needs(self) -> Needs:
        """Rated samples with their steps and, if it is weighed in, the reference."""
        return Needs(path=True, rewards=True, guided=True, reference=self.config.beta > 0.0)

    @property
    def _likelihoods(self) -> Likelihoods:
        return Likelihoods(self.process, self.rule, self.config)

    def parts(self, batch: Rated, roles: Roles, generator: torch.Generator) -> Iterator[Part]:
        """Yield the loss of each step; logs what DDPO does, and the distance as "kl"."""
        for taken in self._likelihoods.taken(batch.rollout, role(roles, "train"), generator):
            loss, logs = clipped_loss(taken, taken.advantages(batch.advantages))
            if self.config.beta > 0.0:
                kl = self._distance(taken, batch, roles)
                loss, logs = loss + self.config.beta * kl, logs | {"kl": kl.item()}
            yield Part(taken.weight * loss, logs)

    def check(self, batch: Rated, roles: Roles) -> None:
        """Refuse to start unless every likelihood ratio is 1.

        Raises:
            TrainingError: if one is not.
        """
        self._likelihoods.check(batch.rollout, role(roles, "train"))

    def _distance(self, taken: Taken, batch: Rated, roles: Roles) -> Tensor:
        reference = self._likelihoods.constant(batch.rollout, taken.edges, role(roles, "reference"))
        passed = self._time(taken.edges.level) - self._time(taken.edges.next_level)
        return passed * taken.step.kl(reference, taken.mask).mean()

    def _time(self, level: int) -> float:
        signal, noise = self.process.signal_at(level), self.process.noise_at(level)
        return noise / (signal + noise)
