"""The line world of the world models' tests, learnt once: its model, its critics, and a clone of its data.

A point x is pushed along a line, x' = x + .2 a; it is paid x', and pays where x' > .5. The data push at random.
"""

import copy
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from diffpolicy.data import OfflineDataset, Standardizer
from diffpolicy.policies import FisorConfig, FisorLearner
from diffpolicy.policies.actors import ActorConfig
from diffpolicy.policies.gaussian import GaussianConfig, GaussianNetwork
from diffpolicy.refinement import (
    BranchValueConfig,
    BranchValues,
    CloneConfig,
    cloner,
    episodes_env,
    first_moments,
    refined_network,
)
from diffpolicy.safety import CriticConfig, Critics
from world_models import (
    ImaginedEnv,
    ImaginedEnvConfig,
    StateWorldModel,
    Windows,
    WorldModelConfig,
    WorldModelLearner,
)

# Helper modules beside the tests are found by name: the importlib mode leaves the path as it is.
sys.path.insert(0, str(Path(__file__).parent))

_there = Path(__file__).parents[1] / "world_models" / "conftest.py"
_spec = importlib.util.spec_from_file_location("line_world_of_world_models", _there)
assert _spec is not None
assert _spec.loader is not None
_line = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_line)
make_line_world: Callable[..., OfflineDataset] = _line.make_line_world
LENGTH: int = _line.LENGTH
CPU = torch.device("cpu")


class Line(NamedTuple):
    """Everything that is learnt of the line world before a policy is refined in it."""

    data: OfflineDataset
    model: StateWorldModel
    windows: Windows
    critics: Critics
    standardizer: Standardizer
    clone: GaussianNetwork
    policy: GaussianConfig

    def network(self) -> GaussianNetwork:
        """Return a copy of the clone, to be refined."""
        return copy.deepcopy(self.clone)

    def env(self, count: int = 64, horizon: int = 10, max_uncertainty: float | None = None) -> ImaginedEnv:
        """Return an environment of branches from all of the data."""
        return ImaginedEnv(self.model, self.windows, count, ImaginedEnvConfig(horizon, max_uncertainty))

    def episodes(self, count: int = 64) -> ImaginedEnv:
        """Return an environment of whole episodes that begin in the safe part."""
        starts = first_moments(self.data, self.windows)
        starts = starts[self.data.observations[self.data.rows[starts], 0] < 0.4]
        return episodes_env(self.model, self.windows, starts, count, LENGTH)

    def values(self) -> BranchValues:
        """Return small values of branches."""
        return BranchValues(self.data, BranchValueConfig(hidden=(32, 32)))


@pytest.fixture(scope="session")
def line() -> Line:
    """Return the line world, learnt."""
    data = make_line_world(200)
    sizes = {"members": 2, "hidden": [32, 32], "head_hidden": [32], "batch": 128}
    dreamer = WorldModelLearner(data, WorldModelConfig(updates=600, learning_rate=5e-3, **sizes), 0)
    for step in range(dreamer.total_steps):
        dreamer.update(step)
    critic = CriticConfig([32, 32], 256, 3e-3, polyak=0.02, behaviour_bound=["feasibility"])
    actor = ActorConfig(network="mlp", hidden=[8], decay_steps=1)
    config = FisorConfig(["none"], False, critic_updates=800, standardize=True, critic=critic, actor=actor)
    fisor = FisorLearner(data, config, [0], 1.0, CPU)
    for step in range(fisor.total_steps):
        fisor.update(step)
    policy = GaussianConfig([32, 32])
    learner = cloner(data, policy, CloneConfig(150, 256, 5e-3), 0, CPU, {})
    for step in range(learner.total_steps):
        learner.update(step)
    windows = Windows(data, 1)
    return Line(
        data,
        dreamer.average,
        windows,
        fisor.critics,
        fisor.data.standardizer,
        refined_network(learner).requires_grad_(False),
        policy,
    )


@torch.no_grad()
def real_episodes(network: GaussianNetwork, count: int = 200) -> tuple[float, float]:
    """Return mean return and cost of the mean action in the real line world, begun in its safe part."""
    place = torch.linspace(-1.0, 0.4, count)
    running = torch.ones(count, dtype=torch.bool)
    total, cost = torch.zeros(count), torch.zeros(count)
    for _ in range(LENGTH):
        action: Tensor = network.mean(torch.stack([place, torch.full_like(place, 3.0)], dim=1))[:, 0]
        place = torch.where(running, place + 0.2 * action, place)
        total += running * place
        cost += running * (place > 0.5)
        running &= place <= 1.0
    return total.mean().item(), cost.mean().item()


@pytest.fixture(scope="session")
def real() -> Callable[..., tuple[float, float]]:
    """Return the function that plays the real line world."""
    return real_episodes
