"""How the networks of diffusers are called: a denoiser of each, and its guidance."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from diffpolicy.alignment.samples import map_tensors
from diffpolicy.diffusion import Denoiser

Call = Callable[[nn.Module, Tensor, Tensor, Any], Tensor]
"""Calls a network on noisy latents (B, C, H, W) at its times (B,) under a condition without guidance."""


def call_unconditional(network: nn.Module, noisy: Tensor, time: Tensor, condition: Any) -> Tensor:
    """Return the prediction of a UNet2DModel."""
    prediction: Tensor = network(noisy, time, return_dict=False)[0]
    return prediction


def call_unet(network: nn.Module, noisy: Tensor, time: Tensor, condition: Any) -> Tensor:
    """Return the prediction of the UNet of Stable Diffusion 1 and 2, or of SDXL, which is told the image's size."""
    added = None
    if "size" in condition:
        added = {"text_embeds": condition["pooled"], "time_ids": condition["size"]}
    prediction: Tensor = network(
        noisy, time, encoder_hidden_states=condition["text"], added_cond_kwargs=added, return_dict=False
    )[0]
    return prediction


def call_sd3(network: nn.Module, noisy: Tensor, time: Tensor, condition: Any) -> Tensor:
    """Return the prediction of the transformer of Stable Diffusion 3."""
    prediction: Tensor = network(
        hidden_states=noisy,
        timestep=time,
        encoder_hidden_states=condition["text"],
        pooled_projections=condition["pooled"],
        return_dict=False,
    )[0]
    return prediction


def call_flux(network: nn.Module, noisy: Tensor, time: Tensor, condition: Any) -> Tensor:
    """Return the prediction of FLUX's transformer, which sees 2 x 2 latents as one token, and times in [0, 1]."""
    height, width = noisy.shape[-2] // 2, noisy.shape[-1] // 2
    rows, columns = torch.meshgrid(
        torch.arange(height, device=noisy.device), torch.arange(width, device=noisy.device), indexing="ij"
    )
    places = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).to(noisy.dtype)
    tokens = network(
        hidden_states=pack_latents(noisy),
        timestep=time / 1000,
        guidance=condition.get("guidance"),
        pooled_projections=condition["pooled"],
        encoder_hidden_states=condition["text"],
        txt_ids=places.new_zeros(condition["text"].shape[1], 3),
        img_ids=places,
        return_dict=False,
    )[0]
    return unpack_latents(tokens, height, width)


def pack_latents(latents: Tensor) -> Tensor:
    """Return latents (B, C, 2H, 2W) as tokens (B, H W, 4 C)."""
    return nn.functional.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)


def unpack_latents(tokens: Tensor, height: int, width: int) -> Tensor:
    """Return tokens (B, H W, 4 C) as latents (B, C, 2H, 2W)."""
    return nn.functional.pixel_shuffle(tokens.transpose(1, 2).reshape(len(tokens), -1, height, width), 2)


def make_denoiser(network: nn.Module, call: Call, times: Tensor, dtype: torch.dtype) -> Denoiser:
    """Return a denoiser in float32 of a network in `dtype`, which is told `times` (T,) for our levels.

    A condition with an entry "negative" is guided: the prediction is `n + scale (p - n)`, n that under the negative
    condition (Ho and Salimans 2022, eq. 6, with scale 1 + w). Both are predicted in one call of the network.
    """

    def predict(noisy: Tensor, time: Tensor, condition: Any) -> Tensor:
        return call(network, noisy.to(dtype), time, map_tensors(condition, _cast)).float()

    def _cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    def denoise(noisy: Tensor, level: Tensor, condition: Any, /) -> Tensor:
        time = times[level]
        if not isinstance(condition, dict) or "negative" not in condition:
            return predict(noisy, time, condition)
        negative, scale = condition["negative"], condition["scale"].reshape(-1, 1, 1, 1)
        both = {key: torch.cat([value, condition[key]]) for key, value in negative.items()}
        without, asked = predict(torch.cat([noisy] * 2), torch.cat([time] * 2), both).chunk(2)
        guided: Tensor = without + scale * (asked - without)
        return guided

    return denoise
