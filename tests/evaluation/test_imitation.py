"""Scores: what each kind counts, pairing, intervals that follow the spread, and the table."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from diffpolicy.evaluation import EvaluationError
from diffpolicy.evaluation.imitation import score, score_table, tabulate


@pytest.fixture
def played(episodes: Any) -> Any:
    """Makes episodes (K, M) of these best rewards, 10 steps long."""

    def make(values: Any, **changes: Any) -> Any:
        rows = episodes(values, [[0.0] * len(row) for row in values])
        return tuple(
            tuple(replace(e, length=10, best_reward=e.episode_return, **changes) for e in row) for row in rows
        )

    return make


def test_each_kind_counts_its_own(played: Any) -> None:
    episodes = played([[0.5, 1.0]], success=True)
    other = ((replace(episodes[0][0], episode_return=7.0, success=False), episodes[0][1]),)
    assert score_table(other, "best_reward").tolist() == [[0.5, 1.0]]
    assert score_table(other, "return").tolist() == [[7.0, 1.0]]
    assert score_table(other, "success").tolist() == [[0.0, 1.0]]


def test_the_table_of_known_episodes(played: Any) -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(0.9, 0.05, (3, 40))
    table = tabulate(
        "PushT",
        "best_reward",
        {
            "cold": played(base.tolist(), evaluations=50),
            "warm": played((base - 0.1).tolist(), evaluations=30, cold_starts=2),
        },
    )
    cold, warm = table.row("cold"), table.row("warm")
    assert cold.score.mean == pytest.approx(base.mean())
    assert cold.score.mean_interval.low < base.mean() < cold.score.mean_interval.high
    assert cold.difference is None
    assert warm.difference is not None
    assert warm.difference.mean == pytest.approx(-0.1)
    assert warm.difference.mean_interval == pytest.approx((-0.1, -0.1))  # pairs cancel what they share
    assert (cold.evaluations_per_step, warm.evaluations_per_step) == (5.0, 3.0)
    assert warm.cold_starts_per_episode == 2.0
    lines = str(table).splitlines()
    assert lines[0] == "PushT: 3 x 40 episodes per arm; score: best_reward"
    assert "minus cold" in lines[2]
    kept = json.loads(json.dumps(table.to_json()))
    assert [row["arm"] for row in kept] == ["cold", "warm"]
    assert kept[0]["score_by_seed"] == pytest.approx(base.mean(axis=1))


def test_a_lucky_training_seed_widens_the_interval(played: Any) -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 0.02, (3, 50))
    alike = tabulate("t", "best_reward", {"a": played((0.8 + noise).tolist())}).row("a").score
    apart = noise + np.array([[0.6], [0.8], [1.0]])
    wide = tabulate("t", "best_reward", {"a": played(apart.tolist())}).row("a").score
    assert alike.mean_interval.high - alike.mean_interval.low < 0.02
    assert wide.mean_interval.high - wide.mean_interval.low > 0.2


def test_every_arm_plays_the_same_seeds(toy_task: Any, fake_policy: Any) -> None:
    told: list[tuple[str, int, int]] = []
    arms = {"half": [fake_policy(0.5), fake_policy(0.5)], "full": [fake_policy(0.9), fake_policy(0.8)]}
    table = score(arms, "BallCircle", episodes=3, seed=20, progress=lambda *about: told.append(about))
    assert told == [("half", 1, 4), ("half", 2, 4), ("full", 3, 4), ("full", 4, 4)]
    assert [[e.seed for e in row] for row in table.row("full").episodes] == [[20, 21, 22], [23, 24, 25]]
    difference = table.row("full").difference
    assert difference is not None
    lengths = np.array([[3, 4, 5], [6, 3, 4]])
    assert difference.mean == pytest.approx((lengths * [[0.4], [0.3]]).mean(), rel=1e-5)
    assert table.kind == "return"
    assert toy_task[0].closed
    assert len(toy_task) == 1


def test_what_cannot_be_compared_is_refused(played: Any, fake_policy: Any) -> None:
    with pytest.raises(EvaluationError, match="one policy per training seed"):
        score({"a": [fake_policy()], "b": []}, "BallCircle")
    with pytest.raises(EvaluationError, match="at least one"):
        score({"a": [fake_policy()]}, "BallCircle", episodes=0)
    with pytest.raises(EvaluationError, match="different seeds"):
        tabulate("t", "return", {"a": played([[1.0, 2.0]]), "b": played([[1.0, 2.0], [3.0, 4.0]])})
    with pytest.raises(EvaluationError, match="'c' was not evaluated"):
        tabulate("t", "return", {"a": played([[1.0]])}, reference="c")
    with pytest.raises(EvaluationError, match="best_reward"):
        tabulate("t", "best", {"a": played([[1.0]])})  # type: ignore[arg-type]
