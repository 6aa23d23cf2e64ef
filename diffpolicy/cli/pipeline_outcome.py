"""What came of a pipeline, in plain words: offline arms, the refined policy, its gain, and what the gate says."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import envs
from diffpolicy.cli.errors import ConfigError
from diffpolicy.cli.refine import RELEASE
from diffpolicy.evaluation import Difference, Evaluation, judge
from diffpolicy.evaluation.table import aligned, mean_text, verdict

START, REFINED = "start", "refined"  # arms beside those of the offline checkpoint


@dataclass(frozen=True)
class Refinement:
    """What came of one training seed's refinement.

    `refused` says why the gate let nothing be refined at all, None where something was; `document` is then the
    release.json of the run.
    """

    seed: int
    refused: str | None
    document: Mapping[str, Any]

    @property
    def released(self) -> bool:
        """Whether the policy may be used."""
        return self.refused is None and bool(self.document["release"]["released"])

    @property
    def said(self) -> str:
        """What the gate says."""
        if self.refused is not None:
            return f"nothing was refined: {self.refused}"
        return "released" if self.released else "refused: " + "; ".join(self.document["release"]["reasons"])


def read_refinement(seed: int, folder: Path, refused: str | None) -> Refinement:
    """Return what a run of `diffpolicy refine` came to; `refused` as in `Refinement`."""
    if refused is not None:
        return Refinement(seed, refused, {})
    try:
        return Refinement(seed, None, json.loads((folder / RELEASE).read_text()))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder / RELEASE} cannot be read: delete the folder of the stage refine, and it is done again"
        ) from error


def best_within(result: Evaluation, limit: float) -> str | None:
    """Return the offline arm that earns most of those whose mean cost is below the limit, None if none is."""
    offline = [arm for arm in result.arms if arm.name != REFINED]
    safe = [arm for arm in offline if arm.summary.at(limit).normalized_cost.mean < 1.0]
    return max(safe, key=lambda arm: arm.summary.normalized_return.mean).name if safe else None


def gain(result: Evaluation, reference: str) -> Difference:
    """Return the refined policy minus an arm, on the same episodes."""
    played = {name: result.arm(name).episodes for name in (REFINED, reference)}
    task = envs.task(result.task)
    return judge(task, played, seed=result.seed, limits=result.limits, reference=reference).differences[0]


def gains(result: Evaluation, limit: float) -> list[Difference]:
    """Return the refined policy minus the best offline arm within the limit, and minus where it started."""
    names = [arm.name for arm in result.arms]
    if REFINED not in names:
        return []
    best = best_within(result, limit)
    references = [best, START] if best != START else [START]
    return [gain(result, name) for name in references if name in names]


def in_words(result: Evaluation, limit: float) -> str:
    """Return whether refinement gained anything over the best offline arm within the limit, in one sentence."""
    best = best_within(result, limit)
    if all(arm.name != REFINED for arm in result.arms):
        return "There is no refined policy."
    if best is None:
        return f"No offline arm costs less than the limit {limit:g} on average, so there is none to be better than."
    found = gain(result, best).normalized_return
    low, high = found.mean_interval
    what = "a gain" if low > 0.0 else "a loss" if high < 0.0 else "no gain shown"
    episodes = result.arm(REFINED).summary.episodes
    cost = {
        "safe": f"It is safe at the limit {limit:g}",
        "unsafe": f"It is not safe at the limit {limit:g}",
        "not shown": f"It was not shown to be safe at the limit {limit:g}",
    }[verdict(result.arm(REFINED).summary, limit)]
    return (
        f"Against {best}, the best offline arm within the limit {limit:g}, refinement is {what}: normalised return "
        f"{found.mean:+.2f} [{low:+.2f}, {high:+.2f}] on the same {episodes} episodes. {cost}: "
        f"it costs {mean_text(result.arm(REFINED).summary.cost)} per episode."
    )


def summary(result: Evaluation, refinements: Sequence[Refinement], limit: float) -> str:
    """Return the table at the end: all arms, what refinement gained, and the gate's verdict."""
    rows = [["arm", "normalised return: mean [95 %]", "cost: mean [95 %]", f"at limit {limit:g}"]]
    for arm in result.arms:
        one = arm.summary
        rows.append([arm.name, mean_text(one.normalized_return), mean_text(one.cost), verdict(one, limit)])
    lines = aligned(rows)
    found = gains(result, limit)
    if found:
        lines.append("")
        lines += aligned(
            [
                ["on the same episodes", "normalised return: mean [95 %]", "cost: mean [95 %]"],
                *(
                    [f"{REFINED} - {one.reference}", mean_text(one.normalized_return), mean_text(one.cost)]
                    for one in found
                ),
            ]
        )
    lines += ["", in_words(result, limit), *(f"gate, seed {one.seed}: {one.said}" for one in refinements)]
    return "\n".join(lines)
