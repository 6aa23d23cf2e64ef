"""The example model of `diffpolicy align`: 8x8 digits, whose base is trained once and kept."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffpolicy.alignment import Reward, Rewards, Rollout
from diffpolicy.alignment.digits import (
    DigitJudge,
    DigitLikelihood,
    Digits,
    Network,
    digits_model,
    load_digits,
    make_network,
    pictures,
    sample_shape,
    train_base,
)
from diffpolicy.alignment.recipes import build_experience
from diffpolicy.cli.align_data import load_samples
from diffpolicy.cli.align_rewards import DIGITS, is_own, picture_reward
from diffpolicy.cli.align_subjects import Subject
from diffpolicy.cli.config import build
from diffpolicy.data import cache_folder

WANTED = 3  # unless the reward says otherwise


@dataclass(frozen=True)
class DigitsConfig:
    """The example's network, the updates that its base is trained for, and the steps of its sampler."""

    network: Network = "mlp"
    updates: int = 3000
    steps: int = 10

    def __post_init__(self) -> None:
        if self.updates < 1:
            raise ValueError(f"digits.updates={self.updates} must be at least 1 update of the base")


class JudgedDigit(Reward):
    """1 for a sample that the gold judge takes for the wanted digit, 0 for others."""

    def __init__(self, judge: DigitJudge) -> None:
        self.judge = judge

    def __call__(self, samples: Tensor, labels: Sequence[Any]) -> Rewards:
        """Return the verdicts on images (B, 1, 8, 8)."""
        seen = self.judge.machine.predict((samples.detach().cpu().flatten(1) * 2.0 - 1.0).numpy())
        return Rewards(torch.as_tensor(seen == self.judge.proxy.wanted).float())


def digits_subject(cfg: DictConfig, device: torch.device) -> Subject:
    """Return the digits' base, its proxy reward and gold judge, and the real digits of the wanted class."""
    digits, config = load_digits(), build(DigitsConfig, cfg.digits, "digits")
    kind, wanted = config.network, cfg.reward.get("digit", WANTED)
    proxy = DigitLikelihood(digits, wanted)
    own = is_own(cfg.reward) or cfg.reward.name == DIGITS
    reward = proxy if own else picture_reward(cfg.reward, "reward", device)
    gold = _gold(cfg, digits, proxy if own else None, device)
    network = base_network(kind, config.updates, digits).to(device)
    made = digits_model(kind, network, config.steps)
    model = replace(made, process=made.process.to(device))

    def demonstrations() -> Rollout:
        clean = digits.train[digits.train_class == wanted].reshape(-1, *sample_shape(kind)).to(device)
        return Rollout(clean, None, torch.zeros(len(clean), dtype=torch.int64, device=device))

    return Subject(
        model,
        reward,
        lambda objective, online: build_experience(model, reward, objective, online),
        lambda run: [],
        gold=gold,
        real=pictures(digits.test).to(device),
        data=None if cfg.data is None else load_samples(Path(cfg.data), model),
        demonstrations=demonstrations,
        manifest={"digits": {"network": kind, "updates": config.updates, "wanted": wanted}},
    )


def _gold(
    cfg: DictConfig, digits: Digits, proxy: DigitLikelihood | None, device: torch.device
) -> Reward | None:
    """Return what is only watched: by default the judge of the digit that is trained on, where there is one."""
    if is_own(cfg.gold):
        return None if proxy is None else JudgedDigit(DigitJudge.make(digits, proxy))
    if cfg.gold.name == DIGITS:
        return DigitLikelihood(digits, cfg.gold.digit)
    return picture_reward(cfg.gold, "reward@gold", device)


def base_network(kind: Any, updates: int, digits: Digits) -> nn.Module:
    """Return the base, from the cache folder if it was trained before; half a minute of one core for the MLP."""
    generator = torch.Generator().manual_seed(0)
    network = make_network(kind, generator)
    file = cache_folder() / "digits" / f"{kind}-{updates}.safetensors"
    if file.exists():
        network.load_state_dict(load_file(file))
        return network.eval()
    with Console(stderr=True).status(f"training the base: {updates} updates of a small network, once"):
        train_base(network, digits.train.reshape(-1, *sample_shape(kind)), generator, updates)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    save_file(network.state_dict(), temporary)
    temporary.replace(file)
    return network
