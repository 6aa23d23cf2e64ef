"""A model of points in float64 whose reward can be differentiated, for objectives that follow a reward's gradient."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffpolicy.alignment.model import Model
from diffpolicy.alignment.objective import Objective
from diffpolicy.alignment.reward import Reward, Rewards
from diffpolicy.alignment.roles import CopiedRoles
from diffpolicy.alignment.samples import Prompted
from diffpolicy.diffusion import rectified_flow, trailing


class Velocity(nn.Module):
    """A velocity (B, 3) in float64, whatever the point is in."""

    def __init__(self) -> None:
        super().__init__()
        draw = generator(5)
        self.inside = nn.Parameter(0.5 * torch.randn(4, 8, generator=draw, dtype=torch.float64))
        self.out = nn.Parameter(0.5 * torch.randn(8, 3, generator=draw, dtype=torch.float64))

    def forward(self, noisy: Tensor, level: Tensor, condition: Any) -> Tensor:
        return torch.tanh(torch.cat([noisy.double(), level[:, None] / 100], dim=1) @ self.inside) @ self.out


class Near(Reward):
    """Minus the squared distance to (2, 2, 2), in thirds."""

    differentiable = True

    def __call__(self, samples: Tensor, labels: Sequence[Any]) -> Rewards:
        return Rewards(-(samples - 2.0).square().mean(1))


class Value(Near):
    """The same without a gradient."""

    differentiable = False


class Broken(Near):
    """A reward that is no number."""

    def __call__(self, samples: Tensor, labels: Sequence[Any]) -> Rewards:
        return Rewards(samples.sum(1) * torch.nan)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model(steps: int = 4) -> Model:
    return Model(rectified_flow(100), trailing(100, steps), (3,), CopiedRoles(Velocity()))


def prompted(count: int = 8, seed: int = 1) -> Prompted:
    noise = torch.randn(1, count, 3, generator=generator(seed), dtype=torch.float64)
    return Prompted(None, [None] * count, noise)


def gradient(loss: Tensor, of: Model) -> Tensor:
    """The gradient of a loss, (P,)."""
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, of.roles.parameters())])


def gradient_of(objective: Objective[Any], of: Model, seed: int = 2) -> Tensor:
    """The gradient of an objective on eight prompts, (P,)."""
    return gradient(objective.loss(prompted(), of.roles, generator(seed))[0], of)
