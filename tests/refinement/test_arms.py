"""What arms praise and blame, in numbers small enough to be worked out."""

import math
from typing import Any

import pytest
import torch
from made_branches import made
from torch import Tensor

from diffpolicy.data import Standardizer
from diffpolicy.refinement import Lagrangian, LagrangianConfig, RefinementError, RewardOnly, Split
from diffpolicy.refinement.values import Estimate, Estimates
from diffpolicy.safety import Value

LAGRANGIAN = LagrangianConfig(limit=10.0, episode_length=100)


def estimates(reward: Tensor, cost: Tensor | None = None) -> Estimates:
    cost = torch.zeros_like(reward) if cost is None else cost
    return Estimates(Estimate(reward, reward), Estimate(cost, cost))


class Table:
    """Critics that know one row of values."""

    def __init__(self, q: Tensor, v: Tensor) -> None:
        self.q, self.v = q, v

    def requires_grad_(self, requires_grad: bool) -> "Table":
        return self

    def eval(self) -> "Table":
        return self

    def values(self, observations: Tensor, actions: Tensor) -> dict[str, Value]:
        return {"feasibility": Value(self.q[None], self.v[None])}


def split(q: list[float], v: list[float]) -> Split:
    critics: Any = Table(torch.tensor(q), torch.tensor(v))
    return Split(critics, Standardizer(torch.zeros(2), torch.ones(2)))


def test_reward_alone_is_normalised_over_what_counts() -> None:
    kept = torch.tensor([[True, True, True, False]])
    branches = made(torch.zeros(1, 4), counted=kept)
    found, _ = RewardOnly().advantages(branches, estimates(torch.tensor([[1.0, 2.0, 3.0, 99.0]])))
    torch.testing.assert_close(
        found[0, :3], torch.tensor([-1.0, 0.0, 1.0]) * math.sqrt(1.5), rtol=1e-3, atol=1e-3
    )
    assert found[0, 3] == 5.0  # cut, and never learnt from


def test_the_multiplier_rises_while_episodes_cost_more_than_their_share_and_falls_after() -> None:
    arm = Lagrangian(LAGRANGIAN)
    dear = made(torch.zeros(4, 8))._replace(costs=torch.full((4, 8), 0.06))  # 6 an episode, 3 may be
    _, logs = arm.advantages(dear, estimates(torch.randn(4, 8), torch.randn(4, 8)))
    assert logs["episode_cost"] == pytest.approx(6.0)
    assert logs["multiplier"] == 1.0
    assert arm.multiplier == pytest.approx(math.exp(0.2))
    cheap = made(torch.zeros(4, 8))
    arm.advantages(cheap, estimates(torch.randn(4, 8)))
    assert arm.multiplier == pytest.approx(1.0)
    other = Lagrangian(LAGRANGIAN)
    arm.advantages(dear, estimates(torch.randn(4, 8)))
    other.load_state(arm.state())
    assert other.multiplier == arm.multiplier


def test_costs_are_those_of_the_second_half_with_branches_that_were_cut_off() -> None:
    costs = torch.zeros(4, 2)
    costs[1] = 1.0  # of the first half
    costs[3, 0] = 1.0  # a branch cut off, a violation
    _, logs = Lagrangian(LAGRANGIAN).advantages(
        made(torch.zeros(4, 2))._replace(costs=costs), estimates(torch.randn(4, 2))
    )
    assert logs["episode_cost"] == pytest.approx(25.0)


def test_who_is_put_into_a_violation_does_not_answer_for_it_unless_the_model_knew_nothing_of_it() -> None:
    costs, unknown = torch.zeros(4, 4), torch.zeros(4, 4, dtype=torch.bool)
    costs[0, :2], unknown[0, 0] = 1.0, True
    costs[2:, :2] = 0.5
    costs[3, 2] = 0.5
    branches = made(torch.zeros(4, 4), unknown=unknown)._replace(costs=costs)
    _, logs = Lagrangian(LAGRANGIAN).advantages(branches, estimates(torch.randn(4, 4)))
    assert logs["episode_cost"] == pytest.approx(100 * 1.5 / 6)


def test_a_large_multiplier_makes_cost_alone_count() -> None:
    arm = Lagrangian(LAGRANGIAN)
    arm.multiplier = 1e4
    reward, cost = torch.randn(4, 8), torch.randn(4, 8)
    found, _ = arm.advantages(made(torch.zeros(4, 8)), estimates(reward, cost))
    torch.testing.assert_close(found, -(cost - cost.mean()) / cost.std(correction=0), rtol=1e-2, atol=1e-2)


def test_split_praises_reward_inside_blames_leaving_and_asks_for_the_way_back_outside() -> None:
    #         inside, inside, leaving, outside, outside
    q, v = [-1.0, -1.0, 2.0, 4.0, 8.0], [-1.0, -1.0, -1.0, 5.0, 5.0]
    found, logs = split(q, v).advantages(
        made(torch.zeros(1, 5)), estimates(torch.tensor([[1.0, 3.0, 50.0, 50.0, -50.0]]))
    )
    inside, leaving, outside = found[0, :2], found[0, 2], found[0, 3:]
    torch.testing.assert_close(inside, torch.tensor([-1.0, 1.0]), rtol=1e-3, atol=1e-3)
    ahead = torch.tensor([0.0, 0.0, 3.0, -1.0, 3.0])
    ahead = ahead / ahead.std(correction=0)
    torch.testing.assert_close(leaving, -ahead[2])
    torch.testing.assert_close(outside, -(ahead[3:] - ahead[3:].mean()))
    assert logs == {"infeasible": pytest.approx(0.4), "leaving": pytest.approx(0.2)}


def test_split_goes_on_where_nothing_is_feasible() -> None:
    found, _ = split([1.0, 2.0], [1.5, 1.5]).advantages(
        made(torch.zeros(1, 2)), estimates(torch.tensor([[9.0, 1.0]]))
    )
    assert found[0, 0] > 0.0 > found[0, 1]


@pytest.mark.parametrize("wrong", [{"limit": 0.0}, {"margin": 1.5}, {"multiplier": 0.0}])
def test_what_is_no_constraint_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(RefinementError):
        LagrangianConfig(**{**vars(LAGRANGIAN), **wrong})
