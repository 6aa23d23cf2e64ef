"""How the datasets of the benchmark suite were collected: the settings that differ from the defaults, task by task."""

from collections.abc import Mapping
from typing import Any

_LADDER = [0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 4.0, 8.0]

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "PointRobot": {"source": "scripted", "steps": 120_000, "per_cell": 25},
    "BallCircle": {  # independent noise leaves the ball at the centre, where the reward is zero
        "steps": 800_000,
        "ladder": _LADDER,
        "max_episodes": 900,
        "ppo": {
            "epochs": 6,
            "discount": 0.99,
            "gae": 0.95,
            "initial_log_std": -1.0,
            "state_dependent_noise": True,
            "noise_steps": 16,
        },
    },
    "HalfCheetahVelocity": {  # large first noise ends in a gait on the back that earns half as much
        "steps": 1_200_000,
        "seed": 1,
        "max_episodes": 850,
        "free_share": 0.2,
        "min_normalized_return": 0.0,
        "ppo": {
            "epochs": 10,
            "discount": 0.98,
            "gae": 0.92,
            "initial_log_std": -1.0,
            "state_dependent_noise": False,
        },
    },
    "PointCircle1": {
        "steps": 800_000,
        "num_envs": 32,
        "ladder": _LADDER,
        "min_normalized_return": -0.2,
        "ppo": {
            "rollout_steps": 64,
            "epochs": 6,
            "discount": 0.99,
            "gae": 0.95,
            "initial_log_std": -1.0,
            "state_dependent_noise": True,
            "noise_steps": 16,
        },
    },
    "BallRun": {
        "steps": 400_000,
        "num_envs": 32,
        "constraint": "limit",
        "ladder": [1.0, 5.0, 10.0, 20.0, 30.0, 40.0, 60.0, 1000.0],
        "max_episodes": 940,
        "min_normalized_return": 0.0,
        "ppo": {
            "rollout_steps": 64,
            "epochs": 10,
            "discount": 0.98,
            "gae": 0.92,
            "initial_log_std": -1.0,
            "state_dependent_noise": False,
        },
    },
    "CarRun": {
        "max_episodes": 800,
        "min_normalized_return": 0.0,
        "steps": 300_000,
        "num_envs": 32,
        "ladder": _LADDER,
        "ppo": {
            "rollout_steps": 64,
            "epochs": 10,
            "discount": 0.99,
            "gae": 0.95,
            "initial_log_std": -1.0,
            "state_dependent_noise": True,
        },
    },
}
"""By short task name, as keys of `CollectConfig`; other tasks start from its defaults."""
