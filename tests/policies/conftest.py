"""Toys for chunk policies: an agent on a plane that goes to a block, a tiny recipe, and models that are exact."""

import math
import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from diffpolicy.data import OfflineDataset
from diffpolicy.policies.chunk_config import (
    ConditioningConfig,
    DiffusionConfig,
    NetworkConfig,
    OptimizerConfig,
    ProcessConfig,
)
from envs.layout import Affine, Body, Layout, Symmetry

# A Push-T of the mind: agent and block in a square of side 2, mirrored in the diagonal x = -y.
LAYOUT = Layout(
    agent=(0, 1),
    agent_scale=0.5,
    agent_offset=0.25,
    angles=(4,),
    bodies=(Body(position=(2, 3), angle=4),),
    symmetries=(
        Symmetry(
            observation=Affine(
                matrix=(
                    (0.0, -1.0, 0.0, 0.0, 0.0),
                    (-1.0, 0.0, 0.0, 0.0, 0.0),
                    (0.0, 0.0, 0.0, -1.0, 0.0),
                    (0.0, 0.0, -1.0, 0.0, 0.0),
                    (0.0, 0.0, 0.0, 0.0, -1.0),
                ),
                offset=(0.0, 0.0, 0.0, 0.0, math.pi / 2),
            ),
            action=Affine(matrix=((0.0, -1.0), (-1.0, 0.0)), offset=(0.5, 0.5)),
        ),
    ),
)
BEST = ConditioningConfig(
    prediction="edm",
    relative=True,
    dct=True,
    weight_power=0.7,
    features="geometric",
    newest_only=True,
    normalizer="limits",
    symmetry=True,
)
TINY = DiffusionConfig(
    prediction_horizon=8,
    execution_horizon=4,
    network=NetworkConfig(kind="mlp", hidden=[32], step_embedding=16),
    process=ProcessConfig(levels=20),
    conditioning=BEST,
    optimizer=OptimizerConfig(updates=40, batch=32, learning_rate=3e-3, warmup=5, gradient_clip=1.0),
)


def demonstrations(observations: Tensor, actions: Tensor, lengths: list[int]) -> OfflineDataset:
    """Return a dataset of episodes of these lengths from observations (N, O) and actions (N, A)."""
    count = len(actions)
    ends = torch.tensor(lengths).cumsum(0)
    timeouts = torch.zeros(count, dtype=torch.bool)
    timeouts[ends - 1] = True
    rows = torch.arange(count) + timeouts.long().cumsum(0) - timeouts.long()
    stored = torch.empty(count + len(lengths), observations.shape[1])
    stored[rows] = observations
    stored[rows[ends - 1] + 1] = observations[ends - 1]
    return OfflineDataset(
        observations=stored,
        rows=rows,
        actions=actions,
        rewards=torch.zeros(count),
        costs=torch.zeros(count),
        terminals=torch.zeros(count, dtype=torch.bool),
        timeouts=timeouts,
        episode_ends=ends,
        final_observations_known=False,
    )


def straight_ways(episodes: int = 12, length: int = 20, seed: int = 0) -> OfflineDataset:
    """Return episodes in which the agent goes straight to the block."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [length] * episodes
    corners = torch.rand(episodes, 4, generator=generator) * 1.2 - 0.6
    angles = torch.rand(episodes, 1, generator=generator) * 2 * math.pi
    progress = torch.linspace(0.0, 1.0, length).view(1, -1, 1)
    agent, block = corners[:, None, :2], corners[:, None, 2:]
    path = agent + progress * (block - agent)
    states = torch.cat([path, block.expand_as(path), angles.unsqueeze(1).expand(-1, length, -1)], dim=-1)
    ahead = torch.cat([path[:, 1:], path[:, -1:]], dim=1) * 0.5 + 0.25
    return demonstrations(states.flatten(0, 1), ahead.flatten(0, 1), lengths)


@pytest.fixture
def layout() -> Layout:
    """The layout of `plane`."""
    return LAYOUT


@pytest.fixture
def tiny() -> DiffusionConfig:
    """All preconditioning on a tiny network, trained for 40 updates."""
    return TINY


@pytest.fixture
def plane() -> OfflineDataset:
    """Twelve demonstrations of the way to the block."""
    return straight_ways()


@pytest.fixture
def make_demonstrations() -> Callable[[Tensor, Tensor, list[int]], OfflineDataset]:
    """The function that makes a dataset of observations, actions and the lengths of episodes."""
    return demonstrations


@pytest.fixture(scope="session")
def analytic() -> SimpleNamespace:
    """What `analytic.py` defines: AnalyticModel, whose best denoiser is known, and clock, what it sees."""
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("analytic.py"))))
