"""In which world models policies can be refined and judged."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from diffpolicy.cli.errors import ConfigError
from diffpolicy.cli.refine_world import BranchConfig, check_world
from diffpolicy.refinement import RefinementError
from world_models import StateWorldModel, WorldModelConfig


def world(members: int = 2, binary: float = 1.0, score: str = "success") -> Any:
    config = WorldModelConfig(members=members, hidden=[4], head_hidden=[4])
    model = StateWorldModel(config, 2, 1, torch.Generator())
    model.binary[0] = binary
    return SimpleNamespace(model=model, task=SimpleNamespace(score=score, name="push-v3"))


def test_success_is_not_read_from_a_dense_reward() -> None:
    check_world(world())
    check_world(world(binary=0.0, score="return"))
    with pytest.raises(RefinementError, match="task=push-v3 source=mixture"):
        check_world(world(binary=0.0))


def test_a_single_member_is_never_unsure() -> None:
    with pytest.raises(ConfigError, match="one member"):
        check_world(world(members=1))


def test_branches_have_a_step_or_what_is_usual() -> None:
    assert BranchConfig(horizon=None).horizon is None
    with pytest.raises(ConfigError, match=r"branches\.horizon=0"):
        BranchConfig(horizon=0)
