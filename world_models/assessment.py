"""All that is asked of a world model at once: a table for people, plain values for files."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from diffpolicy.data import OfflineDataset
from world_models.errors import WorldModelError
from world_models.fidelity import (
    Heads,
    OpenLoop,
    action_following,
    calibration,
    explained,
    heads,
    longest,
    open_loop,
    rank_correlation,
    starts_of,
)
from world_models.state import StateWorldModel
from world_models.windows import Windows

HORIZONS = (1, 5, 15, 50)
BINS = 10  # of the calibration


class Horizon(NamedTuple):
    """What was found after so many `steps`, over all starts.

    `error` and `persistence` are means of the root mean square error over columns in deviations of the data, `median`
    that of the error. `return_r2` is the share of the variance of the real returns that the imagined ones explain, and
    `rank` Spearman's correlation of uncertainty and error; NaN where nothing varies.
    """

    steps: int
    error: float
    median: float
    persistence: float
    return_r2: float
    true_cost: float
    cost: float
    rank: float

    @property
    def gain(self) -> float:
        """How many times smaller the error is than if nothing moved."""
        return self.persistence / max(self.error, 1e-12)


class Assessment(NamedTuple):
    """How true a model is to some episodes; `bins` (2, 10) are mean uncertainty and error at the middle horizon."""

    found: OpenLoop
    heads: Heads
    following: float
    bins: Tensor

    def rows(self) -> list[Horizon]:
        """Return one row for each horizon."""
        found = self.found
        return [
            Horizon(
                steps,
                found.errors[k].mean().item(),
                found.errors[k].median().item(),
                found.persistence[k].mean().item(),
                explained(found.rewards[k], found.true_rewards[k]),
                found.true_costs[k].mean().item(),
                found.costs[k].mean().item(),
                rank_correlation(found.uncertainty[k], found.errors[k]),
            )
            for k, steps in enumerate(found.horizons)
        ]

    def to_json(self) -> dict[str, Any]:
        """Return plain values; None for what is not defined."""
        return {
            "horizons": [
                {name: _plain(value) for name, value in (row._asdict() | {"gain": row.gain}).items()}
                for row in self.rows()
            ],
            "heads": {name: _plain(value) for name, value in self.heads._asdict().items()},
            "action_following": _plain(self.following),
            "calibration": {
                name: [_plain(value) for value in values]
                for name, values in zip(("uncertainty", "error"), self.bins.tolist(), strict=True)
            },
            "starts": self.found.errors.shape[1],
        }


def assess(
    model: StateWorldModel,
    dataset: OfflineDataset,
    horizons: Sequence[int] = HORIZONS,
    starts: int = 500,
    seed: int = 0,
) -> Assessment:
    """Return how true `model` is to the episodes of `dataset`, from up to `starts` moments of theirs.

    Horizons that no episode reaches are left out. Heads and listening are judged on ten times as many transitions.

    Raises:
        WorldModelError: if no episode reaches any horizon.
    """
    device = model.mean.device
    windows = Windows(dataset, model.config.history, device)
    wanted = checked_horizons(horizons)
    reached = longest(dataset, wanted[-1])
    asked = [steps for steps in wanted if steps <= reached] or wanted
    begun = starts_of(dataset, asked[-1], starts, seed).to(device)
    found = open_loop(model, windows, begun, asked, seed)
    index = starts_of(dataset, 1, 10 * starts, seed).to(device)
    middle = len(asked) // 2
    return Assessment(
        found,
        heads(model, windows, index),
        action_following(model, windows, index, seed),
        calibration(found.uncertainty[middle], found.errors[middle], BINS).cpu(),
    )


def checked_horizons(horizons: Sequence[int]) -> list[int]:
    """Return the horizons, ascending, each once; WorldModelError unless there is one and all are 1 or more."""
    if not horizons or min(horizons) < 1:
        raise WorldModelError(
            f"horizons are one or more numbers of steps, each 1 or more, got {list(horizons)}"
        )
    return sorted(set(horizons))


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
