"""Rewards of pictures by name, as configs/reward says them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from diffpolicy.alignment import Reward
from diffpolicy.alignment.rewards import (
    AestheticReward,
    CLIPReward,
    HPSReward,
    HTTPReward,
    ImageReward,
    JPEGSize,
    PickScore,
)
from diffpolicy.cli.config import build
from diffpolicy.cli.errors import ConfigError

OWN, DIGITS = "own", "digits"  # which only a model can make

# Each takes the device that pretrained networks are to be on, and the other keys of its file.
REWARDS: Mapping[str, Callable[..., Reward]] = {
    "jpeg": lambda device, **options: build(JPEGSize, options, "reward"),
    "incompressibility": lambda device, **options: build(
        JPEGSize, {**options, "compressible": False}, "reward"
    ),
    "aesthetic": lambda device, path, **options: AestheticReward.from_folder(path, device, **options),
    "clip": lambda device, path: CLIPReward.from_folder(path, device),
    "pickscore": lambda device, path: PickScore.from_folder(path, device),
    "hps": lambda device, path, **options: HPSReward.from_folder(path, device, **options),
    "imagereward": lambda device, path: ImageReward.from_folder(path, device),
    "http": lambda device, **options: build(HTTPReward, options, "reward"),
}


def is_own(node: Any) -> bool:
    """Return whether a reward is what the model comes with.

    Raises:
        ConfigError: if `node` is none, but the name of one: `gold=jpeg`.
    """
    if not isinstance(node, DictConfig) or "name" not in node:
        raise ConfigError(f"gold={node}: a reward that is only watched is chosen with reward@gold=NAME")
    return str(node.name) == OWN


def picture_reward(node: DictConfig, where: str, device: torch.device) -> Reward | None:
    """Return the reward of pictures that `node` describes, None for what only models come with.

    Raises:
        ConfigError: if an option is missing or wrong, or the reward is one of digits.
        FeedbackError: if its files are not there.
    """
    if is_own(node):
        return None
    if node.name == DIGITS:
        raise ConfigError(f"{where}=digits_three rates the digits of model=digits, no other pictures")
    if node.name not in REWARDS:
        raise ConfigError(f"{where}.name={node.name} is none of {', '.join(REWARDS)}")
    missing = sorted(OmegaConf.missing_keys(node))
    if missing:
        raise ConfigError(f"{where}={node.name} needs {missing[0]}=...")
    options: Any = OmegaConf.to_container(node, resolve=True)
    del options["name"]
    try:
        return REWARDS[node.name](device, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}={node.name}: {error}") from error
