import importlib
from typing import Any

import numpy as np
import pytest

import envs
from envs.metaworld.simulator import FREE_GOALS
from envs.metaworld.tasks import NAMES


def test_the_names_are_those_of_metaworld(metaworld: None) -> None:
    assert sorted(importlib.import_module("metaworld.env_dict").ALL_V3_ENVIRONMENTS) == list(NAMES)
    assert sorted(importlib.import_module("metaworld.policies").ENV_POLICY_MAP) == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_task_starts_from_its_seed_alone_with_the_goal_in_sight(name: str, metaworld: None) -> None:
    env: Any = envs.make(name)
    first, _ = env.reset(seed=1)
    other, _ = env.reset(seed=2)
    np.testing.assert_array_equal(env.reset(seed=1)[0], first)
    assert not np.array_equal(first[[4, 5, 6, 36, 37, 38]], other[[4, 5, 6, 36, 37, 38]])
    assert np.abs(first[36:]).max() > 0.05
    observation, reward, terminated, truncated, info = env.step(np.zeros(4, np.float32))
    assert 0 <= reward <= 10
    assert not terminated
    assert not truncated
    assert type(info["success"]) is bool
    # Nothing may move by itself in 12 ms: neither goal nor objects (some drop by up to a centimetre).
    np.testing.assert_allclose(observation[36:], first[36:], atol=1e-6)
    np.testing.assert_allclose(observation[4:7], first[4:7], atol=0.01)
    np.testing.assert_array_equal(observation[18:36], np.float32(first[:18]))


@pytest.mark.parametrize("name", FREE_GOALS)
def test_a_free_goal_can_be_moved_in_an_episode(name: str, metaworld: None) -> None:
    env: Any = envs.make(name)
    before, _ = env.reset(seed=0)
    distances = []
    for seed in range(5):
        seen = env.unwrapped.teleport(seed)
        np.testing.assert_array_equal(seen[:18], before[:18])
        distances.append(np.linalg.norm(seen[36:] - before[36:]))
    assert max(distances) > 0.05
    after, *_ = env.step(np.zeros(4, np.float32))
    np.testing.assert_allclose(after[36:], seen[36:], atol=1e-6)
    np.testing.assert_allclose(env.reset(seed=0)[0], before)


def test_the_goal_of_a_drawer_stays_with_the_drawer(metaworld: None) -> None:
    env: Any = envs.make("drawer-open-v3")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"drawer-open-v3 belongs.*pick-place-v3"):
        env.unwrapped.teleport(0)


@pytest.mark.filterwarnings("ignore:Constant")  # the expert's, at every large step
def test_success_is_reported_and_the_episode_goes_on(metaworld: None) -> None:
    expert = importlib.import_module("metaworld.policies").ENV_POLICY_MAP["drawer-close-v3"]()
    env = envs.make("drawer-close-v3")
    observation, _ = env.reset(seed=0)
    successes = []
    for _ in range(120):
        action = expert.get_action(np.asarray(observation, float))
        observation, _, terminated, truncated, info = env.step(action.astype(np.float32))
        successes.append(info["success"])
        assert not terminated
        assert not truncated
    assert not successes[0]
    assert successes[-1]
