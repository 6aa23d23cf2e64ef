"""D3PO: learn from comparisons of denoising paths, step by step."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from diffpolicy.alignment.edges import Likelihoods, Steps
from diffpolicy.alignment.objective import Needs, Objective, Part, Roles, role
from diffpolicy.alignment.samples import Pairs, Rollout
from diffpolicy.diffusion import Denoiser, GaussianProcess, StepRule


@dataclass(frozen=True)
class D3POConfig:
    """`beta` sharpens the comparison; steps whose ratio to the reference leaves 1 +- `clip` are not pushed further."""

    beta: float = 0.1
    clip: float = 0.1

    def __post_init__(self) -> None:
        if not self.beta > 0.0 or not 0.0 < self.clip < 1.0:
            raise ValueError(
                f"D3PO needs beta > 0 and a clip between 0 and 1, got {self.beta} and {self.clip}"
            )


@dataclass(frozen=True)
class D3PO(Objective[Pairs]):
    """`L = mean over pairs and steps of -log sigm(beta (q_w - q_l))` (Yang et al. 2024, eq. 14 and their code).

    q = log clip(p_theta/p_ref, 1-eps, 1+eps) of a step of the winner and the same step of the loser: whoever is better
    in the end is taken to be better all along. The clip ends the gradient of a step, a trust region of its own. Paths
    of a pair should start from the same noise.
    """

    process: GaussianProcess
    rule: StepRule
    config: D3POConfig = D3POConfig()

    @property
    def needs(self) -> Needs:
        """Pairs with their steps, and the reference."""
        return Needs(path=True, pairs=True, reference=True, guided=True)

    @property
    def _likelihoods(self) -> Likelihoods:
        return Likelihoods(self.process, self.rule, Steps())

    def parts(self, batch: Pairs, roles: Roles, generator: torch.Generator) -> Iterator[Part]:
        """Yield the loss of each step; logs the implicit accuracy and the share of ratios that are clipped."""
        pair = [
            self._log_ratios(rollout, role(roles, "train"), role(roles, "reference"), generator)
            for rollout in sides(batch)
        ]
        low, high = math.log(1.0 - self.config.clip), math.log(1.0 + self.config.clip)
        for (winner, weight), (loser, _) in zip(*pair, strict=True):
            gap = winner.clamp(low, high) - loser.clamp(low, high)
            both = torch.cat([winner, loser]).detach()
            logs = {
                "implicit_accuracy": (gap > 0.0).to(gap).mean().item(),
                "clipped": ((both < low) | (both > high)).to(both).mean().item(),
            }
            yield Part(weight * -F.logsigmoid(self.config.beta * gap).mean(), logs)

    def check(self, batch: Pairs, roles: Roles) -> None:
        """Refuse to start unless the paths are those of the denoiser to be trained.

        Raises:
            TrainingError: if a likelihood ratio is not 1.
        """
        for rollout in sides(batch):
            self._likelihoods.check(rollout, role(roles, "train"))

    def _log_ratios(
        self, rollout: Rollout, train: Denoiser, reference: Denoiser, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, float]]:
        """Yield the log-ratios (B,) to the reference of each step, and what the step counts."""
        for taken in self._likelihoods.taken(rollout, train, generator):
            base = self._likelihoods.constant(rollout, taken.edges, reference)
            yield taken.log_probs - base.log_prob(taken.edges.children, taken.mask), taken.weight


def sides(pairs: Pairs) -> tuple[Rollout, Rollout]:
    """Return the winners and the losers of comparisons as roll-outs, each pair a group of its own."""
    group = torch.arange(len(pairs.winner), device=pairs.winner.device)
    return (
        Rollout(pairs.winner, pairs.condition, group, None, pairs.winner_path, pairs.mask),
        Rollout(pairs.loser, pairs.condition, group, None, pairs.loser_path, pairs.mask),
    )
