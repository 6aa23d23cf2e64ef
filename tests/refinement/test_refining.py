"""Refining in imagination makes a policy better in the real world, and safe where it should be; runs resume."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from diffpolicy.policies.gaussian import GaussianPolicy
from diffpolicy.refinement import (
    GateConfig,
    ImaginationConfig,
    Lagrangian,
    LagrangianConfig,
    RefineConfig,
    RewardOnly,
    Split,
    imagine_episodes,
    judge,
    known_uncertainty,
    refined_network,
    refiner,
)
from world_models import WorldModelError

LIMIT = 5.0
CONFIG = RefineConfig(
    iterations=15, updates=8, learning_rate=3e-3, imagination=ImaginationConfig(warm_up=2, passes=2)
)


def refine(line: Any, arm: Any, config: RefineConfig = CONFIG) -> Any:
    learner = refiner(
        line.network(), line.policy, line.data, line.env(128), arm, config, 0, {}, line.values()
    )
    for step in range(learner.total_steps):
        learner.update(step)
    return refined_network(learner)


@pytest.fixture(scope="module")
def refined(line: Any) -> dict[str, Any]:
    arms = {
        "reward": RewardOnly(),
        "lagrangian": Lagrangian(LagrangianConfig(LIMIT, 20)),
        "split": Split(line.critics, line.standardizer),
    }
    return {name: refine(line, arm) for name, arm in arms.items()}


def test_every_arm_earns_more_in_the_real_world_and_two_of_them_stay_within_the_limit(
    line: Any, refined: dict[str, Any], real: Callable[..., tuple[float, float]]
) -> None:
    start, found = real(line.clone), {name: real(network) for name, network in refined.items()}
    assert all(earned > start[0] + 1.0 for earned, _ in found.values())
    assert found["reward"][1] > LIMIT
    assert found["lagrangian"][1] < LIMIT
    assert found["split"][1] < 0.1 * found["reward"][1]


def test_the_gate_lets_the_safe_policy_out_and_keeps_the_other_in(line: Any, refined: dict[str, Any]) -> None:
    known = known_uncertainty(line.model, line.windows, torch.arange(len(line.windows)))
    verdicts = {
        name: judge(
            imagine_episodes(GaussianPolicy(network), line.episodes(), 0), known, GateConfig(), limit=LIMIT
        )
        for name, network in refined.items()
    }
    assert verdicts["split"].released
    assert verdicts["split"].reasons == ()
    assert not verdicts["reward"].released
    assert "cost" in verdicts["reward"].reasons[0]


def test_an_anchor_keeps_the_policy_near_the_data(line: Any) -> None:
    short = RefineConfig(iterations=4, updates=8, learning_rate=3e-3, imagination=CONFIG.imagination)
    states = torch.tensor([[0.0, 3.0], [-0.5, 3.0]])
    free, anchored = (
        refine(line, RewardOnly(), RefineConfig(**{**vars(short), "anchor": anchor})).mean(states).mean()
        for anchor in (0.0, 10.0)
    )
    before = line.clone.mean(states).mean()
    assert abs(anchored - before) < 0.5 * abs(free - before)


def test_a_run_goes_on_bit_for_bit_with_its_values_and_its_multiplier(line: Any) -> None:
    def learner() -> Any:
        arm = Lagrangian(LagrangianConfig(LIMIT, 20))
        return refiner(
            line.network(), line.policy, line.data, line.env(32), arm, CONFIG, 0, {}, line.values()
        )

    whole, first, second = learner(), learner(), learner()
    for step in range(14):
        whole.update(step)
    for step in range(11):  # in the middle of an iteration
        first.update(step)
    second.load_state(first.state())
    for step in range(11, 14):
        second.update(step)
    for one, other in zip(whole.model().values(), second.model().values(), strict=True):
        assert torch.equal(one, other)
    arms = [each.terms[0].experience.arm.multiplier for each in (whole, second)]
    assert arms[0] == arms[1] != 1.0


def test_a_world_model_that_changes_stops_the_run(line: Any) -> None:
    env = line.env(16)
    learner = refiner(line.network(), line.policy, line.data, env, RewardOnly(), CONFIG, 0, {}, line.values())
    scale = env.model.state_dict()["scale"]
    kept = scale.clone()
    scale[1, 0] *= 2.0
    try:
        with pytest.raises(WorldModelError, match="frozen"):
            learner.update(0)
    finally:
        scale.copy_(kept)
