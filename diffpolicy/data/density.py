"""DSRL's published thinning grids (`DENSITY_CFG` of dsrl 0.1.0): facts, as data."""

from __future__ import annotations

from typing import NamedTuple

from .schema import DataError


class Grid(NamedTuple):
    """How episodes are thinned over the plane of episode cost and return."""

    cost_bins: int
    return_bins: int
    largest: int
    """At most this many episodes stay in a cell."""
    smallest: int = 2
    """A cell with at most this many is emptied."""


# task: ((density, return bins, largest), ...); all have 10 cost bins and empty cells of at most 2.
_PUBLISHED: dict[str, tuple[tuple[float, int, int], ...]] = {
    "OfflineCarCircle-v0": ((0.5, 50, 5), (0.75, 50, 9)),
    "OfflineAntCircle-v0": ((0.5, 50, 12), (0.75, 50, 20)),
    "OfflineAntRun-v0": ((0.5, 50, 6), (0.75, 50, 10)),
    "OfflineDroneCircle-v0": ((0.5, 50, 10), (0.75, 50, 18)),
    "OfflineDroneRun-v0": ((0.5, 50, 6), (0.75, 50, 18)),
    "OfflineBallCircle-v0": ((0.5, 20, 5), (0.75, 30, 10)),
    "OfflineBallRun-v0": ((0.5, 15, 7), (0.75, 15, 12)),
    "OfflineCarRun-v0": ((0.5, 20, 6), (0.75, 20, 11)),
    "OfflineCarButton1Gymnasium-v0": ((0.5, 10, 18), (0.25, 10, 8)),
    "OfflineCarButton2Gymnasium-v0": ((0.5, 8, 28), (0.25, 8, 13)),
    "OfflineCarCircle1Gymnasium-v0": ((0.5, 5, 28), (0.25, 5, 12)),
    "OfflineCarCircle2Gymnasium-v0": ((0.5, 5, 18), (0.25, 5, 8)),
    "OfflineCarGoal1Gymnasium-v0": ((0.5, 8, 13), (0.25, 8, 6)),
    "OfflineCarGoal2Gymnasium-v0": ((0.5, 8, 30), (0.25, 8, 14)),
    "OfflineCarPush1Gymnasium-v0": ((0.5, 6, 36), (0.25, 6, 16)),
    "OfflineCarPush2Gymnasium-v0": ((0.5, 8, 50), (0.25, 8, 22)),
    "OfflinePointButton1Gymnasium-v0": ((0.5, 10, 13), (0.25, 10, 6)),
    "OfflinePointButton2Gymnasium-v0": ((0.5, 8, 25), (0.25, 8, 12)),
    "OfflinePointCircle1Gymnasium-v0": ((0.5, 5, 28), (0.25, 5, 12)),
    "OfflinePointCircle2Gymnasium-v0": ((0.5, 5, 20), (0.25, 5, 10)),
    "OfflinePointGoal1Gymnasium-v0": ((0.5, 8, 16), (0.25, 8, 7)),
    "OfflinePointGoal2Gymnasium-v0": ((0.5, 8, 24), (0.25, 6, 14)),
    "OfflinePointPush1Gymnasium-v0": ((0.5, 6, 28), (0.25, 6, 13)),
    "OfflinePointPush2Gymnasium-v0": ((0.5, 8, 34), (0.25, 8, 15)),
    "OfflineHalfCheetahVelocityGymnasium-v1": ((0.25, 10, 12), (0.5, 10, 26)),
    "OfflineSwimmerVelocityGymnasium-v1": ((0.25, 10, 7), (0.5, 10, 14)),
    "OfflineWalker2dVelocityGymnasium-v1": ((0.25, 10, 10), (0.5, 10, 22)),
    "OfflineMetadrive-easydense-v0": ((0.5, 20, 15), (0.75, 20, 30)),
    "OfflineMetadrive-mediummean-v0": ((0.5, 20, 16), (0.75, 20, 33)),
    "OfflineMetadrive-hardsparse-v0": ((0.5, 20, 12), (0.75, 20, 32)),
}


def grid(task: str, density: float) -> Grid:
    """The published grid that leaves about `density` of a task's episodes; DataError where there is none."""
    rows = _PUBLISHED.get(task, ())
    for published, return_bins, largest in rows:
        if published == density:
            return Grid(10, return_bins, largest)
    known = ", ".join(str(row[0]) for row in rows) or "none"
    raise DataError(
        f"no published grid thins {task} to density {density:g} (published: {known}); pass a Grid"
    )


def published_densities() -> tuple[tuple[str, float], ...]:
    """Every (task, density) that `grid` knows."""
    return tuple((task, row[0]) for task, rows in _PUBLISHED.items() for row in rows)
