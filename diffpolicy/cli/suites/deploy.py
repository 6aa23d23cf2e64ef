"""The suite `deploy`: an arm in real time for half an hour, the worth of the shield, exports and the server measured.

The shield is judged with a deliberately bad policy. Critics and actors are those of the suite `safe-offline`, which are
trained if they are not there; exports of every kind of policy are compared with PyTorch.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

import envs
from diffpolicy import training
from diffpolicy.cli import demo_robot
from diffpolicy.cli.robot_processes import growth
from diffpolicy.cli.suites.deploy_exports import export_table, export_targets, run_exports
from diffpolicy.cli.suites.deploy_policies import trained_critics
from diffpolicy.cli.suites.deploy_server import run_server, server_table, server_targets
from diffpolicy.cli.suites.deploy_shield import ARMS, play
from diffpolicy.cli.suites.jobs import Job, run_all
from diffpolicy.cli.suites.results import header, target, write
from diffpolicy.evaluation.statistics import Interval, bootstrap_interval, paired_difference

MISSED, GROWN = 0.001, 2.0  # at most: share of periods, [MB] in half an hour
UNSHIELDED, SHIELDED = "as it is", "feasibility step and limits"


def main(cfg: DictConfig) -> None:
    """Run or go on with the suite."""
    console = Console(soft_wrap=True, highlight=False)
    found = {name: run_task(cfg, envs.task(str(name)), console) for name in cfg.tasks}
    soak = run_soak(cfg, console)
    console.rule("exports")
    jobs, exports = run_exports(cfg, console)
    server = run_server(cfg, jobs, console)
    shield_rows = [row for name, arms in found.items() for row in rows(str(name), arms)]
    document = {
        **header(),
        "seeds": list(cfg.seeds),
        "episodes": cfg.episodes,
        "soak": soak,
        "rows": shield_rows,
        "exports": exports,
        "server": server,
        "targets": soak_targets(soak)
        + shield_targets(found)
        + export_targets(exports)
        + server_targets(server),
    }
    text = markdown(soak, shield_rows) + "\n" + export_markdown(cfg.exports, exports, server)
    write(document, text, Path(cfg.results))


def run_soak(cfg: DictConfig, console: Console) -> dict[str, Any]:
    """Return the result of a kept run of `demo-robot` for `cfg.soak.seconds`, made if it is not there."""
    folder = Path(cfg.run) / "soak"
    kept = folder / "result.json"
    if kept.exists():
        result: dict[str, Any] = json.loads(kept.read_text())
        if result["report"]["seconds"] >= cfg.soak.seconds and result["arm"] == cfg.soak.arm:
            return result
    checkpoint = demo_robot.train(Path(cfg.run) / "policy", cfg.soak.updates, console)
    options = {**dict(cfg.soak), "run": str(folder), "checkpoint": str(checkpoint)}
    demo_robot.main(OmegaConf.create(options))
    made: dict[str, Any] = json.loads(kept.read_text())
    return made


def run_task(cfg: DictConfig, task: envs.Task, console: Console) -> dict[str, list[dict[str, Any]]]:
    """Return for each arm what each training seed's episodes gave; critics and actors are trained where missing."""
    console.rule(task.name)
    checkpoint = trained_critics(cfg, task)
    weights = training.read_checkpoint(checkpoint).manifest["sha256"]["model.safetensors"]
    jobs: dict[str, list[Job]] = {}
    for arm in ARMS:
        for seed in cfg.seeds:
            of = {
                "weights": weights,
                "arm": arm,
                "member": seed,
                "episodes": cfg.episodes,
                "seed": cfg.seed,
                "attempts": cfg.attempts,
            }
            path = Path(cfg.run) / task.name / f"{arm.replace(' ', '-')}-{seed}.json"
            make = partial(play, checkpoint, task, arm, seed, cfg.episodes, cfg.seed, cfg.attempts)
            jobs.setdefault(arm, []).append(Job(f"{task.name} {arm}, seed {seed}", path, of, make))
    run_all([job for some in jobs.values() for job in some], console)
    return {arm: [job.result() for job in some] for arm, some in jobs.items()}


