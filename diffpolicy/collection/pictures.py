"""Mixtures with the pictures of a camera, for tasks that show them: data for world models of pixels."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

import envs
from diffpolicy import data
from diffpolicy.collection.config import CollectConfig, CollectionError
from diffpolicy.collection.mixture import record_mixture
from diffpolicy.collection.progress import Progress
from diffpolicy.collection.recorder import EpisodeRecorder, join, to_dataset
from diffpolicy.data import OfflineDataset

Picture = NDArray[np.uint8]


class Filmed(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Keeps the picture that was there before every step: one for each transition, as datasets hold them.

    Raises CollectionError at the first reset if there are no pictures of `camera`.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], camera: str) -> None:
        super().__init__(env)
        self.camera = camera
        self.kept: list[Picture] = []

    def seen(self) -> Mapping[str, Picture]:
        """Return the picture of the moment by its camera."""
        return {self.camera: self._newest}

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; the picture of where the last one ended is of no transition, and dropped."""
        observation, info = self.env.reset(**options)
        self._look(info)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Keep the picture of the moment, and act."""
        self.kept.append(self._newest)
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._look(info)
        return observation, reward, terminated, truncated, info

    def _look(self, info: Mapping[str, Any]) -> None:
        images = info.get("images", {})
        if self.camera not in images:
            raise CollectionError(
                f"there are no pictures of {self.camera!r}; the task shows {', '.join(sorted(images)) or 'none'}"
            )
        self._newest: Picture = images[self.camera]


def collect_pictures(
    task: str, config: CollectConfig, path: str | Path, camera: str = "camera", progress: bool = True
) -> OfflineDataset:
    """Record a mixture with its pictures and write it to `path` as an .npz of demonstrations, which `data.load` reads.

    With `config.extend` the episodes of an existing file come first.

    Raises:
        CollectionError: if the task shows no pictures of `camera`, or as `record_mixture` does.
    """
    entry, path = envs.task(task), Path(path)
    known = [data.load(path, images=(camera,))] if config.extend and path.exists() else []
    recorder = EpisodeRecorder(1, entry.max_episode_steps, entry.observation_size, entry.action_size)
    env = Filmed(envs.make(entry.id), camera)
    try:
        with Progress(config.mixture.episodes, entry.name, unit="episodes", show=progress) as shown:
            record_mixture(env, entry, config, recorder, shown, env.seen)
    finally:
        env.close()
    new = to_dataset(recorder.episodes)
    before = [np.asarray(each.images[camera][np.arange(each.num_transitions)]) for each in known]
    whole = join([*(replace(each, images={}) for each in known), new])
    dataset = replace(whole, images={camera: np.concatenate([*before, np.stack(env.kept)])})
    _write(dataset, path, camera)
    return dataset


def _write(dataset: OfflineDataset, path: Path, camera: str) -> None:
    """Write a dataset whose episodes all end in time-outs; the file appears whole or not at all.

    Raises CollectionError for episodes that terminate, which such files do not tell.
    """
    if dataset.terminals.any():
        raise CollectionError("files of pictures hold episodes that time out, and some of these terminated")
    arrays = {
        "state": dataset.observations[dataset.rows].numpy(),
        "action": dataset.actions.numpy(),
        "reward": dataset.rewards.numpy(),
        "cost": dataset.costs.numpy(),
        "episode_ends": dataset.episode_ends.numpy(),
        camera: dataset.images[camera],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with unfinished.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
