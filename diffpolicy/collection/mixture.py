"""Experts, policies, noise and random actions side by side: data from which a world model learns to follow actions.

A model that has seen good behaviour alone ignores actions: without random and noisy roll-outs it answers a quarter of
what a sideways push does on Meta-World's push. Where success is what counts it is the reward, 0 or 1 at every step.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from diffpolicy.collection.config import CollectConfig, CollectionError, MixtureConfig
from diffpolicy.collection.experts import expert, has_expert
from diffpolicy.collection.progress import Progress
from diffpolicy.collection.recorder import EpisodeRecorder
from diffpolicy.collection.rollouts import Behaviour
from diffpolicy.policies import History, Policy, load_policy
from diffpolicy.training import best_checkpoint, read_checkpoint
from envs import Task

Array = NDArray[np.float32]
Sight = Callable[[], Mapping[str, NDArray[np.uint8]]]  # pictures (H, W, 3) by their cameras


class Expert:
    """The scripted expert that Meta-World ships for a task."""

    def __init__(self, task: Task) -> None:
        self._expert = expert(task)

    def start(self, rng: np.random.Generator) -> None:
        """It has no memory."""

    def act(self, observation: Array, rng: np.random.Generator) -> Array:
        """The expert's action (A,)."""
        with warnings.catch_warnings():  # at every large step it says that environments clip actions
            warnings.simplefilter("ignore", UserWarning)
            return np.asarray(self._expert.get_action(observation.astype(np.float64)), dtype=np.float32)


class Driver:
    """A trained policy, chunk by chunk; `sight` returns the pictures of the moment, where it decides by those."""

    def __init__(self, policy: Policy, sight: Sight | None = None) -> None:
        self._policy, self._sight = policy, sight

    def start(self, rng: np.random.Generator) -> None:
        """Forgets the last episode."""
        self._memory = self._policy.start(1, int(rng.integers(2**31)))
        self._history = History(self._policy.observation_horizon)
        self._waiting: list[Array] = []

    def act(self, observation: Array, rng: np.random.Generator) -> Array:
        """The next action (A,) of the chunk, or the first of a new one."""
        images = None if self._sight is None else {name: one[None] for name, one in self._sight().items()}
        seen = self._history.add(observation[None], images)
        if not self._waiting:
            with torch.inference_mode():
                chunk, self._memory = self._policy.act(seen, self._memory)
            self._waiting = list(chunk.actions[0].float().cpu().numpy())
        return self._waiting.pop(0)


class Noisy:
    """Another behaviour with independent Gaussian noise on its actions."""

    def __init__(self, behaviour: Behaviour, deviation: float) -> None:
        self._behaviour, self._deviation = behaviour, deviation

    def start(self, rng: np.random.Generator) -> dict[str, Any] | None:
        """Starts the other."""
        return self._behaviour.start(rng)

    def act(self, observation: Array, rng: np.random.Generator) -> Array:
        """The other's action (A,) and noise."""
        action = self._behaviour.act(observation, rng)
        return action + self._deviation * rng.standard_normal(len(action), dtype=np.float32)


class Uniform:
    """Uniform actions in [-1, 1], each held for 1 to `longest` steps."""

    def __init__(self, size: int, longest: int = 1) -> None:
        self._size, self._longest = size, longest

    def start(self, rng: np.random.Generator) -> None:
        """Holds nothing."""
        self._left = 0

    def act(self, observation: Array, rng: np.random.Generator) -> Array:
        """The action (A,) that is held, or a new one."""
        if self._left == 0:
            self._held = rng.uniform(-1.0, 1.0, self._size).astype(np.float32)
            self._left = int(rng.integers(1, self._longest + 1))
        self._left -= 1
        return self._held


def behaviours(task: Task, config: MixtureConfig, sight: Sight | None = None) -> list[tuple[Behaviour, int]]:
    """The kinds of behaviour with how many episodes there are of each; CollectionError where nobody can drive."""
    driven = config.driven + config.noisy
    if not has_expert(task) and (config.expert or (driven and config.driver is None)):
        raise CollectionError(
            f"{task.name} has no expert: set mixture.expert=0, and mixture.driver=RUN of a trained policy or "
            "mixture.driven=0 mixture.noisy=0"
        )
    kinds: list[tuple[Behaviour, int]] = []
    if config.expert:
        kinds.append((Expert(task), config.expert))
    if driven:
        driver: Behaviour = Expert(task) if config.driver is None else Driver(_policy(task, config), sight)
        kinds += [(driver, config.driven), (Noisy(driver, config.noise), config.noisy)]
    return [
        *kinds,
        (Uniform(task.action_size), config.uniform),
        (Uniform(task.action_size, config.longest_hold), config.held),
    ]


def record_mixture(
    env: gymnasium.Env[Any, Any],
    task: Task,
    config: CollectConfig,
    recorder: EpisodeRecorder,
    progress: Progress,
    sight: Sight | None = None,
) -> None:
    """Lets every kind of behaviour act, until all episodes or `config.steps` steps are over.

    `sight` returns the pictures of the moment, for a driver that decides by them. What is recorded is the action
    carried out. Episodes that do not terminate end in a time-out.
    """
    options, rng = config.mixture, np.random.default_rng(config.seed)
    horizon = min(options.horizon, task.max_episode_steps)
    kinds = behaviours(task, options, sight)
    successes = 0
    for number, (behaviour, episodes) in enumerate(kinds):
        for _ in range(episodes):
            if recorder.steps >= config.steps:
                return
            observation, _ = env.reset(seed=int(rng.integers(2**31)), options=behaviour.start(rng))
            recorder.start(0, observation)
            left, succeeded, ended = horizon, False, False
            while not ended:
                action = np.clip(behaviour.act(observation, rng), -1.0, 1.0).astype(np.float32)
                observation, reward, terminated, truncated, info = env.step(action)
                success = bool(info.get("success", False))
                earned = float(success) if task.score == "success" else float(reward)
                recorder.step(0, action, earned, float(info["cost"]), observation)
                left -= 1
                if success and not succeeded:
                    left, succeeded = min(left, options.after_success), True
                ended = terminated or truncated or left <= 0
            successes += succeeded
            recorder.finish(0, terminated=bool(terminated), behaviour=number)
            progress.update(len(recorder.episodes), lambda: f"{successes} succeeded")  # noqa: B023


def _policy(task: Task, config: MixtureConfig) -> Policy:
    checkpoint = read_checkpoint(best_checkpoint(str(config.driver)))
    manifest = checkpoint.manifest
    chunks = manifest["method"] == "diffusion"
    if not chunks and "seeds" not in manifest:
        raise CollectionError(
            f"mixture.driver={config.driver} holds {manifest['method']!r}, which is no policy: name a run of "
            "`diffpolicy train` or `diffpolicy refine`"
        )
    if manifest["task"] != task.id:
        raise CollectionError(f"mixture.driver={config.driver} acts in {manifest['task']}, not in {task.id}")
    if chunks:
        return load_policy(checkpoint, config.arm)
    return load_policy(checkpoint, config.arm, manifest["seeds"][0])
