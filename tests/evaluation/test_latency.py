"""Latency: every decision is timed once, the first of an episode apart, actions unchanged."""

import time
from typing import Any

import pytest

from diffpolicy.evaluation import RolloutError, rollout
from diffpolicy.evaluation.latency import Timed, measure, summarize


def test_quantiles_leave_the_first_decision_out() -> None:
    found = summarize([[1.0, *(0.001 * k for k in range(1, 101))], [3.0, 0.101]], actions=816)
    assert (found.p50, found.p95, found.p99) == pytest.approx((51.0, 96.0, 100.0))
    assert found.max == pytest.approx(101.0)
    assert found.first == pytest.approx(2000.0)
    assert found.decisions == 101
    assert found.steps_per_second == pytest.approx(816 / (4.0 + 5.151))


def test_a_timed_policy_acts_as_the_other(toy_task: Any, fake_policy: Any) -> None:
    timed = Timed(fake_policy(0.0, noise=0.3, horizon=2))
    assert rollout(timed, "BallCircle", [1, 3]) == rollout(
        fake_policy(0.0, noise=0.3, horizon=2), "BallCircle", [1, 3]
    )
    assert [len(episode) for episode in timed.episodes] == [3]
    assert timed.actions == 6


def test_slow_decisions_are_seen(toy_task: Any, fake_policy: Any) -> None:
    class Slow(fake_policy):  # type: ignore[misc]
        def act(self, observation: Any, memory: Any) -> Any:
            time.sleep(0.02 if observation.newest[0, 2] == 0 else 0.005)
            return super().act(observation, memory)

    found = measure(Slow(), "BallCircle", seed=0, decisions=12)
    assert found.decisions >= 12
    assert 5.0 <= found.p50 <= found.p95 <= found.p99 <= found.max
    assert found.first >= 20.0
    assert found.steps_per_second < 200.0


def test_episodes_of_one_decision_cannot_be_timed(toy_task: Any, fake_policy: Any) -> None:
    with pytest.raises(RolloutError, match="one decision"):
        measure(fake_policy(horizon=9), "BallCircle", seed=0)
