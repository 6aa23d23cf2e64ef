"""Imagined and real episodes of success are equally long; those with costs are whole."""

from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from diffpolicy.cli import refine_results
from diffpolicy.policies import ActionChunk, Memory, Observation
from diffpolicy.refinement import ImaginedEpisodes

WHOLE, LATE, CUT = 50, 30, 10  # steps: of a real episode, until it succeeds, of an imagined one


class Patient:
    """A vector of environments in which every episode succeeds late."""

    single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, count: int) -> None:
        self.num_envs = count

    def reset(self, *, seed: Any = None) -> tuple[Any, dict[str, Any]]:
        self.step_number = 0
        return np.zeros((self.num_envs, 2), np.float32), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.step_number += 1
        none = np.zeros(self.num_envs)
        success = np.full(self.num_envs, self.step_number == LATE)
        over = np.full(self.num_envs, self.step_number >= WHOLE)
        return (
            np.zeros((self.num_envs, 2), np.float32),
            none,
            none > 0,
            over,
            {"cost": none, "success": success},
        )

    def close(self) -> None:
        pass


class Still:
    observation_horizon = 1

    def start(self, batch: int, seed: int) -> Memory:
        return Memory(torch.Generator())

    def act(self, observation: Observation, memory: Memory) -> tuple[ActionChunk, Memory]:
        return ActionChunk(torch.zeros(len(observation.newest), 1, 1)), memory


@pytest.mark.parametrize(("score", "length", "earned"), [("success", CUT, 0.0), ("return", WHOLE, 0.0)])
def test_real_successes_have_the_time_of_imagined_ones(
    score: str, length: int, earned: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = torch.ones(2)
    episodes = ImaginedEpisodes(one, one, one, one, one > 0)
    monkeypatch.setattr(refine_results, "imagine_episodes", lambda policy, env, seed: episodes)
    monkeypatch.setattr(refine_results.envs, "make_vector", lambda task, count, autoreset: Patient(count))
    world: Any = SimpleNamespace(task=SimpleNamespace(score=score, id="a-task"), frozen=None, steps=CUT)
    cfg = OmegaConf.create({"episodes": 3, "episodes_seed": 0})
    side = refine_results.measure(cfg, world, Still())
    assert side.recorded is not None
    assert side.recorded.episode_lengths.tolist() == [length] * 3
    assert side.real is not None
    assert list(side.real.returns) == [earned] * 3
