"""Chunks that agree with a plan already under way: commitment, and real-time chunking (Black et al. 2025)."""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from diffpolicy.diffusion import Denoiser, GaussianProcess
from diffpolicy.diffusion.guidance import guide, inpaint

Freezing = Literal["inpaint", "guide"]


def overlap_weights(horizon: int, past: int, frozen: int, elapsed: int) -> Tensor:
    """Return how much each position (horizon,) of the shifted plan binds the new one.

    Positions before the decision (the first `past`) and the first `frozen` after it bind wholly; then the weight
    falls to nothing where the last plan ends, `elapsed` before the horizon's end (arXiv 2506.07339, eq. 5).
    """
    ahead = torch.arange(horizon, dtype=torch.float64) - past
    end = max(horizon - past - elapsed, frozen)
    falling = ((frozen - 1 - ahead) / (end - frozen + 1) + 1).clamp(0.0, 1.0)
    weights = falling * (falling.exp() - 1) / (math.e - 1)
    weights = torch.where(ahead < end, weights, 0.0)
    return torch.where(ahead < frozen, 1.0, weights).float()


def commitment_weights(horizon: int, past: int, reach: int) -> Tensor:
    """Return how much of the shifted plan a committed warm start keeps at each position (horizon,).

    All of it up to the action executed now, then linearly less, down to nothing `reach` control steps ahead.
    """
    ahead = torch.arange(horizon, dtype=torch.float32) - past
    return (1.0 - ahead / max(reach, 1)).clamp(0.0, 1.0)


def blend(denoiser: Denoiser, plan: Tensor, weights: Tensor, clip: float | None) -> Denoiser:
    """Return a denoiser of clean samples (B, H, A) that keeps to `plan` (B, H, A) by `weights` (H,)."""

    def blended(noisy: Tensor, level: Tensor, condition: Any, /) -> Tensor:
        clean = denoiser(noisy, level, condition)
        clean = clean if clip is None else clean.clamp(-clip, clip)
        return clean + weights.unsqueeze(-1) * (plan - clean)

    return blended


def freeze(
    denoiser: Denoiser,
    process: GaussianProcess,
    known: Tensor,
    *,
    past: int,
    frozen: int,
    elapsed: int,
    how: Freezing,
) -> Denoiser:
    """Return a denoiser whose samples keep to the shifted plan `known` (B, H, A) where it is executed anyway.

    "inpaint" replaces the predicted clean sample there; "guide" also draws the rest towards the plan, gently.
    """
    if how == "guide":
        weights = overlap_weights(known.shape[1], past, frozen, elapsed).to(known.device)
        return guide(denoiser, process, known, weights)
    mask = torch.zeros(known.shape[1], 1, dtype=torch.bool, device=known.device)
    mask[: past + frozen] = True
    return inpaint(denoiser, known, mask)
