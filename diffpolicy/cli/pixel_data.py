"""What a world model of pixels learns from: a dataset's pictures, and random actions played in the simulator.

A model that has seen demonstrations alone ignores actions, for they follow from the frames (docs/pixel-world-model.md).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import envs
from diffpolicy import data
from diffpolicy.cli.common import load_dataset
from diffpolicy.cli.errors import ConfigError
from diffpolicy.collection.mixture import Uniform
from diffpolicy.collection.recorder import EpisodeRecorder, join, to_dataset


@dataclass(frozen=True)
class PlayConfig:
    """Episodes of random actions in the simulator: `episodes` to learn from, `judged` others to be judged on.

    Each has up to `horizon` control steps; uniform actions in [-1, 1] are held for 1 to `longest_hold` steps. Those to
    learn from follow from `seed`, those to be judged on from `seed + 1`.
    """

    episodes: int = 40
    judged: int = 20
    horizon: int = 100
    longest_hold: int = 14
    seed: int = 1000

    def __post_init__(self) -> None:
        if min(self.episodes, self.judged, self.seed) < 0 or min(self.horizon, self.longest_hold) < 1:
            raise ConfigError(
                "play needs episodes >= 0, judged >= 0 and seed >= 0, horizon >= 1 and longest_hold >= 1, got "
                f"episodes={self.episodes} judged={self.judged} seed={self.seed} horizon={self.horizon} "
                f"longest_hold={self.longest_hold}"
            )
        if self.judged and self.horizon < 2:
            raise ConfigError(
                "play.horizon=1 shows one picture, on which nothing can be judged: set play.judged=0"
            )


def with_camera(task: envs.Task, path: Path, camera: str) -> data.OfflineDataset:
    """Return the dataset at `path` with the pictures of one camera; DataError when it has none."""
    return load_dataset(task, path, (camera,))


def check_camera(task: envs.Task, camera: str) -> None:
    """Raise ConfigError unless the simulator of `task` shows pictures of that camera."""
    environment: Any = envs.make(task.id)
    try:
        _picture(task, environment.reset(seed=0)[1], camera)
    finally:
        environment.close()


def play(task: envs.Task, config: PlayConfig, episodes: int, seed: int, camera: str) -> data.OfflineDataset:
    """Play `episodes` (at least one) of random actions and return them with their pictures, in memory.

    Where a task's score is success, rewards are 1 while it lasts and else 0.

    Raises:
        ConfigError: if the task shows no pictures of that camera.
    """
    environment: Any = envs.make(task.id)
    rng, behaviour = np.random.default_rng(seed), Uniform(task.action_size, config.longest_hold)
    horizon = min(config.horizon, task.max_episode_steps)
    recorder = EpisodeRecorder(1, horizon, task.observation_size, task.action_size)
    pictures: list[Any] = []
    try:
        for _ in range(episodes):
            observation, info = environment.reset(seed=int(rng.integers(2**31)))
            recorder.start(0, observation)
            behaviour.start(rng)
            begun, terminated, ended = recorder.steps, False, False
            while not ended:
                pictures.append(_picture(task, info, camera))
                action = behaviour.act(observation, rng)
                observation, reward, terminated, truncated, info = environment.step(action)
                # As in what `diffpolicy collect` records: the reward is success where success is the task's score.
                earned = info.get("success", False) if task.score == "success" else reward
                recorder.step(0, action, float(earned), float(info["cost"]), observation)
                ended = terminated or truncated or recorder.steps - begun >= horizon
            recorder.finish(0, terminated=bool(terminated), behaviour=0)
    finally:
        environment.close()
    return replace(to_dataset(recorder.episodes), images={camera: np.stack(pictures)})


def together(one: data.OfflineDataset, other: data.OfflineDataset, camera: str) -> data.OfflineDataset:
    """Return the episodes of both with the pictures of one camera, which are copied into memory.

    Raises:
        ConfigError: if their pictures are of different sizes.
    """
    columns = [each.images[camera] for each in (one, other)]
    if columns[0].shape[1:] != columns[1].shape[1:]:
        raise ConfigError(
            f"the data's pictures are {columns[0].shape[1:]}, the simulator's {columns[1].shape[1:]}: they are not of "
            "one camera; set play.episodes=0"
        )
    pictures = np.concatenate([column[np.arange(column.shape[0])] for column in columns])
    return replace(join([replace(one, images={}), replace(other, images={})]), images={camera: pictures})


def _picture(task: envs.Task, info: dict[str, Any], camera: str) -> Any:
    pictures = info.get("images", {})
    if camera not in pictures:
        raise ConfigError(
            f"{task.name} shows no pictures of {camera!r} while it is played: set play.episodes=0 play.judged=0, and "
            "learn from the data alone"
        )
    return pictures[camera]
