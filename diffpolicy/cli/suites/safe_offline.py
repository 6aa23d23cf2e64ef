"""The suite `safe-offline`: FISOR and its rivals on offline data of six tasks, judged by the DSRL protocol.

Every task is trained and evaluated in a folder of its own below `run`.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from rich.console import Console

import envs
from diffpolicy import evaluation, training
from diffpolicy.cli.collect import collect_task
from diffpolicy.cli.common import dataset_file
from diffpolicy.cli.errors import ConfigError
from diffpolicy.cli.evaluate import evaluate
from diffpolicy.cli.reporting import feasible_slices, set_overlap
from diffpolicy.cli.suites.results import header, target, write
from diffpolicy.cli.train import train
from diffpolicy.evaluation.certificate import read_certificate
from diffpolicy.evaluation.statistics import Interval
from diffpolicy.policies import load_policy
from envs import point_robot

LIMIT = 10.0  # the cost limit that the targets speak of
FAITHFUL = "fisor"


def main(cfg: DictConfig) -> None:
    """Run or go on with the suite."""
    check_options(cfg)
    console = Console(soft_wrap=True, highlight=False)
    tasks = [envs.task(str(name)) for name in cfg.tasks]
    results = {}
    for task in tasks:
        console.rule(task.name)
        results[task.name] = run_task(cfg, task)
    document = {
        **header(),
        "seeds": list(cfg.seeds),
        "episodes": cfg.episodes,
        "tasks": {task.name: task_provenance(Path(cfg.run).resolve() / task.name) for task in tasks},
        "rows": [row for name, result in results.items() for row in rows(name, result)],
        "targets": targets(results, cfg.headline, cfg.reference) + overlap_targets(cfg, tasks),
    }
    write(document, markdown(document), Path(cfg.results))


def check_options(cfg: DictConfig) -> None:
    """Raise ConfigError unless all that the targets speak of will be evaluated: hours pass before they do."""
    for name in ("seeds", "arms", "limits"):
        if not isinstance(cfg[name], ListConfig) or not cfg[name]:
            raise ConfigError(f"{name}={cfg[name]}: the suite takes a list of one or more")
    if LIMIT not in cfg.limits:
        raise ConfigError(f"limits={cfg.limits} lacks {LIMIT:g}, the cost limit that the targets speak of")
    missing = sorted({str(cfg.headline), FAITHFUL, str(cfg.reference)} - set(cfg.arms))
    if missing:
        raise ConfigError(f"arms={cfg.arms} lacks {', '.join(missing)}, of which the targets speak")
    if cfg.reference in (cfg.headline, FAITHFUL):
        raise ConfigError(
            f"reference={cfg.reference}: the targets compare {FAITHFUL} and the headline with it, so it is another arm"
        )


def task_config(cfg: DictConfig, task: envs.Task) -> DictConfig:
    """Return the options of `train` for one task: the suite's, changed by what it says of this task."""
    merged = OmegaConf.merge(cfg, cfg.tasks[task.name] or {})
    assert isinstance(merged, DictConfig)
    folder = Path(cfg.run).resolve() / task.name
    merged.task, merged.run = task.id, str(folder)
    merged.data = str(dataset_file(Path(cfg.data_folder), task))
    return merged


def run_task(cfg: DictConfig, task: envs.Task) -> evaluation.Evaluation:
    """Collect (if the file is missing), train and evaluate one task; return the evaluation, a kept one if possible."""
    one = task_config(cfg, task)
    if not Path(one.data).exists():
        unfinished = Path(one.data).with_suffix(".collecting")  # an interrupted collection is not trained on
        collect_task(task, unfinished, {}, progress=one.progress)
        unfinished.replace(one.data)
    folder = Path(one.run)
    weights = training.read_checkpoint(train(one)).manifest["sha256"]["model.safetensors"]
    kept = kept_evaluation(one, folder, weights)
    if kept is None:
        return evaluate(one, folder, folder)
    print(str(kept))
    return kept


def kept_evaluation(one: DictConfig, folder: Path, weights: str) -> evaluation.Evaluation | None:
    """Return what the episodes of the certificate in `folder` say, None where other episodes are asked for.

    They are judged anew, at the limits and against the reference that are asked for, which change no episode.
    """
    if not (folder / "certificate.json").exists():
        return None
    kept = read_certificate(folder / "certificate.json")
    found = kept.evaluation
    played = {arm.name: arm.episodes for arm in found.arms}
    same = (found.episodes, found.seed, set(played)) == (one.episodes, one.seed, set(one.arms))
    if kept.document["arms"][0]["weights"][0] != weights or not same:
        return None
    limits = [float(limit) for limit in one.limits]
    return evaluation.judge(
        envs.task(found.task), played, seed=found.seed, limits=limits, reference=one.reference
    )


