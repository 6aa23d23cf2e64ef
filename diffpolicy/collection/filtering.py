"""Thins a pool of episodes so that it covers the cost-return plane as the benchmark's files do."""

import numpy as np
from numpy.typing import NDArray


def plane_cells(
    returns: NDArray[np.float64], costs: NDArray[np.float64], cells: int, max_cost: float
) -> NDArray[np.int64]:
    """Cell number (E,) of every episode: `cells` steps of return by `cells` steps of cost in (0, max_cost].

    Episodes at cost 0 have a row of cells of their own: they are what a safe policy learns from.
    """
    spread = max(float(np.ptp(returns)), 1e-12)
    column = np.minimum((returns - returns.min()) / spread * cells, cells - 1).astype(np.int64)
    row = np.where(costs <= 0, 0, np.ceil(costs / max_cost * cells)).astype(np.int64)
    number: NDArray[np.int64] = row * cells + column
    return number


def cover_plane(
    returns: NDArray[np.float64],
    costs: NDArray[np.float64],
    *,
    max_cost: float,
    min_return: float | None = None,
    cells: int,
    per_cell: int,
    max_episodes: int,
    free_share: float,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Indices of the kept episodes, in their own order.

    Dropped are episodes of cost above `max_cost` or return below `min_return`; of the others a cell of the
    cost-return plane keeps `per_cell` chosen by `rng`. Beyond `max_episodes` the most crowded cells are
    thinned first, with `free_share` of the places for episodes at cost 0 as long as there are any.
    Source: DSRL (Liu et al. 2023), section 3 and its `grid_filter`.
    """
    allowed = costs <= max_cost
    if min_return is not None:
        allowed &= returns >= min_return
    pool = rng.permutation(np.flatnonzero(allowed))
    if len(pool) == 0:
        return np.zeros(0, dtype=np.int64)
    rank = _rank_within(plane_cells(returns[pool], costs[pool], cells, max_cost))
    order = np.argsort(rank, kind="stable")
    order = order[rank[order] < per_cell]
    free = costs[pool[order]] <= 0
    places = round(free_share * max_episodes)
    # Either side may take what the other leaves empty.
    places_free = max(places, max_episodes - int(np.sum(~free)))
    places_costly = max_episodes - min(places_free, int(np.sum(free)))
    kept = np.concatenate([order[free][:places_free], order[~free][:places_costly]])
    return np.sort(pool[kept])


def _rank_within(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many earlier entries of the same group every entry has, (E,)."""
    order = np.argsort(groups, kind="stable")
    _, starts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    rank = np.empty_like(groups)
    rank[order] = np.arange(len(groups)) - np.repeat(starts, sizes)
    return rank
