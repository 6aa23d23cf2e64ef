from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpolicy import data
from diffpolicy.data import DataError, MinMaxNormalizer


def test_the_range_becomes_minus_one_to_one() -> None:
    values = torch.tensor([[0.0, 10.0], [512.0, -30.0], [256.0, 0.0]])
    normalizer = MinMaxNormalizer.fit(values)
    assert normalizer.normalize(values).tolist() == [[-1, 1], [1, -1], [0, 0.5]]
    assert normalizer.normalize(torch.tensor([[768.0, 30.0]])).tolist() == [[2, 2]]


def test_constant_dimensions_are_only_shifted() -> None:
    values = torch.tensor([[3.0, 1.0], [3.00005, 2.0]])
    normalizer = MinMaxNormalizer.fit(values)
    shifted = normalizer.normalize(torch.tensor([[3.0, 1.0], [5.0, 1.0]]))[:, 0]
    assert shifted.tolist() == pytest.approx([0, 2], abs=1e-4)
    assert MinMaxNormalizer.fit(values, range_epsilon=1e-6).normalize(values)[:, 0].tolist() == [-1, 1]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1e4, 1e4, width=32), st.floats(-1, 1, width=32)), min_size=1, max_size=20),
)
def test_round_trip(rows: list[tuple[float, float]]) -> None:
    values = torch.tensor(rows)[:, None]
    normalizer = MinMaxNormalizer.fit(values)
    normalized = normalizer.normalize(values)
    assert bool((normalized.abs() <= 1 + 1e-3).all())
    assert torch.allclose(normalizer.denormalize(normalized), values, rtol=1e-6, atol=2e-3)
    again = MinMaxNormalizer.from_state(normalizer.state()).to("cpu")
    assert torch.equal(again.normalize(values), normalized)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.zeros(0, 2), "at least one value"),
        (torch.tensor(1.0), "at least one value"),
        (torch.tensor([[0.0, float("nan")], [1.0, 2.0]]), r"\(dimensions \[1\]\)"),
        (torch.tensor([[float("inf"), 0.0]]), r"\(dimensions \[0\]\)"),
    ],
)
def test_what_cannot_be_fitted(values: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        MinMaxNormalizer.fit(values)


def test_raw_actions_to_action_units() -> None:
    raw = torch.tensor([[0.0, 512.0], [256.0, 128.0]])
    dataset = data.from_transitions(
        observations=torch.zeros(2, 1),
        actions=raw,
        rewards=torch.zeros(2),
        costs=torch.zeros(2),
        terminals=torch.zeros(2),
        timeouts=torch.tensor([0, 1]),
    )
    assert dataset.scaled_actions(0, 512).actions.tolist() == [[-1, 1], [0, -0.5]]
    assert torch.equal(dataset.actions, raw)
    with pytest.raises(DataError, match="from low to high, not from 1 to 1"):
        dataset.scaled_actions(1, 1)
