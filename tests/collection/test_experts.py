from pathlib import Path

import numpy as np
import pytest

import envs
from diffpolicy import data
from diffpolicy.collection import CollectConfig, CollectionError, ExpertConfig, collect
from diffpolicy.data import OfflineDataset

pytest.importorskip("metaworld")


def demonstrate(task: str, path: Path, **options: float) -> OfflineDataset:
    config = CollectConfig(
        source="scripted",
        steps=2_000,
        per_cell=1000,
        expert=ExpertConfig(**options),  # type: ignore[arg-type]
    )
    return collect(task, config, path, progress=False)


def test_demonstrations_repeat_in_the_simulator_and_end_after_success(tmp_path: Path) -> None:
    path = tmp_path / "demonstrations.hdf5"
    kept = demonstrate("drawer-close-v3", path, episodes=4, after_success=5, action_noise=0.1)
    loaded = data.load(path)
    assert loaded.num_episodes == kept.num_episodes == 4
    assert loaded.timeouts.sum() == 4
    assert not loaded.terminals.any()
    assert not loaded.costs.any()
    env = envs.make("drawer-close-v3")
    rng = np.random.default_rng(0)
    for first, last in zip(loaded.episode_starts.tolist(), loaded.episode_ends.tolist(), strict=True):
        observation, _ = env.reset(seed=int(rng.integers(2**31)))
        successes = []
        for row in range(first, last):
            assert observation == pytest.approx(loaded.observations[loaded.rows[row]].numpy(), abs=1e-6)
            observation, reward, *_, info = env.step(loaded.actions[row].numpy())
            assert reward == pytest.approx(float(loaded.rewards[row]), abs=1e-4)
            successes.append(info["success"])
        assert successes.index(True) == len(successes) - 6
        rng.standard_normal(4 * len(successes))  # the noise on the actions, drawn between the resets


def test_failures_are_kept_on_request(tmp_path: Path) -> None:
    wild = {"episodes": 2, "action_noise": 100.0}  # nothing is left of the expert
    with pytest.raises(CollectionError, match=r"none of 4 attempts.*action_noise"):
        demonstrate("pick-place-v3", tmp_path / "a.hdf5", **wild)
    kept = demonstrate("pick-place-v3", tmp_path / "b.hdf5", **wild, only_successes=False)
    assert kept.episode_lengths.tolist() == [500, 500]


@pytest.mark.parametrize("options", [{"episodes": 0}, {"action_noise": -0.1}, {"after_success": -1}])
def test_impossible_settings_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(CollectionError, match=f"expert.{next(iter(options))}="):
        ExpertConfig(**options)  # type: ignore[arg-type]
