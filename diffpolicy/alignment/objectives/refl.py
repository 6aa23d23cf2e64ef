"""ReFL: follow the reward's gradient through a single late step, and reward what it predicts."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from diffpolicy.alignment.objective import Part, Roles, role
from diffpolicy.alignment.pathwise import Pathwise, PathwiseConfig
from diffpolicy.alignment.samples import Prompted


@dataclass(frozen=True)
class ReFLConfig(PathwiseConfig):
    """The step is drawn from the last `share` of all: 30 to 39 of the authors' 40. Cap and weight are theirs too.

    The cap is one for ImageReward, whose values are about standard normal; choose it anew for another reward.
    """

    cap: float | None = 2.0
    weight: float = 1e-3
    share: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.share <= 1.0:
            raise ValueError(f"ReFL draws a step from a share of them above 0 and up to 1, got {self.share}")


@dataclass(frozen=True)
class ReFL(Pathwise):
    """`L = weight relu(cap - r(x_0 predicted at step j))`, j random among the last steps (Xu et al. 2023, algorithm 1).

    Steps before j carry no gradient and those after it are not taken. The paper adds the denoising loss on its
    pre-training data: train `SFT` on demonstrations as a second term.

    Raises:
        ValueError: if the reward has no gradient.
    """

    config: ReFLConfig = ReFLConfig()

    def parts(self, batch: Prompted, roles: Roles, generator: torch.Generator) -> Iterator[Part]:
        """Yield the loss, in one part."""
        denoiser, step = role(roles, "train"), self.step(generator)
        noisy = self.arrive(denoiser, batch, generator, step)
        clean = self.predict(denoiser, batch.condition, noisy, self.model.levels[step])
        yield self.score(clean, batch.labels)

    def step(self, generator: torch.Generator) -> int:
        """Draw the step that carries the gradient, one of the last `share` of all, at least the very last."""
        late = max(1, math.floor(self.config.share * self.steps + 1e-9))
        return self.steps - 1 - int(torch.randint(late, (), generator=generator, device=generator.device))
