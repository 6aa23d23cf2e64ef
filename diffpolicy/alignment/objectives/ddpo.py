"""DDPO: denoising as a decision process of many steps, and PPO on each of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from diffpolicy.alignment.edges import Likelihoods, Steps, clipped_loss
from diffpolicy.alignment.objective import Needs, Objective, Part, Roles, role
from diffpolicy.alignment.samples import Rated
from diffpolicy.diffusion import GaussianProcess, StepRule


@dataclass(frozen=True)
class DDPOConfig(Steps):
    """Which steps are learnt from and how they are clipped, see `Steps`: all of them, at 1 +- 1e-4.

    On robots this is DPPO with, say, `DDPOConfig(0.01, first_clip=0.001, last_steps=10, discount=0.99)`, a rule with
    `minimum_std=0.1`, and the executed actions as mask of the roll-out: few elements need wider clips. The authors run
    all but the last steps with a frozen copy; here one network takes all steps, and the earlier ones drift with it.
    """


@dataclass(frozen=True)
class DDPO(Objective[Rated]):
    """`L = mean over samples and steps of max(-A rho, -A clip(rho, 1-eps, 1+eps))` (Black et al. 2024, section 4.3).

    rho = p_theta(x_next | x)/p_old(x_next | x), per element; at theta = old the gradient is that of -A log p. Its own
    advantages are those of a buffer for each prompt. Where the authors draw the order of steps for every sample, the
    share of them is drawn for the minibatch: a denoiser call has one level.
    """

    process: GaussianProcess
    rule: StepRule
    config: DDPOConfig = DDPOConfig()

    @property
    def needs(self) -> Needs:
        """Rated samples with their steps."""
        return Needs(path=True, rewards=True, guided=True)

    @property
    def _likelihoods(self) -> Likelihoods:
        return Likelihoods(self.process, self.rule, self.config)

    def parts(self, batch: Rated, roles: Roles, generator: torch.Generator) -> Iterator[Part]:
        """Yield the loss of each step; logs the ratio's deviation, the clipped share and an estimate of KL."""
        for taken in self._likelihoods.taken(batch.rollout, role(roles, "train"), generator):
            loss, logs = clipped_loss(taken, taken.advantages(batch.advantages))
            yield Part(taken.weight * loss, logs)

    def check(self, batch: Rated, roles: Roles) -> None:
        """Refuse to start unless every likelihood ratio is 1.

        Raises:
            TrainingError: if one is not.
        """
        self._likelihoods.check(batch.rollout, role(roles, "train"))
