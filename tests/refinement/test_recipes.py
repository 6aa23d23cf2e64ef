"""Where refinement is held to where it starts, and what clones are standardised by."""

from typing import Any

import pytest
import torch

from diffpolicy.policies.gaussian import GaussianConfig
from diffpolicy.refinement import (
    CloneConfig,
    ImaginationConfig,
    RefineConfig,
    RefinementError,
    RewardOnly,
    cloner,
    refined_network,
    refiner,
)
from diffpolicy.refinement.recipes import UNSEEN

SHORT = {"iterations": 4, "updates": 8, "learning_rate": 3e-3, "imagination": ImaginationConfig(1, 2)}


def moved(line: Any, start_anchor: float) -> float:
    config = RefineConfig(**SHORT, start_anchor=start_anchor)
    learner = refiner(
        line.network(), line.policy, line.data, line.env(64), RewardOnly(), config, 0, {}, line.values()
    )
    for step in range(learner.total_steps):
        learner.update(step)
    states = line.data.observations[:64]
    with torch.no_grad():
        return float((refined_network(learner).mean(states) - line.clone.mean(states)).abs().mean())


def test_an_anchor_keeps_the_policy_near_its_start(line: Any) -> None:
    assert moved(line, 30.0) < 0.3 * moved(line, 0.0)


@pytest.mark.parametrize("given", [{"start_anchor": -1.0}, {"anchor": -1.0}, {"clip": 1.0}])
def test_settings_without_a_meaning_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(RefinementError, match="anchors are 0 or more"):
        RefineConfig(**given)


@pytest.mark.parametrize(
    "given", [{"iterations": 0}, {"updates": 0}, {"learning_rate": 0.0}, {"gradient_clip": 0.0}]
)
def test_updates_that_are_none_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="alignment has"):
        RefineConfig(**given)


def test_a_clone_does_not_see_what_hardly_moves(line: Any) -> None:
    def scale(config: CloneConfig) -> torch.Tensor:
        learner = cloner(line.data, GaussianConfig([8]), config, 0, torch.device("cpu"), {})
        return refined_network(learner).scale

    plain, chosen = (scale(CloneConfig(1, 8, least_deviation=least)) for least in (0.0, 0.5))
    assert torch.equal(chosen, torch.stack([plain[0], torch.tensor(UNSEEN)]))  # a place, and a constant
    assert scale(CloneConfig(1, 8, unseen=[0])).tolist() == [UNSEEN, 1.0]
    with pytest.raises(RefinementError, match=r"unseen=\[2\].*have 2"):
        scale(CloneConfig(1, 8, unseen=[2]))
    with pytest.raises(RefinementError, match="cloning takes updates"):
        CloneConfig(least_deviation=-1.0)
