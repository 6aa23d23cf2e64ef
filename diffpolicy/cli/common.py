"""What several verbs need: the task's dataset, a learner from a configuration."""

import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

import diffpolicy
import envs
from diffpolicy import data, training
from diffpolicy.cli.config import build
from diffpolicy.cli.errors import ConfigError
from diffpolicy.policies import FisorConfig, FisorLearner
from envs import point_robot

T = TypeVar("T")
# Simulators whose tasks `diffpolicy collect` learns to act in, or has experts for; others have human demonstrations.
COLLECTED = frozenset({"safety_gymnasium", "bullet", "point_robot", "metaworld"})
SHIPPED = {"OfflineBallCircle-v0": "ball_circle.hdf5", "PushT-v0": "pusht.npz"}


def compute_device(cfg: DictConfig) -> torch.device:
    """Return the device that `cfg.device` names, after limiting PyTorch to `cfg.threads` threads if that is given."""
    if cfg.threads is not None:
        if not isinstance(cfg.threads, int) or cfg.threads < 1:
            raise ConfigError(f"threads={cfg.threads} must be at least 1; threads=null leaves it to PyTorch")
        torch.set_num_threads(cfg.threads)
    return training.pick_device(cfg.device)


def listed(cfg: DictConfig, key: str, kind: type[T]) -> list[T]:
    """Return the list at `key`, of one element where it is a single value (`seeds=3`), empty where it is null.

    Raises ConfigError for an element that is not of the `kind`.
    """
    value = cfg[key]
    if value is None:
        return []
    found = list(value) if isinstance(value, ListConfig) else [value]
    wrong = [element for element in found if not isinstance(element, kind)]
    if wrong:
        raise ConfigError(f"{key}: {wrong[0]!r} is of type {type(wrong[0]).__name__}, not {kind.__name__}")
    return found


def dataset_file(folder: Path, task: envs.Task) -> Path:
    """Return where a collected dataset of `task` lies in `folder`: "BallCircle" in ball_circle.hdf5."""
    return folder / (re.sub("(?<!^)(?=[A-Z])", "_", task.name).lower() + ".hdf5")


def dataset_path(task: envs.Task, path: str | None) -> Path:
    """Return the dataset file: `path` if given, else the shipped one of `task`; ConfigError when there is none."""
    if path is not None:
        found = Path(str(path)).expanduser()  # a command line may hold a number
        if not found.exists():
            raise ConfigError(f"data={path}: there is no such file")
        return found
    fetched = data.PUBLISHED.get(task.name.lower())
    if task.id not in SHIPPED and fetched is not None:
        local = data.cache_folder() / "datasets" / fetched.file_name
        if not local.exists():
            raise ConfigError(
                f"{task.name} needs the demonstrations: `diffpolicy data fetch {task.name.lower()}` gets them; "
                "or pass data=FILE"
            )
        return local
    if task.id not in SHIPPED:
        raise ConfigError(f"{task.name} needs a dataset: {ways_to_data(task)}pass data=FILE")
    with as_file(files(diffpolicy) / "assets" / SHIPPED[task.id]) as shipped:
        return shipped


def ways_to_data(task: envs.Task) -> str:
    """Return which commands get a dataset of `task`, as the beginning of a sentence; "" if there is none."""
    ways = []
    if task.dataset_file or task.name.lower() in data.PUBLISHED:
        ways.append(f"`diffpolicy data fetch {task.name}` gets the published one")
    if task.simulator in COLLECTED and task.image_size is None:
        ways.append(f"`diffpolicy collect task={task.name}` makes one")
    return f"{', '.join(ways)}; then " if ways else ""


def load_dataset(task: envs.Task, path: Path, cameras: Sequence[str] = ()) -> data.OfflineDataset:
    """Return the dataset at `path` with actions in units of [-1, 1]; DataError when it is not one of `task`."""
    dataset = data.load(path, observations=task.demonstrated, images=cameras)
    found = (dataset.observation_size, dataset.action_size)
    wanted = (task.observation_size, task.action_size)
    if found != wanted:
        raise data.DataError(
            f"{path} has observations and actions of sizes {found}, {task.name} has {wanted}: is it another task's?"
        )
    scaled = dataset.scaled_actions(task.action_low, task.action_high)
    return replace(scaled, actions=scaled.actions.clamp(-1.0, 1.0)) if task.clips_recorded else scaled


def reward_scale(task: envs.Task) -> float:
    """Return FISOR's reward scale: horizon / (R_max - R_min) of the benchmark."""
    return task.max_episode_steps / (task.max_episode_reward - task.min_episode_reward)


def continuous_violations(task: envs.Task, dataset: data.OfflineDataset) -> torch.Tensor | None:
    """Return the constraint function h (N,) after each transition where the task knows one: the point robot."""
    if task.id != point_robot.TASK.id:
        return None
    reached = dataset.observations[dataset.rows + 1].numpy()
    return torch.from_numpy(point_robot.violation_from_observation(reached))


def policy_config(node: DictConfig) -> FisorConfig:
    """Return the policy's configuration; ConfigError for what it does not know."""
    options = OmegaConf.to_container(node, resolve=True)
    assert isinstance(options, dict)
    return build(FisorConfig, {str(key): value for key, value in options.items() if key != "name"}, "policy")


def make_learner(
    task: envs.Task, path: Path, policy: DictConfig, seeds: list[int], device: torch.device
) -> tuple[FisorLearner, dict[str, Any]]:
    """Return a learner for the configuration and the plain configuration that its checkpoints carry."""
    config = policy_config(policy)
    hashed = data.sha256(path)
    description = {
        "task": task.id,
        "data": {"file": path.name, "sha256": hashed},
        "action_low": -1.0,
        "action_high": 1.0,
        "version": diffpolicy.__version__,
    }
    dataset = load_dataset(task, path)
    if not dataset.rewards.any():
        raise ConfigError(
            f"{path} holds no rewards, from which policy={policy.name} learns: demonstrations without them are for "
            "chunk policies, for example policy=diffusion_mlp"
        )
    scale, violations = reward_scale(task), continuous_violations(task, dataset)
    learner = FisorLearner(dataset, config, seeds, scale, device, description, violations)
    stored = {"task": task.id, "seeds": seeds, "policy": asdict(config), "data_sha256": hashed}
    return learner, stored
