"""Robot tasks as gymnasium environments: the DSRL benchmark and the point robot."""

from typing import Any

import gymnasium

from envs.errors import MissingSimulatorError, RenderingError, UnknownTaskError, WorkerError
from envs.registry import Task, task, tasks

__all__ = [
    "MissingSimulatorError",
    "RenderingError",
    "Task",
    "UnknownTaskError",
    "WorkerError",
    "make",
    "task",
    "tasks",
]

gymnasium.register(
    id="PointRobot-v0",
    entry_point="envs.point_robot:PointRobotEnv",
    max_episode_steps=300,
    disable_env_checker=True,
)


def make(task: str, *, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    """Make the environment of a task, given by id or short name.

    Steps are gymnasium's five-tuples with float32 observations and a float `info["cost"]`; episodes are truncated at
    the task's horizon; `reset(seed=...)` is repeatable for every simulator; `render_mode` is None or "rgb_array".
    Raises UnknownTaskError, or MissingSimulatorError if the task's simulator cannot run here.
    """
    from envs.dsrl import simulators

    entry = _task(task)
    if entry.simulator == "point_robot":
        return gymnasium.make(entry.id, render_mode=render_mode)
    makers = {
        "safety_gymnasium": simulators.make_safety_gymnasium,
        "bullet": simulators.make_bullet,
        "metadrive": simulators.make_metadrive,
    }
    env = makers[entry.simulator](entry, render_mode)
    return gymnasium.wrappers.TimeLimit(env, entry.max_episode_steps)


_task = task
