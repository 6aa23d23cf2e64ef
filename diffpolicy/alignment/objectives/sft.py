"""Supervised fine-tuning: the denoising loss on samples that are worth repeating."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffpolicy.alignment.matching import Matcher
from diffpolicy.alignment.objective import Logs, Needs, Roles, role
from diffpolicy.alignment.samples import Rollout


@dataclass(frozen=True)
class SFT:
    """`L = mean of mse_theta(x)` (Ho et al. 2020, eq. 14, in whatever the process predicts).

    On demonstrations it is behaviour cloning, and beside another objective the anchor that keeps a policy near them.
    """

    matcher: Matcher

    @property
    def needs(self) -> Needs:
        """Samples, nothing else."""
        return Needs()

    def loss(self, batch: Rollout, roles: Roles, generator: torch.Generator) -> tuple[Tensor, Logs]:
        """Return the mean matching error of the samples."""
        denoiser = role(roles, "train")
        matchings = self.matcher.matchings(batch.clean, batch.condition, generator, batch.mask, batch.group)
        errors = torch.stack([each.error(each.predict(denoiser)) for each in matchings])
        loss = errors.mean()
        return loss, {"loss": loss.item(), "error": loss.item()}
