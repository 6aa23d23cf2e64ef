"""One number of several rewards, against closed forms and slow loops."""

import pytest
import torch

from diffpolicy.alignment.scalarise import (
    Chebyshev,
    Lagrangian,
    NormalisedSum,
    WeightedSum,
    normalised_advantages,
    pareto_advantages,
    pareto_mask,
)

GROUP = torch.tensor([0, 0, 0, 1, 1, 1])
TERMS = {
    "a": torch.tensor([1.0, 2.0, 3.0, 0.0, 0.0, 4.0]),
    "b": torch.tensor([300.0, 100.0, 200.0, 50.0, 50.0, 50.0]),
}


def test_sums() -> None:
    total = WeightedSum({"a": 2.0, "b": -0.01})(TERMS, GROUP)
    torch.testing.assert_close(total, torch.tensor([-1.0, 3.0, 4.0, -0.5, -0.5, 7.5]))
    with pytest.raises(ValueError, match="no reward 'c'"):
        WeightedSum({"c": 1.0})(TERMS, GROUP)


def test_chebyshev_is_the_worst_distance() -> None:
    scalariser = Chebyshev({"a": 1.0, "b": 0.01}, {"a": 3.0, "b": 300.0})
    torch.testing.assert_close(scalariser(TERMS, GROUP), -torch.tensor([2.0, 2.0, 1.0, 3.0, 3.0, 2.5]))
    with pytest.raises(ValueError, match="positive weight and an ideal"):
        Chebyshev({"a": 1.0}, {"b": 1.0})


def test_normalised_advantages_do_not_know_scales() -> None:
    weights = {"a": 1.0, "b": 1.0}
    given = normalised_advantages(TERMS, weights, GROUP)
    scaled = normalised_advantages({"a": TERMS["a"] * 1000.0 + 7.0, "b": TERMS["b"]}, weights, GROUP)
    torch.testing.assert_close(given, scaled, atol=1e-3, rtol=0.0)
    assert given[3:4].item() == pytest.approx(-1.0 / 2.0**0.5, abs=1e-3)  # b is flat there and adds nothing
    torch.testing.assert_close(given, NormalisedSum(weights)(TERMS, GROUP))
    assert not NormalisedSum(weights).differentiable


def test_a_price_rises_while_its_limit_is_broken_and_falls_to_zero() -> None:
    scalariser = Lagrangian({"a": 1.0}, {"cost": 1.0}, rate=0.5)
    terms = {"a": torch.ones(2), "cost": torch.tensor([0.0, 4.0])}
    group = torch.zeros(2, dtype=torch.int64)
    assert scalariser(terms, group).tolist() == [1.0, 1.0]
    assert scalariser.multipliers == {"cost": 0.5}
    assert scalariser(terms, group).tolist() == [1.0, -0.5]
    stored = scalariser.state()
    resumed = Lagrangian({"a": 1.0}, {"cost": 1.0}, rate=0.5)
    resumed.load_state(stored)
    assert resumed(terms, group).tolist() == [1.0, -2.0]
    assert stored == {"multipliers": {"cost": 1.0}}  # a copy, that does not go on changing
    for _ in range(4):
        scalariser({"a": torch.ones(2), "cost": torch.zeros(2)}, group)
    assert scalariser.multipliers == {"cost": 0.0}


def test_pareto_masks_are_those_of_a_slow_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 4, (30, 3), generator=generator).float()
    group = torch.arange(30) % 3
    terms = {str(k): values[:, k] for k in range(3)}
    mask = pareto_mask(terms, group)
    for i in range(30):
        rivals = [values[j] for j in range(30) if group[j] == group[i]]
        beaten = any(bool((r >= values[i]).all() and (r > values[i]).any()) for r in rivals)
        assert mask[i] == (not beaten)


def test_pareto_advantages_average_over_the_set() -> None:
    advantages = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    made = pareto_advantages(advantages, TERMS, GROUP)
    # Of the first group samples 0 and 2 are kept, of the second sample 5.
    torch.testing.assert_close(made, torch.tensor([1.5, 0.0, 4.5, 0.0, 0.0, 18.0]))
