import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import envs
from envs.errors import RenderingError
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


@pytest.fixture
def drawn(metaworld: None) -> Iterator[Any]:
    """Return the task with pictures; skip where there is no OpenGL."""
    env: Any = envs.make("reach-v3-pixels")
    try:
        env.reset(seed=0)
    except RenderingError as error:
        pytest.skip(str(error))
    yield env
    env.close()


def test_a_picture_shows_hand_and_goal_in_two_views(drawn: Any) -> None:
    _, info = drawn.reset(seed=1)
    first = info["images"]["camera"]
    assert first.shape == (32, 32, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(drawn.reset(seed=1)[1]["images"]["camera"], first)
    still = np.zeros(4, np.float32)
    for _ in range(3):
        *_, info = drawn.step(still)
    first = info["images"]["camera"]
    drawn.unwrapped.teleport(3)
    moved = drawn.step(still)[4]["images"]["camera"]
    changed = np.abs(moved.astype(int) - first).max(-1) > 40
    # The goal alone has moved: a pixel or more in both views, and little else.
    assert changed[:16].any()
    assert changed[16:].any()
    assert changed.sum() < 40
    for _ in range(3):
        *_, info = drawn.step(np.array([1, 0, 0, 0], np.float32))
    sideways = np.abs(info["images"]["camera"].astype(int) - moved).max(-1) > 40
    assert sideways[16:].sum() > changed.sum()  # an arm is larger than a goal


def test_an_action_is_held_for_four_steps_of_the_simulator(drawn: Any) -> None:
    plain: Any = envs.make("reach-v3")
    plain.reset(seed=5)
    drawn.reset(seed=5)
    action = np.array([0.5, 1.0, -0.3, 0.2], np.float32)
    seen, earned, *_, info = drawn.step(action)
    steps = [plain.step(action) for _ in range(4)]
    np.testing.assert_allclose(seen, steps[-1][0], atol=1e-6)
    assert earned == pytest.approx(sum(step[1] for step in steps))
    assert info["success"] is steps[-1][4]["success"]
