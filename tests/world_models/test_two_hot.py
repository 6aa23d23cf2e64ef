import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from world_models.errors import WorldModelError
from world_models.two_hot import decode, encode


@given(
    st.lists(st.floats(-1.0, 1.0, allow_nan=False), min_size=1, max_size=20),
    st.integers(2, 40),
)
def test_a_number_comes_back_from_two_weights_that_sum_to_one(numbers: list[float], bins: int):
    values = torch.tensor(numbers, dtype=torch.float64)
    weights = encode(values, bins)
    assert weights.shape == (len(numbers), bins)
    assert ((weights > 0.0).sum(-1) <= 2).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(values), rtol=0, atol=1e-12)
    torch.testing.assert_close(decode(weights), values, rtol=0, atol=1e-12)


def test_the_ends_are_a_whole_bin_each_and_the_middle_is_shared():
    weights = encode(torch.tensor([-1.0, 1.0, 0.05]), 21)
    torch.testing.assert_close(weights[0], torch.eye(21)[0])
    torch.testing.assert_close(weights[1], torch.eye(21)[20])
    torch.testing.assert_close(weights[2, 10:12], torch.tensor([0.5, 0.5]), rtol=0, atol=1e-6)


def test_numbers_beyond_the_range_are_its_ends_and_gradients_flow():
    torch.testing.assert_close(decode(encode(torch.tensor([-7.0, 9.0]), 5)), torch.tensor([-1.0, 1.0]))
    value = torch.tensor([0.3], requires_grad=True)
    decode(encode(value, 21)).sum().backward()
    torch.testing.assert_close(value.grad, torch.ones(1))


def test_another_range_and_what_is_no_range():
    values = torch.tensor([2.0, 3.5, 7.0])
    torch.testing.assert_close(decode(encode(values, 6, 2.0, 7.0), 2.0, 7.0), values)
    for bins, low, high in ((1, -1.0, 1.0), (5, 1.0, 1.0)):
        with pytest.raises(WorldModelError, match="two bins or more"):
            encode(values, bins, low, high)
