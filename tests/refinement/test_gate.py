"""The gate refuses what leaves the data, costs too much, fools the model, or promises more than it keeps."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from diffpolicy.data import OfflineDataset
from diffpolicy.policies import ActionChunk, Memory, Observation
from diffpolicy.refinement import (
    Confusion,
    GateConfig,
    ImaginedEpisodes,
    RealEpisodes,
    RefusedError,
    check_data,
    check_length,
    check_start,
    episodes_env,
    imagine_episodes,
    judge,
    known_uncertainty,
    replay_confusion,
)
from world_models import WorldModelConfig, WorldModelLearner

GATE = GateConfig()


def episodes(cost: float = 0.0, uncertainty: float = 1.0, earned: float = 10.0) -> ImaginedEpisodes:
    one = torch.ones(4)
    return ImaginedEpisodes(earned * one, cost * one, uncertainty * one, 20 * one, one > 0)


class Pushing:
    """Pushes one way whatever it sees, two actions at a time."""

    observation_horizon = 1

    def __init__(self, push: float) -> None:
        self.push = push

    def start(self, batch: int, seed: int) -> Memory:
        return Memory(torch.Generator())

    def act(self, observation: Observation, memory: Memory) -> tuple[ActionChunk, Memory]:
        return ActionChunk(torch.full((len(observation.newest), 2, 1), self.push)), memory


def test_a_policy_that_keeps_to_everything_is_released() -> None:
    release = judge(
        episodes(), 1.0, GATE, limit=10.0, confusion=Confusion(3, 1, 1, 3), real=RealEpisodes([9.0], [0.0])
    )
    assert release.released
    assert release.reasons == ()
    assert release.described()["figures"]["fooled"] == 0.25


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"imagined": episodes(cost=3.1)}, "imagined episodes cost 3.10"),
        ({"imagined": episodes(uncertainty=1.6)}, "1.60 times as uncertain"),
        ({"start": judge(episodes(earned=10.1), 1.0, GATE)}, "the policy it began as returns 10.1"),
        ({"confusion": Confusion(0, 3, 0, 1)}, "75% of real failures"),
        ({"real": RealEpisodes([4.0, 6.0], [0.0, 0.0])}, "a gap of 1.00"),
        ({"real": RealEpisodes([10.0], [11.0])}, "real episodes cost 11"),
    ],
)
def test_every_reason_alone_is_enough(given: dict[str, Any], says: str) -> None:
    release = judge(
        **{"imagined": episodes(), "known_uncertainty": 1.0, "config": GATE, "limit": 10.0, **given}
    )
    assert not release.released
    assert len(release.reasons) == 1
    assert says in release.reasons[0]


def test_without_a_limit_costs_do_not_matter_and_a_scale_says_what_a_gap_is() -> None:
    assert judge(episodes(cost=99.0), 1.0, GATE).released
    assert judge(episodes(), 1.0, GATE, real=RealEpisodes([5.0], [0.0]), scale=100.0).released


@pytest.mark.parametrize(
    ("start", "released"),
    [
        ({}, True),  # it earns as much
        ({"earned": 99.0}, False),
        ({"earned": 99.0, "cost": 0.2}, False),  # next to nothing
        ({"earned": 99.0, "cost": 0.4}, True),  # more than the refined policy's 0.1
        ({"earned": 99.0, "uncertainty": 1.8}, True),  # would not be released itself
    ],
)
def test_less_than_the_start_is_no_gain_where_that_is_as_good(
    start: dict[str, float], released: bool
) -> None:
    begun = judge(episodes(**start), 1.0, GATE, limit=10.0)
    assert judge(episodes(cost=0.1), 1.0, GATE, limit=10.0, start=begun).released == released


def test_without_a_limit_a_start_that_costs_more_is_as_good() -> None:
    begun = judge(episodes(cost=99.0, earned=99.0), 1.0, GATE)
    found = judge(episodes(), 1.0, GATE, start=begun)
    assert not found.released
    assert found.described()["figures"]["start_return"] == 99.0


def test_a_policy_that_leaves_the_data_is_not_even_refined() -> None:
    check_start(episodes(cost=5.0, uncertainty=1.9), 1.0, 10.0, GATE)
    with pytest.raises(RefusedError, match=r"2\.10 times"):
        check_start(episodes(uncertainty=2.1), 1.0, 10.0, GATE)
    with pytest.raises(RefusedError, match=r"cost 10\.50"):
        check_start(episodes(cost=10.5), 1.0, 10.0, GATE)


def test_data_without_violations_are_refused() -> None:
    check_data(0.02, GATE)
    with pytest.raises(RefusedError, match=r"0\.10%"):
        check_data(0.001, GATE)


def test_data_cut_short_are_no_measure_of_what_an_episode_costs(line: Any) -> None:
    check_length(line.data, 20)
    with pytest.raises(
        RefusedError, match=r"after 20 steps, where one of the task takes 100.*mixture\.horizon=100"
    ):
        check_length(line.data, 100)
    over = line.data.select(line.data.terminals[line.data.episode_ends - 1])  # short because they terminate
    check_length(over, 100)


def test_imagined_episodes_are_summed_to_their_end(line: Any) -> None:
    still = imagine_episodes(Pushing(0.0), line.episodes(32), 0)
    assert float(still.lengths.median()) == 20.0
    right = imagine_episodes(Pushing(1.0), line.episodes(32), 0)
    assert float(right.lengths.mean()) < 15.0  # over where x > 1
    assert float(right.costs.min()) > 0.0
    left = imagine_episodes(Pushing(-1.0), line.episodes(32), 0)
    assert left.returns.mean() < still.returns.mean()


def test_the_gate_sees_a_policy_leave_the_data(line: Any) -> None:
    data = line.data.select(line.data.observations[line.data.rows[line.data.episode_starts], 0] < -0.3)
    config = WorldModelConfig(members=2, hidden=[32], head_hidden=[8], updates=200, learning_rate=5e-3)
    learner = WorldModelLearner(data.select(data.episode_returns < -5.0), config, 0)
    for step in range(learner.total_steps):
        learner.update(step)
    known = known_uncertainty(learner.average, learner.windows, torch.arange(len(learner.windows)))
    starts = torch.arange(len(learner.windows))
    env = episodes_env(learner.average, learner.windows, starts, 32, 20)
    assert judge(imagine_episodes(Pushing(0.0), env, 0), known, GATE).released
    release = judge(imagine_episodes(Pushing(1.0), env, 0), known, GATE)
    assert "times as uncertain" in release.reasons[0]


def test_failures_that_the_model_takes_for_successes_are_counted(line: Any) -> None:
    def rewarded(values: torch.Tensor) -> OfflineDataset:
        return replace(line.data, rewards=values)

    place = line.data.observations[line.data.rows + 1, 0]
    told_right = replay_confusion(
        line.model, line.data
    )  # rewards are places: a success is x > .5 at some time
    assert told_right.fooled < 0.1
    assert told_right.true_positive + told_right.true_negative > 0.9 * line.data.num_episodes
    fooled = replay_confusion(line.model, rewarded(torch.zeros_like(place)))
    assert (fooled.true_positive, fooled.false_negative) == (0, 0)
    assert fooled.false_positive == told_right.true_positive + told_right.false_positive
