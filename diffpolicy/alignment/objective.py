"""What an objective asks for, and what it gives back."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from diffpolicy.alignment.samples import Pairs, Rated, Rollout
from diffpolicy.diffusion import Denoiser

Roles = Mapping[str, Denoiser]
"""Denoisers by role: "train" is trained, "old" made the rollout, "reference" is the base, "ema" an average."""

Logs = dict[str, float]


class Needs(NamedTuple):
    """What the trainer has to provide: kinds of data, roles beside "train", and a reward with a gradient.

    `pairs` asks for `Pairs`, `rewards` for `Rated` samples, neither for a plain `Rollout`; `path` for its recorded
    denoising steps.
    """

    path: bool = False
    pairs: bool = False
    rewards: bool = False
    reference: bool = False
    old: bool = False
    ema: bool = False
    differentiable_reward: bool = False


Batch = TypeVar("Batch", Rollout, Rated, Pairs, contravariant=True)


class Objective(Protocol[Batch]):
    """A loss over samples, whatever they are samples of."""

    @property
    def needs(self) -> Needs:
        """What the trainer has to provide."""
        ...

    def loss(self, batch: Batch, roles: Roles, generator: torch.Generator) -> tuple[Tensor, Logs]:
        """Return the scalar to minimise and what to log; all randomness is the generator's, on the batch's device."""
        ...


def role(roles: Roles, name: str) -> Denoiser:
    """Return the denoiser of a role.

    Raises:
        ValueError: if nobody plays it.
    """
    if name not in roles:
        there = ", ".join(roles) or "none"
        raise ValueError(
            f"this objective needs a denoiser in the role {name!r}; the roles filled are: {there}"
        )
    return roles[name]
