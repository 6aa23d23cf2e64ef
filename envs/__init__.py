"""Robot tasks as gymnasium environments: the DSRL benchmark, manipulation tasks and the point robot."""

import importlib
from typing import TYPE_CHECKING, Any

import gymnasium

from envs import registry
from envs.errors import MissingSimulatorError, RenderingError, UnknownTaskError, WorkerError
from envs.registry import Task, task, tasks

if TYPE_CHECKING:
    from envs.vector import ParallelEnv

__all__ = [
    "MissingSimulatorError",
    "RenderingError",
    "Task",
    "UnknownTaskError",
    "WorkerError",
    "make",
    "make_vector",
    "task",
    "tasks",
]

_MAKERS = {
    "safety_gymnasium": ("envs.dsrl.simulators", "make_safety_gymnasium"),
    "bullet": ("envs.dsrl.simulators", "make_bullet"),
    "metadrive": ("envs.dsrl.simulators", "make_metadrive"),
    "pusht": ("envs.pusht", "make"),
    "adroit": ("envs.robotics", "make_door"),
    "kitchen": ("envs.robotics", "make_kitchen"),
    "metaworld": ("envs.metaworld.simulator", "make"),
}

gymnasium.register(
    id="PointRobot-v0",
    entry_point="envs.point_robot:PointRobotEnv",
    max_episode_steps=300,
    disable_env_checker=True,
)


def make(task: str, *, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    """Make the environment of a task, given by id or short name.

    Steps are gymnasium's five-tuples with float32 observations and a float `info["cost"]`; manipulation tasks
    also have a bool `info["success"]`, and image tasks `info["images"]["camera"]` (H, W, 3) uint8. Episodes are
    truncated at the task's horizon; `reset(seed=...)` is repeatable for every simulator; `render_mode` is
    None or "rgb_array", where `render()` returns an (H, W, 3) uint8 picture.
    Raises UnknownTaskError, or MissingSimulatorError if the task's simulator cannot run here.
    """
    from envs.checks import check_render_mode

    check_render_mode(render_mode)
    entry = registry.task(task)
    if entry.simulator == "point_robot":
        return gymnasium.make(entry.id, render_mode=render_mode)
    module, function = _MAKERS[entry.simulator]
    env = getattr(importlib.import_module(module), function)(entry, render_mode)
    return gymnasium.wrappers.TimeLimit(env, entry.max_episode_steps)


def make_vector(
    task: str, num_envs: int, *, workers: int | None = None, autoreset: bool = True
) -> "ParallelEnv":
    """Make `num_envs` environments of a task, several to a worker process.

    `workers` is the number of processes: None for one per core, 0 for none at all. Every step reports
    `infos["cost"]` (n,) float32, `infos["success"]` (n,) bool and `infos["final_observation"]` (n, O), also at the
    last step of an episode. With `autoreset` the next episode begins in the same step; without it a finished
    environment stays as it is and earns nothing until the next reset. Image tasks add
    `infos["images"]["camera"]` (n, H, W, 3), at a reset too. `call(method, rows, *arguments)` reaches the
    environments themselves. Results do not depend on the number of workers.
    Raises UnknownTaskError, MissingSimulatorError, or WorkerError.
    """
    from envs.vector import ParallelEnv

    return ParallelEnv(registry.task(task), num_envs, workers, autoreset)
