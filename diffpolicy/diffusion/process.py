"""Gaussian noise processes: how a clean sample becomes noise, and back."""

import torch
from torch import Tensor


class GaussianProcess:
    """A variance-preserving Gaussian process over `steps` discrete steps, with noise ("epsilon") prediction.

    Step k in 0..steps-1 has `x_k = sqrt(abar_k) x_clean + sqrt(1 - abar_k) noise` (Ho et al. 2020, eq. 4). Tables are
    computed in float64 and kept in float32 on `device`.
    """

    def __init__(self, betas: Tensor, device: torch.device | str = "cpu") -> None:
        alpha_bar = torch.cumprod(1.0 - betas.double(), dim=0)
        self.steps = len(betas)
        self.betas = betas.to(device, torch.float32)
        self.alpha_bar = alpha_bar.to(device, torch.float32)
        self.signal = alpha_bar.sqrt().to(device, torch.float32)
        self.noise = (1.0 - alpha_bar).sqrt().to(device, torch.float32)

    def corrupt(self, clean: Tensor, step: Tensor, noise: Tensor) -> Tensor:
        """Return `clean` (..., D) at noise step `step` (...,) given standard normal `noise` (..., D)."""
        return self.signal[step].unsqueeze(-1) * clean + self.noise[step].unsqueeze(-1) * noise

    def target(self, clean: Tensor, noise: Tensor, step: Tensor) -> Tensor:
        """Return what the denoiser regresses on: the noise (..., D)."""
        return noise

    def to_clean(self, prediction: Tensor, noisy: Tensor, step: Tensor) -> Tensor:
        """Return the clean sample (..., D) that `prediction` implies for `noisy` at `step` (...,)."""
        return (noisy - self.noise[step].unsqueeze(-1) * prediction) / self.signal[step].unsqueeze(-1)
