"""The DSRL protocol: seeds, arms, judgements and their text."""

from typing import Any

import pytest

import envs
from diffpolicy.evaluation import EvaluationError, evaluate, judge
from diffpolicy.evaluation.table import number, percent, verdict


def test_arms_play_the_same_seeds_and_training_seeds_different_ones(toy_task: Any, fake_policy: Any) -> None:
    seen: list[tuple[str, int, int]] = []
    arms = {"a": [fake_policy(0.2), fake_policy(0.3)], "b": [fake_policy(0.95), fake_policy(0.95)]}
    result = evaluate(arms, "BallCircle", episodes=3, seed=40, progress=lambda *done: seen.append(done))
    for arm in result.arms:
        assert [[e.seed for e in row] for row in arm.episodes] == [[40, 41, 42], [43, 44, 45]]
    assert seen == [("a", 1, 4), ("a", 2, 4), ("b", 3, 4), ("b", 4, 4)]
    assert len(toy_task) == 1
    assert toy_task[0].closed
    assert result.reference == "a"
    assert [d.arm for d in result.differences] == ["b"]


def test_normalised_by_dsrl_s_formulas(episodes: Any) -> None:
    task = envs.task("BallCircle")
    span = task.max_episode_reward - task.min_episode_reward
    returns = [[task.min_episode_reward, task.min_episode_reward + 0.5 * span]]
    summary = judge(task, {"a": episodes(returns, [[5.0, 30.0]])}, seed=0, limits=(0, 10, 20)).arms[0].summary
    assert summary.normalized_return.mean == pytest.approx(0.25)
    assert summary.cost.mean == 17.5
    assert [at.normalized_cost.mean for at in summary.limits] == pytest.approx([18.5, 1.75, 0.875])
    assert [at.exceeded for at in summary.limits] == [2, 1, 1]
    assert summary.at(20).exceed_probability_upper == pytest.approx(0.95**0.5)
    assert summary.violation_share == 1.0
    assert summary.cost_cvar == 30.0
    with pytest.raises(EvaluationError, match="limit 15"):
        summary.at(15)


def test_verdicts_follow_the_interval_not_the_mean(episodes: Any) -> None:
    task = envs.task("BallCircle")
    zeros = [[0.0] * 10]
    costs = {"safe": [[3.0] * 10], "lucky": [[0.0] * 8 + [45.0] * 2], "unsafe": [[12.0] * 10]}
    result = judge(task, {name: episodes(zeros, rows) for name, rows in costs.items()}, seed=0, limits=(10,))
    assert [verdict(arm.summary, 10) for arm in result.arms] == ["safe", "not shown", "unsafe"]
    assert [arm.summary.at(10).safe for arm in result.arms] == [True, False, False]
    assert result.arm("lucky").summary.at(10).normalized_cost.mean < 1.0


def test_differences_are_paired_and_signed(evaluation: Any) -> None:
    fisor = next(d for d in evaluation.differences if d.arm == "FISOR")
    arms = {arm.name: arm.summary for arm in evaluation.arms}
    expected = arms["FISOR"].cost.mean - arms["BC on safe episodes"].cost.mean
    assert fisor.cost.mean == pytest.approx(expected)
    assert fisor.cost.mean_interval.high < 0.0


def test_the_text_has_every_arm_and_no_bare_mean(evaluation: Any) -> None:
    text = str(evaluation)
    assert "3 training seeds x 20 episodes" in text
    for arm in evaluation.arms:
        assert text.count(arm.name) >= 4
    for line in text.splitlines():
        if line.startswith("FISOR"):
            assert "[" in line
            assert "]" in line
    assert "One training seed" not in text


def test_one_training_seed_is_said(episodes: Any) -> None:
    result = judge(envs.task("BallCircle"), {"a": episodes([[1.0, 2.0]], [[0.0, 0.0]])}, seed=0)
    assert "One training seed" in str(result)


def test_what_cannot_be_evaluated_is_refused(toy_task: Any, fake_policy: Any, episodes: Any) -> None:
    policy = fake_policy()
    for arms, options, message in [
        ({}, {}, "at least one policy"),
        ({"a": []}, {}, "at least one policy"),
        ({"a": [policy], "b": [policy, policy]}, {}, "one policy per training seed"),
        ({"a": [policy]}, {"episodes": 0}, "episodes is 0"),
        ({"a": [policy]}, {"limits": ()}, "cost limits"),
        ({"a": [policy]}, {"limits": (-1,)}, "cost limits"),
        ({"a": [policy]}, {"reference": "bc"}, "reference arm 'bc'"),
    ]:
        with pytest.raises(EvaluationError, match=message):
            evaluate(arms, "BallCircle", **{"episodes": 2, **options})
    with pytest.raises(envs.UnknownTaskError):
        evaluate({"a": [policy]}, "BallCirlce")
    ragged = (episodes([[1.0, 2.0]], [[0.0, 0.0]])[0], episodes([[1.0]], [[0.0]])[0])
    with pytest.raises(EvaluationError, match="same number"):
        judge(envs.task("BallCircle"), {"a": ragged}, seed=0)
    with pytest.raises(EvaluationError, match="different seeds"):
        judge(
            envs.task("BallCircle"),
            {"a": episodes([[1.0, 2.0]], [[0.0, 0.0]]), "b": (episodes([[1.0]], [[0.0]])[0] * 2,)},
            seed=0,
        )


def test_numbers_for_people() -> None:
    assert [number(x) for x in (-0.001, 0.129, 12.34, 345.6)] == ["0.00", "0.13", "12.3", "346"]
    assert [percent(x) for x in (0.0487, 0.05, 1.0)] == ["4.9 %", "5.0 %", "100.0 %"]
