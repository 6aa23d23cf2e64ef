"""The example model of `diffpolicy align`: 8x8 digits, whose base is trained once and kept."""

import os
from collections.abc import Sequence
from dataclasses import replace
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
from diffpolicy.data import cache_folder

WANTED = 3  # unless the reward says otherwise


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
    digits = load_digits()
    kind, wanted = cfg.digits.network, cfg.reward.get("digit", WANTED)
    network = base_network(kind, cfg.digits.updates, digits).to(device)
    made = digits_model(kind, network, cfg.digits.steps)
    model = replace(made, process=made.process.to(device))
    proxy = DigitLikelihood(digits, wanted)
    own = is_own(cfg.reward) or cfg.reward.name == DIGITS
    reward = proxy if own else picture_reward(cfg.reward, "reward", device)
    gold = JudgedDigit(DigitJudge.make(digits, proxy)) if is_own(cfg.gold) and own else None

    def demonstrations() -> Rollout:
        clean = digits.train[digits.train_class == wanted].reshape(-1, *sample_shape(kind)).to(device)
        return Rollout(clean, None, torch.zeros(len(clean), dtype=torch.int64, device=device))

    return Subject(
        model,
        reward,
        lambda objective, online: build_experience(model, reward, objective, online),
        lambda run: [],
        gold=gold if is_own(cfg.gold) else picture_reward(cfg.gold, "reward@gold", device),
        real=pictures(digits.test).to(device),
        data=None if cfg.data is None else load_samples(Path(cfg.data), model),
        demonstrations=demonstrations,
        manifest={"digits": {"network": kind, "updates": cfg.digits.updates, "wanted": wanted}},
    )


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
