"""Diffusion-DPO: learn from comparisons, with matching errors in place of log-likelihoods."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from diffpolicy.alignment.matching import Matcher
from diffpolicy.alignment.objective import Needs, Objective, Part, Roles, role
from diffpolicy.alignment.samples import Pairs


@dataclass(frozen=True)
class DiffusionDPOConfig:
    """`beta` multiplies errors that are means over elements: 2000 to 5000 for latents of 16384 elements.

    Start with 20 to 500 for action chunks of a hundred, and tune on the implicit accuracy, which should reach 0.6 to
    0.75. In sums over elements the same strength is `beta_of_sums`.
    """

    beta: float = 5000.0

    def __post_init__(self) -> None:
        if not self.beta > 0.0:
            raise ValueError(f"the beta of Diffusion-DPO is positive, got {self.beta}")

    def beta_of_sums(self, elements: int) -> float:
        """Return the beta that does the same to errors summed over `elements`."""
        return self.beta / elements


@dataclass(frozen=True)
class DiffusionDPO(Objective[Pairs]):
    """`L = mean of -log sigm(-(beta/2) [(mse_w - mse_l) - (mse_ref_w - mse_ref_l)])` (Wallace et al. 2024, eq. 14).

    Winner, loser and both denoisers see the same level and noise, as in the authors' code. The paper's factor
    T w(lambda) is part of beta. At theta = ref the gradient is beta/4 times that of mse_w - mse_l.
    """

    matcher: Matcher
    config: DiffusionDPOConfig = DiffusionDPOConfig()

    @property
    def needs(self) -> Needs:
        """Pairs and the reference."""
        return Needs(pairs=True, reference=True)

    def parts(self, batch: Pairs, roles: Roles, generator: torch.Generator) -> Iterator[Part]:
        """Yield the loss of each draw; logs the implicit accuracy, and the errors of winners and losers.

        Watch both errors: the loss also falls while the winners are predicted worse, if the losers are worse still.
        """
        train, reference = role(roles, "train"), role(roles, "reference")
        for corruption in self.matcher.corruptions(batch.winner, generator):
            problems = [
                self.matcher.matching(clean, corruption, batch.condition, batch.mask)
                for clean in (batch.winner, batch.loser)
            ]
            winner, loser = (each.error(each.predict(train)) for each in problems)
            reference_winner, reference_loser = (each.error(each.constant(reference)) for each in problems)
            gap = margin(winner, loser, reference_winner, reference_loser)
            logs = {
                "implicit_accuracy": (gap > 0.0).to(gap).mean().item(),
                "winner_error": winner.mean().item(),
                "loser_error": loser.mean().item(),
                "reference_winner_error": reference_winner.mean().item(),
                "reference_loser_error": reference_loser.mean().item(),
            }
            yield Part(preference_loss(gap, self.config.beta).mean() / self.matcher.draws, logs)


def margin(winner: Tensor, loser: Tensor, reference_winner: Tensor, reference_loser: Tensor) -> Tensor:
    """Return by how much the winner's error fell more than the loser's, against the reference; all of one shape."""
    return (reference_winner - winner) - (reference_loser - loser)


def preference_loss(gap: Tensor, beta: float, sign: Tensor | float = 1.0) -> Tensor:
    """Return `-log sigm(sign beta/2 gap)`, of the gap's shape; sign -1 prefers the other one, 0 teaches nothing."""
    return -F.logsigmoid(sign * (beta / 2.0) * gap)
