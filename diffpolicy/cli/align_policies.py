"""Chunk policies of `diffpolicy train` for `diffpolicy align`: episodes in place of samples and their reward."""

import math
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console

import envs
from diffpolicy import training
from diffpolicy.alignment import Experience, Objective, OnlineConfig, Rollout
from diffpolicy.alignment.recipes import online_config, recipe
from diffpolicy.cli.align_rewards import is_own
from diffpolicy.cli.align_subjects import Subject
from diffpolicy.cli.common import dataset_path, load_dataset
from diffpolicy.cli.config import build
from diffpolicy.cli.demonstrations import make_judge, trained_seeds
from diffpolicy.cli.errors import ConfigError
from diffpolicy.policies import load_chunk_model
from diffpolicy.policies.alignment import aligned_model, chunk_model, demonstrated, policy_manifest
from diffpolicy.policies.alignment_episodes import Episodes, EpisodesConfig


@dataclass(frozen=True)
class PlayConfig:
    """How a policy plays for its reward: steps of its sampler, and what `EpisodesConfig` says of the rest."""

    steps: int = 5
    decisions: int = 40
    executed: int | None = None
    minimum_std: float = 0.1
    until_best: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.minimum_std < math.inf:
            raise ValueError(f"minimum_std is a deviation, 0 or more, got {self.minimum_std}")


def policy_subject(cfg: DictConfig, run: Path, device: torch.device) -> Subject:
    """Return the best checkpoint of a run, whose episodes are rated by its task's own score.

    Checkpoints of the alignment are checkpoints of the policy, so that every other verb takes them.
    """
    if not is_own(cfg.reward) or not is_own(cfg.gold):
        raise ConfigError("a policy is rated by its task: leave reward and reward@gold as they are")
    if recipe(str(cfg.objective.name)).family == "reward":
        raise ConfigError(
            f"objective={cfg.objective.name} calls its reward itself, and episodes are not rated by one: take nft, say"
        )
    runs = trained_seeds(run)
    if len(runs) > 1:
        Console(stderr=True).print(f"of the {len(runs)} training seeds in {run}, {runs[0].name} is aligned")
    checkpoint = training.read_checkpoint(training.best_checkpoint(runs[0]))
    policy = load_chunk_model(checkpoint, device)
    options = build(PlayConfig, {key: value for key, value in cfg.policy.items() if key != "judge"}, "policy")
    model = aligned_model(policy, options.steps)
    task = envs.task(checkpoint.manifest["task"])
    score, opened = task.score, ExitStack()
    if score == "return":
        raise ConfigError(f"{task.name} has no score of episodes to align a policy to")

    def own_samples(objective: Objective[Any], online: OnlineConfig) -> Experience:
        _check_roll_outs(str(cfg.objective.name), online)
        config = EpisodesConfig(
            groups=online.groups,
            group_size=online.group_size,
            decisions=options.decisions,
            executed=options.executed,
            score=score,
            until_best=options.until_best,
            temperature=online.temperature if online.advantages == "softmax" else None,
            rule=online.rule,
        )
        count = config.groups * config.group_size
        vector = opened.enter_context(closing(envs.make_vector(task.id, count, autoreset=False)))
        return Episodes(model, vector, objective, config)

    def demonstrations() -> Rollout:
        dataset = load_dataset(task, dataset_path(task, cfg.data), list(policy.config.cameras))
        return demonstrated(chunk_model(model.roles), dataset)

    def keep(folder: Path) -> list[str]:
        return [f"next:       diffpolicy evaluate checkpoint={folder}"]

    return Subject(
        model,
        None,
        own_samples,
        keep,
        demonstrations=demonstrations,
        judge=make_judge(task, cfg.policy.judge, device),
        minimum_std=options.minimum_std,
        base=checkpoint.path,
        manifest=policy_manifest(checkpoint),
        config=dict(checkpoint.config),
        close=opened.close,
    )


def _check_roll_outs(name: str, online: OnlineConfig) -> None:
    """Raise ConfigError for options of roll-outs that episodes do not have, unless the objective brings them along."""
    published = online_config(name)
    for option in ("shared_start", "solver", "at_once"):
        if getattr(online, option) != getattr(published, option):
            raise ConfigError(f"episodes of a policy have no online.{option}: leave it out")
    if online.advantages not in ("global", "softmax", published.advantages):
        raise ConfigError(
            f"episodes of a policy have the advantages global or softmax, not {online.advantages}: leave "
            "online.advantages out"
        )
