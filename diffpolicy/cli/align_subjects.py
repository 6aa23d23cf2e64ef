"""What `diffpolicy align` can align: digits, a pipeline of diffusers, a chunk policy; each with what comes with it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig
from torch import Tensor

from diffpolicy.alignment import (
    Experience,
    Model,
    Objective,
    OnlineConfig,
    Pairs,
    Reward,
    Rollout,
)
from diffpolicy.alignment.recipes import build_experience
from diffpolicy.cli.align_data import load_samples
from diffpolicy.cli.align_rewards import picture_reward
from diffpolicy.cli.errors import ConfigError
from diffpolicy.training import Judge

Samples = Rollout | Pairs


@dataclass(frozen=True)
class Subject:
    """A model to be aligned, what rates it, and what it leaves behind.

    `real` (M, *S) are samples of the data as rewards see them, `demonstrations` those to learn from where the user has
    none. `own_samples` makes the experience of an objective that learns from what the model makes. `judge` looks at
    checkpoints in place of the monitor. `manifest` and `config` go into checkpoints. `keep` writes to the run's folder
    what others can load, and returns lines for the user.
    """

    model: Model
    reward: Reward | None
    own_samples: Callable[[Objective[Any], OnlineConfig], Experience]
    keep: Callable[[Path], list[str]]
    gold: Reward | None = None
    real: Tensor | None = None
    data: Samples | None = None
    demonstrations: Callable[[], Rollout] | None = None
    judge: Judge | None = None
    manifest: dict[str, Any] | None = None
    config: dict[str, Any] | None = None


def load_subject(cfg: DictConfig, device: torch.device) -> Subject:
    """Return what `cfg.model` names.

    Raises:
        ConfigError: if there is nothing of that name, or the reward is not for it.
        TrainingError: if what is there cannot be read.
    """
    if cfg.model == "digits":
        from diffpolicy.cli.align_digits import digits_subject

        return digits_subject(cfg, device)
    folder = Path(str(cfg.model)).expanduser()
    if (folder / "checkpoints").is_dir() or (folder / "seed-0" / "checkpoints").is_dir():
        from diffpolicy.cli.align_policies import policy_subject

        return policy_subject(cfg, folder, device)
    return pipeline_subject(cfg, device)


def pipeline_subject(cfg: DictConfig, device: torch.device) -> Subject:
    """Return a pipeline of diffusers, from a folder or the hub, with adapters to be trained."""
    from diffpolicy.alignment.pipelines import load_pipeline, save_adapter

    options = {name: value for name, value in cfg.pipeline.items() if name != "lora"}
    model = load_pipeline(
        str(cfg.model),
        prompts=prompts_of(cfg),
        lora_rank=cfg.pipeline.lora.rank,
        lora_alpha=cfg.pipeline.lora.alpha,
        device=device,
        **options,
    )
    reward = picture_reward(cfg.reward, "reward", device)
    data = None if cfg.data is None else load_samples(Path(cfg.data), model)
    if reward is None and data is None:
        raise ConfigError(
            "a pipeline comes with no reward: choose one, for example reward=jpeg or reward=clip"
        )

    def keep(run: Path) -> list[str]:
        save_adapter(model, run / "adapter")
        return [
            f"adapter:    {run / 'adapter'}",
            f'next:       pipe.load_lora_weights("{run / "adapter"}")  # of any diffusers pipeline',
        ]

    return Subject(
        model,
        reward,
        lambda objective, online: build_experience(model, reward, objective, online),
        keep,
        gold=picture_reward(cfg.gold, "reward@gold", device),
        data=data,
    )


def prompts_of(cfg: DictConfig) -> list[str]:
    """Return the prompts: a list, or the lines of a text file that are not empty; none for null.

    Raises:
        ConfigError: if there are none.
    """
    given = cfg.prompts
    if given is None:
        return []
    if isinstance(given, ListConfig):
        prompts = [str(each) for each in given]
    else:
        file = Path(str(given)).expanduser()
        if not file.is_file():
            raise ConfigError(f"prompts={given}: there is no such file; a list is prompts=[a,b]")
        prompts = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not prompts:
        raise ConfigError(f"prompts={given}: there is no prompt in it")
    return prompts
