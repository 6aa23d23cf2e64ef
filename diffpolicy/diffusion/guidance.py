"""Guidance: denoisers of processes that predict the clean sample, steered towards what is known of it.

Both wrap a denoiser and are denoisers again, so that every sampler can use them unchanged.
"""

from typing import Any

import torch
from torch import Tensor

from diffpolicy.diffusion.errors import DiffusionError
from diffpolicy.diffusion.process import GaussianProcess
from diffpolicy.diffusion.sampler import Denoiser


def inpaint(denoiser: Denoiser, known: Tensor, mask: Tensor) -> Denoiser:
    """Return a denoiser whose clean prediction is `known` (B, H, A) wherever `mask` (broadcastable bool) is true.

    `denoiser` must predict "sample". Since the last step of every sampler returns the prediction, the known part
    comes out exactly.
    """

    def denoise(noisy: Tensor, level: Tensor, condition: Any, /) -> Tensor:
        prediction = denoiser(noisy, level, condition)
        return torch.where(mask, known.to(prediction), prediction)

    return denoise


def guide(
    denoiser: Denoiser, process: GaussianProcess, known: Tensor, weights: Tensor, limit: float = 5.0
) -> Denoiser:
    """Return a denoiser pulled towards `known` (B, H, A) with `weights` (H,): real-time chunking's guidance.

    On the straight path x_t = (1-t) noise + t x_0 the velocity gains `min(limit, (t^2 + (1-t)^2)/(t (1-t))) g`,
    g = J^T[(known - x0hat) weights] and J = d x0hat/d x_t (Black et al. 2025, eq. 2-4). Another process is first
    scaled to that path, t = signal/(signal + noise), so that the clean prediction gains
    `noise min(limit, (signal^2 + noise^2)/(signal noise)) g` with the Jacobian in the process's own coordinates.

    Raises:
        DiffusionError: if the process does not predict "sample", or the limit is not positive.
    """
    if process.prediction != "sample":
        raise DiffusionError(
            f"guidance steers predicted clean samples, this process predicts {process.prediction!r}: wrap the "
            "denoiser so that it returns process.to_clean(...), and use process.predicting('sample')"
        )
    if not limit > 0.0:
        raise DiffusionError(f"the limit of the guidance is positive, got {limit}")

    def denoise(noisy: Tensor, level: Tensor, condition: Any, /) -> Tensor:
        def predict(sample: Tensor) -> Tensor:
            return denoiser(sample, level, condition)

        prediction, pull_back, *_ = torch.func.vjp(predict, noisy)
        (gradient,) = pull_back((known - prediction) * weights.unsqueeze(-1))
        shape = (*level.shape, *(1,) * (noisy.ndim - level.ndim))
        signal, noise = process.signal[level].reshape(shape), process.noise[level].reshape(shape)
        factor = ((signal**2 + noise**2) / (signal * noise)).clamp(max=limit)
        guided: Tensor = prediction + noise * factor * gradient
        return guided

    return denoise
