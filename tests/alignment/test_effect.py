"""Every objective does what it is for, on points in the plane: a policy of N(0, I) goes where it is rewarded."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffpolicy.alignment import (
    Matcher,
    Objective,
    Pairs,
    Rated,
    Rollout,
    group_advantages,
    inner_levels,
    softmax_weights,
)
from diffpolicy.alignment.objectives import (
    AWM,
    NFT,
    RWR,
    SFT,
    AWMConfig,
    DiffusionDPO,
    DiffusionDPOConfig,
    NFTConfig,
)
from diffpolicy.diffusion import Sampler, rectified_flow, trailing

PROCESS = rectified_flow(100)
GRID = trailing(100, 10)
SAMPLER = Sampler(PROCESS, "ddim", GRID)
EVERYWHERE = Matcher(PROCESS, tuple(range(100)), draws=1)
INNER = Matcher(PROCESS, inner_levels(GRID), draws=4)


class Velocity(nn.Module):
    """A small denoiser of points (B, 2)."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 48), nn.SiLU(), nn.Linear(48, 2))
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.4, generator=generator)

    def forward(self, noisy: Tensor, level: Tensor, condition: Any) -> Tensor:
        out: Tensor = self.layers(torch.cat([noisy, level[:, None] / 100], dim=-1))
        return out


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(network: Velocity, count: int, draw: torch.Generator) -> Tensor:
    with torch.no_grad():
        return SAMPLER.sample(network, None, SAMPLER.draw((count, 2), draw))


def rollout(clean: Tensor) -> Rollout:
    return Rollout(clean, None, torch.zeros(len(clean), dtype=torch.int64))


@pytest.fixture(scope="module")
def base() -> Velocity:
    """What supervised training on N(0, I) gives; its loss falls."""
    draw, network = generator(), Velocity(generator(1))
    optimiser, losses = torch.optim.Adam(network.parameters(), 1e-2), []
    for _ in range(400):
        loss, logs = SFT(EVERYWHERE).loss(
            rollout(torch.randn(256, 2, generator=draw)), {"train": network}, draw
        )
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(logs["loss"])
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])
    assert points(network, 2000, draw).mean(0).abs().max() < 0.25
    return network


def improved(objective: Objective[Rated], base: Velocity, updates: int = 80) -> Tensor:
    """Points (2000, 2) of the policy after learning from its own, rewarded for a first coordinate near 1.5."""
    draw, network = generator(2), deepcopy(base)
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(updates):
        old = deepcopy(network)
        own = rollout(points(old, 256, draw))
        rewards = -(own.clean[:, 0] - 1.5).square()
        if isinstance(objective, RWR):
            advantages = softmax_weights(rewards, 0.5)
        else:
            advantages = group_advantages(rewards, own.group).values
        roles = {"train": network, "old": old, "ema": old, "reference": base}
        loss, _ = objective.loss(Rated(own, rewards, advantages), roles, draw)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    return points(network, 2000, draw)


@pytest.mark.parametrize(
    "objective",
    [
        RWR(INNER),
        AWM(INNER),
        AWM(INNER, AWMConfig(weighting="uniform", clip=0.2)),
        NFT(INNER),
        NFT(INNER, NFTConfig(normalised=False)),
        NFT(Matcher(PROCESS, GRID, draws=4, coupled=True)),
    ],
    ids=["rwr", "awm", "awm-clip", "nft", "nft-plain", "nft-coupled"],
)
def test_points_go_where_they_are_rewarded(objective: Objective[Rated], base: Velocity) -> None:
    before, after = points(base, 2000, generator(3)), improved(objective, base)
    change = (after - before).mean(0)
    assert after[:, 0].mean() == pytest.approx(1.5, abs=0.4)
    assert change[1].abs() < 0.5
    assert (after[:, 0] - 1.5).square().mean() < 0.3 * (before[:, 0] - 1.5).square().mean()
    assert after[:, 1].std() > 0.35


def test_dpo_moves_to_the_winners(base: Velocity) -> None:
    draw, network = generator(4), deepcopy(base)
    one, other = points(base, 1024, draw), points(base, 1024, draw)
    better = (one[:, :1] > other[:, :1]).expand_as(one)
    winner, loser = torch.where(better, one, other), torch.where(better, other, one)
    objective = DiffusionDPO(INNER, DiffusionDPOConfig(20.0))
    optimiser, logged = torch.optim.Adam(network.parameters(), 3e-4), []
    for _ in range(200):
        rows = torch.randint(1024, (128,), generator=draw)
        roles = {"train": network, "reference": base}
        loss, logs = objective.loss(Pairs(winner[rows], loser[rows], None), roles, draw)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        logged.append(logs)
    assert sum(each["loss"] for each in logged[-20:]) / 20 < 0.65
    assert sum(each["implicit_accuracy"] for each in logged[-20:]) / 20 > 0.6
    assert logged[-1]["loser_error"] > logged[-1]["reference_loser_error"]
    change = (points(network, 2000, generator(3)) - points(base, 2000, generator(3))).mean(0)
    assert change[0] > 0.3
    assert change[1].abs() < 0.5 * change[0]
