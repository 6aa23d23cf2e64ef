"""The kernel of all matching objectives: how well a denoiser predicts what was added to a clean sample."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffpolicy.diffusion import Denoiser, GaussianProcess, element_mean


class Corruption(NamedTuple):
    """What is done to clean samples: the level (B,) int64, and the standard normal noise (B, *S)."""

    level: Tensor
    noise: Tensor


class Matching(NamedTuple):
    """One regression problem: `noisy` (B, *S) at `level` (B,), and the `target` (B, *S) to predict from it.

    `clean` (B, *S) is where it comes from; means are over the elements where `mask` (B|1, *S) is true.
    """

    process: GaussianProcess
    clean: Tensor
    noisy: Tensor
    target: Tensor
    level: Tensor
    condition: Any
    mask: Tensor | None

    def predict(self, denoiser: Denoiser) -> Tensor:
        """Return the prediction (B, *S), widened to the precision of the target."""
        return denoiser(self.noisy, self.level, self.condition).to(self.target.dtype)

    @torch.no_grad()
    def constant(self, denoiser: Denoiser) -> Tensor:
        """Return the prediction (B, *S) of a denoiser that is not trained."""
        return self.predict(denoiser)

    def error(self, prediction: Tensor) -> Tensor:
        """Return the mean squared error (B,) of a prediction (B, *S)."""
        return self.distance(prediction, self.target)

    def distance(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the mean squared difference (B,) of two predictions (B, *S)."""
        return element_mean((one - other).square(), self.mask)


@dataclass(frozen=True)
class Matcher:
    """Where matching errors are taken: at `draws` levels of each sample, one from each of `draws` parts of `levels`.

    With levels of a sampler's own grid this is AWM's stratified draw (Xue et al. 2025), see `inner_levels`; one draw
    from all levels of the process is the uniform draw of denoising pre-training. Noise is fresh for every draw.
    `coupled` shares level and noise within a group, so that what its samples have in common cancels.

    Raises:
        ValueError: if there is no level or no draw, or the process lacks one of the levels.
    """

    process: GaussianProcess
    levels: tuple[int, ...]
    draws: int = 1
    coupled: bool = False

    def __post_init__(self) -> None:
        top = self.process.levels - 1
        if not self.levels or min(self.levels) < 0 or max(self.levels) > top:
            raise ValueError(f"matching errors are taken at levels between 0 and {top}, got {self.levels}")
        if self.draws < 1:
            raise ValueError(f"matching errors take one draw or more of each sample, got draws={self.draws}")

    def corruptions(
        self, clean: Tensor, generator: torch.Generator, group: Tensor | None = None
    ) -> Iterator[Corruption]:
        """Yield `draws` corruptions of clean samples (B, *S), shared within `group` (B,) if they are coupled."""
        rows = torch.arange(len(clean), device=clean.device)
        if self.coupled and group is not None:
            rows = _first_of_group(group)
        for level in stratified(self.levels, len(clean), self.draws, generator, clean.device):
            noise = torch.empty_like(clean).normal_(generator=generator)
            yield Corruption(level[rows], noise[rows])

    def matchings(
        self,
        clean: Tensor,
        condition: Any,
        generator: torch.Generator,
        mask: Tensor | None = None,
        group: Tensor | None = None,
    ) -> Iterator[Matching]:
        """Yield the problems that `corruptions` make of clean samples (B, *S)."""
        for corruption in self.corruptions(clean, generator, group):
            yield self.matching(clean, corruption, condition, mask)

    def matching(
        self, clean: Tensor, corruption: Corruption, condition: Any, mask: Tensor | None = None
    ) -> Matching:
        """Return the problem that one corruption makes of clean samples (B, *S)."""
        level, noise = corruption
        noisy = self.process.corrupt(clean, level, noise)
        target = self.process.target(clean, noise, level)
        return Matching(self.process, clean, noisy, target, level, condition, mask)


def errors(
    process: GaussianProcess,
    denoiser: Denoiser,
    clean: Tensor,
    level: Tensor,
    noise: Tensor,
    condition: Any,
    mask: Tensor | None = None,
) -> Tensor:
    """Return the mean squared errors (B,) of a denoiser, in what its process predicts, for given levels and noise."""
    matching = Matcher(process, (0,)).matching(clean, Corruption(level, noise), condition, mask)
    return matching.error(matching.predict(denoiser))


def stratified(
    levels: Sequence[int],
    batch: int,
    draws: int,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return (draws, batch) int64 levels, draw i uniform over the i-th of `draws` equal parts of `levels`.

    Parts are cut where they are equal, within a level if need be, so that all draws together are uniform.
    """
    place = torch.rand(draws, batch, generator=generator, device=device, dtype=torch.float64)
    part = torch.arange(draws, device=device)[:, None]
    index = ((part + place) * (len(levels) / draws)).long().clamp(max=len(levels) - 1)
    return torch.tensor(levels, dtype=torch.int64, device=device)[index]


def inner_levels(levels: Sequence[int], share: float = 0.9) -> tuple[int, ...]:
    """Return a sampler's levels without the first, pure noise, and without those after `share` of its steps.

    AWM's "discrete_wo_init": the steps 1 to floor(0.9 steps) (Xue et al. 2025).

    Raises:
        ValueError: if no level is left.
    """
    inner = tuple(levels[1 : math.floor(share * len(levels) + 1e-9)])
    if not inner:
        raise ValueError(
            f"without the first and after {share:g} of its steps, no level of {tuple(levels)} is left: take more steps"
        )
    return inner


def _first_of_group(group: Tensor) -> Tensor:
    """Return the row of the first sample of each sample's group, (B,)."""
    _, index = torch.unique(group, return_inverse=True)
    rows = torch.arange(len(group), device=group.device)
    first = torch.full((int(index.max()) + 1,), len(group), device=group.device)
    return first.scatter_reduce(0, index, rows, "amin")[index]
