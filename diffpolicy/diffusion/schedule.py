"""Noise schedules: how much noise each level has."""

import math
from typing import Any

import torch
from torch import Tensor

from diffpolicy.diffusion.errors import DiffusionError
from diffpolicy.diffusion.process import GaussianProcess, Prediction


def vp_betas(steps: int, beta_min: float = 0.1, beta_max: float = 10.0) -> Tensor:
    """Return the variance-preserving betas (steps,) in float64, noisiest last.

    `alpha_t = exp(-beta_min/T - 0.5 (beta_max - beta_min)(2t - 1)/T^2)` for t = 1..T, beta = 1 - alpha: the exact
    discretisation of the VP stochastic differential equation (Xiao et al. 2022, eq. 17; FISOR uses T = 5).

    Raises:
        DiffusionError: if `steps` < 1 or not 0 < beta_min <= beta_max.
    """
    _check_steps(steps)
    if not 0.0 < beta_min <= beta_max or not math.isfinite(beta_max):
        raise DiffusionError(f"betas need 0 < beta_min <= beta_max, got {beta_min} and {beta_max}")
    time = torch.arange(1, steps + 1, dtype=torch.float64)
    log_alpha = -beta_min / steps - 0.5 * (beta_max - beta_min) * (2 * time - 1) / steps**2
    return 1.0 - log_alpha.exp()


def cosine_betas(steps: int, largest: float = 0.999) -> Tensor:
    """Return the squared-cosine betas (steps,) in float64, none above `largest` ("squaredcos_cap_v2").

    `abar(t) = cos^2((t + 0.008)/1.008 pi/2)` and `beta_k = 1 - abar((k+1)/T)/abar(k/T)` (Nichol and Dhariwal 2021,
    eq. 17); Diffusion Policy uses T = 100.

    Raises:
        DiffusionError: if `steps` < 1 or `largest` is not in (0, 1).
    """
    _check_steps(steps)
    if not 0.0 < largest < 1.0:
        raise DiffusionError(f"the largest beta lies between 0 and 1, got {largest}")
    time = torch.arange(steps + 1, dtype=torch.float64) / steps
    alpha_bar = torch.cos((time + 0.008) / 1.008 * math.pi / 2).square()
    return (1.0 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=largest)


def linear_betas(steps: int, start: float = 1e-4, end: float = 0.02) -> Tensor:
    """Return betas (steps,) in float64 that grow evenly from `start` to `end` (Ho et al. 2020, section 4).

    Raises:
        DiffusionError: if `steps` < 1 or not 0 < start <= end < 1.
    """
    _check_steps(steps)
    if not 0.0 < start <= end < 1.0:
        raise DiffusionError(f"betas need 0 < start <= end < 1, got {start} and {end}")
    return torch.linspace(start, end, steps, dtype=torch.float64)


def variance_preserving(betas: Tensor, prediction: Prediction = "epsilon") -> GaussianProcess:
    """Return the process with signal^2 = abar, noise^2 = 1 - abar, abar the product of 1 - betas (Ho et al. 2020)."""
    betas = betas.double()
    alpha_bar = torch.cumprod(1.0 - betas, dim=0)
    return GaussianProcess(alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt(), prediction)


def edm(
    levels: int,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    prediction: Prediction = "epsilon",
) -> GaussianProcess:
    """Return the variance-exploding process with signal 1 and EDM's noise levels (Karras et al. 2022, eq. 5).

    `sigma^(1/rho)` is spaced evenly from sigma_min (level 0) to sigma_max (level levels-1).

    Raises:
        DiffusionError: if `levels` < 2 or not 0 < sigma_min < sigma_max.
    """
    if levels < 2 or not 0.0 < sigma_min < sigma_max or not math.isfinite(sigma_max) or rho <= 0:
        raise DiffusionError(
            "EDM needs at least 2 levels, 0 < sigma_min < sigma_max and rho > 0, got "
            f"levels={levels}, sigma_min={sigma_min}, sigma_max={sigma_max}, rho={rho}"
        )
    ends = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    sigma = torch.linspace(*ends, levels, dtype=torch.float64) ** rho
    return GaussianProcess(torch.ones_like(sigma), sigma, prediction)


