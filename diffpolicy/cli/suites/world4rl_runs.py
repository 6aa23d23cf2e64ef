"""The policies of the suite `world4rl`: demonstrated, cloned, and refined in a model of the clone's own roll-outs."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

import envs
from diffpolicy import data, training
from diffpolicy.alignment import Aligner
from diffpolicy.cli import train_world_model
from diffpolicy.cli.common import compute_device, load_dataset
from diffpolicy.cli.config import build
from diffpolicy.cli.refine_world import BranchConfig, World, load_world
from diffpolicy.collection import CollectConfig, collect
from diffpolicy.policies.gaussian import GaussianConfig, GaussianNetwork, load_gaussian
from diffpolicy.refinement import (
    BranchValueConfig,
    BranchValues,
    CloneConfig,
    PictureCloneConfig,
    RefineConfig,
    RewardOnly,
    cloner,
    refiner,
)

EXPERT_STEPS = 150  # the experts' slowest demonstration takes fewer


@dataclass(frozen=True)
class Wide(GaussianConfig):
    """A Gaussian policy without the cap e^0 on its deviation."""

    def __post_init__(self) -> None:
        """Anything goes: it is the arm that shows what the cap is for."""


def demonstrations(cfg: DictConfig, task: envs.Task, seed: int) -> Path:
    """Return the file of a seed's demonstrations by the task's expert; made if it is missing."""
    path = folder(cfg, task, seed) / "demonstrations.hdf5"
    experts = {"expert": cfg.demonstrations, "driven": 0, "noisy": 0, "uniform": 0, "held": 0}
    return collected(cfg, task, path, seed, {**experts, "horizon": EXPERT_STEPS})


def clone(cfg: DictConfig, task: envs.Task, seed: int) -> Path:
    """Train a seed's Gaussian clone of its demonstrations, unless that is done; return its run."""
    path = demonstrations(cfg, task, seed)
    policy, config = build(GaussianConfig, cfg.gaussian, "gaussian"), build(CloneConfig, cfg.clone, "clone")
    description = described(task, path)
    learner = cloner(load_dataset(task, path), policy, config, seed, compute_device(cfg), description)
    return cloned(cfg, task, seed, path, learner, policy, config)


def described(task: envs.Task, path: Path) -> dict[str, Any]:
    """Return what a clone's manifest says of the demonstrations in `path`."""
    return {"task": task.id, "data": {"file": path.name, "sha256": data.sha256(path)}}


def cloned(
    cfg: DictConfig,
    task: envs.Task,
    seed: int,
    path: Path,
    learner: Aligner,
    policy: GaussianConfig,
    config: CloneConfig | PictureCloneConfig,
) -> Path:
    """Train `learner`, a clone of the demonstrations in `path`, unless that is done; return the run."""
    stored = {
        "task": task.id,
        "seed": seed,
        "gaussian": policy.stored(),
        "clone": asdict(config),
        "data_sha256": data.sha256(path),
    }
    run = folder(cfg, task, seed) / "clone"
    training.run(learner, run, stored, checkpoint_every=config.updates, log_every=100, progress=cfg.progress)
    return run


def roll_outs(cfg: DictConfig, task: envs.Task, seed: int) -> Path:
    """Return the file of the demonstrations together with roll-outs of the clone, noise and random actions."""
    driver, path = clone(cfg, task, seed), folder(cfg, task, seed) / f"{kind(cfg)}.hdf5"
    mixture = {
        **plain(cfg.mixture),
        "expert": 0,
        "driver": str(driver),
        "arm": "sampled",
        "horizon": cfg.horizon,
    }
    return collected(cfg, task, path, 1000 + seed, mixture, demonstrations(cfg, task, seed))


def world_model(cfg: DictConfig, task: envs.Task, seed: int) -> Path:
    """Train a seed's world model, unless that is done; return its run."""
    path = roll_outs(cfg, task, seed)
    run = folder(cfg, task, seed) / f"world-{kind(cfg)}"
    changed = {"task": task.id, "data": str(path), "seed": seed, "run": str(run)}
    train_world_model.train(OmegaConf.create({**plain(cfg), **changed}))
    return run


def load(cfg: DictConfig, task: envs.Task, seed: int) -> World:
    """Return a seed's frozen world model and its data."""
    run, path = world_model(cfg, task, seed), roll_outs(cfg, task, seed)
    chosen = OmegaConf.create({"world": str(run), "task": task.id, "data": str(path)})
    return load_world(chosen, compute_device(cfg))


