"""Demonstrations by the scripted experts that Meta-World ships, one for each of its tasks.

Source: Yu et al. 2019 ("Meta-World"), which also uses them to generate demonstrations.
"""

import importlib
import warnings
from typing import Any

import gymnasium
import numpy as np

from diffpolicy.collection.config import CollectConfig, CollectionError
from diffpolicy.collection.progress import Progress
from diffpolicy.collection.recorder import EpisodeRecorder
from envs import Task
from envs.metaworld.tasks import WITH_PICTURES


def has_expert(task: Task) -> bool:
    """Whether `task` has a scripted expert that solves it."""
    return task.simulator == "metaworld"


def expert(task: Task) -> Any:
    """Return the scripted expert of `task`; where a task has pictures, that of the same one without."""
    policies = importlib.import_module("metaworld.policies").ENV_POLICY_MAP
    return policies[task.name.removesuffix(WITH_PICTURES)]()


def record_demonstrations(
    env: gymnasium.Env[Any, Any],
    task: Task,
    config: CollectConfig,
    recorder: EpisodeRecorder,
    progress: Progress,
) -> None:
    """Lets the expert of `task` act until `config.expert.episodes` demonstrations or `config.steps` steps are over.

    A demonstration ends `after_success` steps after the first success, as a time-out: it holds how success is
    kept, and not the hundreds of steps in which nothing happens. What is recorded is the action that was carried
    out, noise included. Raises CollectionError when there is nothing to keep.
    """
    options = config.expert
    policy = expert(task)
    rng = np.random.default_rng(config.seed)
    tried = 0
    while len(recorder.episodes) < options.episodes and recorder.steps < config.steps:
        observation, _ = env.reset(seed=int(rng.integers(2**31)))
        recorder.start(0, observation)
        left, succeeded, ended = options.after_success, False, False
        while not ended:
            with warnings.catch_warnings():  # at every large step it says that environments clip actions
                warnings.simplefilter("ignore", UserWarning)
                action = policy.get_action(observation.astype(np.float64))
            noisy = action + options.action_noise * rng.standard_normal(len(action))
            carried_out = np.clip(noisy, -1.0, 1.0).astype(np.float32)
            observation, reward, terminated, truncated, info = env.step(carried_out)
            recorder.step(0, carried_out, float(reward), float(info["cost"]), observation)
            left -= succeeded
            succeeded |= info["success"]
            ended = terminated or truncated or (succeeded and left == 0)
        tried += 1
        if succeeded or not options.only_successes:
            recorder.finish(0, terminated=False, behaviour=0)
        progress.update(len(recorder.episodes), lambda: f"{tried} tried")  # noqa: B023
    if not recorder.episodes:
        raise CollectionError(
            f"{task.name}: the expert succeeded in none of {tried} attempts; lower expert.action_noise, or keep "
            "failures with expert.only_successes=false"
        )
