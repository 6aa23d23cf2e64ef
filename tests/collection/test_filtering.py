import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffpolicy.collection.filtering import cover_plane, plane_cells


def keep(returns: list[float], costs: list[float], seed: int = 0, **changes: object) -> list[int]:
    settings = {"max_cost": 10.0, "cells": 2, "per_cell": 1, "max_episodes": 100, "free_share": 0.5} | changes
    rng = np.random.default_rng(seed)
    kept = cover_plane(np.array(returns), np.array(costs), rng=rng, **settings)  # type: ignore[arg-type]
    return [int(index) for index in kept]


def test_cells_by_hand() -> None:
    returns = np.array([0.0, 4.9, 5.1, 10.0, 0.0, 10.0, 0.0])
    costs = np.array([0.0, 0.0, 0.0, 0.0, 0.5, 5.0, 10.0])
    assert plane_cells(returns, costs, 2, 10.0).tolist() == [0, 0, 1, 1, 2, 3, 4]


def test_too_costly_and_too_poor_episodes_are_dropped() -> None:
    assert keep([0.0, 10.0, 5.0], [0.0, 10.0, 10.5], per_cell=9) == [0, 1]
    assert keep([0.0, 10.0, 5.0], [0.0, 0.0, 0.0], per_cell=9, min_return=5.0) == [1, 2]


def test_one_episode_per_cell() -> None:
    kept = keep([0.0, 1.0, 2.0, 10.0, 10.0], [0.0, 0.0, 0.0, 0.0, 7.0])
    assert len(kept) == 3
    assert set(kept) >= {3, 4}


def test_the_crowded_cell_is_thinned_first() -> None:
    returns, costs = [0.0] * 50 + [10.0, 10.0], [0.0] * 50 + [0.0, 9.0]
    kept = keep(returns, costs, per_cell=40, max_episodes=6)
    assert len(kept) == 6
    assert set(kept) >= {50, 51}


def test_places_are_kept_for_episodes_that_cost_nothing() -> None:
    returns, costs = list(np.linspace(0, 10, 400)), [0.0] * 200 + [5.0] * 200
    kept = keep(returns, costs, per_cell=400, max_episodes=100, free_share=0.3)
    assert sum(index < 200 for index in kept) == 30
    assert len(kept) == 100


@pytest.mark.parametrize(("free", "costly", "expected"), [(10, 200, 10), (200, 20, 80), (0, 200, 0)])
def test_places_left_empty_are_taken_by_the_others(free: int, costly: int, expected: int) -> None:
    costs = [0.0] * free + [5.0] * costly
    kept = keep([1.0] * len(costs), costs, per_cell=400, max_episodes=100, free_share=0.3)
    assert sum(index < free for index in kept) == expected
    assert len(kept) == 100


def test_choice_depends_on_the_seed_only() -> None:
    returns, costs = list(np.linspace(0, 10, 200)), [0.0] * 200
    first = keep(returns, costs, per_cell=5)
    assert first == keep(returns, costs, per_cell=5)
    assert first != keep(returns, costs, per_cell=5, seed=1)


def test_nothing_allowed_is_nothing_kept() -> None:
    assert keep([1.0], [11.0]) == []


@given(
    st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(0, 30)), max_size=60),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(1, 40),
)
def test_every_occupied_cell_keeps_what_it_may(
    plane: list[tuple[float, int]], cells: int, per_cell: int, most: int
) -> None:
    returns = np.array([entry[0] for entry in plane])
    costs = np.array([entry[1] for entry in plane], dtype=float)
    kept = keep(list(returns), list(costs), cells=cells, per_cell=per_cell, max_episodes=most, max_cost=20.0)
    allowed = np.flatnonzero(costs <= 20)
    assert set(kept) <= set(allowed.tolist())
    assert len(kept) == len(set(kept)) <= most
    if len(allowed):
        numbers = plane_cells(returns[allowed], costs[allowed], cells, 20.0)
        sizes = np.unique(numbers, return_counts=True)[1]
        assert len(kept) == min(most, np.minimum(sizes, per_cell).sum())


def test_ranges_of_equal_returns_share_a_cell() -> None:
    assert plane_cells(np.full(3, 2.0), np.zeros(3), 4, 1.0).tolist() == pytest.approx([0, 0, 0])
