"""Which policies `diffpolicy refine` can refine: Gaussian ones, cloned on the way if need be, and chunk policies."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

import diffpolicy
from diffpolicy import training
from diffpolicy.alignment import Aligner
from diffpolicy.cli.config import build
from diffpolicy.cli.errors import ConfigError
from diffpolicy.cli.refine_options import lagrangian_config
from diffpolicy.cli.refine_world import BranchConfig, World
from diffpolicy.policies import CandidatePolicy, Policy, available_arms, load_policy
from diffpolicy.policies.acting import chunk_policy
from diffpolicy.policies.alignment import aligned_model, chunk_model, demonstrated, policy_manifest
from diffpolicy.policies.chunk_loading import load_chunk_model
from diffpolicy.policies.gaussian import METHOD as GAUSSIAN
from diffpolicy.policies.gaussian import GaussianConfig, GaussianPolicy, load_gaussian
from diffpolicy.refinement import (
    Arm,
    BranchValueConfig,
    BranchValues,
    CloneConfig,
    Lagrangian,
    RefineConfig,
    RewardOnly,
    Split,
    cloner,
    refiner,
)
from diffpolicy.refinement.chunks import ChunkRefineConfig, chunk_refiner

MEAN, CHUNK_ARM = "mean", "ddim_5"  # how policies are deployed unless deploy= says otherwise


@dataclass(frozen=True)
class Subject:
    """A policy to be refined: its `learner`, and the `policy` as it would be deployed with the weights it has now.

    `config` is what its checkpoints have to keep, `weights` the SHA-256 of where it starts.
    """

    learner: Callable[[DictConfig], Aligner]
    policy: Callable[[], Policy]
    config: dict[str, Any]
    weights: str


def clone_subject(cfg: DictConfig, world: World, folder: Path) -> Subject:
    """Return a Gaussian policy that clones the data, trained in `folder` unless it is there already."""
    policy, clone = build(GaussianConfig, cfg.gaussian, "gaussian"), build(CloneConfig, cfg.clone, "clone")
    description = world.description() | {"version": diffpolicy.__version__}
    learner = cloner(world.dataset, policy, clone, cfg.seed, world.device, description)
    config = {
        "seed": cfg.seed,
        "gaussian": policy.stored(),
        "clone": asdict(clone),
        "data_sha256": world.data_sha256,
    }
    checkpoint = training.run(
        learner, folder, config, checkpoint_every=1000, log_every=100, progress=cfg.progress
    )
    return _gaussian(training.read_checkpoint(checkpoint), cfg, world)


def load_subject(cfg: DictConfig, world: World) -> Subject:
    """Return the policy of the run `cfg.start`; ConfigError if it is one that cannot be refined."""
    checkpoint = training.read_checkpoint(training.best_checkpoint(Path(str(cfg.start)).expanduser()))
    method, task = checkpoint.manifest["method"], checkpoint.manifest.get("task")
    if task != world.task.id:
        raise ConfigError(f"start={cfg.start} acts in {task}, the world model is one of {world.task.id}")
    if method == GAUSSIAN:
        return _gaussian(checkpoint, cfg, world)
    if method == "diffusion":
        return _chunks(checkpoint, cfg, world)
    raise ConfigError(
        f"start={cfg.start} holds {method!r}: Gaussian policies and chunk policies can be refined; leave start out "
        "to clone the data first"
    )


def _gaussian(checkpoint: training.Checkpoint, cfg: DictConfig, world: World) -> Subject:
    network = load_gaussian(checkpoint, world.device)
    # What is explored with is set anew, whatever the policy was cloned with.
    policy = replace(
        build(GaussianConfig, cfg.gaussian, "gaussian"), hidden=_hidden(checkpoint), bound=network.bound
    )
    std = policy.std if _deployed(cfg, MEAN, ("mean", "sampled")) == "sampled" else 0.0

    def learner(cfg: DictConfig) -> Aligner:
        config = build(RefineConfig, cfg.refine, "refine")
        success = world.task.score == "success"
        config = replace(config, imagination=replace(config.imagination, success=success))
        values = BranchValues(
            world.dataset, build(BranchValueConfig, cfg.value, "value"), cfg.seed, world.device
        )
        env, description = world.branches(build(BranchConfig, cfg.branches, "branches")), world.description()
        told = description | {"version": diffpolicy.__version__, "method_of_refinement": str(cfg.method)}
        return refiner(
            network, policy, world.dataset, env, make_arm(cfg, world), config, cfg.seed, told, values
        )

    return Subject(learner, lambda: GaussianPolicy(network, std), {}, _weights(checkpoint))


def _chunks(checkpoint: training.Checkpoint, cfg: DictConfig, world: World) -> Subject:
    if cfg.method != "reward" or world.task.score != "success":
        raise ConfigError(
            f"chunk policies are refined for success alone (method=reward) on tasks that know it; got "
            f"method={cfg.method} on {world.task.name}"
        )
    model = aligned_model(load_chunk_model(checkpoint, world.device))
    chunks = chunk_model(model.roles)
    name = _deployed(cfg, f"{CHUNK_ARM}@{chunks.execution_horizon}", None)

    def learner(cfg: DictConfig) -> Aligner:
        config = build(ChunkRefineConfig, cfg.chunks, "chunks")
        env = world.branches(build(BranchConfig, cfg.branches, "branches"))
        demonstrations = demonstrated(chunks, world.dataset) if config.anchor > 0.0 else None
        manifest = policy_manifest(checkpoint, world_model={"weights": world.weights})
        return chunk_refiner(model, env, config, cfg.seed, manifest, demonstrations)

    policy = chunk_policy(chunks, name, device=world.device)
    return Subject(learner, lambda: policy, dict(checkpoint.config), _weights(checkpoint))


def make_arm(cfg: DictConfig, world: World) -> Arm:
    """Return how imagined decisions are praised; ConfigError for a split without critics."""
    if cfg.method == "reward":
        return RewardOnly()
    if cfg.method == "lagrangian":
        return Lagrangian(lagrangian_config(cfg, world.steps))
    if cfg.critics is None:
        raise ConfigError(
            "method=split needs critics=FOLDER, a run of `diffpolicy train policy=fisor` on the same task; or take "
            "method=lagrangian"
        )
    checkpoint = training.read_checkpoint(Path(str(cfg.critics)).expanduser())
    manifest = checkpoint.manifest
    if manifest["method"] != "fisor" or manifest["task"] != world.task.id:
        raise ConfigError(
            f"critics={cfg.critics} holds {manifest['method']!r} of {manifest['task']}, not FISOR's critics"
        )
    seeds = manifest["seeds"]
    seed = cfg.seed if cfg.seed in seeds else seeds[cfg.seed % len(seeds)]
    judge = load_policy(checkpoint, available_arms(manifest)[0], seed, world.device)
    assert isinstance(judge, CandidatePolicy)
    return Split(judge.critics, judge.standardizer)


def critics_weights(cfg: DictConfig) -> str | None:
    """Return the SHA-256 of the weights of the critics that `cfg` names, None where none are used."""
    if cfg.method != "split" or cfg.critics is None:
        return None
    return _weights(training.read_checkpoint(Path(str(cfg.critics)).expanduser()))


def _deployed(cfg: DictConfig, usual: str, choices: tuple[str, ...] | None) -> str:
    name = usual if cfg.deploy is None else str(cfg.deploy)
    if choices is not None and name not in choices:
        raise ConfigError(f"deploy={name} is not one of {', '.join(choices)}")
    return name


def _hidden(checkpoint: training.Checkpoint) -> list[int]:
    return [int(size) for size in checkpoint.manifest["gaussian"]["hidden"]]


def _weights(checkpoint: training.Checkpoint) -> str:
    return str(checkpoint.manifest["sha256"]["model.safetensors"])
