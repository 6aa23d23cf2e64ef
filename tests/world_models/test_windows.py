from collections.abc import Callable

import torch

from diffpolicy.data import OfflineDataset
from world_models import Windows, advance
from world_models.windows import known_steps_left

from .conftest import without_final_observations


def test_windows_repeat_the_first_observation_and_know_no_action_before_it(
    line_world: Callable[..., OfflineDataset],
):
    dataset = line_world(episodes=3)
    windows = Windows(dataset, history=3)
    second = int(dataset.episode_ends[0])
    window = windows.window(torch.tensor([second, second + 1, second + 5]))
    first = dataset.observations[dataset.rows[second]]
    assert torch.equal(window.observations[0], first.expand(3, 2))
    assert torch.equal(window.actions[0, :2], torch.zeros(2, 1))
    assert torch.equal(
        window.actions[1], torch.cat([torch.zeros(1, 1), dataset.actions[second : second + 2]])
    )
    assert torch.equal(window.actions[2], dataset.actions[second + 3 : second + 6])
    start = int(dataset.rows[second])
    assert torch.equal(window.observations[2], dataset.observations[start + 3 : start + 6])


def test_outcomes_are_those_of_the_transition(line_world: Callable[..., OfflineDataset]):
    dataset = line_world(episodes=3)
    last = int(dataset.episode_ends[1]) - 1
    outcome = Windows(dataset, 1).outcome(torch.tensor([last]))
    assert torch.equal(outcome.next_observations[0], dataset.observations[dataset.rows[last] + 1])
    assert outcome.rewards[0] == dataset.rewards[last]
    assert outcome.costs[0] == dataset.costs[last]
    assert outcome.terminations[0] == dataset.terminals[last]


def test_advancing_with_what_happened_gives_the_next_window(line_world: Callable[..., OfflineDataset]):
    dataset = line_world(episodes=2)
    windows = Windows(dataset, history=4)
    index = torch.arange(int(dataset.episode_ends[0]) - 1)
    after = advance(
        windows.window(index), windows.outcome(index).next_observations, dataset.actions[index + 1]
    )
    for found, expected in zip(after, windows.window(index + 1), strict=True):
        # Only where the first observation was repeated and actions were unknown do they differ.
        assert torch.equal(found[3:], expected[3:])


def test_what_came_of_a_last_step_is_not_known_where_it_was_not_kept(
    line_world: Callable[..., OfflineDataset],
):
    dataset = line_world(episodes=3)
    assert torch.equal(Windows(dataset, 1).known, torch.arange(dataset.num_transitions))
    assert torch.equal(known_steps_left(dataset)[:3], dataset.episode_ends[0] - torch.arange(3))
    short = without_final_observations(dataset)
    known = Windows(short, 1).known
    assert (
        sorted({*range(dataset.num_transitions)} - {*known.tolist()}) == (dataset.episode_ends - 1).tolist()
    )
    assert known_steps_left(short)[dataset.episode_ends - 1].tolist() == [0, 0, 0]
