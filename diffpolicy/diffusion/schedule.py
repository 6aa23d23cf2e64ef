"""Noise schedules: how much noise each diffusion step adds."""

import math

import torch
from torch import Tensor


def vp_betas(steps: int, beta_min: float = 0.1, beta_max: float = 10.0) -> Tensor:
    """Return the variance-preserving betas (steps,) in float64, noisiest last.

    `alpha_t = exp(-beta_min/T - 0.5 (beta_max - beta_min)(2t - 1)/T^2)` for t = 1..T, beta = 1 - alpha: the exact
    discretisation of the VP stochastic differential equation (Xiao et al. 2022, eq. 17; FISOR uses T = 5).

    Raises:
        ValueError: if `steps` < 1 or not 0 < beta_min <= beta_max.
    """
    if steps < 1:
        raise ValueError(f"a diffusion schedule needs at least one step, got steps={steps}")
    if not 0.0 < beta_min <= beta_max or not math.isfinite(beta_max):
        raise ValueError(f"betas need 0 < beta_min <= beta_max, got {beta_min} and {beta_max}")
    time = torch.arange(1, steps + 1, dtype=torch.float64)
    log_alpha = -beta_min / steps - 0.5 * (beta_max - beta_min) * (2 * time - 1) / steps**2
    return 1.0 - log_alpha.exp()
