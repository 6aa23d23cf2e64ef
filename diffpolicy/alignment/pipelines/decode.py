"""From latents to images that rewards can see."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class LatentDecoder:
    """Makes images (B, 3, H, W) in [0, 1] of latents, with gradients, `at_once` at a time.

    The autoencoder works in float32, as that of SDXL needs; `scale` and `shift` undo what its latents were normalised
    by (Rombach et al. 2022, appendix G).
    """

    autoencoder: nn.Module
    scale: Tensor
    shift: Tensor
    at_once: int = 8

    def __call__(self, latents: Tensor) -> Tensor:
        """Return the images of latents (B, C, h, w); what lies outside [0, 1] is clipped and has no gradient."""
        decode: Any = self.autoencoder.decode
        images = [
            decode(part * self.scale + self.shift, return_dict=False)[0]
            for part in torch.split(latents.float(), self.at_once)
        ]
        return pixels(torch.cat(images))


def latent_decoder(autoencoder: Any) -> LatentDecoder:
    """Return the decoder of a diffusers autoencoder, as its configuration normalises latents."""
    config = autoencoder.config
    mean, std = config.get("latents_mean"), config.get("latents_std")
    shift = torch.tensor(mean if mean and std else [config.get("shift_factor") or 0.0])
    scale = torch.tensor(std if mean and std else [1.0]) / config.scaling_factor
    autoencoder = autoencoder.eval().requires_grad_(False)
    place = {"device": autoencoder.device, "dtype": torch.float32}
    scale, shift = (each.reshape(1, -1, 1, 1).to(**place) for each in (scale, shift))
    return LatentDecoder(autoencoder, scale, shift)


def pixels(images: Tensor) -> Tensor:
    """Return images in [-1, 1] as images in [0, 1]."""
    return (images / 2 + 0.5).clamp(0.0, 1.0)
