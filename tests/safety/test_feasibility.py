"""The feasible Bellman operator, critics and weights against closed forms and tabular worlds."""

import math

import pytest
import torch

from diffpolicy.safety import (
    WEIGHTS,
    CriticBatch,
    CriticConfig,
    Critics,
    SafetyError,
    Value,
    WeightConfig,
    behaviour_values,
    feasible_target,
    violation_values,
)


def _chain() -> tuple[torch.Tensor, torch.Tensor]:
    """A 7-state avoid world: state 6 violates and absorbs, 5 slides into it, the others may go left or right.

    Returns h (7,) and successors (7, 2).
    """
    violation = torch.tensor([-1.0] * 6 + [1.0]).double()
    left = [0, 0, 1, 2, 3, 6, 6]
    right = [1, 2, 3, 4, 5, 6, 6]
    return violation, torch.tensor([left, right]).T


def _iterate(gamma: float, sweeps: int) -> torch.Tensor:
    violation, successors = _chain()
    value = torch.zeros(7).double()
    for _ in range(sweeps):
        q = feasible_target(violation.unsqueeze(1), value[successors], torch.ones(7, 2), gamma)
        value = q.min(dim=1).values
    return value


def test_operator_converges_to_the_largest_feasible_set_and_to_max_over_time() -> None:
    value = _iterate(0.999, 9_000)
    torch.testing.assert_close(value, torch.tensor([-1.0] * 5 + [1.0, 1.0]).double(), atol=2e-2, rtol=0)


def test_operator_is_a_gamma_contraction() -> None:
    violation, successors = _chain()
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        first, second = torch.randn(2, 7, dtype=torch.float64, generator=generator) * 5
        images = [
            feasible_target(violation.unsqueeze(1), value[successors], torch.ones(7, 2), 0.9)
            .min(dim=1)
            .values
            for value in (first, second)
        ]
        assert (images[0] - images[1]).abs().max() <= 0.9 * (first - second).abs().max() + 1e-12


def test_end_of_episode_has_its_own_violation_as_target() -> None:
    target = feasible_target(torch.tensor([25.0, -1.0]), torch.tensor([-1.0, 25.0]), torch.zeros(2), 0.99)
    torch.testing.assert_close(target, torch.tensor([25.0, -1.0]))


def test_scale_25_looks_324_steps_ahead() -> None:
    """An unavoidable violation k steps ahead makes the value positive while gamma^k > 1 / (M + 1)."""
    steps = 330
    costs = torch.zeros(steps)
    costs[-1] = 1.0
    _, feasible, _ = behaviour_values(
        torch.zeros(steps), costs, violation_values(costs), torch.tensor([steps]), 0.99
    )
    ahead = torch.arange(steps - 1, -1, -1)
    assert int(ahead[feasible > 0].max()) == math.floor(math.log(1 / 26) / math.log(0.99)) == 324


def test_behaviour_values_equal_a_backward_loop() -> None:
    generator = torch.Generator().manual_seed(3)
    ends = torch.tensor([4, 5, 12, 20])
    rewards = torch.randn(20, generator=generator)
    costs = (torch.rand(20, generator=generator) < 0.3).float()
    violation = violation_values(costs)
    got = behaviour_values(rewards, costs, violation, ends, 0.9)
    start = 0
    for end in ends.tolist():
        reward_next = cost_next = 0.0
        feasible_next = None
        for i in range(end - 1, start - 1, -1):
            reward_next = rewards[i].item() + 0.9 * reward_next
            cost_next = costs[i].item() + 0.9 * cost_next
            h = violation[i].item()
            feasible_next = h if feasible_next is None else 0.1 * h + 0.9 * max(h, feasible_next)
            assert got[0][i].item() == pytest.approx(reward_next, abs=1e-4)
            assert got[1][i].item() == pytest.approx(feasible_next, abs=1e-4)
            assert got[2][i].item() == pytest.approx(cost_next, abs=1e-4)
        start = end


def _values(**pairs: tuple[float, float]) -> dict[str, Value]:
    return {kind: Value(torch.tensor(q), torch.tensor(v)) for kind, (q, v) in pairs.items()}


