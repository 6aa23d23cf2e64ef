import pytest

from diffpolicy.collection.ladder import LimitLadder, PenaltyLadder


def test_penalties_stay() -> None:
    ladder = PenaltyLadder((0.0, 2.0))
    ladder.episode_ended(1, 500.0)
    assert ladder.weights.tolist() == [0.0, 2.0]


def test_dual_ascent_finds_the_weight_that_meets_the_limit() -> None:
    ladder = LimitLadder((5.0, 20.0, 100.0))
    for _ in range(3000):
        for rung in range(3):
            ladder.episode_ended(rung, 60.0 - 10.0 * ladder.weights[rung])
    assert ladder.weights.tolist() == pytest.approx([5.5, 4.0, 0.0], abs=0.05)


def test_one_bad_episode_moves_a_weight_by_one_rate() -> None:
    ladder = LimitLadder((0.0,), rate=0.1, largest=0.25)
    for expected in (0.1, 0.2, 0.25, 0.25):
        ladder.episode_ended(0, 1e6)
        assert ladder.weights[0] == pytest.approx(expected)
