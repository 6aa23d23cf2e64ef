"""The release gate: whether a policy that was refined in imagination may be let out of it.

Imagined success proves nothing, since it is what was optimised. What is asked instead: does the policy stay where the
model knows its way, does it cost little even there, has it gained anything there, is the model right about real
failures, and does it promise what real episodes keep?
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from diffpolicy.data import OfflineDataset
from diffpolicy.refinement.episodes import Confusion, ImaginedEpisodes
from diffpolicy.refinement.errors import RefinementError, RefusedError

CHEAP = 0.1  # of the cost that is let through: what costs as little is not chosen between by its cost


@dataclass(frozen=True)
class GateConfig:
    """What a policy has to keep to; thresholds are the prototype's, chosen on two tasks (docs/refinement.md).

    Imagined episodes cost at most `margin` times the limit, and are at most `uncertainty` times as uncertain as real
    transitions. A policy to start from is refused beyond `start_uncertainty` or the limit itself. Of real failures the
    model may call at most `fooled` successes; it may promise at most `gap` more than real episodes keep, as a share of
    `scale`, the benchmark's range of returns. `cost_rate` is how many of the data's steps have to be violations: a
    model that has seen none imagines none.
    """

    margin: float = 0.3
    uncertainty: float = 1.5
    start_uncertainty: float = 2.0
    fooled: float = 0.5
    gap: float = 0.25
    cost_rate: float = 0.01

    def __post_init__(self) -> None:
        if min(asdict(self).values()) < 0.0 or self.margin > 1.0:
            raise RefinementError(
                f"the gate's thresholds are 0 or more, and the margin at most 1, got {self}"
            )


class Release(NamedTuple):
    """Whether a policy is released, why not, and the figures that decided."""

    released: bool
    reasons: tuple[str, ...]
    figures: dict[str, float]

    def described(self) -> dict[str, Any]:
        """Return it as plain values, for a manifest."""
        return {"released": self.released, "reasons": list(self.reasons), "figures": self.figures}


class RealEpisodes(NamedTuple):
    """Returns and costs of real episodes of the policy that is judged."""

    returns: Sequence[float]
    costs: Sequence[float]


def check_start(
    imagined: ImaginedEpisodes, known_uncertainty: float, limit: float | None, config: GateConfig
) -> None:
    """Check that a policy may be refined at all; without a `limit` costs do not matter.

    Raises:
        RefusedError: if it leaves the data or costs too much. Branches from real moments never go where it goes,
            so that refinement looks well there and makes it worse.
    """
    ratio, cost = imagined.uncertainty.mean().item() / known_uncertainty, imagined.costs.mean().item()
    reasons = []
    if ratio > config.start_uncertainty:
        reasons.append(
            f"it is {ratio:.2f} times as uncertain as real transitions (at most {config.start_uncertainty:g})"
        )
    if limit is not None and cost > limit:
        reasons.append(f"its imagined episodes cost {cost:.2f} (limit {limit:g})")
    if reasons:
        raise RefusedError(
            f"the policy to start from leaves what the world model knows: {'; '.join(reasons)}. Start from a clone of "
            "the data or of its cheap episodes (clone.max_cost), or train the world model on roll-outs of this policy"
        )


def check_data(cost_rate: float, config: GateConfig) -> None:
    """Raise RefusedError if the data hold too few violations to be learnt from."""
    if cost_rate < config.cost_rate:
        raise RefusedError(
            f"only {cost_rate:.2%} of the data's steps are violations (at least {config.cost_rate:.2%}): a world model "
            "that has not seen them imagines none, and the policy will find them. Add episodes with violations, or "
            "lower gate.cost_rate if they cannot happen"
        )


def check_length(dataset: OfflineDataset, steps: int) -> None:
    """Raise RefusedError if the data's longest episodes were cut short of the `steps` that one of the task takes.

    Imagined episodes are as long, and the cost of a part would be judged by the limit of the whole. Episodes that
    terminate are whole however short they are.
    """
    lengths, ends = dataset.episode_lengths, dataset.episode_ends - 1
    longest = int(lengths.max())
    cut = (lengths == longest) & ~dataset.terminals[ends]
    if longest < steps and cut.any():
        raise RefusedError(
            f"the data's episodes were cut off after {longest} steps, where one of the task takes {steps}: what they "
            f"cost cannot be compared with a limit. Collect whole ones (of a mixture: mixture.horizon={steps})"
        )


def judge(
    imagined: ImaginedEpisodes,
    known_uncertainty: float,
    config: GateConfig,
    *,
    limit: float | None = None,
    start: Release | None = None,
    confusion: Confusion | None = None,
    real: RealEpisodes | None = None,
    scale: float | None = None,
) -> Release:
    """Judge whole imagined episodes of the very policy that is to be deployed, by what is at hand.

    `limit` of costs, or None where they do not matter; `start` is the judgement of the policy that a refinement began
    at, which is to be deployed instead where it would be released, earns more, and costs no more or next to nothing;
    `real` episodes are compared by `scale`, a range of returns.
    """
    figures = {
        "imagined_return": imagined.returns.mean().item(),
        "imagined_cost": imagined.costs.mean().item(),
        "uncertainty_ratio": imagined.uncertainty.mean().item() / known_uncertainty,
    }
    reasons = []
    if figures["uncertainty_ratio"] > config.uncertainty:
        reasons.append(
            f"imagined episodes are {figures['uncertainty_ratio']:.2f} times as uncertain as real transitions "
            f"(at most {config.uncertainty:g})"
        )
    if limit is not None and figures["imagined_cost"] > config.margin * limit:
        reasons.append(
            f"imagined episodes cost {figures['imagined_cost']:.2f} "
            f"(at most {config.margin:g} of the limit {limit:g})"
        )
    if start is not None:
        figures["start_return"] = start.figures["imagined_return"]
        little = max(figures["imagined_cost"], CHEAP * config.margin * (limit or 0.0))
        as_good = start.released and (limit is None or start.figures["imagined_cost"] <= little)
        if as_good and figures["imagined_return"] < figures["start_return"]:
            reasons.append(
                f"it returns {figures['imagined_return']:.4g} in imagination, where the policy it began as returns "
                f"{figures['start_return']:.4g} and keeps to the cost as well: deploy that one"
            )
    if confusion is not None:
        figures["fooled"] = confusion.fooled
        if confusion.fooled > config.fooled:
            reasons.append(
                f"the model calls {confusion.fooled:.0%} of real failures successes (at most {config.fooled:.0%})"
            )
    if real is not None:
        reasons += _against_real(figures, real, config, limit, scale)
    return Release(not reasons, tuple(reasons), figures)


def _against_real(
    figures: dict[str, float],
    real: RealEpisodes,
    config: GateConfig,
    limit: float | None,
    scale: float | None,
) -> list[str]:
    """Add the figures of real episodes, and return what they refuse."""
    figures["real_return"] = sum(real.returns) / len(real.returns)
    figures["real_cost"] = sum(real.costs) / len(real.costs)
    promised = figures["imagined_return"] - figures["real_return"]
    figures["gap"] = promised / (scale or max(abs(figures["real_return"]), 1e-8))
    reasons = []
    if figures["gap"] > config.gap:
        reasons.append(
            f"it returns {figures['imagined_return']:.4g} in imagination and {figures['real_return']:.4g} in truth, "
            f"a gap of {figures['gap']:.2f} (at most {config.gap:g})"
        )
    if limit is not None and figures["real_cost"] > limit:
        reasons.append(f"real episodes cost {figures['real_cost']:.2f} (limit {limit:g})")
    return reasons
