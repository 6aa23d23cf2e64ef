"""Real-Time Iteration: begin a decision at the last one, shifted, instead of at pure noise."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffpolicy.diffusion import GaussianProcess, Sampler
from diffpolicy.policies.errors import PolicyError


def shift(chunk: Tensor, elapsed: int) -> Tensor:
    """Return chunks (B, H, A) `elapsed` control steps later: the first actions dropped, the last one repeated."""
    horizon = chunk.shape[1]
    kept = chunk[:, min(elapsed, horizon - 1) :]
    return torch.cat([kept, chunk[:, -1:].expand(-1, horizon - kept.shape[1], -1)], dim=1)


def residual(chunk: Tensor, guess: Tensor, elapsed: int) -> Tensor:
    """Return how far new chunks (B, H, A) are from their guess: root mean squares (B,) in normalised units.

    Only actions that the last plan held count, not the repeated ones at the guess's end.
    """
    known = max(1, chunk.shape[1] - elapsed)
    return (chunk[:, :known] - guess[:, :known]).square().mean(dim=(1, 2)).sqrt()


def snap(actions: Tensor, columns: tuple[int, ...], magnitude: float) -> Tensor:
    """Return actions (..., A) with two-valued `columns` at +-`magnitude`, by sign (zero: positive, NaN: NaN)."""
    if not columns:
        return actions
    snapped = actions.clone()
    chosen = actions[..., columns]
    snapped[..., columns] = torch.where(
        chosen.isnan(), chosen, torch.where(chosen < 0, -magnitude, magnitude)
    )
    return snapped


@dataclass(frozen=True)
class Discrete:
    """Action columns of two values, such as grippers, that a shifted chunk could never flip by itself.

    `magnitude` is the size of a label in normalised units. "scale": labels are small (1/10 in training), so that
    noise carries the sample from one to the other; "clip": labels are as they are, and the guess is snapped to
    them. Either way the sign is what is executed (Duan et al. 2025, section on discrete actions).
    """

    columns: tuple[int, ...]
    treatment: Literal["scale", "clip"] = "clip"
    magnitude: float = 1.0

    def guess(self, guess: Tensor) -> Tensor:
        """Return a guess (B, H, A) in normalised units as a warm start may use it."""
        return snap(guess, self.columns, self.magnitude) if self.treatment == "clip" else guess

    def execute(self, chunk: Tensor) -> Tensor:
        """Return actions (B, h, A) in normalised units with the two-valued columns at one label or the other."""
        return snap(chunk, self.columns, self.magnitude)


@dataclass(frozen=True)
class WarmStart:
    """How a guess is denoised: it is taken for an iterate at level `levels[0]` and carried on from there.

    single_index  every listed level k goes to k-1 by one ancestral step, whatever is listed next, and no noise is
                  put on the guess: Real-Time Iteration as published (Duan et al. 2025, arXiv 2508.05396)
    otherwise     noise of level `levels[0]` is put on the guess, and each listed level jumps to the next one, the
                  last to the clean sample: by DDIM where `eta` is 0, ancestrally where it is 1
    commit        every clean sample predicted on the way is blended with the guess: the plan's next actions are
                  kept, its far end is free (ours; `commitment_weights`)
    """

    levels: tuple[int, ...]
    single_index: bool = False
    eta: float = 0.0
    commit: bool = False

    def __post_init__(self) -> None:
        falling = all(above > below for above, below in zip(self.levels, self.levels[1:], strict=False))
        if not self.levels or not falling or self.levels[-1] < 0:
            raise PolicyError(
                f"a warm start goes down from level to level, such as 2, 1, 0; got {list(self.levels)}"
            )
        if self.single_index and self.levels[-1] != 0:
            raise PolicyError(
                f"single-index steps end at the clean sample only from level 0; got {list(self.levels)}"
            )

    def sampler(self, process: GaussianProcess, clip: float | None) -> Sampler:
        """Return the sampler that carries on from `begin`; PolicyError when `process` lacks the first level."""
        if self.levels[0] >= process.levels:
            raise PolicyError(
                f"a warm start from level {self.levels[0]} needs more than the {process.levels} levels of this "
                f"process (0 to {process.levels - 1})"
            )
        if self.single_index:
            return Sampler(process, "ddpm", self.levels, single_index=True, clip=clip)
        return Sampler(process, "ddim", self.levels, eta=self.eta, clip=clip)

    def begin(self, process: GaussianProcess, guess: Tensor, noise: Tensor) -> Tensor:
        """Return the first iterate (B, H, A) for a guess and standard normal noise (B, H, A).

        As published, the iterate *is* the guess. That is said of variance-preserving processes; any other is one
        of them after division by sqrt(signal^2 + noise^2), so there the guess is multiplied by that.
        """
        signal, scale = process.signal_at(self.levels[0]), process.noise_at(self.levels[0])
        if self.single_index:
            return math.hypot(signal, scale) * guess
        return signal * guess + scale * noise
