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

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Return the noise (steps, *shape) of one sample: its start, then what each step adds."""
        device = self.process.betas.device
        return torch.empty(self.process.steps, *shape, device=device).normal_(generator=generator)

    def step(self, noisy: Tensor, prediction: Tensor, step: int, noise: Tensor | None) -> Tensor:
        """Return the sample one step cleaner: `(x - beta_k/sqrt(1-abar_k) eps)/sqrt(alpha_k) + sqrt(beta_k) z`."""
        beta = self.process.betas[step]
        mean = (noisy - beta / self.process.noise[step] * prediction) / (1.0 - beta).sqrt()
        if noise is not None:
            mean = mean + beta.sqrt() * noise
        return mean.clamp(-self.clip, self.clip)

    @torch.no_grad()
    def sample(self, denoiser: Denoiser, condition: Tensor, noise: Tensor) -> Tensor:
        """Return clean samples (M, B, D) for `condition` (M, B, C) from `noise` (steps, M, B, D), see `draw`.

        The last step adds none (Ho et al. 2020, algorithm 2).
        """
        noisy, last = noise[0], self.process.steps - 1
        for taken, index in enumerate(reversed(range(self.process.steps))):
            step = torch.full(noisy.shape[:2], index, dtype=torch.int64, device=noisy.device)
            added = noise[taken + 1] if taken < last else None
            noisy = self.step(noisy, denoiser(noisy, step, condition), index, added)
        return noisy
