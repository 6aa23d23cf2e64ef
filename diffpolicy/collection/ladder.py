"""Weights on the cost, one per rung of a ladder of behaviours."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Ladder(Protocol):
    """Turns cost into a penalty whose weight depends on the rung."""

    weights: NDArray[np.float64]

    def episode_ended(self, rung: int, episode_cost: float) -> None:
        """Takes note of the cost of an episode that was acted on `rung`."""


class PenaltyLadder:
    """Fixed weights (L,): rung i always pays `weights[i]` for a unit of cost."""

    def __init__(self, weights: tuple[float, ...]) -> None:
        self.weights = np.array(weights, dtype=np.float64)

    def episode_ended(self, rung: int, episode_cost: float) -> None:
        """Nothing to adapt."""


class LimitLadder:
    """Weights found by dual ascent, so that the episode cost of rung i settles at `limits[i]`.

    The step is `rate * (cost - limit) / max(limit, 10)`, clipped to +-`rate`: the gradient of the Lagrangian
    in the multiplier, scaled so that one rate suits limits of 0 and of 100 (cf. Ray et al. 2019, section 5).
    """

    def __init__(self, limits: tuple[float, ...], *, rate: float = 0.03, largest: float = 20.0) -> None:
        self.limits = np.array(limits, dtype=np.float64)
        self.weights = np.zeros(len(limits))
        self._rate = rate
        self._largest = largest

    def episode_ended(self, rung: int, episode_cost: float) -> None:
        """One step of dual ascent on the weight of `rung`."""
        excess = (episode_cost - self.limits[rung]) / max(self.limits[rung], 10.0)
        step = self._rate * float(np.clip(excess, -1.0, 1.0))
        self.weights[rung] = np.clip(self.weights[rung] + step, 0.0, self._largest)
