"""DRaFT-LV: follow the reward's gradient through the last step only, from several noises of one sample."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from diffpolicy.alignment.objective import Needs, Part, Roles, role
from diffpolicy.alignment.pathwise import Pathwise, PathwiseConfig
from diffpolicy.alignment.samples import Prompted


@dataclass(frozen=True)
class DRaFTLVConfig(PathwiseConfig):
    """`noises` is how often a sample is noised again, n."""

    noises: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noises < 1:
            raise ValueError(f"DRaFT-LV noises a sample once or more, got noises={self.noises}")


@dataclass(frozen=True)
class DRaFTLV(Pathwise):
    """`L = -mean over n of E r(x_0)`, x_0 predicted from a finished sample noised to the last level again.

    Clark et al. 2024, section 3.3: one roll-out, which carries no gradient, serves n estimates of DRaFT-1's gradient,
    whose mean varies less than that of one. Every noise is a part, so that n costs time and no memory. A sample is
    rated n times.

    Raises:
        ValueError: if the reward has no gradient.
    """

    config: DRaFTLVConfig = DRaFTLVConfig()

    @property
    def needs(self) -> Needs:
        """As all that follow the reward's gradient, with a rating for each noise."""
        return super().needs._replace(ratings=self.config.noises)

    def parts(self, batch: Prompted, roles: Roles, generator: torch.Generator) -> Iterator[Part]:
        """Yield the loss of each noise."""
        denoiser, level = role(roles, "train"), self.model.levels[-1]
        with torch.no_grad():
            sampled = self.arrive(denoiser, batch, generator, self.steps)
        for _ in range(self.config.noises):
            noise = torch.empty_like(sampled).normal_(generator=generator)
            noisy = self.model.process.corrupt(sampled, level, noise)
            clean = self.predict(denoiser, batch.condition, noisy, level)
            yield self.score(clean, batch.labels, 1.0 / self.config.noises)
