"""Samplers: from noise to clean samples, one denoising step at a time."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from diffpolicy.diffusion.process import GaussianProcess


class Denoiser(Protocol):
    """Predicts the noise in `noisy` (M, B, D) at `step` (M, B), given `condition` (M, B, C)."""

    def __call__(self, noisy: Tensor, step: Tensor, condition: Tensor) -> Tensor:
        """Return the predicted noise (M, B, D)."""
        ...


@dataclass(frozen=True)
class AncestralSampler:
    """DDPM's ancestral sampler with variance beta_k, clipping to +-`clip` after every step (FISOR, IDQL)."""

    process: GaussianProcess
    clip: float = 1.0

    def step(self, noisy: Tensor, prediction: Tensor, step: int, generator: torch.Generator) -> Tensor:
        """Return the sample one step cleaner: `(x - beta_k/sqrt(1-abar_k) eps)/sqrt(alpha_k) + sqrt(beta_k) z`.

        No noise is added at step 0 (Ho et al. 2020, algorithm 2).
        """
        beta = self.process.betas[step]
        mean = (noisy - beta / self.process.noise[step] * prediction) / (1.0 - beta).sqrt()
        if step > 0:
            noise = torch.empty_like(noisy).normal_(generator=generator)
            mean = mean + beta.sqrt() * noise
        return mean.clamp(-self.clip, self.clip)

    @torch.no_grad()
    def sample(self, denoiser: Denoiser, condition: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Return clean samples (M, B, size) for `condition` (M, B, C); all randomness comes from `generator`."""
        members, batch = condition.shape[:2]
        noisy = torch.empty(members, batch, size, device=condition.device).normal_(generator=generator)
        for index in reversed(range(self.process.steps)):
            step = torch.full((members, batch), index, dtype=torch.int64, device=condition.device)
            noisy = self.step(noisy, denoiser(noisy, step, condition), index, generator)
        return noisy
