"""Gaussian data, for which the best denoiser and the contraction of every step are known exactly."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffpolicy.diffusion.process import GaussianProcess
from diffpolicy.diffusion.sampler import Denoiser, ancestral_deviation, posterior


def gaussian_denoiser(process: GaussianProcess, mean: float | Tensor, spread: float) -> Denoiser:
    """Return the optimal denoiser for clean samples N(mean, spread^2 I), predicting what `process` predicts.

    The posterior mean of the noise is `noise (x - signal mean)/(signal^2 spread^2 + noise^2)`, that of the clean
    sample follows; `mean` broadcasts against the samples.
    """
    levels = range(process.levels)
    table = torch.tensor([[process.signal_at(k), process.noise_at(k)] for k in levels], dtype=torch.float64)

    def denoise(noisy: Tensor, level: Tensor, condition: Any, /) -> Tensor:
        rows = table.to(noisy)[level].reshape(*level.shape, *(1,) * (noisy.ndim - level.ndim), 2)
        signal, noise = rows.unbind(dim=-1)
        error = (noisy - signal * mean) / (signal**2 * spread**2 + noise**2)
        return process.target(mean + signal * spread**2 * error, noise * error, level)

    return denoise


def contraction(process: GaussianProcess, levels: Sequence[int], spread: float) -> Tensor:
    """Return the slopes (len(levels),) in float64 of the exact mean map of single-index DDPM steps at `levels`.

    For data N(m, spread^2) the map from level k to k-1 is linear; variance-preserving, its slope is
    `(1 - beta_k/(abar_k spread^2 + 1 - abar_k))/sqrt(alpha_k)`. The product of the slopes is what remains of the
    error of a warm start after these steps.
    """
    slopes = []
    for level in levels:
        deviation = ancestral_deviation(process, level, level - 1)
        clean_weight, noisy_weight = posterior(process, level, level - 1, deviation)
        signal, noise = process.signal_at(level), process.noise_at(level)
        slopes.append(clean_weight * signal * spread**2 / (signal**2 * spread**2 + noise**2) + noisy_weight)
    return torch.tensor(slopes, dtype=torch.float64)
