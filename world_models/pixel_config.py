"""What decides how a world model of pixels is made and trained."""

import math
from dataclasses import dataclass, field

from world_models.config import check_unsigned
from world_models.errors import WorldModelError
from world_models.unet2d import SIZES

PREDICTS = ("frame", "change")


@dataclass(frozen=True)
class PixelNoise:
    """Noise of the diffusion model, for pixels in [-1, 1] (DIAMOND, Alonso et al. 2024).

    Training draws `exp(N(mean, std^2))`, cut to [lowest, highest], and adds to it noise of deviation `offset` that is
    the same over a whole channel, so that brightness is learnt too. Three Euler steps go from sigma_max over EDM's grid
    of exponent `rho` to sigma_min and then to the clean frame: 5, 0.28308, 0.002, 0.
    """

    mean: float = -0.4
    std: float = 1.2
    lowest: float = 2e-3
    highest: float = 20.0
    offset: float = 0.3
    data: float = 0.5
    steps: int = 3
    sigma_min: float = 2e-3
    sigma_max: float = 5.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        if (
            self.steps < 2
            or not 0.0 < self.sigma_min < self.sigma_max < math.inf
            or not 0.0 < self.lowest < self.highest < math.inf
        ):
            raise WorldModelError(
                f"noise needs two steps or more, sigma_min < sigma_max and lowest < highest, above 0, got {self}"
            )
        above = (self.std, self.data, self.rho)
        if not all(0.0 < each < math.inf for each in above) or not 0.0 <= self.offset < math.inf:
            raise WorldModelError(
                f"noise needs std, data and rho above 0 and an offset of 0 or more, got {self}"
            )
        if not math.isfinite(self.mean):
            raise WorldModelError(f"noise has a finite mean, got {self}")


@dataclass(frozen=True)
class PixelConfig:
    """A world model of pixels, and how it is trained.

    `network` is one of "tiny", "diamond" and "world4rl". What is drawn by diffusion is the next "frame", as
    published, or its "change" from the last one, scaled to the deviation that pixels are taken to have: a network
    that says nothing then repeats the last frame, and only what moves is left to learn. With `maps` the network is
    shown, as channels, where each pixel is and what the actions are, so that a place that an action names is soon
    found. With `bfloat16` convolutions are of that precision, weights and optimiser are not. Frames have `size`
    pixels on a side, and `history` of them are shown with the actions taken on them, two-hot in `bins`. A frame is
    predicted `autoregressive` times in a row in an update, from the model's own frames after the first. `camera`
    may be left out where there is one only. A transition is a success if its reward reaches `success_reward`; what is
    imagined is one if its probability is above `certainty`. Outcomes are learnt from pictures moved by up to `shift`
    pixels along both sides, all of a moment alike: where there are few, their places are soon known by heart; from
    `outcome_batch` of them in an update, among which outcomes are more frequent than in the data. The
    optimiser is DIAMOND's: AdamW, its rate growing over `warm_up` updates, and gradients clipped at a norm of 1.
    """

    network: str = "tiny"
    predicts: str = "frame"
    maps: bool = False
    bfloat16: bool = False
    size: int = 48
    history: int = 4
    bins: int = 21
    tasks: int = 1
    camera: str | None = None
    success_reward: float = 1.0
    certainty: float = 0.5
    shift: int = 0
    outcome_batch: int = 32
    noise: PixelNoise = field(default_factory=PixelNoise)
    updates: int = 20_000
    batch: int = 32
    autoregressive: int = 1
    learning_rate: float = 1e-4
    weight_decay: float = 1e-2
    warm_up: int = 100
    clip: float = 1.0
    average_decay: float = 0.995

    def __post_init__(self) -> None:
        if self.network not in SIZES:
            raise WorldModelError(f"a network is one of {', '.join(SIZES)}, not {self.network!r}")
        if self.predicts not in PREDICTS:
            raise WorldModelError(f"a network predicts one of {', '.join(PREDICTS)}, not {self.predicts!r}")
        multiple = SIZES[self.network].multiple
        if self.size < 8 or self.size % multiple:
            raise WorldModelError(
                f"frames for {self.network!r} have sides of 8 pixels or more, in multiples of {multiple}, "
                f"not {self.size}"
            )
        if not 0.0 < self.certainty < 1.0:
            raise WorldModelError(
                f"successes are believed above a probability, got certainty={self.certainty}"
            )
        if not 0 <= self.shift < self.size:
            raise WorldModelError(f"pictures of {self.size} pixels are not moved by shift={self.shift}")
        counts = self.history, self.tasks, self.updates, self.batch, self.autoregressive, self.warm_up
        if min(*counts, self.outcome_batch) < 1 or self.bins < 2:
            raise WorldModelError(
                "a world model of pixels has one or more frames of history, tasks, updates, samples in a batch, "
                f"predictions in a row and updates to warm up, and at least two bins, got {self}"
            )
        check_unsigned(self, ("learning_rate", "weight_decay", "average_decay"))
        if not self.clip > 0.0:
            raise WorldModelError(f"gradients are clipped at a norm above 0, got clip={self.clip}")
        if math.isnan(self.success_reward):
            raise WorldModelError("no reward reaches success_reward=nan: name a number")
