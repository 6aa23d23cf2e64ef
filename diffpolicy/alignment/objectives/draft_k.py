"""DRaFT-K: follow the reward's gradient through the last K steps of the sampler."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from diffpolicy.alignment.objective import Part, Roles, role
from diffpolicy.alignment.pathwise import Pathwise, PathwiseConfig, check_steps
from diffpolicy.alignment.samples import Prompted


@dataclass(frozen=True)
class DRaFTKConfig(PathwiseConfig):
    """`steps` is K. 1 is the cheapest and usually best; gradients through more than about 10 tend to explode."""

    steps: int = 1


@dataclass(frozen=True)
class DRaFTK(Pathwise):
    """`L = -E r(x_0)`, x_0 sampled with gradients in the last K of its steps (Clark et al. 2024, algorithm 1).

    With K all steps it is DRaFT, the gradient of the whole sampler. The reward can be driven up far beyond what it
    means: set a cap, and watch a reward that is not trained on.

    Raises:
        ValueError: if the reward has no gradient, or the sampler fewer than K steps.
    """

    config: DRaFTKConfig = DRaFTKConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steps(self.model, self.config.steps)

    def parts(self, batch: Prompted, roles: Roles, generator: torch.Generator) -> Iterator[Part]:
        """Yield the loss, in one part."""
        last = self.config.steps
        clean = self.arrive(role(roles, "train"), batch, generator, self.steps - last, last)
        yield self.score(clean, batch.labels)
