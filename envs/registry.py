"""The tasks this package knows: their sizes, horizons and reference scores, without any simulator."""

import difflib
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from envs.errors import UnknownTaskError
from envs.layout import Layout


@dataclass(frozen=True)
class Task:
    """One task with the constants of its benchmark.

    `min/max_episode_reward` and `min/max_episode_cost` are the reference returns and costs of whole episodes,
    `dataset_file` is the name of the published dataset ("" where there is none), and `binary_cost` says
    that a step costs exactly 0 or 1.

    `score` is what an episode is judged by: its return, its best reward of a step, or whether any step was a
    success. `control_rate` is in control steps per second of the robot's time [Hz] (None where none is declared).
    Environments act in [-1, 1]; `action_low` and `action_high` are those limits in the units of the task's
    demonstration files, `demonstrated` the keys that hold its observation there (None: the file's own choice).
    `clips_recorded`: those files hold what was asked for, which the simulator clipped to the limits when it was
    recorded. `image_size` is the side [pixel] of the pictures in `info["images"]`, None where there are
    none, and `layout` says what the numbers of an observation mean.
    """

    id: str
    name: str
    simulator: str
    observation_size: int
    action_size: int
    max_episode_steps: int
    min_episode_reward: float
    max_episode_reward: float
    min_episode_cost: float
    max_episode_cost: float
    dataset_file: str
    binary_cost: bool
    score: Literal["return", "best_reward", "success"] = "return"
    control_rate: float | None = None
    action_low: float = -1.0
    action_high: float = 1.0
    demonstrated: tuple[str, ...] | None = None
    clips_recorded: bool = False
    image_size: int | None = None
    layout: Layout = field(default_factory=Layout)

    def normalized_return(self, episode_return: float) -> float:
        """Return `episode_return` as a fraction: 0 at the reference minimum, 1 at the maximum.

        Source: DSRL (Liu et al. 2023), `get_normalized_score`.
        """
        return (episode_return - self.min_episode_reward) / (
            self.max_episode_reward - self.min_episode_reward
        )

    def normalized_cost(self, episode_cost: float, limit: float) -> float:
        """Return `episode_cost` in units of `limit`; at most 1 is safe.

        With a limit of 0 both sides are raised by 1, as DSRL does, so that no division by zero occurs.
        Raises ValueError for a negative limit. Source: DSRL (Liu et al. 2023), `get_normalized_score`.
        """
        if limit < 0:
            raise ValueError(f"A cost limit is at least 0, not {limit}.")
        epsilon = 1.0 if limit == 0 else 0.0
        return (episode_cost + epsilon) / (limit + epsilon)


def tasks() -> tuple[Task, ...]:
    """Return every known task: the 38 of DSRL, the point robot, Push-T, Adroit, the kitchen, 51 of Meta-World."""
    from envs import point_robot, pusht, robotics
    from envs.dsrl.tasks import dsrl_tasks
    from envs.metaworld.tasks import metaworld_tasks

    return (
        *dsrl_tasks(),
        point_robot.TASK,
        pusht.STATE_TASK,
        pusht.IMAGE_TASK,
        robotics.DOOR_TASK,
        robotics.KITCHEN_TASK,
        *metaworld_tasks(),
    )


@cache
def _by_name() -> dict[str, Task]:
    return {key.lower(): entry for entry in tasks() for key in (entry.id, entry.name)}


def task(name: str) -> Task:
    """Return the task with this id or short name ("OfflineBallCircle-v0" or "BallCircle"), in whatever case.

    Raises UnknownTaskError, naming the nearest tasks, if there is none.
    """
    known, wanted = _by_name(), str(name).lower()  # a command line may hold a number
    if wanted in known:
        return known[wanted]
    matches = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
    nearest = list(dict.fromkeys(known[match].name for match in matches))
    advice = f"Did you mean {' or '.join(nearest)}?" if nearest else "envs.tasks() lists all of them."
    raise UnknownTaskError(f"There is no task {name!r}. {advice}")
