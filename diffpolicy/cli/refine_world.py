"""What `diffpolicy refine` works with: a frozen world model, the data it was learnt from, and moments to begin at."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

import envs
from diffpolicy import data, training
from diffpolicy.cli.common import dataset_path, load_dataset
from diffpolicy.cli.errors import ConfigError
from diffpolicy.refinement import RefinementError, episodes_env, first_moments, known_uncertainty, windows_of
from world_models import (
    FrameWindows,
    ImaginedEnv,
    ImaginedEnvConfig,
    PixelWorldModel,
    StateWorldModel,
    Windows,
    load_world_model,
)

HORIZON = 20  # of branches whose ends are bootstrapped


@dataclass(frozen=True)
class BranchConfig:
    """`count` branches at a time, of `horizon` steps, None for 20 or, where success counts, a whole episode.

    A share `first` begins where episodes began, the others anywhere in the data. A branch is cut off, which is a
    violation, where the model is `max_uncertainty` times as unsure as on real transitions; None for never.
    """

    count: int = 512
    horizon: int | None = None
    first: float = 0.0
    max_uncertainty: float | None = None

    def __post_init__(self) -> None:
        if self.count < 2 or not 0.0 <= self.first <= 1.0:
            raise ConfigError(f"branches.count is 2 or more and branches.first between 0 and 1, got {self}")
        if self.horizon is not None and self.horizon < 1:
            raise ConfigError(
                f"branches.horizon={self.horizon} must be 1 step or more, or null for what is usual"
            )


@dataclass(frozen=True)
class World:
    """A task, its data, and the frozen model; `weights` is the SHA-256 of its checkpoint's weights."""

    task: envs.Task
    dataset: data.OfflineDataset
    data_file: str
    data_sha256: str
    model: StateWorldModel | PixelWorldModel
    weights: str
    held_out: Tensor

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def steps(self) -> int:
        """Steps of the longest episode in the data: those of an imagined one."""
        return int(self.dataset.episode_lengths.max())

    @property
    def cost_rate(self) -> float:
        """The share of the data's steps that are violations."""
        return (self.dataset.costs > 0).float().mean().item()

    @cached_property
    def windows(self) -> Windows | FrameWindows:
        """The moments of the data, on the model's device."""
        return windows_of(self.model, self.dataset)

    @cached_property
    def known_uncertainty(self) -> float:
        """How unsure the model is of held-out transitions, or of all where none were."""
        return known_uncertainty(self.model, self.windows, self.held_out.to(self.device))

    @cached_property
    def frozen(self) -> ImaginedEnv:
        """Whole episodes for measurements; it remembers what the model was."""
        return self.episodes(32)

    def episodes(self, count: int) -> ImaginedEnv:
        """Return an environment of `count` whole episodes from where real ones began."""
        return episodes_env(
            self.model, self.windows, first_moments(self.dataset, self.windows), count, self.steps
        )

    def branches(self, config: BranchConfig) -> ImaginedEnv:
        """Return an environment of branches."""
        unsure = config.max_uncertainty
        horizon = config.horizon or (HORIZON if self.task.score == "return" else self.steps)
        imagined = ImaginedEnvConfig(horizon, None if unsure is None else unsure * self.known_uncertainty)
        first, anywhere = first_moments(self.dataset, self.windows), torch.arange(len(self.windows))
        if config.first == 1.0:
            allowed = first
        else:  # drawn evenly, with each first moment in it as often as makes up their share
            times = round(config.first / (1.0 - config.first) * len(anywhere) / len(first))
            allowed = torch.cat([first.repeat(times), anywhere.to(self.device)])
        return ImaginedEnv(self.model, self.windows, config.count, imagined, allowed)

    def check_frozen(self) -> str:
        """Return the SHA-256 of the model's weights; WorldModelError if they are not what they were."""
        return self.frozen.check_frozen()

    def description(self) -> dict[str, Any]:
        """Return what a policy's manifest says of where it comes from."""
        return {
            "task": self.task.id,
            "data": {"file": self.data_file, "sha256": self.data_sha256},
            "world_model": {"weights": self.weights},
        }


def load_world(cfg: DictConfig, device: torch.device) -> World:
    """Return the world model and the data that `cfg` names; ConfigError if they do not belong together."""
    if cfg.world is None:
        raise ConfigError(
            "refine needs world=FOLDER, a run of `diffpolicy train-world-model`, for example "
            "world=runs/train-world-model/BallCircle/..."
        )
    checkpoint = training.read_checkpoint(training.best_checkpoint(Path(str(cfg.world)).expanduser()))
    model, manifest = load_world_model(checkpoint, device), checkpoint.manifest
    task = envs.task(cfg.task if cfg.task is not None else manifest["task"])
    if task.id != manifest["task"]:
        raise ConfigError(f"{cfg.world} is a model of {manifest['task']}, not of {task.id}")
    path = dataset_path(task, cfg.data)
    dataset, hashed = load_dataset(task, path), data.sha256(path)
    held = torch.arange(dataset.num_transitions)
    if hashed == manifest["data"]["sha256"]:
        unseen = torch.zeros(dataset.num_episodes, dtype=torch.bool)
        unseen[torch.tensor(manifest["held_out"]["episodes"])] = True
        held = unseen[dataset.episode_of].nonzero().flatten()
    weights = manifest["sha256"]["model.safetensors"]
    world = World(task, dataset, path.name, hashed, model, weights, held)
    world.check_frozen()
    return world


def check_world(world: World) -> None:
    """Check that policies can be refined and judged in a world model.

    Raises:
        ConfigError: if it has a single member, which is never unsure of anything.
        RefinementError: if success counts, and what it predicts is another reward.
    """
    if world.model.members < 2:
        raise ConfigError(
            "the world model has one member, which never disagrees with itself, and the gate asks how unsure it is: "
            "train one with world_model.members=3"
        )
    dense = isinstance(world.model, StateWorldModel) and not bool(world.model.binary[0])
    if world.task.score == "success" and dense:
        raise RefinementError(
            f"the world model predicts rewards other than 0 and 1, where {world.task.name} is scored by success: train "
            f"one on `diffpolicy collect task={world.task.name} source=mixture`, whose reward is success"
        )
