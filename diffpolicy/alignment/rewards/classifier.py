"""A classifier's log-probability of the class that was asked for."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diffpolicy.alignment.reward import Reward, Rewards
from diffpolicy.training.errors import FeedbackError


@dataclass(frozen=True)
class ClassifierReward(Reward):
    """`log p(class | sample)` of a network that takes samples (B, *S) to logits (B, K); differentiable.

    `target` is the class that is wanted of all samples, or that of every label. Another classifier, trained on other
    data, makes a gold reward that was not optimised. The probability is also the term "probability".
    """

    network: nn.Module
    target: int | Mapping[Hashable, int]

    @property
    def differentiable(self) -> bool:
        """It is."""
        return True

    def __call__(self, samples: Tensor, labels: Sequence[Any]) -> Rewards:
        """Return the rewards of samples (B, *S).

        Raises:
            FeedbackError: if a label has no class, or the network no logits for it.
        """
        logits = self.network(samples)
        if logits.ndim != 2 or len(logits) != len(samples):
            raise FeedbackError(
                f"a classifier gives logits (B, K), this one gave {tuple(logits.shape)} for {len(samples)} samples"
            )
        classes = self._classes(labels)
        if len(classes) != len(samples) or not 0 <= min(classes) <= max(classes) < logits.shape[1]:
            raise FeedbackError(
                f"{len(samples)} samples need as many classes from 0 to {logits.shape[1] - 1}, got "
                f"{len(classes)} from {min(classes)} to {max(classes)}"
            )
        wanted = torch.tensor(classes, device=logits.device)[:, None]
        value = logits.float().log_softmax(1).gather(1, wanted)[:, 0]
        return Rewards(value, {"probability": value.detach().exp()})

    def _classes(self, labels: Sequence[Any]) -> list[int]:
        if isinstance(self.target, int):
            return [self.target] * len(labels)
        unknown = [label for label in labels if label not in self.target]
        if unknown:
            raise FeedbackError(f"no class is known for the label {unknown[0]!r}; give it one in `target`")
        return [self.target[label] for label in labels]
