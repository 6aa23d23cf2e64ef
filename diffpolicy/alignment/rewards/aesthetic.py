"""How beautiful people find an image, whatever its prompt: LAION's aesthetic predictor."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from diffpolicy.alignment.reward import Reward, Rewards
from diffpolicy.alignment.rewards.clip import CLIP
from diffpolicy.alignment.rewards.pretrained import frozen, load, weights


class ScoreHead(nn.Module):
    """Embeddings (B, width) to scores (B,): linear layers with dropouts between them and no activations.

    The head of LAION's "sac+logos+ava1-l14-linearMSE" and, on BLIP, of ImageReward. Its dropouts make it regularised,
    not non-linear.
    """

    def __init__(self, width: int = 768, hidden: Sequence[int] = (1024, 128, 64, 16)) -> None:
        super().__init__()
        sizes = [width, *hidden, 1]
        layers: list[nn.Module] = []
        for index, (size, following) in enumerate(pairwise(sizes)):
            layers.append(nn.Linear(size, following))
            if index < len(hidden) - 1:
                layers.append(nn.Dropout(0.2 if index < 2 else 0.1))
        self.layers = nn.Sequential(*layers)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return the scores (B,) of embeddings (B, width)."""
        scores: Tensor = self.layers(embeddings)
        return scores[:, 0]


@dataclass(frozen=True)
class AestheticReward(Reward):
    """A head's score of CLIP's image embedding, about 1 to 10; differentiable (LAION-Aesthetics V2)."""

    clip: CLIP
    head: nn.Module

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        head: str | Path | None = None,
    ) -> Self:
        """Return the reward of a folder with CLIP ViT-L/14 in transformers' format and the head's weights.

        The head is the file "sac+logos+ava1-l14-linearMSE" as .safetensors or .pth, "aesthetic.safetensors" in the
        folder unless given. It stays in float32.

        Raises:
            FeedbackError: if one of them is not there or has other weights.
        """
        what = "the head of the aesthetic predictor (sac+logos+ava1-l14-linearMSE)"
        clip = CLIP.from_folder(path, device, dtype)
        made = ScoreHead(clip.model.config.projection_dim)
        load(made, weights(head or Path(path) / "aesthetic.safetensors", what), what)
        return cls(clip, frozen(made, device, torch.float32))

    @property
    def differentiable(self) -> bool:
        """It is."""
        return True

    def __call__(self, samples: Tensor, labels: Sequence[Any]) -> Rewards:
        """Return the scores of images (B, C, H, W) in [0, 1]; labels do not matter."""
        return Rewards(self.head(self.clip.images(samples)))
