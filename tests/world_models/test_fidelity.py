import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from diffpolicy.data import OfflineDataset
from world_models import Windows, WorldModelConfig, WorldModelError, WorldModelLearner
from world_models.fidelity import (
    action_following,
    calibration,
    heads,
    hold_out,
    longest,
    open_loop,
    rank_correlation,
    starts_of,
)

from .conftest import without_final_observations

Train = Callable[..., WorldModelLearner]
World = Callable[..., OfflineDataset]


def test_open_loop_errors_beat_persistence_and_grow(trained: Train, line_world: World):
    held_out = line_world(seed=7)
    windows, starts = Windows(held_out, 1), starts_of(held_out, 10, 100, seed=0)
    found = open_loop(trained("deterministic").average, windows, starts, (1, 5, 10))
    assert found.errors.shape == found.persistence.shape == (3, len(starts))
    mean = found.errors.mean(1)
    assert (mean < 0.2 * found.persistence.mean(1)).all()
    assert mean[0] < mean[2]
    torch.testing.assert_close(found.rewards, found.true_rewards, rtol=0, atol=1.0)
    begun = windows.observations[windows.rows[starts], 0]
    after = windows.observations[windows.rows[starts] + 5, 0]
    spread = trained("deterministic").average.std[0]
    torch.testing.assert_close(found.persistence[1], (after - begun).abs() / spread)


def test_starts_have_the_steps_they_need(line_world: World):
    dataset = line_world(episodes=5)
    starts = starts_of(dataset, 12, 1000, seed=0)
    ends = dataset.episode_ends.repeat_interleave(dataset.episode_lengths)
    assert (starts + 12 <= ends[starts]).all()
    assert len(starts) == int((dataset.episode_lengths - 11).clamp(min=0).sum())
    with pytest.raises(WorldModelError, match="no held-out episode"):
        starts_of(dataset, 1000, 10, seed=0)
    short = without_final_observations(dataset)
    assert set(starts_of(short, 12, 1000, seed=0).tolist()) == set(
        starts_of(dataset, 13, 1000, seed=0).tolist()
    )
    most = int(dataset.episode_lengths.max())
    assert (longest(dataset, 5), longest(dataset, 99), longest(short, 99)) == (5, most, most - 1)


def test_a_share_of_the_episodes_is_held_out_and_the_same_for_the_same_seed(line_world: World):
    dataset = line_world(episodes=20)
    held = hold_out(dataset, 0.1, seed=3)
    assert len(held) == 2
    assert held.tolist() == hold_out(dataset, 0.1, seed=3).tolist() == sorted(held.tolist())
    assert held.tolist() != hold_out(dataset, 0.1, seed=4).tolist()
    assert len(hold_out(dataset, 0.001, seed=0)) == 1
    for episodes, share in ((1, 0.5), (20, 0.0), (20, 0.99), (20, math.nan), (20, math.inf)):
        with pytest.raises(WorldModelError, match="cannot be held out"):
            hold_out(line_world(episodes=episodes), share, seed=0)


def test_heads_know_rewards_and_costs_and_an_untrained_model_does_not(trained: Train, line_world: World):
    held_out = line_world(seed=7)
    index = torch.arange(held_out.num_transitions)
    found = heads(trained("deterministic").average, Windows(held_out, 1), index)
    assert found.reward_r2 > 0.95
    assert min(found.cost_recall, found.cost_precision) > 0.8
    untrained = WorldModelLearner(line_world(), WorldModelConfig(members=1, updates=1), seed=0).average
    assert heads(untrained, Windows(held_out, 1), index).reward_r2 < 0.5
    same = replace(held_out, rewards=torch.full_like(held_out.rewards, -0.3))
    assert math.isnan(heads(untrained, Windows(same, 1), index).reward_r2)


def test_a_model_that_listens_is_wrong_about_other_actions(trained: Train, line_world: World):
    held_out = line_world(seed=7)
    index = torch.arange(held_out.num_transitions)
    model = trained("deterministic").average
    assert action_following(model, Windows(held_out, 1), index) > 5.0
    deaf = WorldModelLearner(line_world(), WorldModelConfig(members=1, updates=1), seed=0).average
    torch.nn.init.zeros_(deaf.dynamics.layers[-1].weight)
    assert action_following(deaf, Windows(held_out, 1), index) == pytest.approx(1.0)


def test_calibration_of_a_perfect_and_of_a_useless_uncertainty():
    uncertainty = torch.linspace(0.1, 1.0, 100)
    found = calibration(uncertainty, uncertainty, bins=5)
    assert found.shape == (2, 5)
    torch.testing.assert_close(found[0], found[1], rtol=0.1, atol=0.0)
    assert rank_correlation(uncertainty, uncertainty.square()) == pytest.approx(1.0)
    assert rank_correlation(uncertainty, -uncertainty) == pytest.approx(-1.0)
    assert not math.isnan(rank_correlation(uncertainty, torch.sin(7.0 * uncertainty)))
    assert math.isnan(rank_correlation(torch.zeros(100), uncertainty))  # of one member


def test_calibration_of_few_starts_has_no_empty_bin():
    found = calibration(torch.tensor([0.1, 0.3, 0.2]), torch.tensor([1.0, 3.0, 2.0]))
    torch.testing.assert_close(found, torch.tensor([[0.1, 0.2, 0.3], [1.0, 2.0, 3.0]]))
