"""What the suite `safe-refine` says: targets against the best offline arm, and verdicts of the gate."""

from collections.abc import Mapping, Sequence
from typing import Any

import envs
from diffpolicy import evaluation
from diffpolicy.cli.suites.results import target
from diffpolicy.cli.suites.safe_offline import LIMIT
from diffpolicy.cli.suites.safe_offline import markdown as rows_table
from diffpolicy.evaluation.statistics import paired_difference

START, REFINED = "clone", "refined_"
SAFE = ("split", "lagrangian")  # methods that are to keep to the limit


def best_offline(offline: evaluation.Evaluation) -> str:
    """Return the offline arm that earns most among those whose normalised cost is below 1; the safest if none is."""
    costs = {arm.name: arm.summary.at(LIMIT).normalized_cost.mean for arm in offline.arms}
    safe = [arm for arm in offline.arms if costs[arm.name] < 1.0]
    if not safe:
        return min(costs, key=lambda name: costs[name])
    return max(safe, key=lambda arm: arm.summary.normalized_return.mean).name


def targets(task: str, result: evaluation.Evaluation) -> list[dict[str, Any]]:
    """Return what is wanted of every safe method: more than the best offline arm, at a normalised cost below 1."""
    returns = {
        arm.name: [[each.episode_return for each in row] for row in arm.episodes] for arm in result.arms
    }
    row = envs.task(task)
    scale = row.max_episode_reward - row.min_episode_reward
    found = []
    for ours in (REFINED + method for method in SAFE if REFINED + method in returns):
        gain = paired_difference(
            *([[v / scale for v in r] for r in returns[name]] for name in (ours, result.reference))
        )
        cost = result.arm(ours).summary.at(LIMIT).normalized_cost
        wanted = f"{task}: normalised return of {ours} minus {result.reference}, the best offline arm within the limit"
        found += [
            target(wanted, "interval above 0", gain.mean, gain.mean_interval, gain.mean_interval.low > 0.0),
            target(
                f"{task}: normalised cost of {ours}",
                "mean < 1",
                cost.mean,
                cost.mean_interval,
                cost.mean < 1.0,
            ),
        ]
    return found


def markdown(document: Mapping[str, Any]) -> str:
    """Return the rows and the gate's verdicts as Markdown tables."""
    chosen, tasks = document["chosen_on"], list(dict.fromkeys(row["task"] for row in document["rows"]))
    unseen = [task for task in tasks if task not in chosen]
    said = f"Settings were chosen on {', '.join(chosen)}"
    said += f"; {', '.join(unseen)} was not looked at. " if unseen else ". "
    played = f"Refined policies act with their {document['deploy']} action. The gate saw imagination only."
    return f"{rows_table(dict(document))}\n{said}{played}\n\n{gates_table(document['gates'])}"


def gates_table(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """Return the gate's verdicts as a Markdown table; a policy refused before it was refined has no figures."""
    lines = [
        "| task | seed | method | released | imagined return | imagined cost | uncertainty | why not |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in verdicts:
        figures, task = one["figures"], envs.task(one["task"])
        shown = "|  |  |  |"
        if figures:
            shown = (
                f"| {task.normalized_return(figures['imagined_return']):.3f} | {figures['imagined_cost']:.2f} "
                f"| {figures['uncertainty_ratio']:.2f} |"
            )
        released, why = "yes" if one["released"] else "no", "; ".join(one["reasons"])
        lines.append(f"| {one['task']} | {one['seed']} | {one['method']} | {released} {shown} {why} |")
    return "\n".join(lines) + "\n"
