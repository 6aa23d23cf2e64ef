"""The suite `safe-refine`: policies refined in imagination with cost in mind, against offline arms of the same data.

It goes on from the suite `safe-offline`: its datasets, its critics, and its episodes, played on the same seeds.
Every task has a world model for each seed; every method begins at the same clone of the cheap episodes.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

import envs
from diffpolicy import evaluation, training
from diffpolicy.cli import refine, train_world_model
from diffpolicy.cli.common import compute_device, dataset_file
from diffpolicy.cli.configs import config_folder
from diffpolicy.cli.errors import ConfigError
from diffpolicy.cli.suites.jobs import Job, run_all
from diffpolicy.cli.suites.results import header, write
from diffpolicy.cli.suites.safe_offline import LIMIT, rows
from diffpolicy.cli.suites.safe_refine_document import REFINED, START, best_offline, markdown, targets
from diffpolicy.cli.suites.safe_refine_figure import write_figure
from diffpolicy.evaluation import Episode
from diffpolicy.evaluation.certificate import read_certificate
from diffpolicy.evaluation.protocol import episode_seeds
from diffpolicy.evaluation.summary import Episodes
from diffpolicy.policies import load_policy
from diffpolicy.refinement import RefusedError

# Of refine, what the suite and its tasks may change.
OPTIONS = ("branches", "refine", "value", "lagrangian", "clone", "gaussian", "gate")


def main(cfg: DictConfig) -> None:
    """Run or go on with the suite."""
    console, results, verdicts = Console(soft_wrap=True, highlight=False), {}, []
    for name in cfg.tasks:
        one = task_config(cfg, str(name))
        task = envs.task(str(name))
        console.rule(task.name)
        results[task.name] = run_task(one, task, console)
        verdicts += gates(one, task)
        console.print(str(results[task.name]))
    document = {
        **header(),
        "seeds": list(cfg.seeds),
        "episodes": cfg.episodes,
        "deploy": cfg.deploy,
        "chosen_on": list(cfg.chosen_on),
        "rows": [row for name, result in results.items() for row in rows(name, result)],
        "gates": verdicts,
        "targets": [one for name, result in results.items() for one in targets(name, result)],
    }
    path = Path(cfg.results)
    write(document, markdown(document), path)
    console.print(f"figure: {write_figure(document, path)}")


def task_config(cfg: DictConfig, name: str) -> DictConfig:
    """Return the suite's options, changed by what it says of this task."""
    with open_dict(cfg):  # a task may give options of the world model's that the suite does not name
        merged = OmegaConf.merge(cfg, cfg.tasks[name] or {})
    assert isinstance(merged, DictConfig)
    return merged


def run_task(cfg: DictConfig, task: envs.Task, console: Console) -> evaluation.Evaluation:
    """Refine by every method and seed, play what is deployed, and judge it with the offline arms of the same data."""
    offline = offline_arms(cfg, task)
    played: dict[str, Episodes] = {arm.name: arm.episodes for arm in offline.arms}
    runs: dict[str, list[Path]] = {name: [] for name in (START, *(REFINED + each for each in cfg.methods))}
    for seed in cfg.seeds:
        world = learn_world(cfg, task, seed)
        start = clone_folder(cfg, task, seed)
        for method in cfg.methods:
            console.print(f"{task.name}: seed {seed}, {method}")
            run = refined(cfg, task, seed, str(method), world)
            # What was refused before it was refined stays what it was.
            runs[REFINED + method].append(run if (run / "checkpoints").is_dir() else start)
        runs[START].append(start)
    played |= {name: play(cfg, task, name, folders, console) for name, folders in runs.items()}
    return evaluation.judge(
        task, played, seed=cfg.seed, limits=list(cfg.limits), reference=best_offline(offline)
    )


def offline_arms(cfg: DictConfig, task: envs.Task) -> evaluation.Evaluation:
    """Return the episodes of the suite `safe-offline`; ConfigError if there are none, or others than ours."""
    folder = Path(cfg.offline) / task.name
    if not (folder / "certificate.json").exists():
        raise ConfigError(
            f"{folder} holds no certificate: run `diffpolicy benchmark suite=safe-offline` first"
        )
    found = read_certificate(folder / "certificate.json").evaluation
    wanted = (cfg.seed, cfg.episodes, len(cfg.seeds))
    if (found.seed, found.episodes, len(found.arms[0].episodes)) != wanted:
        raise ConfigError(
            f"{folder} was evaluated on other episodes: seed, episodes and training seeds have to be {wanted}"
        )
    return found


