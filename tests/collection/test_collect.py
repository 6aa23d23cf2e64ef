import json
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch

import envs
from diffpolicy import data
from diffpolicy.collection import (
    CollectConfig,
    CollectionError,
    CollectionInterrupted,
    PPOConfig,
    SACConfig,
    collect,
)
from diffpolicy.collection.recorder import EpisodeRecorder

TINY = PPOConfig(rollout_steps=64, epochs=1, width=16)
POINT = CollectConfig(steps=2_000, num_envs=4, ladder=(0.0, 1.0), per_cell=100, ppo=TINY)


def attributes(path: Path) -> dict[str, Any]:
    with h5py.File(path, "r") as file:
        return dict(file.attrs)


def replay(task: str, dataset: data.OfflineDataset, episode: int) -> None:
    """The recorded rewards, costs and ends are what the point robot answers to the recorded actions."""
    env = envs.make(task)
    low, high = int(dataset.episode_starts[episode]), int(dataset.episode_ends[episode])
    x, y, speed, cosine, sine = dataset.observations[dataset.rows[low], :5].double().tolist()
    env.reset(options={"state": (x, y, speed, np.arctan2(sine, cosine))})
    for row in range(low, high):
        observation, reward, terminated, _, info = env.step(dataset.actions[row].numpy())
        assert reward == pytest.approx(float(dataset.rewards[row]), abs=1e-4)
        assert info["cost"] == float(dataset.costs[row])
        assert terminated == bool(dataset.terminals[row])
        assert observation == pytest.approx(dataset.observations[dataset.rows[row] + 1].numpy(), abs=1e-3)


def test_ppo_on_the_point_robot(tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    path = tmp_path / "point.hdf5"
    kept = collect("PointRobot", POINT, path, progress=False)
    loaded = data.load(path)
    assert torch.equal(loaded.observations, kept.observations)
    assert loaded.actions.abs().max() <= 1.0
    for episode in range(0, loaded.num_episodes, 7):
        replay("PointRobot", loaded, episode)
    notes = attributes(path)
    run = json.loads(notes["runs"])[0]
    assert notes["task"] == "PointRobot-v0"
    assert notes["source"] == "ppo"
    assert notes["licence"] == "CC BY 4.0"
    assert notes["steps"] == 2_000
    assert notes["episodes_kept"] == loaded.num_episodes
    assert run["config"]["ladder"] == [0.0, 1.0]
    assert run["config"]["seed"] == 0
    assert not run["interrupted"]
    assert {"torch", "gymnasium", "stable-baselines3", "numpy"} <= set(run["versions"])
    assert "task=PointRobot" in notes["command"]
    assert "ladder=[0.0,1.0]" in notes["command"]
    assert "ppo.width=16" in notes["command"]


def test_the_same_seed_gives_the_same_file_and_leaves_global_randomness_alone(tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    first = collect("PointRobot", POINT, tmp_path / "a.hdf5", progress=False)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads
    second = collect("PointRobot", POINT, tmp_path / "b.hdf5", progress=False)
    assert torch.equal(first.observations, second.observations)
    assert torch.equal(first.actions, second.actions)


def test_ppo_on_a_bullet_task(tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    pytest.importorskip("pybullet")
    path, task = tmp_path / "run.hdf5", envs.task("BallRun")
    noise = PPOConfig(rollout_steps=64, epochs=1, width=16, state_dependent_noise=True)
    config = CollectConfig(
        steps=2_000, num_envs=4, constraint="limit", ladder=(5.0, 20.0), per_cell=100, ppo=noise
    )
    collect(task.name, config, path, progress=False)
    loaded = data.load(path)
    assert (loaded.observation_size, loaded.action_size) == (7, 2)
    assert loaded.episode_lengths.tolist() == [100] * loaded.num_episodes
    last = loaded.episode_ends - 1
    assert loaded.timeouts[last].all()
    assert not loaded.terminals.any()
    assert loaded.episode_costs.max() <= task.max_episode_cost
    assert set(loaded.costs.tolist()) <= {0.0, 1.0}
    assert data.check(path) == []


def test_sac_on_the_point_robot(tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    small = SACConfig(warm_up=200, batch_size=16, width=16, updates_per_step=0.05)
    config = CollectConfig(source="sac", steps=1_200, num_envs=4, ladder=(0.0, 1.0), per_cell=100, sac=small)
    kept = collect("PointRobot", config, tmp_path / "point.hdf5", progress=False)
    assert 0 < kept.num_transitions <= 1_200
    assert attributes(tmp_path / "point.hdf5")["source"] == "sac"
    replay("PointRobot", kept, 0)


def interrupt_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    record = EpisodeRecorder.step

    def step(self: EpisodeRecorder, *args: Any) -> None:
        if self.steps == steps:
            raise KeyboardInterrupt
        record(self, *args)

    monkeypatch.setattr(EpisodeRecorder, "step", step)


def test_an_interrupted_run_leaves_a_valid_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("stable_baselines3")
    interrupt_after(monkeypatch, 1_111)
    path = tmp_path / "point.hdf5"
    with pytest.raises(CollectionInterrupted, match="after 1111 steps"):
        collect("PointRobot", POINT, path, progress=False)
    loaded = data.load(path)
    assert 0 < loaded.num_transitions <= 1_111
    ends = loaded.episode_ends - 1
    assert (loaded.terminals | loaded.timeouts)[ends].all()
    assert json.loads(attributes(path)["runs"])[0]["interrupted"]


def test_an_interruption_before_the_first_episode_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(monkeypatch, 0)
    with pytest.raises(CollectionError, match="not one episode"):
        collect("PointRobot", CollectConfig(source="scripted"), tmp_path / "point.hdf5", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_extending_adds_episodes_and_remembers_both_runs(tmp_path: Path) -> None:
    path = tmp_path / "point.hdf5"
    first = CollectConfig(source="scripted", steps=1_000, per_cell=1_000)
    again = CollectConfig(source="scripted", steps=1_000, per_cell=1_000, seed=1, extend=True)
    before = collect("PointRobot", first, path, progress=False)
    after = collect("PointRobot", again, path, progress=False)
    assert after.num_episodes > before.num_episodes
    assert torch.equal(after.actions[: before.num_transitions], before.actions)
    notes = attributes(path)
    assert [run["config"]["seed"] for run in json.loads(notes["runs"])] == [0, 1]
    assert notes["steps"] == sum(run["steps"] for run in json.loads(notes["runs"]))


def test_an_impossible_choice_says_what_to_change(tmp_path: Path) -> None:
    config = CollectConfig(source="scripted", steps=500, min_normalized_return=9.0)
    with pytest.raises(CollectionError, match="normalised return of at least 9"):
        collect("PointRobot", config, tmp_path / "point.hdf5", progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "dreams"}, "ppo, sac, policies, scripted or mixture"),
        ({"constraint": "hope"}, "penalty or limit"),
        ({"steps": 0}, "steps=0"),
        ({"free_share": 30.0}, "from 0 to 1"),
        ({"num_envs": 2}, "rungs of the ladder"),
        ({"ladder": (-1.0,)}, "none negative"),
        ({"source": "policies"}, "actor file"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CollectionError, match=message):
        CollectConfig(**changes)
