"""Collects a dataset: behaviour, choice of episodes, file."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

import envs
from diffpolicy import data
from diffpolicy.collection.config import CollectConfig, CollectionError, CollectionInterrupted
from diffpolicy.collection.experts import has_expert, record_demonstrations
from diffpolicy.collection.filtering import cover_plane
from diffpolicy.collection.progress import Progress
from diffpolicy.collection.provenance import describe_run, earlier_runs, file_attributes
from diffpolicy.collection.recorder import EpisodeRecorder, join, to_dataset
from diffpolicy.data import OfflineDataset
from envs import Task


def collect(task: str, config: CollectConfig, path: str | Path, progress: bool = True) -> OfflineDataset:
    """Collects behaviour of `task` and writes the chosen episodes to `path` as DSRL HDF5 with provenance.

    Ctrl-C ends the run early: the episodes finished until then are written, the file says so, and
    CollectionInterrupted is raised. With
    `config.extend` an existing file's episodes are joined to the new ones before the choice.
    Raises CollectionError when nothing could be kept, and what `envs.make` and `data.save` raise.
    """
    entry, path = envs.task(task), Path(path)
    pool = [data.load(path)] if config.extend and path.exists() else []
    runs = earlier_runs(path) if pool else []
    slots = config.num_envs if config.online else 1
    recorder = EpisodeRecorder(slots, entry.max_episode_steps, entry.observation_size, entry.action_size)
    interrupted = False
    try:
        with _own_torch(config.threads), _progress(entry, config, progress) as shown:
            _record(entry, config, recorder, shown)
    except KeyboardInterrupt:
        interrupted = True
    runs.append(
        describe_run(config, steps=recorder.steps, episodes=len(recorder.episodes), interrupted=interrupted)
    )
    if recorder.episodes:
        pool.append(to_dataset(recorder.episodes))
    if not pool:
        raise CollectionError(
            f"{entry.name}: not one episode ended in {recorder.steps} steps; an episode takes up to "
            f"{entry.max_episode_steps} steps in each of {slots} environments, so raise steps"
        )
    kept = join(pool) if config.source == "mixture" else choose(join(pool), entry, config)
    data.save(kept, path, file_attributes(entry, runs, kept.num_episodes))
    if interrupted:
        raise CollectionInterrupted(
            f"stopped after {recorder.steps} steps; {kept.num_episodes} episodes are in {path}"
        )
    return kept


def choose(dataset: OfflineDataset, task: Task, config: CollectConfig) -> OfflineDataset:
    """The episodes of `dataset` that cover the cost-return plane as `config` asks.

    Raises CollectionError when none is within the task's largest cost and the smallest return asked for.
    """
    lowest = config.min_normalized_return
    span = task.max_episode_reward - task.min_episode_reward
    chosen = cover_plane(
        dataset.episode_returns.double().numpy(),
        dataset.episode_costs.double().numpy(),
        max_cost=task.max_episode_cost,
        min_return=None if lowest is None else task.min_episode_reward + lowest * span,
        cells=config.cells,
        per_cell=config.per_cell,
        max_episodes=config.max_episodes,
        free_share=config.free_share,
        rng=np.random.default_rng(config.seed),
    )
    if len(chosen) == 0:
        raise CollectionError(
            f"{task.name}: none of {dataset.num_episodes} episodes costs at most {task.max_episode_cost:g}"
            + ("" if lowest is None else f" and a normalised return of at least {lowest:g}")
            + "; collect for more steps, or with larger penalties on the ladder"
        )
    return dataset.select(torch.from_numpy(chosen))


def _demonstrates(task: Task, config: CollectConfig) -> bool:
    return config.source == "scripted" and has_expert(task)


def _progress(task: Task, config: CollectConfig, show: bool) -> Progress:
    if _demonstrates(task, config):
        return Progress(config.expert.episodes, task.name, unit="demonstrations", show=show)
    if config.source == "mixture":
        return Progress(config.mixture.episodes, task.name, unit="episodes", show=show)
    return Progress(config.steps, task.name, show=show)


def _record(task: Task, config: CollectConfig, recorder: EpisodeRecorder, progress: Progress) -> None:
    # Imported here because stable-baselines3 is an optional dependency and slow to import.
    if config.online:
        try:
            from diffpolicy.collection.online import collect_online
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] != "stable_baselines3":
                raise
            raise CollectionError(
                f"source={config.source} needs stable-baselines3: pip install 'diffpolicy[collect]'"
            ) from error
        collect_online(task, config, recorder, progress)
        return
    from diffpolicy.collection.actors import load_actors
    from diffpolicy.collection.mixture import record_mixture
    from diffpolicy.collection.rollouts import record_rollouts
    from diffpolicy.collection.scripted import scripted_behaviours

    env = envs.make(task.id)
    try:
        if _demonstrates(task, config):
            record_demonstrations(env, task, config, recorder, progress)
            return
        if config.source == "mixture":
            record_mixture(env, task, config, recorder, progress)
            return
        behaviours = (
            scripted_behaviours(task) if config.source == "scripted" else load_actors(env, task, config)
        )
        record_rollouts(env, behaviours, config.steps, recorder, progress, config.seed)
    finally:
        env.close()


@contextmanager
def _own_torch(threads: int) -> Iterator[None]:
    """Keeps the caller's random states and thread count: stable-baselines3 seeds the global generators."""
    python, numpy, pytorch = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(pytorch)
