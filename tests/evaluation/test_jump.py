"""The jump test: only the chosen steps count, everyone is moved alike, and Push-T's block really jumps."""

from typing import Any

import numpy as np
import pytest

import envs
from diffpolicy.evaluation.jump import Teleport, play_jump, play_undisturbed
from diffpolicy.evaluation.rollout import play


@pytest.fixture
def rising(toy_vector: Any) -> Any:
    """Rewards the number of the step, 10 lower until the jump; notes who is moved with which seed."""

    class Rising(toy_vector):  # type: ignore[misc]
        def reset(self, *, seed: Any = None) -> Any:
            self.moved: list[tuple[int, int]] = []
            return super().reset(seed=seed)

        def step(self, actions: Any) -> Any:
            observations, _, *rest = super().step(actions)
            return observations, observations[:, 2] - 1.0, *rest

        def call(self, method: str, rows: list[int], seed: int) -> list[Any]:
            assert method == "teleport"
            self.moved.append((rows[0], seed))
            return [np.full(3, 100.0 + rows[0], np.float32)]

    return Rising


def test_only_the_steps_after_the_jump_count(rising: Any, fake_policy: Any) -> None:
    policy, vector = fake_policy(), rising(2)
    long, short = play_jump(policy, vector, [3, 2], at=2, after=2)  # 6 and 5 steps, rewards 0, 1, 2 ...
    assert (long.best_reward, short.best_reward) == (3.0, 3.0)
    assert (long.length, short.length) == (6, 5)
    assert [row for row, _ in vector.moved] == [0, 1]
    assert policy.asked[2][:, 0].tolist() == [100.0, 101.0]  # sees the new world at once
    assert policy.asked[1][:, 0].tolist() == [3.0, 2.0]


def test_what_ended_before_the_jump_keeps_its_score(rising: Any, fake_policy: Any) -> None:
    ended, _ = play_jump(fake_policy(), rising(2), [0, 3], at=4, after=10)  # 3 and 6 steps
    assert ended.best_reward == 2.0


def test_every_policy_meets_the_same_jumps(rising: Any, fake_policy: Any) -> None:
    first, again, apart = rising(2), rising(2), rising(1)
    play_jump(fake_policy(), first, [3, 2], at=1, after=1)
    play_jump(fake_policy(0.9, horizon=2), again, [3, 2], at=1, after=1)
    play_jump(fake_policy(), apart, [3], at=1, after=1)
    assert first.moved == again.moved
    assert first.moved[0] == apart.moved[0]
    assert first.moved[0][1] != first.moved[1][1]


def test_batches_are_windowed_one_by_one(rising: Any, fake_policy: Any) -> None:
    episodes = play_undisturbed(fake_policy(), rising(2), [3, 2, 7], steps=2)
    assert [e.best_reward for e in episodes] == [1.0, 1.0, 1.0]
    assert [e.seed for e in episodes] == [3, 2, 7]


def test_the_block_of_push_t_jumps(fake_policy: Any) -> None:
    pytest.importorskip("gym_pusht")
    seen: list[Any] = []
    vector: Any = envs.make_vector("PushT", 2, workers=0, autoreset=False)
    play(
        fake_policy(0.0, horizon=300),
        vector,
        [1, 2],
        record=lambda step: seen.append(step.observations),
        intervene=Teleport([1, 2], 2, at=5),
    )
    vector.close()
    moved = np.linalg.norm(seen[5][:, 2:4] - seen[4][:, 2:4], axis=1)
    assert (moved > 90.0).all()
    assert (np.linalg.norm(seen[6][:, 2:4] - seen[5][:, 2:4], axis=1) < 30.0).all()