def task_provenance(folder: Path) -> dict[str, Any]:
    """Return the hashes of the data and weights behind a task's figures, and the code that evaluated them."""
    document = read_certificate(folder / "certificate.json").document
    weights = document["arms"][0]["weights"][0]
    return {"data": document["data"]["sha256"], "weights": weights, "evaluated_by": document["code"]}


def rows(task: str, result: evaluation.Evaluation) -> list[dict[str, Any]]:
    """Return one row of figures with intervals for each arm."""
    found = []
    differences = {difference.arm: difference for difference in result.differences}
    for arm in result.arms:
        row: dict[str, Any] = {"task": task, "arm": arm.name, **asdict(arm.summary)}
        row["return_by_seed"] = [
            envs.task(task).normalized_return(sum(e.episode_return for e in seed) / len(seed))
            for seed in arm.episodes
        ]
        row["cost_by_seed"] = [sum(e.episode_cost for e in seed) / len(seed) for seed in arm.episodes]
        if arm.name in differences:
            row["difference_to"] = result.reference
            row["difference"] = asdict(differences[arm.name])
        found.append(row)
    return found


def targets(results: dict[str, evaluation.Evaluation], ours: str, reference: str) -> list[dict[str, Any]]:
    """Return the suite's targets with what was reached: cost below the limit, return above the reference's."""
    found = []
    better = dict.fromkeys((ours, FAITHFUL), 0)
    for task, result in results.items():
        differences = {difference.arm: difference.normalized_return for difference in result.differences}
        for arm in (ours, FAITHFUL):
            cost = result.arm(arm).summary.at(LIMIT).normalized_cost
            found.append(
                target(
                    f"{task}: normalised cost of {arm} at limit {LIMIT:g}",
                    "mean < 1",
                    cost.mean,
                    cost.mean_interval,
                    cost.mean < 1.0,
                )
            )
            gain = differences[arm]
            better[arm] += gain.mean > 0
            if arm == ours:
                name = f"{task}: normalised return of {arm} minus {reference}"
                found.append(target(name, "mean > 0", gain.mean, gain.mean_interval, gain.mean > 0.0))
    found.append(
        target(
            f"tasks on which {FAITHFUL} (published rule) earns more than {reference}",
            f"> {len(results) / 2:g} of {len(results)}",
            better[FAITHFUL],
            None,
            better[FAITHFUL] > len(results) / 2,
        )
    )
    return found


def overlap_targets(cfg: DictConfig, tasks: list[envs.Task]) -> list[dict[str, Any]]:
    """Return how near the learned infeasible set of the point robot is to the true one, per training seed."""
    if point_robot.TASK not in tasks:
        return []
    checkpoint = training.read_checkpoint(Path(cfg.run).resolve() / point_robot.TASK.name)
    overlaps = [set_overlap(feasible_slices(load_policy(checkpoint, FAITHFUL, seed))) for seed in cfg.seeds]
    learned = [learned for learned, _ in overlaps]
    return [
        target(
            "PointRobot: IoU of the learned infeasible set with the true one, mean over seeds",
            f"> {overlaps[0][1]:.4f}, the IoU of the naive set h > 0",
            sum(learned) / len(learned),
            Interval(min(learned), max(learned)),
            min(learned) > overlaps[0][1],
        )
    ]


def markdown(document: dict[str, Any]) -> str:
    """Return the rows and targets as Markdown tables."""
    lines = [
        f"Made by `{document['command']}`; {len(document['seeds'])} training seeds x {document['episodes']} episodes.",
        "Return: normalised, mean [95 % interval]. Cost: per episode, the same; normalised at the limit 10.",
        "",
        "| task | arm | return | cost | normalised cost | worst 10 % | over 10 | P(over 10) below | violating |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in document["rows"]:
        limit = next(entry for entry in row["limits"] if entry["limit"] == LIMIT)
        lines.append(
            f"| {row['task']} | {row['arm']} "
            f"| {_interval(row['normalized_return'], 3)} | {_interval(row['cost'], 1)} "
            f"| {limit['normalized_cost']['mean']:.2f} | {row['cost_cvar']:.1f} "
            f"| {limit['exceeded']}/{row['episodes']} | {limit['exceed_probability_upper']:.1%} "
            f"| {row['violating_episodes']}/{row['episodes']} |"
        )
    return "\n".join(lines) + "\n"


def _interval(estimate: dict[str, Any], digits: int) -> str:
    low, high = estimate["mean_interval"]
    return f"{estimate['mean']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
