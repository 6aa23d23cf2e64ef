"""What a request may be, against a manifest."""

import contextlib
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_runtime import reading, toy_manifest

from diffpolicy.deploy.requests import KEYS, REFUSALS, RefusedError, read_request

MANIFEST = toy_manifest()
NAN, INF = float("nan"), float("inf")


def refused(message):
    with pytest.raises(RefusedError) as caught:
        read_request(message, MANIFEST)
    assert caught.value.code in REFUSALS
    return caught.value.code, str(caught.value)


def test_a_reading_is_taken_as_it_is():
    request = read_request(reading(0.5), MANIFEST)
    np.testing.assert_array_equal(request.observation["state"], np.float32([0.5, 0, 1]))
    assert (request.sequence, request.stamp, request.reset, request.cost, request.shield) == (
        None,
        None,
        False,
        None,
        {},
    )


def test_every_field_is_read():
    fields = {
        "__seq": 7,
        "__stamp": 2,
        "__reset": True,
        "__cost": np.float32(0.5),
        "__shield": {"velocity": 3},
    }
    assert set(fields) == set(KEYS)
    request = read_request({**reading(), **fields}, MANIFEST)
    assert (request.sequence, request.stamp, request.reset, request.cost) == (7, 2.0, True, 0.5)
    assert request.shield == {"velocity": 3}


@pytest.mark.parametrize("dtype", ["f8", ">f4", "f2"])
def test_a_float_of_another_width_is_rounded(dtype):
    request = read_request(reading() | {"state": np.array([0.5, 1, 2], dtype)}, MANIFEST)
    assert request.observation["state"].dtype == np.float32
    assert request.observation["state"].tolist() == [0.5, 1, 2]


def test_a_history_comes_for_all_signals_or_for_none():
    message = reading()
    history = {key: np.stack([value, value]) for key, value in message.items()}
    assert read_request(history, MANIFEST).observation["state"].shape == (2, 3)
    assert refused({**message, "state": history["state"]})[0] == "shape"


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"state": np.zeros(4, np.float32)}, "shape", r"'state' has shape \(3,\)"),
        ({"state": np.zeros((3, 3), np.float32)}, "shape", r"got \(3, 3\)"),
        ({"state": np.zeros((3, 1), np.float32)}, "shape", "state"),
        ({"state": np.zeros((), np.float32)}, "shape", "state"),
        ({"state": np.zeros(3, np.int64)}, "dtype", "dtype float32, got int64"),
        ({"state": np.zeros(3, bool)}, "dtype", "got bool"),
        ({"state": [0.0, 0.0, 0.0]}, "dtype", "numpy array, got list"),
        ({"state": None}, "dtype", "NoneType"),
        ({"state": {"deep": 1}}, "dtype", "dict"),
        ({"front": np.zeros((24, 32, 3), np.float32)}, "dtype", "dtype uint8, got float32"),
        ({"front": np.zeros((24, 32, 3), np.int8)}, "dtype", "got int8"),
        ({"front": np.zeros((3, 24, 32), np.uint8)}, "shape", "front"),
        ({"state": np.float32([0, NAN, 0])}, "not_finite", "y is nan"),
        ({"state": np.float32([0, 0, -INF])}, "not_finite", "speed is -inf"),
        ({"state": np.array([1e300, 0, 0])}, "not_finite", "x is inf|x is 1e"),
        ({"stat": np.zeros(3, np.float32)}, "keys", "knows no 'stat'"),
        ({"__seq": 1.5}, "field", "__seq is of type int"),
        ({"__seq": True}, "field", "__seq"),
        ({"__stamp": NAN}, "not_finite", "__stamp is nan"),
        ({"__stamp": "now"}, "field", "__stamp"),
        ({"__reset": 1}, "field", "__reset"),
        ({"__cost": INF}, "not_finite", "__cost"),
        ({"__cost": -1.0}, "field", "__cost is from 0"),
        ({"__cost": 1.7e308}, "field", "__cost is from 0"),
        ({"__shield": [1]}, "field", "__shield"),
        ({"__shield": {"a": -1}}, "field", "__shield"),
        ({"__shield": {"a" * 65: 1}}, "field", "__shield"),
        ({"__shield": {str(i): 1 for i in range(65)}}, "field", "__shield"),
    ],
)
def test_what_is_refused_and_how(change, code, says):
    found, message = refused({**reading(), **change})
    assert found == code
    assert re.search(says, message)


def test_a_missing_signal_is_named():
    message = reading()
    del message["front"]
    assert refused(message) == ("keys", "signal 'front' is missing; the policy takes state, front")


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(["state", "front", *KEYS, "else"]), JUNK, max_size=8))
def test_junk_is_refused_and_nothing_else_happens(message):
    if set(message) <= set(KEYS):
        with contextlib.suppress(RefusedError):
            assert read_request({**reading(), **message}, MANIFEST).shield == (message.get("__shield") or {})
    else:
        assert refused({**reading(), **message})[0] in REFUSALS
