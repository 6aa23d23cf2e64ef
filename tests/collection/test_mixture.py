"""Mixtures: every kind of behaviour is there, success is the reward, and what moves at a reset is no dynamics."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import envs
from diffpolicy import data
from diffpolicy.collection import CollectConfig, CollectionError, MixtureConfig, collect, mixture
from diffpolicy.collection.mixture import Driver, Noisy, Uniform, behaviours
from diffpolicy.policies import ActionChunk, Memory, Observation

RANDOM = MixtureConfig(expert=0, driven=0, noisy=0, uniform=3, held=3, horizon=30)


class Counting:
    """Chunks of two actions that tell the time, from two observations."""

    observation_horizon = 2

    def start(self, batch: int, seed: int) -> Memory:
        return Memory(torch.Generator().manual_seed(seed))

    def act(self, observation: Observation, memory: Memory) -> tuple[ActionChunk, Memory]:
        old, new = observation.state[:, 0, :1], observation.state[:, 1, :1]
        return ActionChunk(torch.stack([old, new], dim=1)), memory


def test_a_driver_executes_its_chunks_and_sees_the_last_steps() -> None:
    driver, rng = Driver(Counting()), np.random.default_rng(0)
    for _ in range(2):  # a new episode forgets the old one
        driver.start(rng)
        acted = [float(driver.act(np.array([step, 0], np.float32), rng)[0]) for step in range(5)]
        assert acted == [0, 0, 1, 2, 3]


def test_noise_and_held_actions_are_what_they_say() -> None:
    rng = np.random.default_rng(0)
    nothing = np.zeros(2, np.float32)

    class Still(Uniform):
        def act(self, observation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            return np.zeros(2, np.float32)

    noisy = Noisy(Still(2), 0.5)
    noisy.start(rng)
    assert np.std([noisy.act(nothing, rng) for _ in range(2000)]) == pytest.approx(0.5, abs=0.03)
    held = Uniform(2, longest=4)
    held.start(rng)
    actions = np.stack([held.act(nothing, rng) for _ in range(400)])
    changes = np.flatnonzero(np.any(actions[1:] != actions[:-1], axis=1))
    assert np.diff(changes).max() == 4
    assert np.diff(changes).min() == 1
    assert np.abs(actions).max() <= 1.0


def test_random_roll_outs_of_any_task_are_kept_whole(tmp_path: Path) -> None:
    path = tmp_path / "point.hdf5"
    config = CollectConfig(source="mixture", mixture=RANDOM)
    dataset = collect("PointRobot", config, path, progress=False)
    assert dataset.num_episodes == 6
    assert dataset.episode_lengths.max() == 30
    assert dataset.episode_lengths[dataset.timeouts[dataset.episode_ends - 1]].tolist() == [30] * int(
        dataset.timeouts.sum()
    )
    again = collect("PointRobot", config, tmp_path / "again.hdf5", progress=False)
    assert torch.equal(dataset.observations, again.observations)
    assert torch.equal(dataset.actions, data.load(path).actions)
    with h5py.File(path) as file:
        (run,), command = json.loads(file.attrs["runs"]), file.attrs["command"]
    assert run["config"]["mixture"]["held"] == 3
    assert "mixture.held=3" in command


def test_who_cannot_drive_is_refused() -> None:
    with pytest.raises(CollectionError, match="has no expert"):
        behaviours(envs.task("PointRobot"), MixtureConfig())
    for wrong in ({"uniform": -1}, {"horizon": 0}, {"noise": -0.1}):
        with pytest.raises(CollectionError, match="a mixture has"):
            MixtureConfig(**wrong)


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        ({"method": "world_model", "task": "PointRobot-v0"}, "'world_model', which is no policy"),
        ({"method": "gaussian", "task": "BallCircle", "seeds": [0]}, "acts in BallCircle"),
    ],
)
def test_what_cannot_drive_is_named(
    manifest: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = SimpleNamespace(manifest=manifest)
    monkeypatch.setattr(mixture, "read_checkpoint", lambda path: checkpoint)
    with pytest.raises(CollectionError, match=says):
        behaviours(envs.task("PointRobot"), replace(RANDOM, driver="there", driven=1))


def test_success_is_the_reward_and_a_reset_moves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("metaworld")
    mixture = MixtureConfig(expert=2, driven=0, noisy=0, uniform=1, held=1, horizon=100, after_success=8)
    config = CollectConfig(source="mixture", mixture=mixture)
    dataset = collect("dial-turn-v3", config, tmp_path / "dial.hdf5", progress=False)
    assert set(dataset.rewards.unique().tolist()) <= {0.0, 1.0}
    lengths, returns = dataset.episode_lengths.tolist(), dataset.episode_returns.tolist()
    assert max(returns) > 0
    assert all(length == 100 or earned > 0 for length, earned in zip(lengths, returns, strict=True))
    assert max(returns) <= 9
    starts = dataset.rows[dataset.episode_starts]
    jump = (dataset.observations[starts + 1] - dataset.observations[starts])[:, 4:7].norm(dim=1)
    assert jump.max() < 0.01  # [m]; 4 to 10 cm as Meta-World itself observes a reset
