from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import envs
from envs import point_robot


def make() -> Any:
    return envs.make("PointRobot")


def test_it_is_registered_with_gymnasium() -> None:
    env = gymnasium.make("PointRobot-v0")
    assert env.spec is not None
    assert env.spec.max_episode_steps == envs.task("PointRobot").max_episode_steps == 300


def test_one_step_is_an_euler_step_with_clipped_actions() -> None:
    state = np.array([0.0, 0.0, 2.0, np.pi / 2])
    expected = [0.0, 0.1, 2.05, np.pi / 2 - 0.025]
    np.testing.assert_allclose(point_robot.advance(state, np.array([5.0, -0.5])), expected, atol=1e-12)


def test_the_observation_by_hand() -> None:
    # 1 m below the first hazard's centre and facing it; the second is 0.8 m to the left and 3.4 m ahead.
    observation = point_robot.observe(np.array([0.4, -2.2, 1.5, np.pi / 2]))
    distance = np.hypot(0.8, 3.4)
    expected = [0.4, -2.2, 1.5, 0.0, 1.0, 1.0, 1.0, 0.0, distance, 3.4 / distance, 0.8 / distance]
    np.testing.assert_allclose(observation, expected, atol=1e-6)


def test_costs_are_the_positive_violation_values() -> None:
    env = make()
    env.reset(options={"state": (0.4, -2.2, 1.0, np.pi / 2)})
    costs = []
    for _ in range(40):
        *_, info = env.step(np.zeros(2, np.float32))
        state = env.unwrapped.state
        nearest = np.linalg.norm(point_robot.HAZARDS - state[:2], axis=1).min()
        assert info["violation_value"] == pytest.approx(0.8 - nearest)
        assert info["cost"] == float(info["violation_value"] > 0)
        costs.append(info["cost"])
    assert 0 < sum(costs) < len(costs)


def test_rewards_are_the_way_to_the_goal_and_one_for_reaching_it() -> None:
    env = make()
    env.reset(options={"state": (1.0, 1.0, 1.0, np.pi / 4)})
    total, terminated = 0.0, False
    while not terminated:
        _, reward, terminated, truncated, info = env.step(np.zeros(2, np.float32))
        total += reward
    assert info["goal_reached"]
    assert not truncated
    left = np.linalg.norm(env.unwrapped.state[:2] - point_robot.GOAL)
    assert left <= point_robot.GOAL_RADIUS
    assert total == pytest.approx(1.2 * np.sqrt(2) - left + 1.0)


def test_leaving_the_arena_ends_the_episode_without_reward() -> None:
    env = make()
    env.reset(options={"state": (-2.99, 0.0, 1.0, np.pi)})
    _, reward, terminated, truncated, info = env.step(np.zeros(2, np.float32))
    assert terminated
    assert not truncated
    assert not info["goal_reached"]
    assert reward < 0


def test_random_starts_are_feasible_and_in_range() -> None:
    env = make()
    for seed in range(20):
        env.reset(seed=seed)
        state = env.unwrapped.state
        assert point_robot.feasible(state)
        assert np.all(state >= point_robot.START_LOW)
        assert np.all(state <= point_robot.START_HIGH)


@pytest.mark.parametrize("state", [(0.0, 0.0), (0.0, 0.0, np.nan, 0.0), [[0.0, 0.0, 0.0, 0.0]]])
def test_an_impossible_start_is_refused(state: Any) -> None:
    with pytest.raises(ValueError, match=r"\(x, y, speed, heading\)"):
        make().reset(options={"state": state})


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ((0.4, -1.2, 0.0, 0.0), False),  # inside
        ((0.4, -2.01, 0.0, np.pi / 2), True),  # at rest beside a hazard
        ((0.4, -2.01, 2.0, np.pi / 2), False),  # 1 cm before it at full speed
        ((0.4, -2.01, 2.0, -np.pi / 2), True),  # the same, driving away
        ((0.4, -2.01, -2.0, -np.pi / 2), False),  # the same, backwards
        ((-2.5, -2.5, 2.0, np.pi / 2), True),  # far away
    ],
)
def test_the_feasible_set_where_the_answer_is_plain(state: tuple[float, ...], expected: bool) -> None:
    assert bool(point_robot.feasible(np.array(state))) is expected


def test_head_on_the_braking_distance_decides() -> None:
    # Braking from v to rest in steps of 0.05 takes v^2 / 2 + 0.025 v; turning gains less than 1 cm here.
    needed = 0.5**2 / 2 + 0.025 * 0.5
    near, far = (np.array([0.4, -2.0 - gap, 0.5, np.pi / 2]) for gap in (needed - 0.03, needed + 0.001))
    assert not point_robot.feasible(near)
    assert point_robot.feasible(far)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_from_an_infeasible_state_no_random_driving_is_safe(seed: int) -> None:
    random = np.random.default_rng(seed)
    states = random.uniform(point_robot.START_LOW, point_robot.START_HIGH, (200, 4))
    states = states[~point_robot.feasible(states)]
    safe = np.ones(len(states), bool)
    for _ in range(60):
        safe &= point_robot.violation_value(states) <= 0
        states = point_robot.advance(states, random.choice([-1.0, 1.0], (len(states), 2)))
    assert not safe.any()


def test_the_grid_matches_its_states() -> None:
    xs, ys, feasible, observations = point_robot.feasible_grid(1.0, np.pi / 2, n=21)
    assert feasible.shape == (21, 21)
    assert observations.shape == (441, 11)
    np.testing.assert_allclose(observations[2 * 21 + 5, :3], [xs[5], ys[2], 1.0], atol=1e-6)
    assert feasible[2, 5] == point_robot.feasible(np.array([xs[5], ys[2], 1.0, np.pi / 2]))
    assert 0.7 < feasible.mean() < 0.95
