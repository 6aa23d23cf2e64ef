"""What decides how a world model of states is made and trained."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, get_args

from world_models.errors import WorldModelError

Kind = Literal["diffusion", "deterministic"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@contextmanager
def stored_options(where: object) -> Iterator[None]:
    """Raise WorldModelError where the options in the checkpoint at `where` are those of another version."""
    try:
        yield
    except (KeyError, TypeError) as error:
        raise WorldModelError(
            f"{where} holds a world model with options that this version does not know ({error}): load it with the "
            "version named in its manifest"
        ) from error


def check_unsigned(config: object, names: Sequence[str]) -> None:
    """Raise WorldModelError unless the options `names` of `config` are finite and 0 or more."""
    for name in names:
        if not 0.0 <= getattr(config, name) < math.inf:
            raise WorldModelError(f"world_model.{name} is a number of 0 or more, got {getattr(config, name)}")


@dataclass(frozen=True)
class DiffusionSteps:
    """Noise of the diffusion model, in units of the normalised change of state.

    Training draws `exp(N(mean, std^2))`; `steps` Euler steps go from sigma_max over EDM's grid of exponent `rho` to
    sigma_min and then to the clean sample (Karras et al. 2022; three steps as in DIAMOND, Alonso et al. 2024).
    """

    mean: float = -0.4
    std: float = 1.2
    steps: int = 3
    sigma_min: float = 0.05
    sigma_max: float = 5.0
    rho: float = 5.0

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0.0 < self.sigma_min < self.sigma_max < math.inf:
            raise WorldModelError(f"diffusion needs a step and 0 < sigma_min < sigma_max, got {self}")
        if not math.isfinite(self.mean) or not all(0.0 < each < math.inf for each in (self.std, self.rho)):
            raise WorldModelError(f"diffusion needs a finite mean, and std and rho above 0, got {self}")


@dataclass(frozen=True)
class WorldModelConfig:
    """A world model of states.

    `members` networks are trained on batches of their own; where they disagree the model is unsure. They see `history`
    observations and actions, actions as numbers or, with `two_hot_bins`, two-hot. `relative` are pairs of columns whose
    differences are shown as well, divided by `relative_scale`: hand and object, say. `history_noise` blurs what is
    shown in training, in standard deviations of a step's change, as the model's own errors will.
    """

    kind: Kind = "deterministic"
    members: int = 3
    history: int = 1
    hidden: list[int] = field(default_factory=lambda: [256, 256, 256])
    head_hidden: list[int] = field(default_factory=lambda: [128, 128])
    two_hot_bins: int = 0
    relative: list[list[int]] = field(default_factory=list)
    relative_scale: float = 0.05
    history_noise: float = 0.0
    diffusion: DiffusionSteps = field(default_factory=DiffusionSteps)
    updates: int = 7_000
    batch: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    average_decay: float = 0.995

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise WorldModelError(f"a world model is one of {', '.join(KINDS)}, not {self.kind!r}")
        if min(self.members, self.history, self.updates, self.batch) < 1 or (
            self.two_hot_bins != 0 and self.two_hot_bins < 2
        ):
            raise WorldModelError(
                "a world model has one or more members, observations of history, updates and samples in a batch, and "
                f"no or at least two bins, got {self}"
            )
        if min([*self.hidden, *self.head_hidden], default=1) < 1:
            raise WorldModelError(
                f"hidden and head_hidden are widths of 1 or more, got {self.hidden} and {self.head_hidden}"
            )
        if any(len(pair) != 2 or min(pair) < 0 for pair in self.relative):
            raise WorldModelError(f"relative columns come in pairs, counted from 0, got {self.relative}")
        if not 0.0 < self.relative_scale < math.inf:
            raise WorldModelError(f"relative_scale divides and is above 0, got {self.relative_scale}")
        check_unsigned(self, ("history_noise", "learning_rate", "weight_decay", "average_decay"))