def refine(cfg: DictConfig, task: envs.Task, seed: int, arm: str) -> Path:
    """Refine a seed's clone for success in its world model, unless that is done; return the run."""
    world, start = load(cfg, task, seed), training.read_checkpoint(last(clone(cfg, task, seed)))
    network = load_gaussian(start, world.device)
    family = GaussianConfig if cfg.std <= 1.0 else Wide
    policy = family(list(cfg.gaussian.hidden), cfg.std)
    value = build(BranchValueConfig, cfg.value, "value")
    values = BranchValues(until_success(world.dataset), value, seed, world.device)
    return refined(cfg, world, network, policy, values, start, seed, arm)


def refined(
    cfg: DictConfig,
    world: World,
    network: GaussianNetwork,
    policy: GaussianConfig,
    values: BranchValues,
    start: training.Checkpoint,
    seed: int,
    arm: str,
) -> Path:
    """Refine `network`, that of the checkpoint `start`, for success alone, unless that is done; return the run."""
    given = plain(cfg.refine)
    given["imagination"]["success"] = True
    config = build(RefineConfig, given, "refine")
    branches = build(BranchConfig, {**plain(cfg.branches), "horizon": cfg.horizon}, "branches")
    description = world.description() | {"method_of_refinement": "success", "horizon": cfg.horizon}
    env = world.branches(branches)
    learner = refiner(network, policy, world.dataset, env, RewardOnly(), config, seed, description, values)
    stored = {
        "task": world.task.id,
        "seed": seed,
        "refine": asdict(config),
        "gaussian": policy.stored(),
        "branches": asdict(branches),
        "value": asdict(values.config),
        "world_sha256": world.weights,
        "start_sha256": start.manifest["sha256"]["model.safetensors"],
    }
    run = folder(cfg, world.task, seed) / arm
    training.run(
        learner, run, stored, checkpoint_every=config.updates, log_every=config.updates, progress=cfg.progress
    )
    return run


def until_success(dataset: data.OfflineDataset) -> data.OfflineDataset:
    """Return the data with a reward at the first success of each episode alone, as imagined episodes have it."""
    before = dataset.rewards.cumsum(0) - dataset.rewards
    starts = before[dataset.episode_starts].repeat_interleave(dataset.episode_lengths)
    return replace(dataset, rewards=torch.where(before == starts, dataset.rewards, 0.0))


def weights(run: Path) -> str:
    """Return the SHA-256 of a finished run's weights."""
    return str(training.read_checkpoint(last(run)).manifest["sha256"]["model.safetensors"])


def collected(
    cfg: DictConfig,
    task: envs.Task,
    path: Path,
    seed: int,
    mixture: dict[str, Any],
    begun: Path | None = None,
    make: Callable[..., object] = collect,
) -> Path:
    """Let `make` collect episodes into `path`, after those of the file `begun`, if it is missing.

    Those of a stopped collection are dropped.
    """
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"collecting-{path.name}")
    unfinished.unlink(missing_ok=True)
    if begun is not None:
        shutil.copy(begun, unfinished)
    given = {"source": "mixture", "seed": seed, "extend": True}
    options = {**given, "mixture": {"after_success": cfg.after_success, **mixture}}
    make(task.id, build(CollectConfig, options, "collect"), unfinished, progress=cfg.progress)
    unfinished.rename(path)
    return path


def kind(cfg: DictConfig) -> str:
    """Return what the roll-outs of a configuration are called."""
    kept = [f"{name}-{cfg.mixture[name]}" for name in ("driven", "noisy", "uniform", "held")]
    return "_".join(kept)


def folder(cfg: DictConfig, task: envs.Task, seed: int) -> Path:
    """Return where all of a training seed is kept."""
    return Path(cfg.run).resolve() / task.name / f"seed-{seed}"


def last(run: Path) -> Path:
    """Return the last checkpoint of a finished run."""
    found = training.latest_checkpoint(run)
    assert found is not None, f"{run} has been trained"
    return found


def plain(node: DictConfig) -> dict[str, Any]:
    """Return plain values."""
    return dict(OmegaConf.to_container(node, resolve=True))  # type: ignore[arg-type]
