"""Signs that a plan no longer fits."""

import math

import pytest
import torch

from diffpolicy.policies.guard import Guard, difference


def test_angles_go_the_short_way_round() -> None:
    before = torch.tensor([[0.0, 0.1], [0.0, 6.2]])
    now = torch.tensor([[1.0, 2 * math.pi - 0.1], [1.0, 0.1]])
    assert difference(before, now, (1,))[:, 1].tolist() == pytest.approx([-0.2, 2 * math.pi - 6.1], abs=1e-5)
    assert torch.equal(difference(before, now, ()), now - before)


def test_the_change_is_measured_in_units_of_the_usual_one_for_the_time_elapsed() -> None:
    guard = Guard(usual=((1.0, 0.1), (2.0, 0.1)), jump=3.0)
    before, now = torch.zeros(2, 2), torch.tensor([[4.0, 0.0], [0.0, -0.2]])
    assert guard.change(before, now, 1).tolist() == pytest.approx([4.0, 2.0])
    assert guard.change(before, now, 2).tolist() == pytest.approx([2.0, 2.0])
    assert guard.change(before, now, 9).tolist() == pytest.approx(
        [2.0, 2.0]
    )  # beyond the table: its last row


def test_stalls_are_counted_in_a_row() -> None:
    guard = Guard(((1.0,),), jump=3.0, still_residual=0.1, still_change=0.1, patience=2)
    stalled = torch.tensor([1, 1, 1])
    counted = guard.stall(stalled, torch.tensor([0.05, 0.5, 0.05]), torch.tensor([0.05, 0.05, 0.5]))
    assert counted.tolist() == [2, 0, 0]
    assert guard.gave_up(counted).tolist() == [True, False, False]
    assert not Guard(((1.0,),), jump=3.0).gave_up(torch.tensor([1000])).any()
