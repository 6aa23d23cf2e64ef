"""Models of Gaussian chunks, whose best denoiser is known, with the protocol of a trained chunk model."""

from typing import Any

import torch
from torch import Tensor

from diffpolicy.diffusion import GaussianProcess, cosine_betas, variance_preserving
from diffpolicy.policies import Observation


class AnalyticModel:
    """Actions N(gain (state + p - past), spread^2) at chunk position p: with a clock as state, the time they act at."""

    def __init__(
        self,
        spread: float = 0.2,
        *,
        gain: float = 0.01,
        process: GaussianProcess | None = None,
        observation_horizon: int = 2,
        observation_size: int = 1,
        per_step_levels: bool = True,
        action_size: int = 1,
    ) -> None:
        cosine = variance_preserving(cosine_betas(100))
        self.process = (process or cosine).predicting("sample")
        self.observation_horizon, self.prediction_horizon, self.execution_horizon = observation_horizon, 16, 8
        self.observation_size, self.action_size = observation_size, action_size
        self.per_step_levels = per_step_levels
        self.spread, self.gain = spread, gain
        self.calls = 0

    def encode(self, observation: Observation) -> Tensor:
        ahead = torch.arange(self.prediction_horizon) - (self.observation_horizon - 1)
        mean = self.gain * (observation.newest[:, :1] + ahead)
        return mean.unsqueeze(-1).expand(-1, -1, self.action_size)

    def __call__(self, noisy: Tensor, level: Tensor, condition: Any, /) -> Tensor:
        self.calls += 1
        shape = (*level.shape, *(1,) * (noisy.ndim - level.ndim))
        signal, noise = (
            table[level].reshape(shape).to(noisy) for table in (self.process.signal, self.process.noise)
        )
        trust = signal * self.spread**2 / (signal**2 * self.spread**2 + noise**2)
        return condition + trust * (noisy - signal * condition)

    def to_actions(self, normalised: Tensor) -> Tensor:
        return normalised


def clock(time: float, batch: int = 1, horizon: int = 2) -> Observation:
    """Return what is seen at a control step by a robot whose state is the time."""
    times = torch.arange(time - horizon + 1, time + 1, dtype=torch.float32)
    return Observation(times.reshape(1, horizon, 1).expand(batch, -1, -1).clone())
