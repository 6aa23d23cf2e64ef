"""What holds for every task, whatever its simulator."""

import io
import warnings
from contextlib import redirect_stderr, redirect_stdout

import gymnasium
import numpy as np
import pytest
from numpy.typing import NDArray

import envs


def roll(env: gymnasium.Env, seed: int, steps: int) -> NDArray[np.float64]:
    """Return observations, rewards, costs and ends of an episode of random actions, in one row."""
    random = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    seen = [observation]
    for _ in range(steps):
        action = random.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        observation, reward, terminated, truncated, info = env.step(action)
        seen.append(np.r_[observation, reward, info["cost"], terminated, truncated])
        if terminated or truncated:
            break
    return np.concatenate(seen)


def test_every_task_steps_by_the_contract(simulated: str) -> None:
    task = envs.task(simulated)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = envs.make(task.id)
    assert env.observation_space.shape == (task.observation_size,)
    assert env.observation_space.dtype == np.float32
    assert env.action_space == gymnasium.spaces.Box(-1, 1, (task.action_size,), np.float32)
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space, "wrong dtype, shape or not finite"
    for _ in range(5):
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert observation in env.observation_space, "wrong dtype, shape or not finite"
        assert [type(value) for value in (reward, terminated, truncated, info["cost"])] == [
            float,
            bool,
            bool,
            float,
        ]
        assert info["cost"] in (0.0, 1.0)
    env.close()


def test_a_seed_repeats_the_episode_whatever_happened_before(simulated: str) -> None:
    env, fresh = envs.make(simulated), envs.make(simulated)
    first = roll(env, seed=3, steps=40)
    other = roll(env, seed=4, steps=40)
    np.testing.assert_array_equal(roll(env, seed=3, steps=40), first)
    np.testing.assert_array_equal(roll(fresh, seed=3, steps=40), first)
    assert first.shape != other.shape or not np.array_equal(first, other)
    env.close()
    fresh.close()


def test_unseeded_resets_differ(bullet: None) -> None:
    env = envs.make("BallCircle")
    env.reset(seed=0)
    assert not np.array_equal(env.reset()[0], env.reset()[0])


@pytest.mark.parametrize(
    "name", ["BallCircle", "PointCircle1", "PushT", "AdroitDoor", "FrankaKitchen", "pick-place-v3"]
)
def test_the_callers_random_numbers_are_left_alone(
    name: str, bullet: None, safety_gymnasium: None, pusht: None, robotics: None, metaworld: None
) -> None:
    before = np.random.get_state(legacy=False)["state"]  # noqa: NPY002  the global state is the point
    env = envs.make(name)
    roll(env, seed=1, steps=5)
    env.reset()
    after = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    assert after["pos"] == before["pos"]
    np.testing.assert_array_equal(after["key"], before["key"])


def test_two_environments_do_not_disturb_each_other(bullet: None) -> None:
    alone, together, disturber = (envs.make("AntRun") for _ in range(3))
    expected = roll(alone, seed=1, steps=10)
    random = np.random.default_rng(1)
    seen = [together.reset(seed=1)[0]]
    for _ in range(10):
        disturber.reset()
        observation, reward, *ends, info = together.step(random.uniform(-1, 1, 8).astype(np.float32))
        seen.append(np.r_[observation, reward, info["cost"], ends])
    np.testing.assert_array_equal(np.concatenate(seen), expected)


@pytest.mark.parametrize(
    "name",
    [
        "BallRun",
        "PointCircle1",
        "SwimmerVelocity",
        "PointRobot",
        "PushT",
        "AdroitDoor",
        "FrankaKitchen",
        "pick-place-v3",
    ],
)
def test_an_episode_is_truncated_at_its_horizon(
    name: str, bullet: None, safety_gymnasium: None, pusht: None, robotics: None, metaworld: None
) -> None:
    env = envs.make(name)
    options = {"state": (-2.0, 0.0, 0.0, 0.0)} if name == "PointRobot" else None
    env.reset(seed=0, options=options)
    still = np.zeros(env.action_space.shape, np.float32)
    for step in range(1, envs.task(name).max_episode_steps + 1):
        _, _, terminated, truncated, _ = env.step(still)
        assert not terminated
        assert truncated == (step == envs.task(name).max_episode_steps)
    env.close()


def test_closing_twice_is_harmless(simulated: str) -> None:
    env = envs.make(simulated)
    env.close()
    env.close()


@pytest.mark.parametrize("name", ["BallCircle", "PointCircle1", "PointRobot", "PushT"])
def test_an_unknown_render_mode_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="'rgb_array', not 'human'"):
        envs.make(name, render_mode="human")


@pytest.mark.parametrize("name", ["BallCircle", "PointCircle1", "PointRobot", "PushT"])
@pytest.mark.parametrize("action", [np.array([0.0, np.nan]), np.zeros(3), np.zeros((1, 2))])
def test_a_broken_action_is_refused(
    name: str, action: NDArray[np.float64], bullet: None, safety_gymnasium: None, pusht: None
) -> None:
    env = envs.make(name)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"array of \(2,\) finite numbers"):
        env.step(action)
    env.close()


def test_bullet_starts_where_the_output_is_not_a_file(bullet: None) -> None:
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        envs.make("BallRun").close()
