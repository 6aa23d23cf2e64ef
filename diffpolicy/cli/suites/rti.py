"""The suite `rti`: what a chunk policy's score costs in evaluations, by sampler, warm start and execution horizon.

Every network of every task is trained once per seed; every arm's episodes are a result of their own below `run`.
"""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

import envs
from diffpolicy.cli.suites.jobs import run_all
from diffpolicy.cli.suites.results import header, write
from diffpolicy.cli.suites.rti_document import Found, markdown, targets
from diffpolicy.cli.suites.rti_jobs import delay_jobs, jump_jobs, latency_job, played, score_jobs
from diffpolicy.cli.suites.rti_networks import train_network
from diffpolicy.cli.suites.rti_page import write_page
from diffpolicy.evaluation.imitation import PARALLEL, tabulate
from diffpolicy.evaluation.rollout import batch_size
from diffpolicy.policies import parse_arm


def main(cfg: DictConfig) -> None:
    """Run or go on with the suite."""
    console = Console(soft_wrap=True, highlight=False)
    tasks = {envs.task(str(name)): task_config(cfg, str(name)) for name in cfg.tasks}
    found = [
        run_network(options, task, str(network), console)
        for task, options in tasks.items()
        for network in cfg.networks
    ]
    document = {
        **header(),
        "seeds": list(cfg.seeds),
        "episodes": {task.name: options.episodes for task, options in tasks.items()},
        "seed": cfg.seed,
        "weights": {one.name: list(one.weights) for one in found},
        "rows": [row for one in found for row in one.rows],
        "delays": [row for one in found for row in one.delay_rows],
        "jumps": [row for one in found for row in one.jump_rows],
        "targets": [target for one in found for target in targets(one)],
    }
    path = Path(cfg.results)
    write(document, markdown(document), path)
    console.print(f"report: {write_page(document, path)}")


def task_config(cfg: DictConfig, name: str) -> DictConfig:
    """Return the suite's options, changed by what it says of this task."""
    merged = OmegaConf.merge(cfg, cfg.tasks[name] or {})
    assert isinstance(merged, DictConfig)
    return merged


def run_network(cfg: DictConfig, task: envs.Task, network: str, console: Console) -> Found:
    """Train one network of one task where that is not done, play what is not played, and tabulate it."""
    console.rule(f"{task.name}: {network}")
    names = arm_names(cfg, network)
    guarded = [arm for arm in dict.fromkeys([*names, *cfg.jump.arms, cfg.delays.arm]) if parse_arm(arm).guard]
    trained = train_network(cfg, task, network, guarded)
    vector: Any = envs.make_vector(task.id, batch_size(cfg.episodes, PARALLEL), autoreset=False)
    try:
        scores = {arm: score_jobs(cfg, trained, arm, vector) for arm in names}
        timed = names if network in cfg.latency.networks else []
        times = {arm: latency_job(cfg, trained, arm) for arm in timed}
        delays = delay_jobs(cfg, trained, vector)
        jumps = jump_jobs(cfg, trained, vector)
        groups = [*scores.values(), list(times.values()), *delays.values(), *jumps.values()]
        run_all([job for group in groups for job in group], console)
    finally:
        vector.close()
    reference = cfg.reference if cfg.reference in names else names[0]
    found = Found(
        task=task,
        network=network,
        table=tabulate(
            task.name, task.score, {arm: played(scores[arm]) for arm in names}, reference=reference
        ),
        per_chunk={arm: trained.evaluations(arm)[1] for arm in names},
        latency={arm: job.result() for arm, job in times.items()},
        delays={key: played(jobs) for key, jobs in delays.items()},
        jumps={key: played(jobs) for key, jobs in jumps.items()},
        judged_by=trained.judged_by,
        weights=trained.weights,
        jump_at=cfg.jump.at,
    )
    console.print(str(found.table))
    return found


def arm_names(cfg: DictConfig, network: str) -> list[str]:
    """Return the arms of a network, each at every execution horizon."""
    options = cfg.networks[network] or {}
    return [f"{arm}@{count}" for arm in options.get("arms", cfg.arms) for count in cfg.executions]
