"""What a calibration found out about a chunk model on its demonstrations: for people, for guards, and as JSON."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from diffpolicy.policies.arms import ChunkArm
from diffpolicy.policies.errors import PolicyError
from diffpolicy.policies.guard import Guard

SHOWN_LEVELS = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 60)


@dataclass(frozen=True)
class Residual:
    """Distances between new chunks and their guesses along demonstrations: of one arm, by size.

    `patience` is the number of decisions in a row without change that is more than demonstrators ever take.
    """

    median: float
    limit: float
    patience: int


@dataclass(frozen=True)
class Calibration:
    """How consistent a model's actions are, and what is usual between two decisions.

    spread        standard deviation of each normalised action (A,) given the observation, of the model's own samples
                  (repeated sampling; what is far below the noise of level 0 is understated)
    data_spread   the same of demonstrations, from nearest neighbours in other episodes: an upper bound, since no
                  neighbour is the same observation
    guess_error   root mean square of each action (A,) by which a solution misses its predecessor, shifted by
                  `elapsed` control steps, both from the same noise
    noise         standard deviation of the noise of every level, scaled to a variance-preserving process
    kept          what remains of a guess's error after single-index steps at this level and all below it
    usual, jump, angles, residuals     see `Guard`; residuals by the arm's name
    """

    elapsed: int
    spread: tuple[float, ...]
    data_spread: tuple[float, ...]
    guess_error: tuple[float, ...]
    noise: tuple[float, ...]
    kept: tuple[float, ...]
    usual: tuple[tuple[float, ...], ...]
    jump: float
    angles: tuple[int, ...]
    residuals: Mapping[str, Residual]

    @property
    def start_level(self) -> int:
        """The least level whose noise covers the guess's error in every action (the last one, if none does)."""
        error = max(self.guess_error)
        return next((level for level, noise in enumerate(self.noise) if noise >= error), len(self.noise) - 1)

    @property
    def suggestion(self) -> str:
        """The name of a warm start from `start_level` with at most four evaluations.

        Sparse lists of single-index steps leave noise behind, so from high levels it is one of jumps.
        """
        top = self.start_level
        if top <= 3:
            return "rti_" + "_".join(str(level) for level in range(top, -1, -1))
        if top <= 10:
            return f"rti_{top}_{math.ceil(top / 2)}_1_0"
        return f"warm_{top}_{top // 2}_{max(top // 6, 1)}"

    def guard(self, arm: ChunkArm) -> Guard:
        """Return the guard of an arm; PolicyError unless the calibration was asked for that arm."""
        found = self.residuals.get(arm.name)
        if found is None:
            raise PolicyError(
                f"the calibration has no thresholds for arm {arm.name!r}; "
                f"it was made for {', '.join(self.residuals) or 'none'}"
            )
        return Guard(
            usual=self.usual,
            jump=self.jump,
            residual=found.limit,
            angles=self.angles,
            still_residual=found.median,
            still_change=STILL,
            patience=found.patience,
        )

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Read what `save` wrote; PolicyError when it is something else."""
        try:
            stored = json.loads(path.read_text())
            numbers = ("spread", "data_spread", "guess_error", "noise", "kept", "angles")
            return cls(
                elapsed=stored["elapsed"],
                jump=stored["jump"],
                usual=tuple(tuple(row) for row in stored["usual"]),
                residuals={name: Residual(**found) for name, found in stored["residuals"].items()},
                **{name: tuple(stored[name]) for name in numbers},
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PolicyError(
                f"{path} is no calibration of this version ({error!r}); calibrate again"
            ) from error

    def __str__(self) -> str:
        lines = [
            f"decisions {self.elapsed} control step(s) apart; normalised action units, by action",
            f"  spread of the model's samples                {_row(self.spread)}",
            f"  spread of neighbouring demonstrations (<=)   {_row(self.data_spread)}",
            f"  error of the shifted guess                   {_row(self.guess_error)}",
            "level   noise   what is left of the guess's error",
        ]
        shown = sorted({*(level for level in SHOWN_LEVELS if level < len(self.noise)), self.start_level})
        for level in shown:
            mark = "  <- start level: its noise covers the error" if level == self.start_level else ""
            lines.append(f"{level:5d}   {self.noise[level]:.3f}   {self.kept[level]:.3f}{mark}")
        lines.append(f"suggested: {self.suggestion}")
        lines += [
            f"guard of {name}: jump > {self.jump:.2f} times usual, residual > {found.limit:.4f} "
            f"(median {found.median:.4f}), stall after {found.patience} decisions"
            for name, found in self.residuals.items()
        ]
        return "\n".join(lines)


STILL = 0.1  # of its usual change: less is standing still


def _row(values: tuple[float, ...]) -> str:
    return "  ".join(f"{value:.4f}" for value in values)
