"""Mixtures with pictures: one for each transition, in order, and drivers that see what was there."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from diffpolicy import data
from diffpolicy.collection import CollectConfig, CollectionError, MixtureConfig
from diffpolicy.collection.mixture import Driver
from diffpolicy.collection.pictures import Filmed, _write, collect_pictures
from diffpolicy.policies import ActionChunk, Memory, Observation


class Clock(gymnasium.Env[Any, Any]):
    """Its picture says the number of the episode and of the step."""

    def __init__(self) -> None:
        self.episode, self.step_number = 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.episode, self.step_number = self.episode + 1, 0
        return np.zeros(1, np.float32), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.step_number += 1
        return np.zeros(1, np.float32), 0.0, False, False, self._info()

    def _info(self) -> dict[str, Any]:
        return {"images": {"camera": np.array([[[self.episode, self.step_number, 0]]], np.uint8)}}


def test_the_picture_before_every_step_is_kept_and_the_last_of_an_episode_is_not() -> None:
    env = Filmed(Clock(), "camera")
    for steps in (2, 3):
        env.reset()
        for _ in range(steps):
            env.step(None)
    assert [each[0, 0, :2].tolist() for each in env.kept] == [[1, 0], [1, 1], [2, 0], [2, 1], [2, 2]]
    assert env.seen()["camera"][0, 0].tolist() == [2, 3, 0]


def test_a_camera_that_is_not_there_is_named() -> None:
    with pytest.raises(CollectionError, match="no pictures of 'side'; the task shows camera"):
        Filmed(Clock(), "side").reset()


class Seeing:
    """Acts as bright as what it sees."""

    observation_horizon = 1

    def start(self, batch: int, seed: int) -> Memory:
        return Memory(torch.Generator().manual_seed(seed))

    def act(self, observation: Observation, memory: Memory) -> tuple[ActionChunk, Memory]:
        assert observation.images is not None
        return ActionChunk(observation.images["camera"][:, :, 0, 0, 1:2].float() / 10.0), memory


def test_a_driver_sees_the_picture_of_the_moment() -> None:
    env = Filmed(Clock(), "camera")
    driver, rng = Driver(Seeing(), env.seen), np.random.default_rng(0)
    driver.start(rng)
    seen, _ = env.reset()
    acted = []
    for _ in range(3):
        action = driver.act(seen, rng)
        acted.append(round(float(action[0]), 6))
        seen, *_ = env.step(action)
    assert acted == [0.0, 0.1, 0.2]


def test_a_file_has_a_picture_for_every_transition_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gym_pusht")
    monkeypatch.setenv("DIFFPOLICY_CACHE", str(tmp_path / "cache"))
    mixture = MixtureConfig(expert=0, driven=0, noisy=0, uniform=1, held=2, horizon=4)
    path = tmp_path / "made" / "push.npz"
    for seed in (0, 1):
        config = CollectConfig(source="mixture", seed=seed, extend=True, mixture=mixture)
        made = collect_pictures("PushTImage", config, path, progress=False)
    found = data.load(path, images=("camera",))
    assert found.episode_lengths.tolist() == [4] * 6
    assert torch.equal(found.actions, made.actions)
    assert torch.equal(found.rewards, made.rewards)
    rows = np.arange(24)
    np.testing.assert_array_equal(found.images["camera"][rows], made.images["camera"][rows])
    assert len(np.unique(made.images["camera"].reshape(24, -1), axis=0)) > 12
    again = collect_pictures("PushTImage", config, tmp_path / "alone.npz", progress=False)
    np.testing.assert_array_equal(again.images["camera"], made.images["camera"][12:])
    assert [each.name for each in path.parent.iterdir()] == ["push.npz"]
    with pytest.raises(CollectionError, match="no pictures of 'side'"):
        collect_pictures("PushTImage", config, tmp_path / "none.npz", "side", progress=False)
    assert not (tmp_path / "none.npz").exists()


def test_terminations_are_not_lost_in_silence(tmp_path: Path) -> None:
    steps = 3
    dataset = data.from_transitions(
        observations=np.zeros((steps, 2), np.float32),
        actions=np.zeros((steps, 1), np.float32),
        rewards=np.zeros(steps, np.float32),
        costs=np.zeros(steps, np.float32),
        terminals=np.array([False, False, True]),
        timeouts=np.zeros(steps, bool),
    )
    with pytest.raises(CollectionError, match="terminated"):
        _write(dataset, tmp_path / "made.npz", "camera")
    assert not list(tmp_path.iterdir())
