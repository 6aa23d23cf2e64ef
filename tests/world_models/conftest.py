"""A world that is known exactly: a point pushed along a line, with noise where asked for."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from diffpolicy.data import OfflineDataset
from world_models import DiffusionSteps, WorldModelConfig, WorldModelLearner

LENGTH = 20


def make_line_world(episodes: int = 40, seed: int = 0, noise: float = 0.0) -> OfflineDataset:
    """x' = x + .2 a (+ noise); the second column never moves; reward x', cost where x' > .5, over where x' > 1."""
    generator = torch.Generator().manual_seed(seed)
    columns: dict[str, list[torch.Tensor]] = {name: [] for name in ("o", "a", "r", "c", "t")}
    ends = []
    for _ in range(episodes):
        place = [2.0 * torch.rand((), generator=generator) - 1.0]
        actions = 2.0 * torch.rand(LENGTH, 1, generator=generator) - 1.0
        for action in actions:
            place.append(place[-1] + 0.2 * action[0] + noise * torch.randn((), generator=generator))
        line = torch.stack(place)
        over = (line[1:] > 1.0).nonzero()
        stop = int(over[0]) + 1 if len(over) else LENGTH
        line = line[: stop + 1]
        columns["o"].append(torch.stack([line, torch.full_like(line, 3.0)], dim=1))
        columns["a"].append(actions[:stop])
        columns["r"].append(line[1:])
        columns["c"].append((line[1:] > 0.5).float())
        columns["t"].append(line[1:] > 1.0)
        ends.append(stop + (ends[-1] if ends else 0))
    lengths = torch.tensor([len(each) for each in columns["a"]])
    episode_of = torch.arange(episodes).repeat_interleave(lengths)
    terminals = torch.cat(columns["t"])
    last = torch.zeros(len(terminals), dtype=torch.bool)
    last[torch.tensor(ends) - 1] = True
    return OfflineDataset(
        observations=torch.cat(columns["o"]),
        rows=torch.arange(len(terminals)) + episode_of,
        actions=torch.cat(columns["a"]),
        rewards=torch.cat(columns["r"]),
        costs=torch.cat(columns["c"]),
        terminals=terminals,
        timeouts=last & ~terminals,
        episode_ends=torch.tensor(ends),
    )


def without_final_observations(dataset: OfflineDataset) -> OfflineDataset:
    """Return the dataset as files that keep no final observations give it: a copy of the last one instead."""
    observations, last = dataset.observations.clone(), dataset.rows[dataset.episode_ends - 1]
    observations[last + 1] = observations[last]
    return replace(dataset, observations=observations, final_observations_known=False)


@pytest.fixture
def line_world() -> Callable[..., OfflineDataset]:
    """Return the function that makes a line world."""
    return make_line_world


@pytest.fixture(scope="session")
def trained() -> Callable[..., WorldModelLearner]:
    """Return a function that trains a small model of a line world, each only once."""
    known: dict[str, WorldModelLearner] = {}

    def train(kind: str, noise: float = 0.0) -> WorldModelLearner:
        name = f"{kind} {noise}"
        if name not in known:
            config = WorldModelConfig(
                kind=kind,
                members=2,
                hidden=[32, 32],
                head_hidden=[32],
                updates=800,
                batch=128,
                learning_rate=5e-3,
                diffusion=DiffusionSteps(steps=12),
            )
            known[name] = WorldModelLearner(make_line_world(episodes=300, noise=noise), config, seed=0)
            for step in range(config.updates):
                known[name].update(step)
        return known[name]

    return train
