"""What is said at a pipeline's end, of episodes whose outcome is known."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import envs
from diffpolicy.cli.errors import ConfigError
from diffpolicy.cli.pipeline_outcome import (
    Refinement,
    best_within,
    gain,
    gains,
    in_words,
    read_refinement,
    summary,
)
from diffpolicy.cli.pipeline_report import imagined_and_real, refinement_section
from diffpolicy.evaluation import Episode, Evaluation, judge

TASK = envs.task("BallCircle")
SCALE = TASK.max_episode_reward - TASK.min_episode_reward


def evaluation(arms: Mapping[str, tuple[float, float]], seeds: int = 2, episodes: int = 6) -> Evaluation:
    """Return an evaluation in which arms have these mean normalised returns and costs; luck is the episodes' own."""
    luck = np.random.default_rng(0).normal(0.0, 0.1, (seeds, episodes))
    luck -= luck.mean()
    played = {
        name: tuple(
            tuple(
                Episode(
                    seed=member * episodes + number,
                    episode_return=TASK.min_episode_reward + SCALE * (earned + float(luck[member, number])),
                    episode_cost=cost,
                    length=10,
                    terminated=False,
                    violation=cost > 0,
                )
                for number in range(episodes)
            )
            for member in range(seeds)
        )
        for name, (earned, cost) in arms.items()
    }
    return judge(TASK, played, seed=0, limits=(10.0, 20.0))


RELEASED = Refinement(
    0,
    None,
    {
        "release": {
            "released": True,
            "reasons": [],
            "figures": {
                "imagined_return": TASK.max_episode_reward,
                "imagined_cost": 1.0,
                "uncertainty_ratio": 1.1,
            },
        },
        "measured": {
            name: {"imagined": {"returns": [0.0, SCALE], "costs": [0.0, 1.0]}}
            for name in ("start", "refined")
        },
    },
)
REFUSED = Refinement(1, None, {"release": {"released": False, "reasons": ["it costs <5>", "it is unsure"]}})
NOTHING = Refinement(2, "the start leaves the data", {})


def test_the_best_offline_arm_earns_most_of_those_within_the_limit() -> None:
    found = evaluation({"bc": (0.9, 30.0), "fisor": (0.5, 2.0), "start": (0.4, 0.0), "refined": (0.8, 0.0)})
    assert best_within(found, 10.0) == "fisor"
    assert best_within(evaluation({"bc": (0.9, 30.0), "refined": (0.8, 0.0)}), 10.0) is None


def test_a_gain_is_paired_so_that_the_luck_of_episodes_cancels() -> None:
    found = gain(evaluation({"fisor": (0.5, 2.0), "refined": (0.8, 1.0)}), "fisor").normalized_return
    assert found.mean == pytest.approx(0.3)
    assert found.mean_interval == pytest.approx((0.3, 0.3))


def test_gains_are_over_the_best_and_over_the_start_once_each() -> None:
    arms = {"bc_safe": (0.4, 0.0), "start": (0.5, 0.0), "refined": (0.8, 0.0)}
    assert [one.reference for one in gains(evaluation(arms), 10.0)] == ["start"]
    arms |= {"fisor": (0.6, 0.0)}
    assert [one.reference for one in gains(evaluation(arms), 10.0)] == ["fisor", "start"]
    del arms["refined"]
    assert gains(evaluation(arms), 10.0) == []


@pytest.mark.parametrize(
    ("refined", "says"),
    [
        ((0.7, 0.0), ["refinement is a gain: normalised return +0.20 [+0.20, +0.20]", "It is safe"]),
        ((0.4, 0.0), ["refinement is a loss: normalised return -0.10 [-0.10, -0.10]"]),
        ((0.5, 0.0), ["refinement is no gain shown"]),
        ((0.9, 11.0), ["a gain", "It is not safe at the limit 10"]),
    ],
)
def test_it_is_said_plainly_whether_there_was_a_gain(refined: tuple[float, float], says: list[str]) -> None:
    said = in_words(evaluation({"fisor": (0.5, 0.0), "refined": refined}), 10.0)
    assert all(each in said for each in says), said
    assert "the same 12 episodes" in said


def test_what_cannot_be_compared_is_said_too() -> None:
    assert "no refined policy" in in_words(evaluation({"fisor": (0.5, 0.0)}), 10.0)
    assert "there is none to be better than" in in_words(
        evaluation({"bc": (0.9, 30.0), "refined": (0.5, 0.0)}), 10.0
    )


def test_the_summary_names_every_arm_the_gains_and_every_verdict() -> None:
    found = evaluation({"bc": (0.9, 30.0), "fisor": (0.5, 0.0), "refined": (0.8, 0.0)})
    lines = summary(found, [RELEASED, REFUSED, NOTHING], 10.0).splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["bc", "fisor", "refined"]
    assert any(line.startswith("refined - fisor") and "0.30 [0.30, 0.30]" in line for line in lines)
    assert lines[-3:] == [
        "gate, seed 0: released",
        "gate, seed 1: refused: it costs <5>; it is unsure",
        "gate, seed 2: nothing was refined: the start leaves the data",
    ]


def test_imagined_episodes_stand_beside_real_ones_in_the_same_units() -> None:
    arms = {"fisor": (0.5, 0.0), "start": (0.5, 0.0), "refined": (0.8, 0.0)}
    rows = imagined_and_real(evaluation(arms, seeds=1), [RELEASED])
    assert [(name, imagined) for name, imagined, *_ in rows] == [
        ("start", True),
        ("start", False),
        ("refined", True),
        ("refined", False),
    ]
    low, high = (TASK.normalized_return(each) for each in (0.0, SCALE))
    assert rows[2][2:] == ([[low, high]], [[0.0, 1.0]])
    assert np.mean(rows[3][2]) == pytest.approx(0.8)
    assert imagined_and_real(evaluation(arms, seeds=2), [RELEASED, NOTHING]) == []


def test_the_section_is_html_whatever_the_gate_says() -> None:
    arms = {"fisor": (0.5, 0.0), "refined": (0.8, 0.0)}
    section = refinement_section(evaluation(arms, seeds=1), [RELEASED], 10.0)
    assert "<svg" in section
    assert "1.10" in section  # uncertainty
    section = refinement_section(evaluation({"fisor": (0.5, 0.0)}), [NOTHING], 10.0)
    assert "<svg" not in section
    assert "the start leaves the data" in section


def test_a_run_without_its_judgement_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"release\.json cannot be read"):
        read_refinement(0, tmp_path, None)
    (tmp_path / "release.json").write_text(json.dumps(RELEASED.document))
    assert read_refinement(0, tmp_path, None) == RELEASED
    assert read_refinement(0, tmp_path, "why").said == "nothing was refined: why"
