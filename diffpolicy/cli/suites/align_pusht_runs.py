"""The policies of the suite `align-pusht`: cloned from few demonstrations, then aligned on roll-outs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

import envs
from diffpolicy import training
from diffpolicy.alignment import AlignConfig, Aligner, Decay, Model, Objective, Term
from diffpolicy.alignment.recipes import build_objective, recipe
from diffpolicy.cli.common import compute_device, dataset_path, load_dataset
from diffpolicy.cli.config import build
from diffpolicy.diffusion import StepRule
from diffpolicy.policies import DiffusionConfig, DiffusionLearner
from diffpolicy.policies.alignment import chunk_model, load_aligned, policy_manifest
from diffpolicy.policies.alignment_credit import Credit, GroupCredit, ValueCredit
from diffpolicy.policies.alignment_episodes import Episodes, EpisodesConfig


@dataclass(frozen=True)
class RunConfig:
    """One objective's run: `draws` levels of each sample for matching errors, `temperature` of weights (RWR)."""

    learning_rate: float
    updates: int
    draws: int = 5
    temperature: float | None = None
    options: dict[str, Any] | None = None


def clone(cfg: DictConfig, task: envs.Task, seed: int) -> Path:
    """Train one seed's policy on its own few demonstrations, unless that is done; return its run."""
    options = OmegaConf.to_container(cfg.policy, resolve=True)
    assert isinstance(options, dict)
    config = build(DiffusionConfig, {str(k): v for k, v in options.items() if k != "name"}, "policy")
    dataset = load_dataset(task, dataset_path(task, None))
    order = torch.randperm(dataset.num_episodes, generator=torch.Generator().manual_seed(seed))
    few = dataset.select(order[: cfg.demonstrations].sort().values)
    device = compute_device(cfg)
    description = {"task": task.id, "policy": "diffusion_mlp", "demonstrations": cfg.demonstrations}
    learner = DiffusionLearner(few, config, seed, task.layout, device, description)
    stored = {
        "task": task.id,
        "seeds": [seed],
        "policy": asdict(config),
        "demonstrations": cfg.demonstrations,
    }
    folder = Path(cfg.run) / f"seed-{seed}" / "bc"
    training.run(learner, folder, stored, checkpoint_every=500, log_every=100, progress=cfg.progress)
    return folder


def align(cfg: DictConfig, task: envs.Task, seed: int, name: str, base: Path) -> Path:
    """Align one seed's policy with one objective, unless that is done; return its run."""
    device = compute_device(cfg)
    checkpoint = training.read_checkpoint(_last(base))
    model = load_aligned(checkpoint, cfg.steps, device)
    config = build(RunConfig, cfg.objectives[name], f"objectives.{name}")
    rule = StepRule("ddim", minimum_std=cfg.minimum_std)
    objective = make_objective(name, model, rule, config)
    rollouts = EpisodesConfig(**cfg.rollouts, temperature=config.temperature, rule=rule)
    settings = {
        "objective": name,
        **asdict(config),
        "credit": cfg.credit,
        "rollouts": dict(cfg.rollouts),
        "iterations": cfg.iterations,
        "minimum_std": cfg.minimum_std,
        "base": str(checkpoint.manifest["sha256"]["model.safetensors"]),
    }
    count = rollouts.groups * rollouts.group_size
    vector = envs.make_vector(task.id, count, workers=cfg.workers, autoreset=False)
    folder = Path(cfg.run) / f"seed-{seed}" / name
    try:
        experience = Episodes(model, vector, objective, rollouts, make_credit(cfg, model))
        aligner = Aligner(
            model,
            [Term(objective, experience)],
            # On-policy: "old" is what is trained, as it was when the roll-out began.
            AlignConfig(
                cfg.iterations, config.updates, learning_rate=config.learning_rate, old=Decay(0.0), seed=seed
            ),
            policy_manifest(checkpoint, alignment=settings),
        )
        training.run(
            aligner,
            folder,
            {**checkpoint.config, "alignment": settings},
            checkpoint_every=config.updates,
            log_every=config.updates,
            progress=cfg.progress,
        )
    finally:
        vector.close()
    return folder


def make_objective(name: str, model: Model, rule: StepRule, config: RunConfig) -> Objective[Any]:
    """Return an objective with the options of its run, and with its draws where it takes matching errors."""
    options = dict(config.options or {})
    if recipe(name).family == "matching":
        options["draws"] = config.draws
    return build_objective(name, model, None, rule, options)


def make_credit(cfg: DictConfig, model: Model) -> Credit:
    """Return what gives decisions their advantages."""
    if cfg.credit == "group":
        return GroupCredit()
    chunks = chunk_model(model.roles)
    tokens = chunks.features.size * (
        1 if chunks.config.conditioning.newest_only else chunks.observation_horizon
    )
    return ValueCredit(tokens, cfg.rollouts.decisions, device=model.device)


def weights(run: Path) -> str:
    """Return the SHA-256 of a finished run's weights."""
    return str(training.read_checkpoint(_last(run)).manifest["sha256"]["model.safetensors"])


def environment_steps(run: Path) -> int:
    """Return the control steps that a run's roll-outs took."""
    curves: Mapping[str, tuple[list[int], list[float]]] = training.read_curves(run)
    return round(curves["environment_steps"][1][-1])


def _last(run: Path) -> Path:
    found = training.latest_checkpoint(run)
    assert found is not None, f"{run} has been trained"
    return found
