"""How the datasets of the benchmark suite were collected: the settings that differ from the defaults, task by task."""

from collections.abc import Mapping, Sequence
from typing import Any

from envs.metaworld.tasks import NAMES

_LADDER = [0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 4.0, 8.0]
_ALL = {"per_cell": 1_000_000, "max_episodes": 1_000_000}  # keep every episode for the run that follows
_PATIENT = {"epochs": 6, "discount": 0.99, "gae": 0.95}
_CORRELATED = {
    "initial_log_std": -1.0,
    "state_dependent_noise": True,
}  # moves what independent noise only shakes

RECIPES: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "PointRobot": [{"source": "scripted", "steps": 120_000, "per_cell": 25}],
    "BallCircle": [
        {
            "steps": 800_000,
            "ladder": _LADDER,
            "max_episodes": 900,
            "ppo": {**_PATIENT, **_CORRELATED, "noise_steps": 16},
        }
    ],
    "HalfCheetahVelocity": [  # the first run ends in a gait on the back that earns half as much as the second's
        {
            "steps": 1_400_000,
            "num_envs": 32,
            **_ALL,
            "ppo": {**_PATIENT, "rollout_steps": 64, "initial_log_std": 0.0},
        },
        {
            "extend": True,
            "steps": 1_200_000,
            "seed": 1,
            "max_episodes": 850,
            "free_share": 0.2,
            "min_normalized_return": 0.0,
        },
    ],
    "PointCircle1": [
        {
            "steps": 800_000,
            "num_envs": 32,
            "ladder": _LADDER,
            **_ALL,
            "ppo": {**_PATIENT, **_CORRELATED, "rollout_steps": 64, "noise_steps": 16},
        },
        {
            "extend": True,
            "steps": 600_000,
            "num_envs": 32,
            "ladder": [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0],
            "seed": 1,
            "max_episodes": 1_100,
            "free_share": 0.35,
            "min_normalized_return": -0.1,
            "ppo": {**_CORRELATED, "rollout_steps": 64},
        },
    ],
    "BallRun": [
        {
            "steps": 400_000,
            "num_envs": 32,
            "constraint": "limit",
            "ladder": [1.0, 5.0, 10.0, 20.0, 30.0, 40.0, 60.0, 1000.0],
            "max_episodes": 940,
            "min_normalized_return": 0.0,
            "ppo": {"rollout_steps": 64},
        }
    ],
    "CarRun": [
        {
            "steps": 300_000,
            "num_envs": 32,
            "ladder": _LADDER,
            "max_episodes": 800,
            "min_normalized_return": 0.0,
            "ppo": {**_CORRELATED, "rollout_steps": 64, "discount": 0.99, "gae": 0.95},
        }
    ],
    **{name: [{"source": "scripted", **_ALL}] for name in NAMES},  # demonstrations by Meta-World's experts
}
"""By short task name, the runs one after the other, as keys of `CollectConfig`; other tasks take its defaults."""
