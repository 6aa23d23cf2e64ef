"""Reward-weighted regression: repeat what was good, in proportion."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from diffpolicy.alignment.matching import Matcher
from diffpolicy.alignment.objective import Needs, Objective, Part, Roles, role
from diffpolicy.alignment.samples import Rated


@dataclass(frozen=True)
class RWR(Objective[Rated]):
    """`L = mean of w mse_theta(x)` with weights w >= 0 (Peters and Schaal 2007; Black et al. 2024, section 4.1).

    The weights are the batch's advantages: those of `softmax_weights`, or an indicator of the best. It is AWM without
    negative weights, hence without a push away from anything: slow and safe.
    """

    matcher: Matcher

    @property
    def needs(self) -> Needs:
        """Rated samples, their advantages weights."""
        return Needs(rewards=True, weights=True)

    def parts(self, batch: Rated, roles: Roles, generator: torch.Generator) -> Iterator[Part]:
        """Yield the mean weighted matching error of each draw; logs the error and the effective share of the samples.

        Raises:
            ValueError: if a weight is negative.
        """
        weights = batch.advantages
        if (weights < 0.0).any():
            raise ValueError(
                "reward-weighted regression takes weights of 0 or more as advantages, got "
                f"{weights.min().item():.3g}: make them with softmax_weights, or use AWM"
            )
        rollout, denoiser = batch.rollout, role(roles, "train")
        # Kish's effective sample size: 1 for equal weights, 1/B when one sample has all the weight.
        share = weights.sum().square() / (len(weights) * weights.square().sum()).clamp(min=1e-30)
        matchings = self.matcher.matchings(
            rollout.clean, rollout.condition, generator, rollout.mask, rollout.group
        )
        for each in matchings:
            error = each.error(each.predict(denoiser))
            logs = {"error": error.mean().item(), "effective_share": share.item()}
            yield Part((weights * error).mean() / self.matcher.draws, logs)
