"""What `diffpolicy align` can align: digits, a pipeline of diffusers, a chunk policy; each with what comes with it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

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
from diffpolicy.cli.align_rewards import is_own, picture_reward
from diffpolicy.cli.config import build
from diffpolicy.cli.errors import ConfigError
from diffpolicy.training import Judge

Samples = Rollout | Pairs


@dataclass(frozen=True)
class LoraConfig:
    """The rank of adapters and what they are scaled by, over the rank; None: the rank."""

    rank: int = 8
    alpha: float | None = None


@dataclass(frozen=True)
class PipelineConfig:
    """How a pipeline is loaded, see `load_pipeline`."""

    steps: int = 10
    guidance: float | None = None
    size: int | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    checkpointing: bool = False
    lora: LoraConfig = field(default_factory=LoraConfig)


@dataclass(frozen=True)
class Subject:
    """A model to be aligned, what rates it, and what it leaves behind.

    `real` (M, *S) are samples of the data as rewards see them, `demonstrations` those to learn from where the user has
    none. `own_samples` makes the experience of an objective that learns from what the model makes; recorded steps of
    it have no deviation below `minimum_std`. `judge` looks at checkpoints in place of the monitor; `base` is the one
    that all began with. `manifest` and `config` go into checkpoints. `keep` writes to the run's folder what others can
    load, and returns lines for the user. `close` ends what `own_samples` has opened.
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
    minimum_std: float = 0.0
    base: Path | None = None
    manifest: dict[str, Any] | None = None
    config: dict[str, Any] | None = None
    close: Callable[[], None] = lambda: None


def load_subject(cfg: DictConfig, device: torch.device) -> Subject:
    """Return what `cfg.model` names.

    Raises:
        ConfigError: if there is nothing of that name, or the reward is not for it.
        TrainingError: if what is there cannot be read.
    """
    is_own(cfg.gold)  # is it a reward at all
    if cfg.model == "digits":
        _without_prompts(cfg)
        from diffpolicy.cli.align_digits import digits_subject

        return digits_subject(cfg, device)
    folder = Path(str(cfg.model)).expanduser()
    if (folder / "checkpoints").is_dir() or (folder / "seed-0" / "checkpoints").is_dir():
        _without_prompts(cfg)
        from diffpolicy.cli.align_policies import policy_subject

        return policy_subject(cfg, folder, device)
    if not (folder / "model_index.json").is_file() and not in_hub_cache(str(cfg.model)):
        raise ConfigError(
            f"model={cfg.model} is none: neither digits, nor a folder of a diffusers pipeline (with model_index.json) "
            "or its id in the local Hugging Face cache (hf download ID), nor a run of `diffpolicy train`"
        )
    return pipeline_subject(cfg, device)


def in_hub_cache(name: str) -> bool:
    """Return whether the hub's local cache has a pipeline of that id; importing diffusers takes far longer."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return False
    try:
        return isinstance(try_to_load_from_cache(name, "model_index.json"), str)
    except ValueError:  # not an id
        return False


def _without_prompts(cfg: DictConfig) -> None:
    if cfg.prompts is not None:
        raise ConfigError(f"prompts={cfg.prompts}: model={cfg.model} answers none, only pipelines do")


def pipeline_subject(cfg: DictConfig, device: torch.device) -> Subject:
    """Return a pipeline of diffusers, from a folder or the hub, with adapters to be trained."""
    from diffpolicy.alignment.pipelines import load_pipeline, save_adapter

    prompts, config = prompts_of(cfg), build(PipelineConfig, cfg.pipeline, "pipeline")
    if is_own(cfg.reward) and not is_own(cfg.gold):
        raise ConfigError(
            f"reward@gold={cfg.gold.name} is watched beside a reward, and there is none: give it as "
            f"reward={cfg.gold.name}, which offline data does not learn from"
        )
    reward = picture_reward(cfg.reward, "reward", device)
    options = {name: value for name, value in vars(config).items() if name != "lora"}
    model = load_pipeline(
        str(cfg.model),
        prompts=prompts,
        lora_rank=config.lora.rank,
        lora_alpha=config.lora.alpha,
        device=device,
        **options,
    )
    data = None if cfg.data is None else load_samples(Path(cfg.data), model)
    if reward is None and data is None:
        raise ConfigError(
            "a pipeline comes with no reward: choose one, for example reward=jpeg or reward=clip"
        )

    def keep(run: Path) -> list[str]:
        try:
            save_adapter(model, run / "adapter")
        except ValueError as error:  # of a network without text: the checkpoints hold its adapter
            return [f"adapter:    none, {error}"]
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
        ConfigError: if there are none, or the file is not text in UTF-8.
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
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"prompts={given} is not a text file in UTF-8 ({error}): save it as one"
            ) from error
        prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise ConfigError(f"prompts={given}: there is no prompt in it")
    return prompts
