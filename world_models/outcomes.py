"""What a new frame means: success, cost, or the end, told from the frame and those before it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffpolicy.networks.layers import conv2d, linear
from world_models.frames import OUTCOMES

WIDTH = 32  # channels, as of DIAMOND's model of rewards and ends
COARSEST = 4  # pixels on a side, whose places are told apart at the end


class OutcomeHeads(nn.Module):
    """Probabilities of success, cost and termination from a new frame and the `history` frames before it.

    World4RL's success classifier (Jiang et al. 2025, there a ResNet-18 on the new frame alone) and its likes in one
    small convolutional net. Training weighs both outcomes alike however rare one is; `probabilities` then put back how
    frequent they were in the data (Saerens et al. 2002, eq. 4), so that a rare end is also a rare end in imagination.
    What never, or always, happened in the data is expected never, or always, to happen.
    """

    def __init__(self, history: int, size: int, generator: torch.Generator) -> None:
        super().__init__()
        # Strided at once: full resolution would cost as much as a small denoiser does.
        layers: list[nn.Module] = [conv2d(3 * (history + 1), WIDTH, 3, generator, stride=2)]
        side = (size + 1) // 2
        while side > COARSEST:
            layers += [nn.GroupNorm(1, WIDTH), nn.SiLU(), conv2d(WIDTH, WIDTH, 3, generator, stride=2)]
            side = (side + 1) // 2
        self.trunk = nn.Sequential(*layers, nn.GroupNorm(1, WIDTH), nn.SiLU(), nn.Flatten())
        self.output = linear(WIDTH * side**2, len(OUTCOMES), generator)
        self.register_buffer("frequency", torch.full((len(OUTCOMES),), 0.5))

    frequency: Tensor

    def forward(self, frames: Tensor, next_frames: Tensor) -> Tensor:
        """Return balanced logits (B, 3) for frames (B, 3 L, S, S) and next ones (B, 3, S, S), pixels in [-1, 1]."""
        logits: Tensor = self.output(self.trunk(torch.cat([frames, next_frames], dim=1)))
        return logits

    def probabilities(self, frames: Tensor, next_frames: Tensor) -> Tensor:
        """Return the probabilities (B, 3) of the outcomes, named in OUTCOMES."""
        # An outcome without a counterpart has a prior of plus or minus infinity, which decides.
        probabilities: Tensor = (self(frames, next_frames) + self.frequency.logit()).sigmoid()
        return probabilities

    def loss(
        self, frames: Tensor, next_frames: Tensor, labels: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """Return the cross-entropies (3,) for labels (B, 3), each outcome weighing one half in the mean of the data.

        Samples that were not drawn evenly from it have `weights` (B,) that make up for it.
        """
        share = torch.where(labels > 0.0, self.frequency, 1.0 - self.frequency)
        logits = self(frames, next_frames)
        errors = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        if weights is not None:
            errors = errors * weights[:, None]
        return (errors / (2.0 * share)).mean(0)
