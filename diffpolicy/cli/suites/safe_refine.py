"""The suite `safe-refine`: policies refined in imagination with cost in mind, against offline arms of the same data.

It goes on from the suite `safe-offline`: its datasets, its critics, and its episodes, played on the same seeds.
Every task has a world model for each seed; every method begins at the same clone of the cheap episodes.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

import envs
from diffpolicy import evaluation, training
from diffpolicy.cli import refine, train_world_model
from diffpolicy.cli.common import compute_device, dataset_file
from diffpolicy.cli.configs import config_folder
from diffpolicy.cli.errors import ConfigError
from diffpolicy.cli.suites.results import header, target, write
from diffpolicy.cli.suites.safe_offline import LIMIT, markdown, rows
from diffpolicy.evaluation.certificate import read_certificate
from diffpolicy.evaluation.protocol import episode_seeds
from diffpolicy.evaluation.statistics import paired_difference
from diffpolicy.evaluation.summary import Episodes
from diffpolicy.policies import load_policy

OURS, START = "refined_split", "clone"
# Of refine, what a task may change.
OPTIONS = ("branches", "refine", "value", "lagrangian", "clone", "gaussian", "gate")


def main(cfg: DictConfig) -> None:
    """Run or go on with the suite."""
    console, results, verdicts = Console(soft_wrap=True, highlight=False), {}, []
    for name, given in cfg.tasks.items():
        task = envs.task(str(name))
        console.rule(task.name)
        results[task.name] = run_task(cfg, task, given or OmegaConf.create())
        verdicts += gates(cfg, task)
        console.print(str(results[task.name]))
    document = {
        **header(),
        "seeds": list(cfg.seeds),
        "episodes": cfg.episodes,
        "chosen_on": list(cfg.chosen_on),
        "rows": [row for name, result in results.items() for row in rows(name, result)],
        "gates": verdicts,
        "targets": [one for name, result in results.items() for one in targets(name, result)],
    }
    text = markdown(document) + "\n" + gates_table(verdicts, list(cfg.chosen_on))
    write(document, text, Path(cfg.results))


def run_task(cfg: DictConfig, task: envs.Task, given: DictConfig) -> evaluation.Evaluation:
    """Refine by every method and seed, play what is deployed, and judge it with the offline arms of the same data."""
    folder = Path(cfg.offline) / task.name
    if not (folder / "certificate.json").exists():
        raise ConfigError(
            f"{folder} holds no certificate: run `diffpolicy benchmark suite=safe-offline` first"
        )
    offline = read_certificate(folder / "certificate.json").evaluation
    wanted = (cfg.seed, cfg.episodes, len(cfg.seeds))
    if (offline.seed, offline.episodes, len(offline.arms[0].episodes)) != wanted:
        raise ConfigError(
            f"{folder} was evaluated on other episodes: seed, episodes and training seeds have to be {wanted}"
        )
    played: dict[str, Episodes] = {arm.name: arm.episodes for arm in offline.arms}
    runs: dict[str, list[Path]] = {name: [] for name in (START, *(f"refined_{each}" for each in cfg.methods))}
    for seed in cfg.seeds:
        world = learn_world(cfg, task, seed)
        for method in cfg.methods:
            runs[f"refined_{method}"].append(refined(cfg, task, given, seed, str(method), world))
        runs[START].append(_folder(cfg, task, seed) / str(cfg.methods[0]) / "start")
    played |= {name: play(cfg, task, folders) for name, folders in runs.items()}
    best = best_offline(offline)
    return evaluation.judge(task, played, seed=cfg.seed, limits=list(cfg.limits), reference=best)


def learn_world(cfg: DictConfig, task: envs.Task, seed: int) -> Path:
    """Train the world model of a seed, unless it is there, and return its run."""
    run = _folder(cfg, task, seed) / "world"
    options = _options("train-world-model")
    options.world_model = OmegaConf.load(config_folder() / "world_model" / f"{cfg.world_model}.yaml")
    changes: dict[str, Any] = {
        "task": task.id,
        "data": _data(cfg, task),
        "seed": int(seed),
        "run": str(run),
    }
    if cfg.world_model_updates is not None:
        changes["world_model"] = {"updates": cfg.world_model_updates}
    train_world_model.train(_filled(cfg, options, changes))
    return run


def refined(cfg: DictConfig, task: envs.Task, given: DictConfig, seed: int, method: str, world: Path) -> Path:
    """Refine by one method, unless that is done, and return the run; what the gate says of it is kept, not obeyed."""
    run = _folder(cfg, task, seed) / method
    if (run / refine.RELEASE).exists():
        return run
    start = _folder(cfg, task, seed) / str(cfg.methods[0]) / "start"
    changes: dict[str, Any] = {name: cfg[name] for name in OPTIONS if name in cfg}
    merged: Any = OmegaConf.merge(
        _options("refine"), changes, {name: given[name] for name in OPTIONS if name in given}
    )
    changes = {
        "task": task.id,
        "data": _data(cfg, task),
        "world": str(world),
        "critics": str(Path(cfg.offline) / task.name),
        "start": str(start) if (start / "checkpoints").is_dir() and method != cfg.methods[0] else None,
        "method": method,
        "limit": LIMIT,
        "seed": int(seed),
        "run": str(run),
        "save_refused": True,
    }
    refine.main(_filled(cfg, merged, changes))
    return run


def play(cfg: DictConfig, task: envs.Task, folders: Sequence[Path]) -> Episodes:
    """Return real episodes of the mean actions of policies, one for each training seed."""
    device = compute_device(cfg)
    found = []
    for member, folder in enumerate(folders):
        policy = load_policy(
            training.read_checkpoint(training.best_checkpoint(folder)), "mean", device=device
        )
        seeds = episode_seeds(cfg.seed, member, cfg.episodes)
        found.append(tuple(evaluation.rollout(policy, task.id, seeds)))
    return tuple(found)


def best_offline(offline: evaluation.Evaluation) -> str:
    """Return the offline arm that earns most among those whose normalised cost is below 1; the safest if none is."""
    costs = {arm.name: arm.summary.at(LIMIT).normalized_cost.mean for arm in offline.arms}
    safe = [arm for arm in offline.arms if costs[arm.name] < 1.0]
    if not safe:
        return min(costs, key=lambda name: costs[name])
    return max(safe, key=lambda arm: arm.summary.normalized_return.mean).name


def targets(task: str, result: evaluation.Evaluation) -> list[dict[str, Any]]:
    """Return what is wanted of the split: more than the best offline arm, at a normalised cost below 1."""
    returns = {
        arm.name: [[each.episode_return for each in row] for row in arm.episodes] for arm in result.arms
    }
    row = envs.task(task)
    scale = row.max_episode_reward - row.min_episode_reward
    gain = paired_difference(
        *([[v / scale for v in r] for r in returns[name]] for name in (OURS, result.reference))
    )
    cost = result.arm(OURS).summary.at(LIMIT).normalized_cost
    wanted = (
        f"{task}: normalised return of {OURS} minus {result.reference}, the best offline arm within the limit"
    )
    return [
        target(wanted, "interval above 0", gain.mean, gain.mean_interval, gain.mean_interval.low > 0.0),
        target(
            f"{task}: normalised cost of {OURS}", "mean < 1", cost.mean, cost.mean_interval, cost.mean < 1.0
        ),
    ]


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


def gates_table(verdicts: Sequence[dict[str, Any]], chosen_on: Sequence[str]) -> str:
    """Return the gate's verdicts as a Markdown table."""
    lines = [
        f"Settings were chosen on {', '.join(chosen_on)}. The gate saw imagination only.",
        "",
        "| task | seed | method | released | imagined return | imagined cost | uncertainty |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in verdicts:
        figures, task = one["figures"], envs.task(one["task"])
        lines.append(
            f"| {one['task']} | {one['seed']} | {one['method']} | {'yes' if one['released'] else 'no'} "
            f"| {task.normalized_return(figures['imagined_return']):.3f} | {figures['imagined_cost']:.2f} "
            f"| {figures['uncertainty_ratio']:.2f} |"
        )
    return "\n".join(lines) + "\n"


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
