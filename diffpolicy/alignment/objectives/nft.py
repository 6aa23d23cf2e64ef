"""DiffusionNFT: learn from good and bad samples at once, in the forward process and without likelihoods."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from diffpolicy.alignment.matching import Matcher, Matching
from diffpolicy.alignment.objective import Needs, Objective, Part, Roles, role
from diffpolicy.alignment.samples import Rated
from diffpolicy.diffusion import element_mean

SMALLEST_ERROR = 1e-5  # below which a self-normalised error is not scaled up any further


@dataclass(frozen=True)
class NFTConfig:
    """`beta` is the strength of the implicit policies, a trust region; advantages beyond +-`advantage_max` are cut.

    `normalised` takes the errors in the clean sample, each divided by its own mean absolute value; otherwise errors
    are in what the process predicts. `negative` keeps the branch that learns from bad samples: without it, for
    ablations, training collapses. `reference_weight` multiplies the squared distance to the reference's predictions.
    """

    beta: float = 1.0
    advantage_max: float = 5.0
    normalised: bool = True
    negative: bool = True
    reference_weight: float = 1e-4

    def __post_init__(self) -> None:
        if not self.beta > 0.0 or not self.advantage_max > 0.0 or self.reference_weight < 0.0:
            raise ValueError(
                "NFT needs beta > 0, advantage_max > 0 and reference_weight >= 0, got "
                f"{self.beta}, {self.advantage_max} and {self.reference_weight}"
            )


@dataclass(frozen=True)
class NFT(Objective[Rated]):
    """`L = A_max/beta mean of (r |p+ - y|^2 + (1-r) |p- - y|^2) + w_ref |p - p_ref|^2` (Zheng et al. 2025, eq. 5).

    r = clip(A/(2 A_max) + 1/2, 0, 1), p+ = (1-beta) p_old + beta p, p- = (1+beta) p_old - beta p, y the target. With
    d = p - p_old and a = p_old - y it is, over A_max, `a^2/beta + 2(2r-1) a.d + beta d^2`: AWM linearised at old plus a
    pull to old, bounded below whatever the advantages.

    Predictions are mixed in what the process predicts; clean samples are affine in it, so that this is the velocity
    mixing of the paper for every process. Its optimum needs "old" to be the policy that made the rollout.
    """

    matcher: Matcher
    config: NFTConfig = NFTConfig()

    @property
    def needs(self) -> Needs:
        """Rated samples, the policy that made them and, if it is weighed in, the reference."""
        return Needs(rewards=True, old=True, reference=self.config.reference_weight > 0.0)

    def parts(self, batch: Rated, roles: Roles, generator: torch.Generator) -> Iterator[Part]:
        """Yield the loss of each draw.

        At theta = old its value does not depend on the rewards, its gradient does: watch the gradient's norm.
        """
        config, rollout = self.config, batch.rollout
        good = (batch.advantages / (2.0 * config.advantage_max) + 0.5).clamp(0.0, 1.0)
        matchings = self.matcher.matchings(
            rollout.clean, rollout.condition, generator, rollout.mask, rollout.group
        )
        for each in matchings:
            terms = {name: term.mean() for name, term in self._terms(each, good, roles).items()}
            loss = config.advantage_max / config.beta * terms["split"]
            if config.reference_weight > 0.0:
                loss = loss + config.reference_weight * terms["reference_distance"]
            yield Part(loss / self.matcher.draws, {name: term.item() for name, term in terms.items()})

    def _terms(self, matching: Matching, good: Tensor, roles: Roles) -> dict[str, Tensor]:
        beta = self.config.beta
        prediction = matching.predict(role(roles, "train"))
        old = matching.constant(role(roles, "old"))
        split = good * self._error(matching, old + beta * (prediction - old))
        if self.config.negative:
            split = split + (1.0 - good) * self._error(matching, old - beta * (prediction - old))
        terms = {
            "split": split,
            "error": matching.error(prediction.detach()),
            "old_distance": matching.distance(prediction.detach(), old),
        }
        if self.config.reference_weight > 0.0:
            reference = matching.constant(role(roles, "reference"))
            terms["reference_distance"] = matching.distance(prediction, reference)
        return terms

    def _error(self, matching: Matching, prediction: Tensor) -> Tensor:
        """Return the error (B,) of a mixed prediction (B, *S), self-normalised if the config says so."""
        if not self.config.normalised:
            return matching.error(prediction)
        clean = matching.process.to_clean(prediction, matching.noisy, matching.level)
        away = clean - matching.clean
        size = element_mean(away.detach().double().abs(), matching.mask).clamp(min=SMALLEST_ERROR)
        return element_mean(away.square(), matching.mask) / size.to(away)
