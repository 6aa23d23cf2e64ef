"""What an objective asks for, and what it gives back."""

from collections.abc import Callable, Iterator, Mapping
from statistics import fmean
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from diffpolicy.alignment.samples import Pairs, Prompted, Rated, Rollout
from diffpolicy.diffusion import Denoiser

Roles = Mapping[str, Denoiser]
"""Denoisers by role: "train" is trained, "old" made the rollout, "reference" is the base, "ema" an average."""

Logs = dict[str, float]

StartPolicy = Callable[[Tensor, Any, Tensor], Tensor]
"""Makes the noise (B, *S) that samples start from of standard normal noise, conditions and prompt indices (B,)."""


class Needs(NamedTuple):
    """What the trainer has to provide: kinds of data, roles beside "train", and a reward with a gradient.

    `pairs` asks for `Pairs`, `rewards` for `Rated` samples, `prompts` for `Prompted`, none of them for a plain
    `Rollout`; `path` for recorded denoising steps. `guided` takes predictions with the guidance of the rollout, as
    likelihoods of its steps must; matching errors are those of the denoiser itself. `frozen` leaves the denoiser as it
    is, so that only the objective's own modules learn. `weights` wants advantages of 0 or more, as those of
    `softmax_weights` are. `ratings` is how often an answer to a prompt is rated.
    """

    path: bool = False
    pairs: bool = False
    rewards: bool = False
    prompts: bool = False
    reference: bool = False
    old: bool = False
    ema: bool = False
    differentiable_reward: bool = False
    guided: bool = False
    frozen: bool = False
    weights: bool = False
    ratings: int = 1


class Part(NamedTuple):
    """A share of a loss, whose parts sum to it, with what to log, which is averaged over parts."""

    loss: Tensor
    logs: Logs


class Owned(NamedTuple):
    """A module that an objective trains beside the denoiser, at its own learning rate: a value, a distribution."""

    module: nn.Module
    learning_rate: float


Batch = TypeVar("Batch", Rollout, Rated, Pairs, Prompted, contravariant=True)


class Objective(Protocol[Batch]):
    """A loss over samples, whatever they are samples of. Implementations inherit from this class."""

    @property
    def needs(self) -> Needs:
        """What the trainer has to provide."""
        ...

    @property
    def owned(self) -> Mapping[str, Owned]:
        """The modules trained beside the denoiser, by name."""
        return {}

    @property
    def start(self) -> StartPolicy | None:
        """What makes the noise that samples start from, and remembers nothing; None for standard normal noise."""
        return None

    def begin(self) -> None:
        """Get ready for the roll-out that is made next, to be learnt from: remember what it starts from."""
        return  # not abstract: most remember nothing

    def parts(self, batch: Batch, roles: Roles, generator: torch.Generator) -> Iterator[Part]:
        """Yield the parts of the scalar to minimise.

        The trainer backpropagates each part before it asks for the next, so that memory is that of one part. All
        randomness is the generator's, on the batch's device.
        """
        ...

    def check(self, batch: Batch, roles: Roles) -> None:
        """Refuse to start on the first batch of a run if it shows that the run would be unsound.

        Raises:
            TrainingError: if a likelihood ratio is not 1 before the first update, say.
        """
        return  # not abstract: most have nothing to refuse

    def loss(self, batch: Batch, roles: Roles, generator: torch.Generator) -> tuple[Tensor, Logs]:
        """Return the sum of all parts, as one scalar, and the means of their logs with the loss itself."""
        parts = list(self.parts(batch, roles, generator))
        loss = torch.stack([part.loss for part in parts]).sum()
        return loss, {"loss": loss.item()} | mean_logs([part.logs for part in parts])


def mean_logs(logs: list[Logs]) -> Logs:
    """Return the mean of every value over those logs that have it."""
    names = dict.fromkeys(name for each in logs for name in each)
    return {name: fmean(each[name] for each in logs if name in each) for name in names}


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
