from __future__ import annotations

import numpy as np
import pytest
import torch

from diffpolicy import data
from diffpolicy.data import DataError, Grid, OfflineDataset, Range


def make(returns: list[float], costs: list[int], length: int = 10) -> OfflineDataset:
    """Episodes of given returns and costs, whose observations are their episode's number."""
    count = len(returns)
    step = np.tile(np.arange(length), count)
    number = np.repeat(np.arange(count), length)
    return data.from_transitions(
        observations=number[:, None],
        actions=np.zeros((count * length, 1)),
        rewards=np.repeat(returns, length) / length,
        costs=step < np.repeat(costs, length),
        terminals=np.zeros(count * length),
        timeouts=step == length - 1,
        next_observations=number[:, None],
    )


def numbers(dataset: OfflineDataset) -> list[int]:
    return [int(x) for x in dataset.observations[dataset.rows[dataset.episode_starts], 0]]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_thin_caps_full_cells_and_empties_sparse_ones() -> None:
    # Cell by cell: 20 episodes, 5, 2, and the one of the highest return, which has a cell of its own.
    dataset = make([1.0] * 20 + [31.0] * 5 + [61.0] * 2 + [101.0], [0] * 28)
    thinned = data.thin(dataset, Grid(10, 10, largest=6, smallest=2), generator())
    kept = numbers(thinned)
    assert sum(number < 20 for number in kept) == 6
    assert [number for number in kept if number >= 20] == [20, 21, 22, 23, 24]


def test_thin_depends_on_its_generator_alone() -> None:
    dataset = make(list(np.linspace(0, 9, 200)), [0] * 200)
    grid = Grid(10, 2, largest=10)
    before = torch.get_rng_state()
    first, again = (numbers(data.thin(dataset, grid, generator(1))) for _ in range(2))
    assert first == again
    assert first != numbers(data.thin(dataset, grid, generator(2)))
    assert torch.equal(torch.get_rng_state(), before)


def test_published_grids() -> None:
    assert len(data.published_densities()) == 60
    assert data.grid("OfflinePointGoal2Gymnasium-v0", 0.25) == Grid(10, 6, 14, 2)
    assert all(data.grid(*known).largest > 2 for known in data.published_densities())
    with pytest.raises(DataError, match=r"published: 0.5, 0.75"):
        data.grid("OfflineBallRun-v0", 0.1)


def test_inpaint_removes_a_band_and_nothing_else() -> None:
    dataset = make([0, 2, 4, 6, 8, 10], [0, 0, 5, 5, 5, 10])
    assert numbers(data.inpaint(dataset, [Range(0.4, 0.6, 0.5, 1.0)])) == [0, 1, 2, 5]
    assert numbers(data.inpaint(dataset, [Range(0.4, 0.6, 0.5, 1.0), Range(0, 0.1, 0, 0.4)])) == [1, 2, 5]
    assert numbers(data.inpaint(dataset, [Range(0.6, 0.9, 0, 1)])) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(DataError, match="none of the 6 episodes"):
        data.inpaint(dataset, [Range(0, 1, 0, 1)])


def test_drop_best_takes_from_the_side_that_its_sign_says() -> None:
    dataset = make([0, 2, 4, 6, 8, 10], [0, 0, 0, 5, 5, 5])
    assert numbers(data.drop_best(dataset, 2.0, cost_limit=1)) == [0, 3, 4, 5]
    assert numbers(data.drop_best(dataset, -3.0, cost_limit=1)) == [0, 1, 2, 3]
    assert data.drop_best(dataset, 0.0, cost_limit=1) is dataset
    assert data.drop_best(dataset, -1.0, cost_limit=9) is dataset


def test_outliers_are_rewarding_and_look_safe() -> None:
    dataset = make([10, 10, 1, 1], [9, 8, 9, 0])
    before = dataset.rewards.clone(), dataset.costs.clone()
    changed = data.add_outliers(
        dataset, 0.5, 3, max_episode_cost=10, max_episode_return=10, generator=generator()
    )
    torch.testing.assert_close(changed.episode_returns, torch.tensor([15.0, 15, 1, 1]))
    assert bool((changed.episode_costs[:2] < 3).all())
    assert changed.episode_costs[2:].tolist() == [9, 0]
    assert torch.equal(dataset.rewards, before[0])
    assert torch.equal(dataset.costs, before[1])
    with pytest.raises(DataError, match="3 outliers wanted, but only 2"):
        data.add_outliers(dataset, 0.75, 3, 10, 10, generator())
    with pytest.raises(DataError, match="limit of at least 1"):
        data.add_outliers(dataset, 0.5, 0.5, 10, 10, generator())


def test_noise_has_the_asked_size_and_stays_consistent_over_steps() -> None:
    dataset = make(list(range(400)), [0] * 400)
    before = dataset.observations.clone()
    noisy = data.add_noise(dataset, 0.1, generator())
    added = noisy.observations - before
    assert float(added.std()) == pytest.approx(0.1 * float(before.std()), rel=0.05)
    assert torch.equal(dataset.observations, before)
    assert torch.equal(noisy.rows, dataset.rows)