@pytest.mark.parametrize(
    ("name", "reward", "feasibility", "cost", "expected"),
    [
        ("reward", (1.0, 0.5), (9.0, 9.0), (0.0, 0.0), math.exp(1.5)),
        ("reward", (9.0, 0.0), (9.0, 9.0), (0.0, 0.0), 100.0),
        ("fisor", (1.0, 0.5), (-0.5, -0.9), (0.0, 0.0), math.exp(1.5)),  # feasible: reward decides
        ("fisor", (1.0, 0.5), (0.1, -0.9), (0.0, 0.0), 0.0),  # the action leaves the feasible set
        ("fisor", (1.0, 0.5), (0.9, 1.0), (0.0, 0.0), math.exp(0.5)),  # infeasible: feasibility decides
        ("fisor", (9.0, 0.0), (0.0, 9.0), (0.0, 0.0), 150.0),
        ("fisor", (9.0, 0.0), (25.0, 25.0), (0.0, 5.0), 1.0),  # inside a violation nothing is taught ...
        ("recovery", (9.0, 0.0), (25.0, 25.0), (0.8, 1.0), math.exp(1.0)),  # ... but by the cost to come
        ("recovery", (1.0, 0.5), (-0.5, -0.9), (7.0, 0.0), math.exp(1.5)),
    ],
)
def test_weights_by_hand(
    name: str,
    reward: tuple[float, float],
    feasibility: tuple[float, float],
    cost: tuple[float, float],
    expected: float,
) -> None:
    values = _values(reward=reward, feasibility=feasibility, cost=cost)
    assert WEIGHTS[name](values, WeightConfig()).item() == pytest.approx(expected, rel=1e-5)


def _batch(
    observations: torch.Tensor, rewards: torch.Tensor, bounds: torch.Tensor | None = None
) -> CriticBatch:
    """Transitions that end at once, so that every target is known: reward, h and cost themselves."""
    shape = rewards.shape
    costs = (rewards > 0).float()
    return CriticBatch(
        observations=observations,
        actions=torch.zeros(*shape, 1),
        next_observations=observations,
        rewards=rewards,
        costs=costs,
        violations=violation_values(costs, 1.0),
        alive=torch.zeros(shape),
        bounds=bounds,
    )


def test_expectiles_tend_to_the_best_in_data_outcome_of_each_kind() -> None:
    """One state, two outcomes: V tends to the highest reward, the lowest h and the lowest cost."""
    config = CriticConfig(hidden=[16], expectile=0.97, reversed_expectile=0.97, polyak=1.0)
    critics = Critics(1, 1, 1, ("reward", "feasibility", "cost"), config, torch.Generator().manual_seed(0))
    actions = torch.tensor([[[-1.0], [1.0]]])
    batch = _batch(torch.zeros(1, 2, 1), torch.tensor([[0.0, 2.0]]))._replace(actions=actions)
    optimizer = torch.optim.Adam(critics.parameters(), 1e-2)
    for _ in range(800):
        optimizer.zero_grad()
        (critics.v_loss(batch).sum() + critics.q_loss(batch).sum()).backward()
        optimizer.step()
        critics.update_target()
    value = critics.state_values(torch.zeros(1, 1, 1))[0, :, 0]
    assert value[0].item() == pytest.approx(2.0, abs=0.15)
    assert value[1].item() == pytest.approx(-1.0, abs=0.15)
    assert value[2].item() == pytest.approx(0.0, abs=0.15)


def test_twins_are_combined_pessimistically_and_bounds_hold() -> None:
    critics = Critics(
        2, 3, 1, ("reward", "feasibility"), CriticConfig(hidden=[8]), torch.Generator().manual_seed(0)
    )
    observations, actions = torch.randn(2, 5, 3), torch.randn(2, 5, 1)
    twins = critics._twins(critics.q_target, observations, actions)
    combined = critics.action_values(observations, actions)
    torch.testing.assert_close(combined[:, 0], twins[:, 0].amin(dim=1))
    torch.testing.assert_close(combined[:, 1], twins[:, 1].amax(dim=1))
    rewards = torch.tensor([[0.0, 1.0]]).repeat(2, 1)
    bounds = torch.stack([torch.full((2, 2), 0.5), torch.full((2, 2), -0.5)])
    targets = critics.q_targets(_batch(torch.zeros(2, 2, 3), rewards, bounds))
    torch.testing.assert_close(
        targets[0, 0], torch.tensor([0.5, 1.0])
    )  # a reward is at least what was achieved
    torch.testing.assert_close(targets[0, 1], torch.tensor([-1.0, -0.5]))  # a violation at most


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden", [0]),
        ("batch", 0),
        ("learning_rate", -1.0),
        ("violation_scale", 0.0),
        ("violation_scale", math.inf),
        ("expectile", 1.0),
        ("reversed_expectile", 0.0),
        ("gamma", 1.5),
        ("polyak", math.nan),
    ],
)
def test_options_of_critics_out_of_range_are_named(name: str, value: object) -> None:
    with pytest.raises(
        SafetyError, match=f"critic.{name}|critic.hidden and critic.batch|and critic.violation"
    ):
        CriticConfig(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [("reward_temperature", -1.0), ("feasibility_temperature", math.inf), ("reward_clip", 0.0)],
)
def test_options_of_weights_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(SafetyError, match=f"weights.{name}"):
        WeightConfig(**{name: value})


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="critic kinds"):
        Critics(1, 3, 1, ("feasibility", "reward"), CriticConfig(), torch.Generator())
