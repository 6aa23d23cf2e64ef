"""The ancestral sampler of FISOR and IDQL, which clips the iterate rather than the predicted clean sample."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffpolicy.diffusion.process import GaussianProcess
from diffpolicy.diffusion.sampler import Denoiser


@dataclass(frozen=True)
class AncestralSampler:
    """DDPM's ancestral sampler with variance beta_k, clipping to +-`clip` after every step (FISOR, IDQL).

    Its process is variance-preserving and its denoiser predicts the noise. `Sampler` is the one for everything else.
    """

    process: GaussianProcess
    clip: float = 1.0

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Return the noise (levels, *shape) of one sample: its start, then what each step adds."""
        noise = torch.empty(self.process.levels, *shape, device=self.process.device)
        return noise.normal_(generator=generator)

    def step(self, noisy: Tensor, prediction: Tensor, level: int, noise: Tensor | None) -> Tensor:
        """Return the sample one level cleaner: `(x - beta_k/sqrt(1-abar_k) eps)/sqrt(alpha_k) + sqrt(beta_k) z`."""
        alpha = (self.process.signal_at(level) / self.process.signal_at(level - 1)) ** 2
        beta = noisy.new_full((), 1.0 - alpha)
        mean = (noisy - beta / self.process.noise[level] * prediction) / (1.0 - beta).sqrt()
        if noise is not None:
            mean = mean + beta.sqrt() * noise
        return mean.clamp(-self.clip, self.clip)

    @torch.no_grad()
    def sample(self, denoiser: Denoiser, condition: Tensor, noise: Tensor) -> Tensor:
        """Return clean samples (M, B, D) for `condition` (M, B, C) from `noise` (levels, M, B, D), see `draw`.

        The last step adds none (Ho et al. 2020, algorithm 2).
        """
        noisy, last = noise[0], self.process.levels - 1
        for taken, index in enumerate(reversed(range(self.process.levels))):
            level = torch.full(noisy.shape[:2], index, dtype=torch.int64, device=noisy.device)
            added = noise[taken + 1] if taken < last else None
            noisy = self.step(noisy, denoiser(noisy, level, condition), index, added)
        return noisy
