"""The suite `world-model`: how far ahead models of states see, of what they have learnt and of random actions.

Every model of every task is trained once per seed; every assessment is a result of its own below `run`. A policy that
clones the data plays in the simulator and in every model, from the same starts: the gap between the two is stated.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

import envs
from diffpolicy import data, training
from diffpolicy.cli.collect import collect_task
from diffpolicy.cli.common import compute_device, dataset_file, load_dataset
from diffpolicy.cli.config import build
from diffpolicy.cli.suites.jobs import Job, run_all
from diffpolicy.cli.suites.results import header, write
from diffpolicy.cli.suites.world_model_closed import clone, imagined, really
from diffpolicy.cli.suites.world_model_document import Found, gaps, markdown, targets
from diffpolicy.cli.suites.world_model_figures import write_figures
from diffpolicy.cli.suites.world_model_pixels import pixel_markdown, pixel_rows
from diffpolicy.cli.train_world_model import split, train
from diffpolicy.collection import CollectConfig, collect
from world_models import StateWorldModel, load_world_model
from world_models.assessment import assess

HELD_OUT, OFF_POLICY = "held-out", "off-policy"
DIGITS = 6  # of errors in kept results


def main(cfg: DictConfig) -> None:
    """Run or go on with the suite."""
    console = Console(soft_wrap=True, highlight=False)
    found: list[Found] = []
    closed: list[dict[str, Any]] = []
    for name in cfg.tasks:
        task = envs.task(str(name))
        console.rule(task.name)
        opened, played = run_task(task_config(cfg, str(name)), task, console)
        found += opened
        closed += played
    pixels = pixel_rows(cfg, console)
    document = {
        **header(),
        "default": cfg.default,
        "headline_steps": cfg.headline_steps,
        "horizons": list(cfg.horizons),
        "starts": cfg.starts,
        "updates": {name: model.updates for name, model in cfg.models.items()},
        "rows": [row for one in found for row in one.rows],
        "models": [one.summary for one in found],
        "closed_loop": closed,
        "pixels": pixels["rows"],
        "targets": targets(
            found, cfg.default, cfg.headline_steps, cfg.target.horizon, cfg.target.gain, cfg.target.no_worse
        )
        + pixels["targets"],
    }
    path = Path(cfg.results)
    write(document, markdown(document) + pixel_markdown(pixels), path)
    for figure in write_figures(document, path):
        console.print(f"figure: {figure}")


def task_config(cfg: DictConfig, name: str) -> DictConfig:
    """Return the suite's options, changed by what it says of this task."""
    # Plain first: an interpolation would take the place of what it is merged into.
    merged = OmegaConf.merge(cfg, plain(cfg.tasks[name]) if cfg.tasks[name] else {})
    assert isinstance(merged, DictConfig)
    return merged


def run_task(cfg: DictConfig, task: envs.Task, console: Console) -> tuple[list[Found], list[dict[str, Any]]]:
    """Train and assess all models of one task where that is not done; return open loops, and rows of closed ones."""
    learnt, foreign = datasets(cfg, task)
    hashes = {path: data.sha256(path) for path in (learnt, foreign)}
    policy = clone(cfg, task, loaded(task, learnt), hashes[learnt])
    real = real_job(cfg, task, policy)
    run_all([real], console)
    found, closed = [], []
    for name in cfg.models:
        runs = [train_model(cfg, task, str(name), seed, learnt) for seed in cfg.seeds]
        diffusion = cfg.models[name].kind == "diffusion"
        played = [
            imagined_job(cfg, task, run, cfg.headline_steps if diffusion else 0, policy, real) for run in runs
        ]
        run_all(played, console)
        results = [one.result() for one in played]
        closed += gaps(task.name, str(name), real.of["horizons"], real.result(), results)
        for steps in cfg.sampler_steps if diffusion else [0]:
            for kind, path in ((HELD_OUT, learnt), (OFF_POLICY, foreign)):
                jobs = [job(cfg, task, run, steps, kind, path, hashes[path]) for run in runs]
                run_all(jobs, console)
                results = [one.result() for one in jobs]
                found.append(Found(task.name, str(name), steps, kind, list(cfg.horizons), results))
    return found, closed


def real_job(cfg: DictConfig, task: envs.Task, policy: Path) -> Job:
    """Return the job that plays the policy of a checkpoint in the simulator."""
    options = cfg.closed_loop
    seeds = range(options.first_seed, options.first_seed + options.episodes)
    horizons = [steps for steps in options.horizons if steps <= task.max_episode_steps]
    of = {"weights": weights(policy), "seeds": [seeds.start, seeds.stop], "horizons": horizons}
    path = Path(cfg.run).resolve() / task.name / "clone" / "played.json"
    return Job(f"{task.name} simulator", path, of, partial(really, task, policy, seeds, horizons))


