from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import envs

pytest.importorskip("stable_baselines3")

from diffpolicy.collection.ladder import LimitLadder, PenaltyLadder
from diffpolicy.collection.recorder import EpisodeRecorder
from diffpolicy.collection.vector import LadderVecEnv, rung_summary

TASK = envs.task("PointRobot")
HORIZON = 4


class Counter(gymnasium.Env[Any, Any]):
    """Counts steps; rewards 5, costs 2, remembers what it was given and ends as told."""

    observation_space = spaces.Box(-np.inf, np.inf, (11,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, terminates: bool) -> None:
        self.terminates = terminates
        self.count = 0
        self.received: list[Any] = []
        self.seeds: list[int | None] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.seeds.append(seed)
        self.count = 0
        return np.zeros(11, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.received.append(action)
        self.count += 1
        over = self.count == HORIZON
        shown = np.full(11, self.count, np.float32)
        return shown, 5.0, over and self.terminates, over and not self.terminates, {"cost": 2.0}


def build(
    ladder: PenaltyLadder | LimitLadder, num_envs: int, terminates: bool = False
) -> tuple[LadderVecEnv, EpisodeRecorder]:
    recorder = EpisodeRecorder(num_envs, HORIZON, 11, 2)
    return LadderVecEnv(lambda: Counter(terminates), TASK, num_envs, ladder, recorder, 3), recorder


def test_the_agent_sees_its_rung_and_the_shaped_reward_but_the_record_is_true() -> None:
    env, recorder = build(PenaltyLadder((0.0, 3.0)), 4)
    first = env.reset()
    assert isinstance(first, np.ndarray)
    assert first[:, 11:].tolist() == [[1, 0], [0, 1], [1, 0], [0, 1]]
    scale = TASK.max_episode_steps / TASK.max_episode_reward
    for _ in range(HORIZON):
        observations, rewards, dones, infos = env.step(np.zeros((4, 2), np.float32))
        cheap, dear = 0.1 * 5.0 * scale, 0.1 * (5.0 * scale - 3.0 * 2.0)
        assert rewards.tolist() == pytest.approx([cheap, dear, cheap, dear], rel=1e-6)
    assert dones.all()
    assert isinstance(observations, np.ndarray)
    assert (observations[:, 0] == 0).all()
    assert (infos[0]["terminal_observation"][:11] == HORIZON).all()
    assert [episode.behaviour for episode in recorder.episodes] == [0, 1, 0, 1]
    assert [episode.episode_return for episode in recorder.episodes] == [20.0] * 4
    assert [episode.episode_cost for episode in recorder.episodes] == [8.0] * 4
    assert rung_summary(recorder, (0.0, 3.0)) == "0: 20/8  3: 20/8"


def test_actions_are_recorded_as_the_environment_received_them() -> None:
    env, recorder = build(PenaltyLadder((0.0,)), 1)
    env.reset()
    for _ in range(HORIZON):
        env.step(np.array([[3.0, -0.25]], np.float32))
    assert recorder.episodes[0].actions.tolist() == [[1.0, -0.25]] * HORIZON
    assert env.get_attr("received")[0][0].tolist() == [1.0, -0.25]


@pytest.mark.parametrize("terminates", [True, False])
def test_time_outs_are_not_terminals(terminates: bool) -> None:
    env, recorder = build(PenaltyLadder((0.0,)), 1, terminates)
    env.reset()
    for _ in range(HORIZON):
        *_, infos = env.step(np.zeros((1, 2), np.float32))
    assert infos[0]["TimeLimit.truncated"] is not terminates
    assert recorder.episodes[0].terminated is terminates


def test_costs_above_the_limit_raise_the_weight() -> None:
    env, _ = build(LimitLadder((0.0, 50.0)), 2)
    env.reset()
    for _ in range(HORIZON):
        env.step(np.zeros((2, 2), np.float32))
    assert env.ladder.weights[0] > 0.0
    assert env.ladder.weights[1] == 0.0


def test_environments_start_from_different_seeds_and_only_once() -> None:
    env, _ = build(PenaltyLadder((0.0,)), 3)
    env.reset()
    for _ in range(HORIZON):
        env.step(np.zeros((3, 2), np.float32))
    seeds = env.get_attr("seeds")
    assert len({first for first, _ in seeds}) == 3
    assert [later for _, later in seeds] == [None] * 3
