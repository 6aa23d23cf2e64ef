import json
import math

import pytest
import torch

from world_models import WorldModelConfig, WorldModelError, WorldModelLearner
from world_models.assessment import assess, checked_horizons

from .conftest import make_line_world, without_final_observations


def test_one_member_and_rewards_that_do_not_vary_have_figures_that_are_not_defined():
    dataset = make_line_world(episodes=6)
    dataset.rewards.fill_(-0.3)
    learner = WorldModelLearner(dataset, WorldModelConfig(members=1, updates=1), seed=0)
    found = assess(learner.average, dataset, (3, 1, 3), starts=20)
    assert [row.steps for row in found.rows()] == [1, 3]
    assert all(math.isnan(row.rank) and math.isnan(row.return_r2) for row in found.rows())
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert plain["horizons"][0]["rank"] is None
    assert plain["heads"]["reward_r2"] is None


def test_a_model_that_is_lost_is_written_all_the_same():
    dataset = make_line_world(episodes=6)
    model = WorldModelLearner(dataset, WorldModelConfig(members=2, updates=1), seed=0).average
    torch.nn.init.constant_(model.dynamics.layers[-1].bias, math.nan)
    plain = assess(model, dataset, (1,), starts=20).to_json()
    assert json.dumps(plain, allow_nan=False)
    assert plain["calibration"]["error"] == [None] * 10


def test_nothing_is_judged_on_a_step_whose_outcome_was_not_kept():
    dataset = without_final_observations(make_line_world(episodes=6))
    model = WorldModelLearner(dataset, WorldModelConfig(members=2, updates=1), seed=0).average
    longest = int(dataset.episode_lengths.max())
    found = assess(model, dataset, (1, longest - 1, longest), starts=1000)
    assert [row.steps for row in found.rows()] == [1, longest - 1]
    assert (found.found.persistence > 0.0).all()


@pytest.mark.parametrize("horizons", [[], [0], [5, -1]])
def test_horizons_are_steps(horizons: list[int]):
    with pytest.raises(WorldModelError, match="horizons are one or more"):
        checked_horizons(horizons)
    assert checked_horizons([5, 1, 5]) == [1, 5]
