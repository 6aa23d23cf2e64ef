import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import envs
from envs.layout import Affine
from envs.pusht import STATE_TASK, small_picture

DEMONSTRATIONS = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "imitation" / "pusht"
PUSH = (256.0, 400.0, 256.0, 300.0, 0.4)  # the agent stands below the block


def recorded(name: str) -> dict[str, NDArray[Any]]:
    file = DEMONSTRATIONS / name
    if not file.exists():
        pytest.skip("the human demonstrations are not here")
    with np.load(file) as arrays:
        return {key: arrays[key] for key in arrays.files}


def episodes(count: int) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Return the states (T, 5) and the actions (T, 2) in [-1, 1] of the first human episodes."""
    data = recorded("pusht_cchi_v7_lowdim.npz")
    ends = data["episode_ends"][:count]
    parts = [slice(first, last) for first, last in zip([0, *ends[:-1]], ends, strict=True)]
    return [(data["state"][part], data["action"][part] / 256 - 1) for part in parts]


def wrapped(difference: NDArray[np.float64]) -> NDArray[np.float64]:
    difference = np.array(difference, float)
    difference[..., 4] = (difference[..., 4] + np.pi) % (2 * np.pi) - np.pi
    return np.abs(difference)


def apply(affine: Affine, values: Any) -> NDArray[np.float64]:
    return np.asarray(values, float) @ np.array(affine.matrix).T + affine.offset


@pytest.mark.parametrize("state", [PUSH, (40.5, 470.25, 130.0, 380.0, 6.0)])
def test_an_episode_starts_exactly_where_it_is_told(state: tuple[float, ...], pusht: None) -> None:
    env: Any = envs.make("PushT")
    for _ in range(2):
        observation, info = env.reset(seed=0, options={"state": state})
        np.testing.assert_allclose(env.unwrapped.state, state, atol=1e-9)
        np.testing.assert_array_equal(observation, np.float32(state))
        assert info == {"cost": 0.0, "success": False}
        env.step(np.array([0.1, 0.2], np.float32))
    still = np.array(state[:2]) / 256 - 1
    env.reset(options={"state": state})
    np.testing.assert_allclose(env.step(still)[0], state, atol=1e-4)


@pytest.mark.parametrize("state", [(1.0, 2.0), (1.0, 2.0, np.nan, 3.0, 0.0)])
def test_an_impossible_start_is_refused(state: tuple[float, ...], pusht: None) -> None:
    with pytest.raises(ValueError, match="block angle"):
        envs.make("PushT").reset(options={"state": state})


def test_it_is_gym_pusht_in_other_units(pusht: None) -> None:
    env, theirs = envs.make("PushT"), importlib.import_module("gym_pusht.envs.pusht").PushTEnv()
    np.testing.assert_array_equal(env.reset(seed=100_007)[0], np.float32(theirs.reset(seed=100_007)[0]))
    random = np.random.default_rng(0)
    for _ in range(30):
        action = random.uniform(-1, 1, 2).astype(np.float32)
        observation, reward, *_ = env.step(action)
        expected, same, *_ = theirs.step(256 * (action.astype(float) + 1))
        np.testing.assert_array_equal(observation, np.float32(expected))
        assert reward == same


def test_the_agent_goes_where_the_action_says(pusht: None) -> None:
    env = envs.make("PushT")
    env.reset(options={"state": (100.0, 100.0, 400.0, 400.0, 0.0)})
    for _ in range(20):
        observation, *_ = env.step(np.array([-0.5, 0.25], np.float32))
    np.testing.assert_allclose(observation[:2], [128.0, 320.0], atol=0.5)


def test_the_goal_is_a_success_that_ends_the_episode(pusht: None) -> None:
    env = envs.make("PushT")
    env.reset(options={"state": (50.0, 50.0, 256.0, 256.0, np.pi / 4)})
    _, reward, terminated, _, info = env.step(np.array([-0.8, -0.8], np.float32))
    assert (reward, terminated, info["success"]) == (1.0, True, True)
    env.reset(options={"state": (50.0, 50.0, 270.0, 256.0, np.pi / 4)})
    _, reward, terminated, _, info = env.step(np.array([-0.8, -0.8], np.float32))
    assert 0.5 < reward < 1.0
    assert not terminated
    assert not info["success"]


def test_human_episodes_replay_to_a_thousandth_of_a_pixel(pusht: None) -> None:
    env = envs.make("PushT")
    best = []
    for states, actions in episodes(20):
        observation, _ = env.reset(options={"state": states[0]})
        rewards = []
        for state, action in zip(states, actions, strict=True):
            assert wrapped(observation - state).max() < 1e-3
            observation, reward, *_ = env.step(action)
            rewards.append(reward)
        best.append(max(rewards))
    assert np.mean(best) == pytest.approx(0.944, abs=5e-4)


def inside(env: Any) -> bool:
    """Whether the block is clear of the walls, which are a pixel off the mirror image of each other."""
    corners = env.unwrapped.raw.get_keypoints(env.unwrapped.raw._block_shapes)
    return bool(corners.min() > 12 and corners.max() < 500)


def test_the_mirrored_world_is_the_mirror_image_of_the_world(pusht: None) -> None:
    world, mirrored = envs.make("PushT"), envs.make("PushT")
    (symmetry,) = STATE_TASK.layout.symmetries
    random = np.random.default_rng(0)
    pushed = 0.0
    for _ in range(10):
        place, angle = random.uniform(220, 290, 2), random.uniform(-np.pi, np.pi)
        start = np.r_[
            place + 150 * np.array([np.cos(angle), np.sin(angle)]), place, random.uniform(-np.pi, np.pi)
        ]
        world.reset(options={"state": start})
        mirrored.reset(options={"state": apply(symmetry.observation, start)})
        for _ in range(25):  # the agent chases the block
            aim = world.unwrapped.state[2:4] + random.uniform(-60, 60, 2)  # type: ignore[attr-defined]
            action = np.clip(aim / 256 - 1, -0.8, 0.8)
            here, reward, *_ = world.step(action)
            there, same, *_ = mirrored.step(apply(symmetry.action, action))
            if not inside(world):
                break
            assert wrapped(apply(symmetry.observation, here) - there).max() < 1e-3
            assert reward == pytest.approx(same, abs=1e-6)
            pushed = max(pushed, float(np.linalg.norm(here[2:4] - place)))
    assert pushed > 100, "the block was hardly touched"


def test_a_teleported_block_is_far_off_and_free(pusht: None) -> None:
    env: Any = envs.make("PushT")
    for seed in range(30):
        env.reset(seed=seed)
        before = env.unwrapped.state
        seen = env.unwrapped.teleport(seed)
        after = env.unwrapped.state
        np.testing.assert_array_equal(seen, after.astype(np.float32))
        np.testing.assert_array_equal(after[:2], before[:2])
        assert np.linalg.norm(after[2:4] - after[:2]) > 150
        assert np.linalg.norm(after[2:4] - before[2:4]) > 100
        observation, *_ = env.step(after[:2] / 256 - 1)
        np.testing.assert_allclose(observation, after, atol=1e-3)
    env.reset(seed=29)
    np.testing.assert_array_equal(env.unwrapped.teleport(29), seen)


def test_pictures_are_those_of_the_demonstrations(pusht: None) -> None:
    env = envs.make("PushTImage")
    pictures = recorded("pusht_cchi_v7_img_first20ep.npz")["img"]
    states = recorded("pusht_cchi_v7_lowdim.npz")["state"]
    differences = []
    for index in range(0, len(pictures), 100):
        observation, info = env.reset(options={"state": states[index]})
        np.testing.assert_array_equal(observation, states[index, :2])
        seen = info["images"]["camera"]
        assert (seen.shape, seen.dtype) == ((96, 96, 3), np.uint8)
        differences.append(np.abs(seen.astype(int) - pictures[index]).mean())
    assert max(differences) < 0.2, "of 255; another frame differs by 5"


def test_the_small_picture_is_that_of_gym_pusht(pusht: None) -> None:
    env: Any = envs.make("PushTImage")
    env.reset(seed=3)
    raw = env.unwrapped.raw
    surface = raw._draw()
    np.testing.assert_array_equal(small_picture(surface), raw._get_img(surface, 96, 96))


def test_pictures_follow_the_scene_and_show_no_action(pusht: None) -> None:
    env: Any = envs.make("PushTImage", render_mode="rgb_array")
    env.reset(options={"state": PUSH})
    action = np.array([0.5, 0.5], np.float32)
    *_, info = env.step(action)
    seen, shown = info["images"]["camera"], env.render()
    assert (shown == (255, 0, 0)).all(axis=-1).any(), "the cross at the last action"
    assert not (seen == (255, 0, 0)).all(axis=-1).any()
    *_, later = env.step(action)
    assert not np.array_equal(later["images"]["camera"], seen)
    env.reset(options={"state": PUSH})
    assert not (env.render() == (255, 0, 0)).all(axis=-1).any(), "the cross of the episode before"
