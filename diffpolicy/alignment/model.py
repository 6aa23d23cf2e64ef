"""What is aligned: a denoiser in its roles, the prompts it answers, and what its samples look like."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from diffpolicy.alignment.matching import Matcher, inner_levels
from diffpolicy.alignment.roles import RoleBook
from diffpolicy.diffusion import GaussianProcess


class Prompts(Protocol):
    """What a denoiser can be asked for, by index: texts, observations, classes."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def condition(self, index: Tensor, guided: bool) -> Any:
        """Return the conditions (B rows) of the prompts `index` (B,), with the guidance of roll-outs if asked for."""
        ...

    def labels(self, index: Tensor) -> Sequence[Any]:
        """Return what rewards are told of the prompts `index` (B,)."""
        ...


class Unprompted:
    """The single prompt of a denoiser that has no condition."""

    def __len__(self) -> int:
        """One."""
        return 1

    def condition(self, index: Tensor, guided: bool) -> None:
        """Nothing."""

    def labels(self, index: Tensor) -> list[Any]:
        """Return None for each of `index` (B,)."""
        return [None] * len(index)


def undecoded(clean: Tensor) -> Tensor:
    """Return clean samples as they are."""
    return clean


@dataclass(frozen=True)
class Model:
    """A denoiser to be aligned.

    `process` and the descending `levels` are those of its sampler in roll-outs, `shape` that of one sample. Rewards see
    `decode` of clean samples (B, *shape); gradients flow through it if it lets them. Matching errors are taken at
    `matched` levels, by default the inner ones of the sampler.
    """

    process: GaussianProcess
    levels: tuple[int, ...]
    shape: tuple[int, ...]
    roles: RoleBook
    prompts: Prompts = field(default_factory=Unprompted)
    decode: Callable[[Tensor], Tensor] = undecoded
    matched: tuple[int, ...] | None = None

    @property
    def device(self) -> torch.device:
        """Where samples are made."""
        return self.process.device

    def matcher(self, draws: int = 6, coupled: bool = False) -> Matcher:
        """Return where matching errors are usually taken: at the `matched` levels."""
        return Matcher(self.process, self.matched or inner_levels(self.levels), draws, coupled)
