from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffpolicy.data import DataError, OfflineDataset, Problem, Standardizer, describe, from_transitions


def test_transitions_and_their_next_observations_are_found_by_rows(arrays: dict[str, Any]) -> None:
    dataset = from_transitions(**arrays)
    assert dataset.observations.shape == (15, 3)
    assert torch.equal(dataset.observations[dataset.rows], torch.from_numpy(arrays["observations"]))
    assert torch.equal(dataset.observations[dataset.rows + 1], torch.from_numpy(arrays["next_observations"]))
    assert torch.equal(dataset.rows, torch.arange(12) + dataset.episode_of)
    assert dataset.episode_ends.tolist() == [4, 7, 12]
    assert dataset.final_observations_known


def test_episode_figures(arrays: dict[str, Any]) -> None:
    dataset = from_transitions(**arrays)
    assert (dataset.num_transitions, dataset.num_episodes) == (12, 3)
    assert (dataset.observation_size, dataset.action_size) == (3, 2)
    assert dataset.episode_lengths.tolist() == [4, 3, 5]
    assert dataset.episode_starts.tolist() == [0, 4, 7]
    assert dataset.episode_returns.tolist() == [6, 15, 45]
    assert dataset.episode_costs.tolist() == [1, 0, 3]


def test_long_sums_keep_their_digits() -> None:
    n = 200_000
    ends = np.arange(n) == n - 1
    column = np.full(n, 0.1)
    dataset = from_transitions(
        observations=np.zeros((n, 1)),
        actions=np.zeros((n, 1)),
        rewards=column,
        costs=column,
        terminals=ends,
        timeouts=0 * ends,
    )
    assert float(dataset.episode_returns[0]) == pytest.approx(n * float(np.float32(0.1)), rel=1e-7)


@pytest.mark.parametrize("by", ["mask", "indices"])
def test_select_keeps_whole_episodes_and_their_final_observations(arrays: dict[str, Any], by: str) -> None:
    dataset = from_transitions(**arrays)
    chosen = dataset.select([True, False, True] if by == "mask" else torch.tensor([0, 2]))
    steps = [0, 1, 2, 3, 7, 8, 9, 10, 11]
    assert chosen.episode_ends.tolist() == [4, 9]
    assert torch.equal(chosen.actions, dataset.actions[steps])
    assert torch.equal(chosen.observations[chosen.rows], torch.from_numpy(arrays["observations"][steps]))
    assert torch.equal(
        chosen.observations[chosen.rows + 1], torch.from_numpy(arrays["next_observations"][steps])
    )
    assert chosen.terminals.tolist() == [False] * 3 + [True] + [False] * 5


def test_select_orders_and_repeats_as_asked(arrays: dict[str, Any]) -> None:
    dataset = from_transitions(**arrays)
    chosen = dataset.select([2, 0, 2])
    assert chosen.episode_returns.tolist() == [45, 6, 45]
    assert torch.equal(chosen.observations[-6:], dataset.observations[-6:])
    assert dataset.select([False] * 3).num_episodes == 0


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    picks=st.lists(st.integers(0, 7), max_size=10),
)
def test_any_selection_keeps_every_transition_whole(lengths: list[int], picks: list[int]) -> None:
    n = sum(lengths)
    ends = np.zeros(n, bool)
    ends[np.cumsum(lengths) - 1] = True
    number = np.arange(n, dtype=np.float32)
    dataset = from_transitions(
        observations=number[:, None],
        next_observations=np.where(ends, -1 - number, number + 1)[:, None],
        actions=number[:, None],
        rewards=number,
        costs=number,
        terminals=ends,
        timeouts=~ends & ends,
    )
    picks = [pick % len(lengths) for pick in picks]
    chosen = dataset.select(picks)
    assert chosen.episode_lengths.tolist() == [lengths[pick] for pick in picks]
    starts = [int(dataset.episode_starts[pick]) for pick in picks]
    steps = [start + i for start, pick in zip(starts, picks, strict=True) for i in range(lengths[pick])]
    assert chosen.observations[chosen.rows, 0].tolist() == chosen.rewards.tolist() == steps
    following = [-1.0 - step if ends[step] else step + 1.0 for step in steps]
    assert chosen.observations[chosen.rows + 1, 0].tolist() == following


@pytest.mark.parametrize("wrong", [[True, False], [3], [-1]])
def test_select_refuses_what_is_not_there(arrays: dict[str, Any], wrong: list[int]) -> None:
    with pytest.raises(DataError, match="select"):
        from_transitions(**arrays).select(wrong)


def test_parts_that_do_not_belong_together_are_refused(arrays: dict[str, Any]) -> None:
    dataset = from_transitions(**arrays)
    with pytest.raises(DataError, match=r"costs: expected torch.float32 \(12,\)"):
        replace(dataset, costs=dataset.costs[:5])
    with pytest.raises(DataError, match=r"terminals: expected torch.bool"):
        replace(dataset, terminals=dataset.costs)
    with pytest.raises(DataError, match="must end at transition 12"):
        replace(dataset, episode_ends=torch.tensor([4, 7, 11]))


def test_a_problem_is_one_sentence() -> None:
    assert str(Problem("error", "costs", "negative", (3,), 1)) == "error: costs: negative (row 3)"
    assert (
        str(Problem("error", "costs", "negative", (3, 4), 9))
        == "error: costs: negative (rows 3, 4 and 7 more)"
    )
    assert str(Problem("warning", "file", "odd")) == "warning: file: odd"


def test_description(arrays: dict[str, Any]) -> None:
    figures = describe(from_transitions(**arrays))
    assert figures["episodes"] == 3
    assert figures["transitions"] == 12
    assert figures["violating_steps"] == pytest.approx(4 / 12)
    assert figures["violating_episodes"] == pytest.approx(2 / 3)
    assert figures["terminal_episodes"] == pytest.approx(1 / 3)
    assert figures["episode_return"]["50"] == 15
    assert figures["episode_cost"]["100"] == 3
    with pytest.raises(DataError, match="0 episodes"):
        describe(from_transitions(**arrays).select([False] * 3))


def test_standardizer_whitens_and_leaves_constant_dimensions(arrays: dict[str, Any]) -> None:
    arrays["observations"][:, 1] = 1000.1
    arrays["next_observations"][:, 1] = 1000.1
    dataset: OfflineDataset = from_transitions(**arrays)
    standardizer = Standardizer.fit(dataset)
    assert standardizer.std[1] == 1
    start = standardizer.normalize(dataset.observations[dataset.rows])
    torch.testing.assert_close(start.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(start.std(0, correction=0)[[0, 2]], torch.ones(2))
    torch.testing.assert_close(standardizer.denormalize(start), dataset.observations[dataset.rows])
    again = Standardizer.from_state(standardizer.state()).to("cpu")
    assert torch.equal(again.normalize(dataset.observations), standardizer.normalize(dataset.observations))
