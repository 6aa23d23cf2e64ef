"""What is recorded of random actions played in a simulator."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import envs
from diffpolicy.cli.errors import ConfigError
from diffpolicy.cli.pixel_data import PlayConfig, check_camera, play

TASK = replace(
    envs.task("reach-v3-pixels"), observation_size=1, action_size=1, max_episode_steps=10, score="success"
)


class Rewarding:
    """Pays 5 for every step, of which every third one is a success."""

    def reset(self, *, seed: int) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
        self.steps = 0
        return np.zeros(1, np.float32), {"images": {"camera": self.picture()}}

    def step(self, action: np.ndarray[Any, Any]) -> tuple[Any, ...]:
        self.steps += 1
        info = {"cost": 0.0, "success": self.steps % 3 == 0, "images": {"camera": self.picture()}}
        return np.full(1, self.steps, np.float32), 5.0, False, False, info

    def picture(self) -> np.ndarray[Any, Any]:
        return np.full((8, 8, 3), self.steps, np.uint8)

    def close(self) -> None: ...


@pytest.fixture(autouse=True)
def simulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envs, "make", lambda task: Rewarding())


def test_where_success_is_the_score_it_is_the_reward() -> None:
    played = play(TASK, PlayConfig(horizon=7), episodes=2, seed=0, camera="camera")
    assert played.rewards.tolist() == 2 * [0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    assert played.images["camera"][:, 0, 0, 0].tolist() == 2 * [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("score", ["return", "best_reward"])
def test_elsewhere_rewards_are_the_simulators(score: Any) -> None:
    played = play(replace(TASK, score=score), PlayConfig(horizon=7), episodes=1, seed=0, camera="camera")
    assert played.rewards.tolist() == 7 * [5.0]


def test_cameras_that_show_nothing_are_named() -> None:
    with pytest.raises(ConfigError, match="'wrist'"):
        play(TASK, PlayConfig(), episodes=1, seed=0, camera="wrist")
    with pytest.raises(ConfigError, match="'wrist'"):
        check_camera(TASK, "wrist")
    check_camera(TASK, "camera")


def test_one_picture_is_not_judged() -> None:
    with pytest.raises(ConfigError, match="one picture"):
        PlayConfig(judged=1, horizon=1)
    PlayConfig(judged=0, horizon=1)
