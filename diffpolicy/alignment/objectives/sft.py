"""Supervised fine-tuning: the denoising loss on samples that are worth repeating."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from diffpolicy.alignment.matching import Matcher
from diffpolicy.alignment.objective import Needs, Objective, Part, Roles, role
from diffpolicy.alignment.samples import Rollout


@dataclass(frozen=True)
class SFT(Objective[Rollout]):
    """`L = mean of mse_theta(x)` (Ho et al. 2020, eq. 14, in whatever the process predicts).

    On demonstrations it is behaviour cloning, and beside another objective the anchor that keeps a policy near them.
    """

    matcher: Matcher

    @property
    def needs(self) -> Needs:
        """Samples, nothing else."""
        return Needs()

    def parts(self, batch: Rollout, roles: Roles, generator: torch.Generator) -> Iterator[Part]:
        """Yield the mean matching error of the samples, a part for each draw."""
        denoiser = role(roles, "train")
        for each in self.matcher.matchings(batch.clean, batch.condition, generator, batch.mask, batch.group):
            error = each.error(each.predict(denoiser)).mean()
            yield Part(error / self.matcher.draws, {"error": error.item()})
