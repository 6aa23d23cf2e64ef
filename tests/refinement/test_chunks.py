"""Chunk policies in imagination: the simulator's place is taken, success is learnt from, runs go on bit for bit."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from diffpolicy.alignment import Model
from diffpolicy.policies import DiffusionConfig, DiffusionLearner
from diffpolicy.policies.acting import chunk_policy
from diffpolicy.policies.alignment import aligned_model, chunk_model, demonstrated
from diffpolicy.policies.chunk_config import (
    ConditioningConfig,
    NetworkConfig,
    OptimizerConfig,
    ProcessConfig,
)
from diffpolicy.refinement import RefinementError, imagine_episodes
from diffpolicy.refinement.chunks import ChunkRefineConfig, LockstepEnv, chunk_refiner
from envs.layout import Layout
from world_models import ImaginedEnv, ImaginedEnvConfig, WorldModelConfig, WorldModelLearner

CPU = torch.device("cpu")
CONFIG = ChunkRefineConfig(
    iterations=12, updates=4, learning_rate=3e-3, clip=0.1, first_clip=0.05, executed=4, minimum_std=0.3
)


@pytest.fixture(scope="module")
def world(line: Any) -> WorldModelLearner:
    """A model of a line world in which x > .5 is a success and nothing ends."""
    place = line.data.observations[line.data.rows + 1, 0]
    data = replace(
        line.data,
        rewards=(place > 0.5).float(),
        terminals=line.data.terminals & False,
        timeouts=line.data.timeouts | line.data.terminals,
    )
    config = WorldModelConfig(members=2, hidden=[32, 32], head_hidden=[16], updates=300, learning_rate=5e-3)
    learner = WorldModelLearner(data, config, 0)
    for step in range(learner.total_steps):
        learner.update(step)
    return learner


def imagined(world: WorldModelLearner, count: int, horizon: int = 12) -> ImaginedEnv:
    starts = (world.windows.observations[world.windows.rows, 0] < 0.2).nonzero().flatten()
    return ImaginedEnv(world.average, world.windows, count, ImaginedEnvConfig(horizon), starts)


@pytest.fixture
def model(line: Any) -> Model:
    """A chunk policy that clones the data, ready to be aligned."""
    config = DiffusionConfig(
        observation_horizon=1,
        prediction_horizon=4,
        execution_horizon=4,
        network=NetworkConfig(kind="mlp", hidden=[32, 32], step_embedding=16),
        process=ProcessConfig(levels=10),
        conditioning=ConditioningConfig(prediction="sample"),
        optimizer=OptimizerConfig(updates=60, batch=64, learning_rate=1e-3),
    )
    learner = DiffusionLearner(line.data, config, 0, Layout(), CPU)
    for step in range(learner.total_steps):
        learner.update(step)
    return aligned_model(learner.average, steps=3)


def success(world: WorldModelLearner, model: Model) -> float:
    """Return how often the policy's few-step sampler succeeds in imagination."""
    policy = chunk_policy(chunk_model(model.roles), "ddim_3@4")
    return imagine_episodes(policy, imagined(world, 128), 5).success.float().mean().item()


@pytest.mark.parametrize(
    "given", [{"iterations": 0}, {"learning_rate": 0.0}, {"clip": 0.0}, {"discount": 2.0}, {"executed": 0}]
)
def test_settings_without_a_meaning_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"alignment has|clipped between|discount|one action or more"):
        ChunkRefineConfig(**given)


def test_the_world_model_takes_the_simulator_s_place(world: WorldModelLearner) -> None:
    env = LockstepEnv(imagined(world, 8))
    one, _ = env.reset(seed=[3] * 8)
    again, _ = env.reset(seed=[3] * 8)
    assert np.array_equal(one, again)
    won = np.zeros(8, dtype=bool)
    for _ in range(12):
        seen, rewards, over, cut, infos = env.step(np.ones((8, 1), dtype=np.float32))
        assert seen.shape == (8, 2)
        assert np.array_equal(infos["success"], rewards > 0.5)
        assert not (infos["success"] & ~over).any()
        won |= infos["success"]
    assert won.mean() > 0.7
    assert (over | cut).all()


def test_a_chunk_policy_learns_to_succeed(world: WorldModelLearner, model: Model) -> None:
    before = success(world, model)
    learner = chunk_refiner(model, imagined(world, 96), CONFIG, 0, {})
    for step in range(learner.total_steps):
        learner.update(step)
    assert success(world, model) > before + 0.2


def test_a_run_of_chunks_goes_on_bit_for_bit(world: WorldModelLearner, model: Model, line: Any) -> None:
    anchored = replace(CONFIG, iterations=2, anchor=0.1, anchor_batch=8)

    def learner() -> Any:
        chunks = copy.deepcopy(chunk_model(model.roles))
        shown = demonstrated(chunks, line.data)
        return chunk_refiner(aligned_model(chunks, steps=3), imagined(world, 16), anchored, 0, {}, shown)

    whole = learner()
    for step in range(6):
        whole.update(step)
    first = learner()
    for step in range(5):
        first.update(step)
    second = learner()
    second.load_state(first.state())
    second.update(5)
    wanted = whole.model()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in second.model().items())


def test_an_anchor_takes_something_to_hold_on_to(world: WorldModelLearner, model: Model) -> None:
    with pytest.raises(RefinementError, match="demonstrations"):
        chunk_refiner(model, imagined(world, 4), replace(CONFIG, anchor=0.3), 0, {})
