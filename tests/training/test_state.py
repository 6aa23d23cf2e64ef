"""Nested state survives bytes exactly; what cannot is refused by name."""

import math
import struct
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpolicy.training import StateError
from diffpolicy.training.state import STORABLE_DTYPES, decode_state, encode_state, encode_tensors


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Random bit patterns, so that NaN payloads, subnormals and -0.0 occur."""
    dtype = draw(st.sampled_from(sorted(STORABLE_DTYPES, key=str)))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    size = math.prod(shape) * dtype.itemsize
    data = draw(st.binary(min_size=size, max_size=size))
    if dtype == torch.bool:
        return torch.tensor([byte % 2 == 1 for byte in data], dtype=torch.bool).reshape(shape)
    raw = torch.tensor(list(data), dtype=torch.uint8)
    return raw.view(dtype).reshape(shape) if size else torch.zeros(shape, dtype=dtype)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters())
states = st.recursive(
    scalars | tensors(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or struct.pack("d", a) == struct.pack("d", b)
    return bool(a == b)


def bits(tensor: torch.Tensor) -> list[int]:
    flat = tensor.contiguous().reshape(-1)
    return flat.view(torch.uint8).tolist() if flat.numel() else []


@settings(deadline=None, max_examples=150)
@given(states)
def test_round_trip_is_exact(state: Any) -> None:
    assert same(decode_state(encode_state(state)), state)


def test_views_and_shared_memory_come_back_with_their_values() -> None:
    base = torch.arange(12.0).reshape(3, 4)
    state = {"base": base, "transposed": base.T, "row": base[1], "expanded": base[:1].expand(5, 4)}
    assert same(decode_state(encode_state(state)), state)


def test_optimizer_state_with_its_tuples_and_int_keys() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([weight], betas=(0.8, 0.9))
    weight.sum().backward()
    optimizer.step()
    assert same(decode_state(encode_state(optimizer.state_dict())), optimizer.state_dict())


@pytest.mark.parametrize(
    ("state", "place"),
    [
        ({"a": [1, {2, 3}]}, "state.a.1 is a set"),
        ({"rng": {"x": np.zeros(2)}}, "state.rng.x is a ndarray"),
        ({"loss": np.float64(1.0)}, "state.loss is a float64"),
        ({"a": {(1, 2): 3}}, r"state.a has the key \(1, 2\)"),
        ({"z": torch.zeros(2, dtype=torch.complex128)}, "complex128"),
        ({"s": torch.eye(2).to_sparse()}, "sparse"),
    ],
)
def test_what_cannot_be_stored_is_named(state: Any, place: str) -> None:
    with pytest.raises(StateError, match=place):
        encode_state(state)


def test_unstorable_weight_is_named() -> None:
    with pytest.raises(StateError, match=r"'actor\.0'"):
        encode_tensors({"actor.0": torch.zeros(1, dtype=torch.complex128)})
