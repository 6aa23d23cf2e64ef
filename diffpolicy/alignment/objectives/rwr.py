"""Reward-weighted regression: repeat what was good, in proportion."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffpolicy.alignment.matching import Matcher
from diffpolicy.alignment.objective import Logs, Needs, Roles, role
from diffpolicy.alignment.samples import Rated


@dataclass(frozen=True)
class RWR:
    """`L = mean of w mse_theta(x)` with weights w >= 0 (Peters and Schaal 2007; Black et al. 2024, section 4.1).

    The weights are the batch's advantages: those of `softmax_weights`, or an indicator of the best. It is AWM without
    negative weights, hence without a push away from anything: slow and safe.
    """

    matcher: Matcher

    @property
    def needs(self) -> Needs:
        """Rated samples."""
        return Needs(rewards=True)

    def loss(self, batch: Rated, roles: Roles, generator: torch.Generator) -> tuple[Tensor, Logs]:
        """Return the mean weighted matching error, the error itself and the effective share of the samples.

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
        matchings = self.matcher.matchings(
            rollout.clean, rollout.condition, generator, rollout.mask, rollout.group
        )
        errors = torch.stack([each.error(each.predict(denoiser)) for each in matchings])
        loss = (weights * errors).mean()
        # Kish's effective sample size: 1 for equal weights, 1/B when one sample has all the weight.
        share = weights.sum().square() / (len(weights) * weights.square().sum()).clamp(min=1e-30)
        logs = {"loss": loss.item(), "error": errors.mean().item(), "effective_share": share.item()}
        return loss, logs
