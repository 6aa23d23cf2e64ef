"""All that is asked of a world model of pixels at once: a table for people, plain values for files."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from world_models.assessment import checked_horizons
from world_models.frames import FrameWindows
from world_models.pixel import PixelWorldModel
from world_models.pixel_fidelity import (
    PixelOpenLoop,
    Telling,
    pixel_action_following,
    pixel_open_loop,
    psnr,
    telling,
)

HORIZONS = (1, 5, 15)
TOGETHER = 128  # starts that are imagined at once: memory, not speed


class PixelHorizon(NamedTuple):
    """What was found after so many `steps`, over all starts.

    `error` and `persistence` are means of the mean square over pixels from 0 to 1, of the model and of a world in which
    nothing moves; `median_gain` is the median over starts of their ratio. `told` is the share of starts in which the
    model told rightly whether its own frame is a success.
    """

    steps: int
    error: float
    persistence: float
    median_gain: float
    told: float

    @property
    def psnr(self) -> float:
        """Peak signal-to-noise ratio of the mean error [dB]."""
        return psnr(torch.tensor(self.error)).item()

    @property
    def persistence_psnr(self) -> float:
        """That of a world in which nothing moves [dB]."""
        return psnr(torch.tensor(self.persistence)).item()

    @property
    def gain(self) -> float:
        """How many times smaller the mean square error is than if nothing moved."""
        return self.persistence / max(self.error, 1e-12)


class PixelAssessment(NamedTuple):
    """How true a model is to some episodes; `following` is above 1 if it listens to actions."""

    found: PixelOpenLoop
    telling: dict[str, Telling]
    following: float

    def rows(self) -> list[PixelHorizon]:
        """Return one row for each horizon."""
        found = self.found
        return [
            PixelHorizon(
                steps,
                found.errors[k].mean().item(),
                found.persistence[k].mean().item(),
                (found.persistence[k] / found.errors[k].clamp(min=1e-12)).median().item(),
                (found.successes[k] == found.true_successes[k]).float().mean().item(),
            )
            for k, steps in enumerate(found.horizons)
        ]

    def to_json(self) -> dict[str, Any]:
        """Return plain values; None for what is not defined."""
        return {
            "horizons": [
                {
                    name: _plain(value)
                    for name, value in {
                        **row._asdict(),
                        "gain": row.gain,
                        "psnr": row.psnr,
                        "persistence_psnr": row.persistence_psnr,
                    }.items()
                }
                for row in self.rows()
            ],
            "telling": {
                outcome: {name: _plain(value) for name, value in told._asdict().items()}
                for outcome, told in self.telling.items()
            },
            "action_following": _plain(self.following),
            "starts": self.found.errors.shape[1],
        }


def assess_pixels(
    model: PixelWorldModel,
    windows: FrameWindows,
    horizons: Sequence[int] = HORIZONS,
    starts: int = 256,
    seed: int = 0,
) -> PixelAssessment:
    """Return how true `model` is to the episodes of `windows`, from up to `starts` moments of theirs.

    Horizons that no episode reaches are left out.

    Raises:
        WorldModelError: if no episode reaches any horizon.
    """
    wanted = checked_horizons(horizons)
    asked = [steps for steps in wanted if windows.reaches(steps)] or wanted
    begun = drawn(windows, asked[-1], starts, seed)
    parts = [pixel_open_loop(model, windows, part, asked, seed) for part in torch.split(begun, TOGETHER)]
    tables = zip(*(part[1:] for part in parts), strict=True)
    found = PixelOpenLoop(tuple(asked), *(torch.cat(table, dim=1) for table in tables))
    index = drawn(windows, 1, starts, seed)
    return PixelAssessment(
        found, telling(model, windows, index), pixel_action_following(model, windows, index, seed)
    )


def drawn(windows: FrameWindows, steps: int, count: int, seed: int) -> Tensor:
    """Return up to `count` transitions (S,) int64, at random, that `steps` more pictures of their episode follow.

    Raises:
        WorldModelError: if no episode is that long.
    """
    possible = windows.followed(steps)
    order = torch.randperm(len(possible), generator=torch.Generator().manual_seed(seed))
    return possible[order[:count].to(possible.device)]


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
