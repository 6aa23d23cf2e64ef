"""The suite `world4rl`: does refinement in a world model alone make clones of few demonstrations better in truth?

World4RL (Jiang et al. 2025) from states: every training seed has demonstrations, a clone, roll-outs, a world model and
refinements of its own; all policies play the same resets. Every policy's measurements are a result of their own.
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

import envs
from diffpolicy import training
from diffpolicy.cli.refine_results import IMAGINED_SEED, Recorder
from diffpolicy.cli.refine_world import World
from diffpolicy.cli.suites.jobs import Job, run_all
from diffpolicy.cli.suites.results import write
from diffpolicy.cli.suites.world4rl_document import BASE, Found, make_document, markdown
from diffpolicy.cli.suites.world4rl_runs import clone, load, refine, weights
from diffpolicy.cli.suites.world_model import task_config
from diffpolicy.evaluation.protocol import episode_seeds
from diffpolicy.evaluation.rollout import VectorEnv, batch_size, play
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
        task, options = envs.task(str(name)), task_config(cfg, str(name))
        for arm in (BASE, *cfg.arms):
            console.rule(f"{task.name} {arm}")
            results = [
                measured(options, task, member, seed, str(arm), console)
                for member, seed in enumerate(cfg.seeds)
            ]
            found.append(Found(task.name, str(arm), results))
            console.print(found[-1].line())
    document = make_document(cfg, found)
    write(document, markdown(document), Path(cfg.results))


def measured(
    cfg: DictConfig, task: envs.Task, member: int, seed: int, arm: str, console: Console
) -> dict[str, Any]:
    """Return what one policy does, in truth and in its model; made and measured if that is not done."""
    changed = OmegaConf.merge(cfg, cfg.arms.get(arm) or {})
    assert isinstance(changed, DictConfig)
    run = clone(changed, task, seed) if arm == BASE else refine(changed, task, seed, arm)
    seeds = episode_seeds(cfg.seed, member, cfg.episodes)
    world = load(changed, task, seed)
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
            real_episodes(policy, Shortened(vector, cfg.horizon), seeds[first : first + parallel], world)
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
    policy: Policy, vector: VectorEnv, seeds: Sequence[int], world: World
) -> tuple[list[Any], Confusion]:
    """Return real episodes of one batch, and what the model makes of their actions."""
    recorder = Recorder()
    # To the horizon, successful or not: a model that sees success a step too late sees it all the same.
    played = play(policy, vector, seeds, record=recorder)
    return played, replay_confusion(world.model, recorder.dataset(played))


class Shortened:
    """A vector environment whose episodes are over after `horizon` steps: as long as imagined ones."""

    def __init__(self, vector: VectorEnv, horizon: int) -> None:
        self._vector, self._horizon, self._steps = vector, horizon, 0
        self.num_envs, self.single_action_space = vector.num_envs, vector.single_action_space

    def reset(self, *, seed: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin one episode in each environment."""
        self._steps = 0
        return self._vector.reset(seed=seed)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all environments."""
        seen, rewards, terminated, truncated, infos = self._vector.step(actions)
        self._steps += 1
        return seen, rewards, terminated, truncated | (self._steps >= self._horizon), infos
