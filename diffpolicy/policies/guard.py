"""When the last plan no longer fits: signs that a decision had better begin from pure noise."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Guard:
    """Three signs that a warm start no longer fits, each for one roll-out at a time.

    jump      the observation changed more between two decisions than `jump` times its usual change: row e-1 of
              `usual` holds that of every column (O,) over e control steps, and columns in `angles` [rad] wrap
    residual  the new chunk is further from its guess than `residual` (root mean square, normalised units). The
              contraction of a warm start damps this sign, so it wants a threshold of its own for every warm start
    stall     for `patience` decisions in a row plan and observation changed less than `still_residual` and
              `still_change`; 0 switches this sign off

    `calibrate` estimates all of them from demonstrations.
    """

    usual: tuple[tuple[float, ...], ...]
    jump: float
    residual: float = math.inf
    angles: tuple[int, ...] = ()
    still_residual: float = 0.0
    still_change: float = 0.0
    patience: int = 0

    def change(self, before: Tensor, now: Tensor, elapsed: int) -> Tensor:
        """Return the largest change of a column in units of its usual one (B,), from states (B, O) to (B, O)."""
        usual = torch.tensor(
            self.usual[min(elapsed, len(self.usual)) - 1], dtype=now.dtype, device=now.device
        )
        return (difference(before, now, self.angles).abs() / usual).amax(dim=1)

    def stall(self, stalled: Tensor, residual: Tensor, change: Tensor) -> Tensor:
        """Return for how many decisions in a row (B,) plan and observation have now hardly changed."""
        still = (residual <= self.still_residual) & (change <= self.still_change)
        return torch.where(still, stalled + 1, 0)

    def gave_up(self, stalled: Tensor) -> Tensor:
        """Return which roll-outs (B,) bool have stalled for longer than is plausible."""
        return stalled >= self.patience if self.patience > 0 else torch.zeros_like(stalled, dtype=torch.bool)


def difference(before: Tensor, now: Tensor, angles: tuple[int, ...]) -> Tensor:
    """Return now - before (..., O), where columns `angles` [rad] go the short way round."""
    change = now - before
    if not angles:
        return change
    change = change.clone()
    turned = change[..., angles]
    change[..., angles] = torch.remainder(turned + math.pi, 2 * math.pi) - math.pi
    return change