def imagined_job(
    cfg: DictConfig, task: envs.Task, checkpoint: Path, steps: int, policy: Path, real: Job
) -> Job:
    """Return the job that plays the same policy in a model, with `steps` of its sampler, from the same states."""
    run = checkpoint.parents[2]

    def make() -> dict[str, Any]:
        device = compute_device(cfg)
        model = with_steps(load_world_model(training.read_checkpoint(checkpoint), device), steps)
        first = torch.tensor(real.result()["first"], device=device)
        return imagined(model, policy, first, real.of["horizons"])

    of = {"weights": weights(checkpoint), "steps": steps, "real": real.of}
    name = f"{task.name} {run.parent.name} {run.name} closed loop"
    return Job(name, run / "assessments" / "closed-loop.json", of, make)


def weights(checkpoint: Path) -> str:
    """Return the hash of a checkpoint's weights."""
    return str(training.read_checkpoint(checkpoint).manifest["sha256"]["model.safetensors"])


def datasets(cfg: DictConfig, task: envs.Task) -> tuple[Path, Path]:
    """Return the file to learn from and that of random actions; what is missing is collected."""
    folder = Path(cfg.data_folder)
    learnt = dataset_file(folder, task)
    recipe: dict[str, Any] = {}
    if cfg.data == "mixture":
        learnt = learnt.with_name(f"{learnt.stem}_mixture.hdf5")
        recipe = {"source": "mixture", "mixture": plain(cfg.mixture)}
    collected(task, learnt, recipe, cfg.progress)
    foreign = learnt.with_name(f"{dataset_file(folder, task).stem}_random.hdf5")
    options = plain(cfg.off_policy)
    nobody = {"expert": 0, "driven": 0, "noisy": 0}
    mixture = {name: options[name] for name in ("uniform", "held", "horizon")} | nobody
    collected(task, foreign, {"source": "mixture", "seed": options["seed"], "mixture": mixture}, cfg.progress)
    return learnt, foreign


def collected(task: envs.Task, path: Path, options: Mapping[str, Any], progress: bool) -> None:
    """Collect a dataset into `path` if it is missing; an interrupted collection is not used."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".collecting")
        if options:  # as they are: a task's recipe is for data to learn policies from
            collect(task.id, build(CollectConfig, options, "collect"), unfinished, progress)
        else:
            collect_task(task, unfinished, {}, progress=progress)
        unfinished.replace(path)


def train_model(cfg: DictConfig, task: envs.Task, name: str, seed: int, path: Path) -> Path:
    """Train one model where that is not done; return its best checkpoint."""
    run = Path(cfg.run).resolve() / task.name / name / f"seed-{seed}"
    changed = {"task": task.id, "data": str(path), "seed": seed, "run": str(run)}
    return train(OmegaConf.create({**plain(cfg), **changed, "world_model": plain(cfg.models[name])}))


def job(
    cfg: DictConfig, task: envs.Task, checkpoint: Path, steps: int, kind: str, path: Path, hashed: str
) -> Job:
    """Return the job that assesses a checkpoint with `steps` of the sampler on one kind of data, hashed SHA-256."""
    run = checkpoint.parents[2]
    name = kind + (f"-{steps}" if steps else "")
    of = {
        "weights": weights(checkpoint),
        "data": hashed,
        "starts": cfg.starts,
        "horizons": list(cfg.horizons),
    }
    make = partial(assessed, cfg, task, checkpoint, steps, kind, path)
    return Job(
        f"{task.name} {run.parent.name} {run.name} {name}", run / "assessments" / f"{name}.json", of, make
    )


def assessed(
    cfg: DictConfig, task: envs.Task, path: Path, steps: int, kind: str, file: Path
) -> dict[str, Any]:
    """Return how true a checkpoint is to data, with the errors (H, S) from every start."""
    checkpoint = training.read_checkpoint(path)
    model = with_steps(load_world_model(checkpoint, compute_device(cfg)), steps)
    dataset = loaded(task, file)
    if kind == HELD_OUT:
        dataset = split(dataset, torch.tensor(checkpoint.manifest["held_out"]["episodes"]))[1]
    found = assess(model, dataset, list(cfg.horizons), cfg.starts)
    tables = {"errors": found.found.errors, "persistence": found.found.persistence}
    return {
        **found.to_json(),
        "parameters": checkpoint.manifest["parameters"],
        "updates": checkpoint.step,
        **{
            name: [[round(value, DIGITS) for value in row] for row in table.tolist()]
            for name, table in tables.items()
        },
    }


@lru_cache(maxsize=2)
def loaded(task: envs.Task, path: Path) -> data.OfflineDataset:
    """Return a dataset; kept from one assessment to the next, because the largest take seconds to read."""
    return load_dataset(task, path)


def with_steps(model: StateWorldModel, steps: int) -> StateWorldModel:
    """Return the model with so many steps of its sampler; 0 leaves it as it is."""
    if steps:
        model.config = replace(model.config, diffusion=replace(model.config.diffusion, steps=steps))
    return model


def plain(node: DictConfig) -> dict[str, Any]:
    """Return a node of the configuration as plain values."""
    return dict(OmegaConf.to_container(node, resolve=True))  # type: ignore[arg-type]
