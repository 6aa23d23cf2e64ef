"""Advantage-weighted matching: the policy gradient with the matching error in place of the log-likelihood."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from diffpolicy.alignment.matching import Matcher, Matching
from diffpolicy.alignment.objective import Needs, Objective, Part, Roles, role
from diffpolicy.alignment.samples import Rated

Weighting = Literal["uniform", "time", "time_squared", "huber", "power"]
WEIGHTINGS: tuple[Weighting, ...] = get_args(Weighting)


@dataclass(frozen=True)
class AWMConfig:
    """Advantages count `advantage_scale` times (0.2 makes those clipped at 5 end at 1, as published).

    `weighting` says how an error counts as a log-likelihood, see `weigh`. `clip` is the range of the likelihood
    ratio against the role "old"; None takes every batch as on-policy, whose gradient is that of the ratio at 1.
    `ema_weight` and `reference_weight` multiply the squared distance to the predictions of those roles.
    """

    advantage_scale: float = 0.2
    weighting: Weighting = "power"
    clip: float | None = None
    ema_weight: float = 1.0
    reference_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"AWM weighs errors by one of {', '.join(WEIGHTINGS)}, not {self.weighting!r}")
        if not self.advantage_scale > 0.0 or (self.clip is not None and not self.clip > 0.0):
            raise ValueError(f"AWM's scale and clip are positive, got {self.advantage_scale} and {self.clip}")
        if self.ema_weight < 0.0 or self.reference_weight < 0.0:
            raise ValueError(
                f"AWM's penalties have weights >= 0, got {self.ema_weight} and {self.reference_weight}"
            )


@dataclass(frozen=True)
class AWM(Objective[Rated]):
    """`L = mean of max(-A rho, -A clip(rho)) + w_ema |p - p_ema|^2 + w_ref |p - p_ref|^2` (Xue et al. 2025).

    rho = exp(g(mse_old) - g(mse_theta)), g the weighting; without a clip the first term is `A g(mse_theta)`. It
    maximises the same likelihood as DDPO with clean targets in place of noisy ones, hence with less variance. With
    uniform weighting it is unbounded below where A < -w_ema: with neither clip nor ema penalty training collapses.

    Deviations from the authors' code: samples from other processes than the straight path, whose time is
    noise/(signal + noise); "old" is a role of its own, where the code reuses the current error; the ratio is per
    sample and level ("exp_first") only.
    """

    matcher: Matcher
    config: AWMConfig = AWMConfig()

    @property
    def needs(self) -> Needs:
        """Rated samples, and the roles that the config's penalties and clip compare with."""
        config = self.config
        return Needs(
            rewards=True,
            old=config.clip is not None,
            ema=config.ema_weight > 0.0,
            reference=config.reference_weight > 0.0,
        )

    def parts(self, batch: Rated, roles: Roles, generator: torch.Generator) -> Iterator[Part]:
        """Yield the loss of each draw; logs the error and, where they are used, penalties and clipped share."""
        rollout = batch.rollout
        advantages = self.config.advantage_scale * batch.advantages
        matchings = self.matcher.matchings(
            rollout.clean, rollout.condition, generator, rollout.mask, rollout.group
        )
        for each in matchings:
            terms = {name: term.mean() for name, term in self._terms(each, advantages, roles).items()}
            loss = terms["policy"]
            for name, weight in self._penalties.items():
                loss = loss + weight * terms[f"{name}_distance"]
            yield Part(loss / self.matcher.draws, {name: term.item() for name, term in terms.items()})

    @property
    def _penalties(self) -> dict[str, float]:
        weights = {"ema": self.config.ema_weight, "reference": self.config.reference_weight}
        return {name: weight for name, weight in weights.items() if weight > 0.0}

    def _terms(self, matching: Matching, advantages: Tensor, roles: Roles) -> dict[str, Tensor]:
        prediction = matching.predict(role(roles, "train"))
        error = matching.error(prediction)
        weighed = self._weigh(matching, error)
        terms = {"error": error.detach()}
        if self.config.clip is None:
            terms["policy"] = advantages * weighed
        else:
            old = self._weigh(matching, matching.error(matching.constant(role(roles, "old"))))
            ratio = (old - weighed).exp()
            kept = ratio.clamp(1.0 - self.config.clip, 1.0 + self.config.clip)
            terms["policy"] = torch.maximum(-advantages * ratio, -advantages * kept)
            terms["clipped"] = (ratio != kept).to(error)
        for name in self._penalties:
            terms[f"{name}_distance"] = matching.distance(prediction, matching.constant(role(roles, name)))
        return terms

    def _weigh(self, matching: Matching, error: Tensor) -> Tensor:
        signal, noise = matching.process.signal[matching.level], matching.process.noise[matching.level]
        return weigh(error, noise / (signal + noise), self.config.weighting)


def weigh(error: Tensor, time: Tensor, weighting: Weighting) -> Tensor:
    """Return what errors (B,) at times (B,) count as negative log-likelihoods (B,), increasing in the error.

    "uniform" e, "time" t e, "time_squared" t^2 e, "huber" t (sqrt(e + 1e-10) - 1e-5), and the published default
    "power", t/p ((e + 1e-10)^p - 1e-10^p) with p = 1/4, which holds large errors down.
    """
    match weighting:
        case "uniform":
            return error
        case "time":
            return time * error
        case "time_squared":
            return time.square() * error
        case "huber":
            return time * ((error + 1e-10).sqrt() - 1e-5)
        case "power":
            return 4.0 * time * ((error + 1e-10).pow(0.25) - math.pow(1e-10, 0.25))
