"""The suite `world4rl`: does refinement in a world model alone make clones of few demonstrations better in truth?

World4RL (Jiang et al. 2025) from states, and on one task from pixels: every training seed has demonstrations, a clone,
roll-outs, a world model and refinements of its own; all policies play the same resets. Every policy's measurements are
a result of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

import envs
from diffpolicy import training
from diffpolicy.cli.refine_results import IMAGINED_SEED, Cut, Recorder
from diffpolicy.cli.refine_world import World
from diffpolicy.cli.suites import world4rl_pixels, world4rl_runs
from diffpolicy.cli.suites.jobs import Job, run_all
from diffpolicy.cli.suites.results import write
from diffpolicy.cli.suites.world4rl_document import BASE, Found, make_document, markdown
from diffpolicy.cli.suites.world4rl_runs import weights
from diffpolicy.cli.suites.world_model import task_config
from diffpolicy.evaluation.protocol import episode_seeds
from diffpolicy.evaluation.rollout import batch_size, play
from diffpolicy.policies import Policy, load_policy
from diffpolicy.refinement import (
    Confusion,
    episodes_env,
    first_moments,
    imagine_episodes,
    replay_confusion,
)


def main(cfg: DictConfig) -> None:
    """Run or go on with the suite."""
    console = Console(soft_wrap=True, highlight=False)
    OmegaConf.set_struct(cfg, False)
    found: list[Found] = []
    for name in cfg.tasks:
        found += compare(task_config(cfg, str(name)), world4rl_runs, envs.task(str(name)), console)
    for name in cfg.pixels.tasks:
        options = world4rl_pixels.options(cfg, str(name))
        found += compare(options, world4rl_pixels, envs.task(str(name)), console)
    document = make_document(cfg, found)
    write(document, markdown(document), Path(cfg.results))


class Recipe(Protocol):
    """How policies of a task come about: a module of runs, each of which is made unless it is there."""

    def clone(self, cfg: DictConfig, task: envs.Task, seed: int) -> Path:
        """Return the run of a seed's clone."""

    def refine(self, cfg: DictConfig, task: envs.Task, seed: int, arm: str) -> Path:
        """Return the run of a refinement of it."""

    def load(self, cfg: DictConfig, task: envs.Task, seed: int) -> World:
        """Return the seed's frozen world model and its data."""


def compare(cfg: DictConfig, recipe: Recipe, task: envs.Task, console: Console) -> list[Found]:
    """Return what the clone and every arm do on a task, and print it."""
    found = []
    for arm in (BASE, *cfg.arms):
        console.rule(f"{task.name} {arm}")
        results = [
            measured(cfg, recipe, task, member, seed, str(arm), console)
            for member, seed in enumerate(cfg.seeds)
        ]
        found.append(Found(task.name, str(arm), results))
        console.print(found[-1].line())
    return found


def measured(
    cfg: DictConfig, recipe: Recipe, task: envs.Task, member: int, seed: int, arm: str, console: Console
) -> dict[str, Any]:
    """Return what one policy does, in truth and in its model; made and measured if that is not done."""
    changed = OmegaConf.merge(cfg, cfg.arms.get(arm) or {})
    assert isinstance(changed, DictConfig)
    run = recipe.clone(changed, task, seed) if arm == BASE else recipe.refine(changed, task, seed, arm)
    seeds = episode_seeds(cfg.seed, member, cfg.episodes)
    world = recipe.load(changed, task, seed)
    of = {
        "weights": weights(run),
        "world": world.weights,
        "first": seeds.start,
        "episodes": cfg.episodes,
        "imagined": cfg.imagined,
        "horizon": cfg.horizon,
    }
    make = partial(measure, changed, task, world, run, seeds)
    job = Job(f"{task.name} {arm}, seed {seed}", run / "measured.json", of, make)
    run_all([job], console)
    found: dict[str, Any] = job.result()
    return found


def measure(
    cfg: DictConfig, task: envs.Task, world: World, run: Path, seeds: Sequence[int]
) -> dict[str, Any]:
    """Play whole imagined episodes and real ones, and feed the real actions to the model."""
    checkpoint = training.latest_checkpoint(run)
    assert checkpoint is not None, f"{run} has been trained"
    policy = load_policy(training.read_checkpoint(checkpoint), "mean", device=world.device)
    begun = first_moments(world.dataset, world.windows)
    env = episodes_env(world.model, world.windows, begun, cfg.imagined, cfg.horizon)
    imagined = imagine_episodes(policy, env, IMAGINED_SEED)
    parallel = batch_size(cfg.episodes, cfg.parallel)
    vector: Any = envs.make_vector(task.id, parallel, workers=cfg.workers, autoreset=False)
    try:
        batches = [
            real_episodes(policy, Watched(vector, cfg.horizon), seeds[first : first + parallel], world)
            for first in range(0, cfg.episodes, parallel)
        ]
    finally:
        vector.close()
    return {
        "imagined_success": imagined.success.float().mean().item(),
        "episodes": [asdict(episode) for episodes, _ in batches for episode in episodes],
        "confusion": Confusion(*(sum(each) for each in zip(*(c for _, c in batches), strict=True)))._asdict(),
    }


def real_episodes(
    policy: Policy, vector: "Watched", seeds: Sequence[int], world: World
) -> tuple[list[Any], Confusion]:
    """Return real episodes of one batch, and what the model makes of their actions."""
    recorder = Recorder()
    # To the horizon, successful or not: a model that sees success a step too late sees it all the same.
    played = play(policy, vector, seeds, record=recorder)
    dataset = replace(recorder.dataset(played), images=vector.pictures(len(played)))
    return played, replay_confusion(world.model, dataset)


class Watched(Cut):
    """A vector environment whose episodes are over after `horizon` steps, as imagined ones are; it keeps pictures."""

    def reset(self, *, seed: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin one episode in each environment, and forget the pictures of the last ones."""
        observations, infos = super().reset(seed=seed)
        self._seen: list[Mapping[str, NDArray[np.uint8]]] = [infos.get("images", {})]
        return observations, infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all environments."""
        found = super().step(actions)
        self._seen.append(found[4].get("images", {}))
        return found

    def pictures(self, count: int) -> dict[str, NDArray[np.uint8]]:
        """Return the picture before every step (count T, H, W, 3), by camera, of the first episodes, all of T steps."""
        steps = self._seen[:-1]
        return {
            camera: np.concatenate(np.stack([seen[camera][:count] for seen in steps], axis=1))
            for camera in steps[0]
        }