def learn_world(cfg: DictConfig, task: envs.Task, seed: int) -> Path:
    """Train the world model of a seed, unless it is there, and return its run."""
    run = _folder(cfg, task, seed) / "world"
    options = _options("train-world-model")
    named = OmegaConf.load(config_folder() / "world_model" / f"{cfg.world_model}.yaml")
    options.world_model = OmegaConf.merge(named, cfg.world_model_options)
    changes: dict[str, Any] = {
        "task": task.id,
        "data": _data(cfg, task),
        "seed": int(seed),
        "run": str(run),
    }
    train_world_model.train(_filled(cfg, options, changes))
    return run


def clone_folder(cfg: DictConfig, task: envs.Task, seed: int) -> Path:
    """Return where the clone is that all methods of a seed begin at: the first of them makes it."""
    return _folder(cfg, task, seed) / str(cfg.methods[0]) / "start"


def refined(cfg: DictConfig, task: envs.Task, seed: int, method: str, world: Path) -> Path:
    """Refine by one method, unless that is done, and return the run; what the gate says of it is kept, not obeyed."""
    run = _folder(cfg, task, seed) / method
    if (run / refine.RELEASE).exists():
        return run
    start = clone_folder(cfg, task, seed)
    changed = OmegaConf.masked_copy(cfg, [name for name in OPTIONS if name in cfg])
    merged: Any = OmegaConf.merge(_options("refine"), changed)
    changes = {
        "task": task.id,
        "data": _data(cfg, task),
        "world": str(world),
        "critics": str(Path(cfg.offline) / task.name),
        "start": None if method == cfg.methods[0] else str(start),
        "method": method,
        "limit": LIMIT,
        "deploy": cfg.deploy,
        "seed": int(seed),
        "run": str(run),
        "save_refused": True,
    }
    try:
        refine.main(_filled(cfg, merged, changes))
    except RefusedError as error:  # of data or a start that nothing can be refined from
        if not (start / "checkpoints").is_dir():
            raise
        verdict = {"released": False, "reasons": [str(error)], "figures": {}}
        run.mkdir(parents=True, exist_ok=True)
        (run / refine.RELEASE).write_text(json.dumps({"release": verdict}, indent=1) + "\n")
    return run


def play(cfg: DictConfig, task: envs.Task, name: str, folders: Sequence[Path], console: Console) -> Episodes:
    """Return real episodes of policies as they are deployed, one policy for each training seed; played once."""
    device, jobs = compute_device(cfg), []
    for member, folder in enumerate(folders):
        checkpoint = training.read_checkpoint(training.best_checkpoint(folder))
        deploy = "mean" if name == START else str(cfg.deploy)
        policy = load_policy(checkpoint, deploy, device=device)
        seeds = episode_seeds(cfg.seed, member, cfg.episodes)
        jobs.append(
            Job(
                f"{name}, {cfg.seeds[member]}",
                _folder(cfg, task, cfg.seeds[member]) / f"{name}.json",
                {
                    "weights": checkpoint.manifest["sha256"]["model.safetensors"],
                    "deploy": deploy,
                    "seeds": list(seeds),
                },
                partial(_played, policy, task.id, seeds),
            )
        )
    run_all(jobs, console)
    return tuple(tuple(Episode(**each) for each in job.result()) for job in jobs)


def gates(cfg: DictConfig, task: envs.Task) -> list[dict[str, Any]]:
    """Return what the gate said of every refined policy, from imagination alone."""
    found = []
    for seed in cfg.seeds:
        for method in cfg.methods:
            path = _folder(cfg, task, seed) / str(method) / refine.RELEASE
            found.append(
                {"task": task.name, "seed": seed, "method": method, **json.loads(path.read_text())["release"]}
            )
    return found


def _played(policy: Any, task: str, seeds: Sequence[int]) -> list[dict[str, Any]]:
    return [asdict(episode) for episode in evaluation.rollout(policy, task, seeds)]


def _folder(cfg: DictConfig, task: envs.Task, seed: int) -> Path:
    return Path(cfg.run).resolve() / task.name / f"seed-{seed}"


def _data(cfg: DictConfig, task: envs.Task) -> str:
    return str(dataset_file(Path(cfg.data_folder), task).resolve())


def _options(verb: str) -> DictConfig:
    """Return the options of a verb as they stand in its file."""
    found = OmegaConf.load(config_folder() / f"{verb}.yaml")
    assert isinstance(found, DictConfig)
    return OmegaConf.masked_copy(
        found, [str(key) for key in found if key not in ("defaults", "hydra", "run")]
    )


def _filled(cfg: DictConfig, options: DictConfig, changes: dict[str, Any]) -> DictConfig:
    shared = {name: cfg[name] for name in ("device", "threads", "progress")}
    found = OmegaConf.merge(options, shared, changes)
    assert isinstance(found, DictConfig)
    return found
