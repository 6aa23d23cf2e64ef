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
        "ppo": {"initial_log_std": -1.0, "state_dependent_noise": True, "noise_steps": 16},
    },
    "HalfCheetahVelocity": {"steps": 1_400_000, "num_envs": 32, "ppo": {"rollout_steps": 64}},
    "PointCircle1": {
        "steps": 800_000,
        "num_envs": 32,
        "ladder": _LADDER,
        "ppo": {
            "rollout_steps": 64,
            "initial_log_std": -1.0,
            "state_dependent_noise": True,
            "noise_steps": 16,
        },
    },
    "BallRun": {"steps": 500_000, "num_envs": 32, "ladder": _LADDER, "ppo": {"rollout_steps": 64}},
    "SwimmerVelocity": {"steps": 1_000_000, "num_envs": 32, "ppo": {"rollout_steps": 64}},
}
"""By short task name, as keys of `CollectConfig`; other tasks start from its defaults."""
