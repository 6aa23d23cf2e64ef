"""`diffpolicy train`: policies from an offline dataset; resumes a stopped run."""

from pathlib import Path

import torch
from omegaconf import DictConfig
from rich.console import Console

import envs
from diffpolicy import training
from diffpolicy.cli import demonstrations
from diffpolicy.cli.common import compute_device, dataset_path, listed, make_learner
from diffpolicy.cli.errors import ConfigError

INFEASIBLE_WARNING = 0.6


def main(cfg: DictConfig) -> None:
    """Train what `cfg` describes in the folder `cfg.run`."""
    checkpoint = train(cfg)
    Console().print(
        f"trained: {checkpoint}\nnext:    diffpolicy evaluate checkpoint={cfg.run}", soft_wrap=True
    )


def train(cfg: DictConfig) -> Path:
    """Train or resume in the folder `cfg.run` and return the last checkpoint."""
    for name in ("checkpoint_every", "log_every"):
        if cfg[name] < 1:
            raise ConfigError(f"{name}={cfg[name]} must be at least 1 update")
    task = envs.task(cfg.task)
    device = compute_device(cfg)
    if cfg.policy.name == "fisor":
        return _train_fisor(cfg, task, device)
    return demonstrations.train(cfg, task, device)


def _train_fisor(cfg: DictConfig, task: envs.Task, device: torch.device) -> Path:
    learner, config = make_learner(
        task, dataset_path(task, cfg.data), cfg.policy, listed(cfg, "seeds", int), device
    )
    path = training.run(
        learner,
        cfg.run,
        config,
        checkpoint_every=cfg.checkpoint_every,
        log_every=cfg.log_every,
        progress=cfg.progress,
    )
    shares = training.read_checkpoint(path).manifest["infeasible_share"]
    if max(shares) > INFEASIBLE_WARNING:
        Console(stderr=True).print(
            f"warning: the critics call {max(shares):.0%} of the data's states infeasible. Usual causes: too few "
            "critic updates, data that seldom returns from a violation, a reversed expectile below 0.9, a large "
            "violation_scale (docs/fisor.md)."
        )
    return path
