"""The suite `align-pusht`: do the objectives of alignment, unchanged, raise the score of cloned chunk policies?

Every training seed has demonstrations and a clone of its own, which each objective aligns; what is there is kept.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

import envs
from diffpolicy import training
from diffpolicy.cli.common import compute_device
from diffpolicy.cli.suites.align_pusht_runs import align, clone, environment_steps, weights
from diffpolicy.cli.suites.jobs import Job, run_all
from diffpolicy.cli.suites.results import header, target, write
from diffpolicy.evaluation import ScoreTable, tabulate
from diffpolicy.evaluation.imitation import PARALLEL
from diffpolicy.evaluation.protocol import episode_seeds
from diffpolicy.evaluation.rollout import Episode, batch_size, play
from diffpolicy.policies import load_policy

BASE = "bc"


def main(cfg: DictConfig) -> None:
    """Run or go on with the suite."""
    console = Console(soft_wrap=True, highlight=False)
    task = envs.task("PushT")
    names, runs = list(cfg.objectives), {}
    for member, seed in enumerate(cfg.seeds):
        console.rule(f"seed {seed}")
        runs[BASE, member] = clone(cfg, task, seed)
        score(cfg, task, BASE, member, runs[BASE, member], console)
        for name in names:
            console.print(f"  {name}", style="dim")
            runs[name, member] = align(cfg, task, seed, name, runs[BASE, member])
            score(cfg, task, name, member, runs[name, member], console)
    played = {
        name: tuple(
            tuple(Episode(**row) for row in score(cfg, task, name, member, runs[name, member], console))
            for member in range(len(cfg.seeds))
        )
        for name in (BASE, *names)
    }
    table = tabulate(task.name, task.score, played, reference=BASE)
    console.print(str(table))
    steps = {name: [environment_steps(runs[name, k]) for k in range(len(cfg.seeds))] for name in names}
    document = make_document(cfg, table, steps)
    write(document, markdown(document), Path(cfg.results))


def score(
    cfg: DictConfig, task: envs.Task, name: str, member: int, run: Path, console: Console
) -> list[dict[str, Any]]:
    """Return the episodes of one policy, as plain values; kept ones if they are of the same weights."""
    seeds = episode_seeds(cfg.seed, member, cfg.episodes)

    def make() -> list[dict[str, Any]]:
        checkpoint = training.read_checkpoint(training.latest_checkpoint(run) or run)
        policy = load_policy(checkpoint, cfg.arm, device=compute_device(cfg))
        vector: Any = envs.make_vector(
            task.id, batch_size(cfg.episodes, PARALLEL), workers=cfg.workers, autoreset=False
        )
        try:
            return [asdict(episode) for episode in play(policy, vector, seeds, name=name)]
        finally:
            vector.close()

    of = {"weights": weights(run), "arm": cfg.arm, "first": seeds.start, "episodes": cfg.episodes}
    job = Job(f"{name} evaluated", run / "episodes.json", of, partial(make))
    run_all([job], console)
    found: list[dict[str, Any]] = job.result()
    console.print(f"  {name}: {sum(row['best_reward'] for row in found) / len(found):.3f}", style="dim")
    return found


def make_document(cfg: DictConfig, table: ScoreTable, steps: dict[str, list[int]]) -> dict[str, Any]:
    """Return all that was found, as plain values."""
    rows = table.to_json()
    for row in rows:
        row["environment_steps"] = steps.get(row["arm"], [])
    return {
        **header(),
        "seeds": list(cfg.seeds),
        "episodes": cfg.episodes,
        "seed": cfg.seed,
        "demonstrations": cfg.demonstrations,
        "rows": rows,
        "targets": targets(table),
    }


def targets(table: ScoreTable) -> list[dict[str, Any]]:
    """Return the target of each objective: that it adds to the clone's score, with its whole interval."""
    found = []
    for row in table.rows:
        if row.difference is not None:
            gain, interval = row.difference.mean, row.difference.mean_interval
            found.append(target(f"{row.arm}: score gained", "> 0", gain, interval, interval.low > 0.0))
    return found


def markdown(document: dict[str, Any]) -> str:
    """Return the document's rows as a Markdown table."""
    lines = [
        f"Made by `{document['command']}`; {len(document['seeds'])} training seeds with {document['demonstrations']} "
        f"demonstrations each, {document['episodes']} episodes of each policy from seed {document['seed']}. "
        "Score: best coverage of an episode. Brackets: 95 % intervals over training seeds and episodes.",
        "",
        "| policy | score | by seed | gained | success | environment steps |",
        "|---|---|---|---|---|---|",
    ]
    for row in document["rows"]:
        by_seed = ", ".join(f"{value:.3f}" for value in row["score_by_seed"])
        steps = row["environment_steps"]
        lines.append(
            f"| {row['arm']} | {_interval(row['score'])} | {by_seed} | {_interval(row['difference'])} "
            f"| {row['success']['mean']:.3f} | {round(sum(steps) / len(steps)) if steps else ''} |"
        )
    return "\n".join(lines) + "\n"


def _interval(estimate: dict[str, Any] | None) -> str:
    if estimate is None:
        return ""
    low, high = estimate["mean_interval"]
    return f"{estimate['mean']:.3f} [{low:.3f}, {high:.3f}]"