def rectified_flow(levels: int, prediction: Prediction = "flow") -> GaussianProcess:
    """Return the straight path x_t = (1 - t) x_0 + t eps at the times t = (k+1)/levels (Liu et al. 2023, eq. 1).

    The last level is pure noise. Raises DiffusionError if `levels` < 1.
    """
    _check_steps(levels)
    time = torch.arange(1, levels + 1, dtype=torch.float64) / levels
    return GaussianProcess(1.0 - time, time, prediction)


_DIFFUSERS_PREDICTIONS: dict[str, Prediction] = {
    "epsilon": "epsilon",
    "sample": "sample",
    "v_prediction": "v",
}


def from_diffusers(scheduler: Any) -> GaussianProcess:
    """Return the process that a scheduler of the diffusers library was made for, its training levels as ours.

    Schedulers with `betas` (DDPM, DDIM, DPM-Solver and the like) are variance-preserving; flow-matching ones are
    straight paths at the times `shift t/(1 + (shift - 1) t)`, t = (k+1)/T.

    Raises:
        DiffusionError: for schedulers of another kind, and predictions that this project does not know.
    """
    config = dict(scheduler.config)
    name = type(scheduler).__name__
    betas = getattr(scheduler, "betas", None)
    if betas is not None:
        prediction = config.get("prediction_type", "epsilon")
        if prediction not in _DIFFUSERS_PREDICTIONS:
            known = ", ".join(_DIFFUSERS_PREDICTIONS)
            raise DiffusionError(f"{name} predicts {prediction!r}; only {known} can be taken over")
        # From betas and not from alphas_cumprod: 1 - abar of a float32 abar near 1 has lost most of its digits.
        return variance_preserving(torch.as_tensor(betas), _DIFFUSERS_PREDICTIONS[prediction])
    if "shift" not in config or config.get("use_dynamic_shifting"):
        raise DiffusionError(
            f"{name} has neither betas nor a fixed flow-matching shift, so its noise levels are not known before it "
            "samples: make a GaussianProcess from its signal and noise tables instead"
        )
    shift, levels = float(config["shift"]), int(config["num_train_timesteps"])
    time = torch.arange(1, levels + 1, dtype=torch.float64) / levels
    time = shift * time / (1 + (shift - 1) * time)
    return GaussianProcess(1.0 - time, time, "flow")


def trailing(levels: int, steps: int) -> tuple[int, ...]:
    """Return `steps` levels spaced evenly down from the noisiest, levels-1: (99, 89, ..., 9) for 100 and 10.

    The spacing for few steps, since it begins where the noise does (Lin et al. 2024, table 2, "trailing").

    Raises:
        DiffusionError: if `steps` is not in 1..levels.
    """
    _check_spacing(levels, steps)
    return tuple(round(levels * (steps - taken) / steps) - 1 for taken in range(steps))


def leading(levels: int, steps: int) -> tuple[int, ...]:
    """Return `steps` levels spaced evenly up from 0, noisiest first: (90, 80, ..., 0) for 100 and 10.

    Kept for comparison: with few steps it starts far from the noisiest level (Lin et al. 2024, table 2, "leading").

    Raises:
        DiffusionError: if `steps` is not in 1..levels.
    """
    _check_spacing(levels, steps)
    return tuple(range((steps - 1) * (levels // steps), -1, -(levels // steps)))


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise DiffusionError(f"a diffusion schedule needs at least one step, got steps={steps}")


def _check_spacing(levels: int, steps: int) -> None:
    if not 1 <= steps <= levels:
        raise DiffusionError(
            f"a process of {levels} levels can be sampled in 1 to {levels} steps, got steps={steps}"
        )
