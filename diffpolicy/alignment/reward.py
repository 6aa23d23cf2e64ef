"""What a reward is: a number for every sample, and what it is made of."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from diffpolicy.training.errors import FeedbackError


class Rewards(NamedTuple):
    """The rewards (B,) of samples, higher is better; `terms` (B,) each by name, `cost` and `uncertainty` (B,)."""

    total: Tensor
    terms: Mapping[str, Tensor] = {}
    cost: Tensor | None = None
    uncertainty: Tensor | None = None


class Reward(Protocol):
    """Rates samples. Implementations inherit from this class."""

    @property
    def differentiable(self) -> bool:
        """Whether gradients flow from rewards to samples."""
        return False

    def __call__(self, samples: Tensor, labels: Sequence[Any]) -> Rewards:
        """Return the rewards of decoded samples (B, *S), given what is to be known of their prompts, B labels.

        Images are float (B, C, H, W) in [0, 1]; their labels are the prompts' texts.

        Raises:
            FeedbackError: if they cannot be rated now.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Return what is remembered from one call to the next."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        if state:
            raise ValueError(
                f"{type(self).__name__} remembers nothing, yet {', '.join(state)} was stored of it"
            )


def rate(reward: Reward, samples: Tensor, labels: Sequence[Any]) -> Rewards:
    """Return the rewards of samples (B, *S), checked: one finite float32 number each.

    Raises:
        FeedbackError: if the reward did not give that.
    """
    rewards = reward(samples, labels)
    named = {"total": rewards.total, **rewards.terms}
    extra = {"cost": rewards.cost, "uncertainty": rewards.uncertainty}
    named |= {name: values for name, values in extra.items() if values is not None}
    for name, values in named.items():
        what = f"{type(reward).__name__} returned {name!r}"
        if not isinstance(values, Tensor) or values.shape != (len(samples),):
            shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise FeedbackError(
                f"{what} as {shape} for {len(samples)} samples; a reward is one number for each, "
                f"{(len(samples),)}"
            )
        if not torch.isfinite(values).all():
            bad = int((~torch.isfinite(values)).nonzero()[0])
            raise FeedbackError(f"{what} that is {values[bad].item()} for sample {bad}; rewards are finite")
    return rewards._replace(total=rewards.total.float().to(samples.device))