def rows(task: str, arms: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return one row of figures with intervals for each arm; differences of returns are to the bare policy, paired."""
    found = []
    returns = {arm: _returns(task, some) for arm, some in arms.items()}
    for arm, some in arms.items():
        rate = _rates(some)
        row: dict[str, Any] = {
            "task": task,
            "arm": arm,
            "violations_per_1000": float(rate.mean()),
            "violations_interval": list(bootstrap_interval(rate)),
            "normalized_return": float(returns[arm].mean()),
            "return_interval": list(bootstrap_interval(returns[arm])),
            "steps": _total(some),
            "broken_limits": sum(one["broken"] for one in some),
        }
        if arm != UNSHIELDED:
            difference = paired_difference(returns[arm], returns[UNSHIELDED])
            row["return_difference"] = difference.mean
            row["return_difference_interval"] = list(difference.mean_interval)
        found.append(row)
    return found


def _rates(some: list[dict[str, Any]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Violations per 1000 steps of each episode (seeds, episodes)."""
    return np.array([1e3 * np.array(one["violations"]) / np.array(one["lengths"]) for one in some])


def _returns(task: str, some: list[dict[str, Any]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Normalised returns (seeds, episodes)."""
    known = envs.task(task)
    return np.array([[known.normalized_return(value) for value in one["returns"]] for one in some])


def _total(some: list[dict[str, Any]]) -> dict[str, int]:
    names = sorted({name for one in some for name in one["steps"]})
    return {name: sum(one["steps"].get(name, 0) for one in some) for name in names}


def soak_targets(soak: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the targets of the run in real time."""
    report, memory = soak["report"], soak["memory"]
    share = report["missed"] / max(report["periods"], 1)
    found = [
        target("shield bypasses in real time", "0", report["bypasses"], None, report["bypasses"] == 0),
        target(
            f"missed deadlines in {report['seconds'] / 60:.0f} min at {soak['rate']:g} Hz",
            f"<= {100 * MISSED:g} %",
            100 * share,
            None,
            share <= MISSED,
        ),
    ]
    for process in ("server", "controller"):
        grown = growth(memory["seconds"], memory[process])
        found.append(
            target(f"growth of the {process}'s memory [MB]", f"<= {GROWN:g}", grown, None, grown <= GROWN)
        )
    return found


def shield_targets(found: dict[str, dict[str, list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """Return the targets of the shield's value: fewer violations with it than without, paired, on every task."""
    targets = []
    for task, arms in found.items():
        difference = paired_difference(_rates(arms[SHIELDED]), _rates(arms[UNSHIELDED]))
        interval = Interval(*difference.mean_interval)
        name = f"{task}: violations per 1000 steps of the shielded bad policy minus without a shield"
        targets.append(target(name, "interval below 0", difference.mean, interval, interval.high < 0.0))
        broken = sum(one["broken"] for arm in ("limits", SHIELDED) for one in arms[arm])
        targets.append(target(f"{task}: broken limits with the shield", "0", broken, None, broken == 0))
    return targets


def markdown(soak: dict[str, Any], shield_rows: list[dict[str, Any]]) -> str:
    """Return the figures as Markdown tables."""
    report = soak["report"]
    late, delay = report["lateness"], report["delay"]
    lines = [
        "# Suite deploy",
        "",
        f"**Half an hour in real time**: {report['periods']} periods at {soak['rate']:g} Hz, load of the machine "
        f"{soak['load'][0]:.0f} on two cores, SCHED_FIFO priority {soak['priority']} for the controller.",
        "",
        "| time [ms] | p50 | p95 | p99 | max |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {one['p50']:.2f} | {one['p95']:.2f} | {one['p99']:.2f} | {one['max']:.2f} |"
            for name, one in (
                ("command after its period's beginning", late),
                ("chunk after its observation", delay),
            )
        ),
        "",
        "**A deliberately bad policy**",
        "",
        "| task | shield | violations per 1000 steps | normalised return | broken limits |",
        "|---|---|---|---|---|",
    ]
    for row in shield_rows:
        low, high = row["violations_interval"]
        below, above = row["return_interval"]
        lines.append(
            f"| {row['task']} | {row['arm']} | {row['violations_per_1000']:.1f} [{low:.1f}, {high:.1f}] "
            f"| {row['normalized_return']:.2f} [{below:.2f}, {above:.2f}] | {row['broken_limits']} |"
        )
    return "\n".join(lines) + "\n"


def export_markdown(asked: DictConfig, exports: list[dict[str, Any]], server: dict[str, Any]) -> str:
    """Return the figures of exports and server as Markdown tables."""
    lines = [
        "**Exports beside PyTorch**: the largest difference, in units of half an action's range (plans: normalised "
        f"units; critics' values: of their largest), and times [ms] of {asked.decisions} whole decisions on one "
        f"thread, in turns with eager PyTorch. Chunk and Gaussian policies had {asked.updates} updates of training, "
        "as neither depends on the score; load is the machine's after the measurement.",
        "",
        *export_table(exports),
        "",
        *server_table(server),
    ]
    return "\n".join(lines) + "\n"
