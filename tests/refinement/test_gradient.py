"""The gradient of DPPO on a linear-Gaussian toy is that of the expected reward, in closed form and by differences."""

import math
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn

from diffpolicy.alignment import Rated, Rollout
from diffpolicy.alignment.objectives import DDPO, DDPOConfig
from diffpolicy.diffusion import GaussianProcess, Path, StepRule, transitions

PROCESS = GaussianProcess(torch.tensor([0.8, 0.0]), torch.tensor([0.6, 1.0]), "sample")
LEVELS = (1, 0)
RULE = StepRule("ddim", eta=1.0, minimum_std=0.3)
GOAL = 0.7
NODES = 6  # exact for polynomials of degree 11, and these have 6 at most


class Linear(nn.Module):
    """Predicts `gain x + shift` for the clean action, whatever the level."""

    def __init__(self, gain: float, shift: float) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([gain, shift]))

    def forward(self, noisy: Tensor, level: Tensor, condition: None) -> Tensor:
        return self.weights[0] * noisy + self.weights[1]


def expected_reward(gain: float, shift: float) -> float:
    """-E(a - goal)^2 of a chain of two steps from standard normal noise, all of whose moments are known."""
    mean, variance = 0.0, 1.0
    for step in transitions(LEVELS):
        clean, kept, std = RULE.weights(PROCESS, *step)
        slope = kept + clean * gain
        mean, variance = slope * mean + clean * shift, slope**2 * variance + std**2
    return -(variance + (mean - GOAL) ** 2)


def quadrature() -> tuple[Tensor, Tensor]:
    """Return nodes (3, B, 1) and weights (B,) of three standard normal numbers (Gauss-Hermite)."""
    points, weights = np.polynomial.hermite_e.hermegauss(NODES)
    grid = torch.tensor(list(product(points, repeat=3)), dtype=torch.float32)
    share = torch.tensor([math.prod(each) for each in product(weights, repeat=3)]) / (2 * math.pi) ** 1.5
    return grid.T.unsqueeze(-1).contiguous(), share.float()


def test_dppo_climbs_the_expected_reward() -> None:
    gain, shift, difference = 0.4, -0.2, 1e-4
    denoiser, (noise, share) = Linear(gain, shift), quadrature()
    states, log_probs = [noise[0]], []
    with torch.no_grad():
        for number, (level, following) in enumerate(transitions(LEVELS)):
            rows = torch.full((len(share),), level)
            step = RULE.step(PROCESS, denoiser(states[-1], rows, None), states[-1], level, following)
            states.append(step.sample(noise[number + 1]))
            log_probs.append(step.log_prob(states[-1]))
    path = Path(torch.stack(states), LEVELS, torch.stack(log_probs))
    rewards = -(path.clean[:, 0] - GOAL).square()
    # The mean over samples and steps is the expectation when samples count by their quadrature weights.
    advantages = rewards * share * len(share) * len(LEVELS)
    rollout = Rollout(path.clean, None, torch.arange(len(share)), start=path.states[0], path=path)
    objective = DDPO(PROCESS, RULE, DDPOConfig(0.2))
    parts = list(objective.parts(Rated(rollout, rewards, advantages), {"train": denoiser}, torch.Generator()))
    torch.stack([part.loss for part in parts]).sum().backward()  # type: ignore[no-untyped-call]
    assert denoiser.weights.grad is not None
    wanted = [
        (expected_reward(gain + difference, shift) - expected_reward(gain - difference, shift)),
        (expected_reward(gain, shift + difference) - expected_reward(gain, shift - difference)),
    ]
    torch.testing.assert_close(
        -denoiser.weights.grad, torch.tensor(wanted) / (2.0 * difference), rtol=1e-4, atol=1e-5
    )
    assert abs((rewards * share).sum().item() - expected_reward(gain, shift)) < 1e-5
