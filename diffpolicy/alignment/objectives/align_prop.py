"""AlignProp: follow the reward's gradient through a random number of the sampler's last steps."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from diffpolicy.alignment.objective import Part, Roles, role
from diffpolicy.alignment.pathwise import Pathwise, PathwiseConfig
from diffpolicy.alignment.samples import Prompted

Truncation = Literal["normal", "uniform"]
TRUNCATIONS: tuple[Truncation, ...] = get_args(Truncation)


@dataclass(frozen=True)
class AlignPropConfig(PathwiseConfig):
    """Gradients begin at a step drawn for every batch: "uniform" over all, or "normal" at shares of all steps.

    `mean` and `deviation` are the normal's: 42 and 5 of the authors' 50 steps. Their code takes `weight |r - 10|` for
    the aesthetic reward, hence cap=10 here, which does not pull a reward above it down again.
    """

    weight: float = 0.01
    eta: float = 1.0
    truncation: Truncation = "normal"
    mean: float = 42 / 50
    deviation: float = 5 / 50

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.truncation not in TRUNCATIONS:
            raise ValueError(f"a truncation is one of {', '.join(TRUNCATIONS)}, not {self.truncation!r}")
        if not (0.0 <= self.mean <= 1.0 and self.deviation >= 0.0):
            raise ValueError(
                "gradients begin at a share between 0 and 1 of the steps with a deviation >= 0, got "
                f"{self.mean} and {self.deviation}"
            )


@dataclass(frozen=True)
class AlignProp(Pathwise):
    """`L = -E r(x_0)`, with gradients from a random step on (Prabhudesai et al. 2023, section 4.2).

    The authors detach the predictions of the steps before it and keep the chain of iterates. As the start does not
    depend on the weights, nothing is left on that chain to differentiate: it is DRaFT-K with a random K, and steps
    before the drawn one need no graph at all.

    Raises:
        ValueError: if the reward has no gradient.
    """

    config: AlignPropConfig = AlignPropConfig()

    def parts(self, batch: Prompted, roles: Roles, generator: torch.Generator) -> Iterator[Part]:
        """Yield the loss, in one part."""
        first = self.first_step(generator)
        clean = self.arrive(role(roles, "train"), batch, generator, first, self.steps - first)
        part = self.score(clean, batch.labels)
        yield Part(part.loss, part.logs | {"gradient_steps": float(self.steps - first)})

    def first_step(self, generator: torch.Generator) -> int:
        """Draw the first step that carries a gradient, 0 to the last."""
        if self.config.truncation == "uniform":
            return int(torch.randint(self.steps, (), generator=generator, device=generator.device))
        place = torch.randn((), generator=generator, device=generator.device).item()
        step = round(self.steps * (self.config.mean + self.config.deviation * place))
        return min(max(step, 0), self.steps - 1)
