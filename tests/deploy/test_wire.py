"""Messages: what openpi's client reads and writes, and nothing else."""

import contextlib
import subprocess
import sys
import tracemalloc

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from openpi_client import msgpack_numpy

from diffpolicy.deploy import wire

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
)
ARRAYS = nps.arrays(
    st.sampled_from(sorted(wire.DTYPES)).map(np.dtype),
    nps.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)
VALUES = st.recursive(SCALARS | ARRAYS, lambda inner: st.lists(inner, max_size=3), max_leaves=6)
MESSAGES = st.dictionaries(st.text(max_size=10), VALUES, max_size=5)


def same(one, other):
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def array(data=b"\0" * 8, dtype="<f4", shape=(2,)):
    return msgpack.packb({"a": {b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape}})


@given(MESSAGES)
def test_a_message_comes_back_as_it_was(message):
    assert same(wire.decode(wire.encode(message)), message)


@given(MESSAGES)
def test_openpi_writes_the_same_bytes_and_reads_them(message):
    frame = wire.encode(message)
    assert msgpack_numpy.packb(message) == frame
    assert same(msgpack_numpy.unpackb(frame), message)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_wire_error(frame):
    with contextlib.suppress(wire.WireError):
        assert isinstance(wire.decode(frame), dict)


@given(MESSAGES, st.data())
@settings(max_examples=200)
def test_a_damaged_message_is_a_message_or_a_wire_error(message, data):
    frame = bytearray(wire.encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(frame)))
    with contextlib.suppress(wire.WireError):
        assert isinstance(wire.decode(bytes(frame[:cut])), dict)


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (array(dtype="|O"), "does not travel"),
        (array(dtype="<c8"), "does not travel"),
        (array(dtype="|V8"), "does not travel"),
        (array(dtype="f4,f4"), "does not travel"),
        (array(dtype=["<f4"]), "does not travel"),
        (array(dtype="<f4 " * 10_000), "exceeds max_str_len"),
        (array(shape=(3,)), "does not have 8 bytes"),
        (array(shape=(-2, -1)), "sizes from 0"),
        (array(shape=(2**62, 2**62)), "sizes from 0"),
        (array(shape=(True, 2)), "sizes from 0"),
        (array(shape=(1,) * 9), "sizes from 0"),
        (array(data=b"", shape=(2**30, 2**30, 2**30, 0)), "array is too big"),
        (array(data="text"), "has data"),
        (array(shape=None), "has data"),
        (msgpack.packb({"a": {b"__npgeneric__": True, b"data": 300, b"dtype": "|u1"}}), "does not fit"),
        (msgpack.packb({"a": {b"__npgeneric__": True, b"data": "1", b"dtype": "|u1"}}), "is a number"),
        (msgpack.packb({"a": msgpack.ExtType(5, b"x")}), "extension 5"),
        (msgpack.packb({1: 2}), "not allowed for map key"),
        (msgpack.packb({b"a": 2}), "keys are text"),
        (msgpack.packb([1, 2]), "a message is a map"),
        (msgpack.packb({}) + b"\0", "extra data"),
        (b"", "incomplete"),
        (b"\x91" * 5000, "StackError"),
    ],
)
def test_what_is_refused_and_how(frame, says):
    with pytest.raises(wire.WireError, match=says):
        wire.decode(frame)


def test_lengths_are_checked_before_anything_is_allocated():
    # Lists in lists that each announce four thousand million elements, and none of them comes.
    tracemalloc.start()
    for head in (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdc\xff\xff"):
        with pytest.raises(wire.WireError):
            wire.decode(head * 1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize("leaf", [b"\x90", b"\x80", b"\xc0"])
def test_many_small_things_do_not_become_large(leaf):
    frame = leaf
    for _ in range(3):
        frame = b"\xdc\x00\x80" + 128 * frame  # 2 MB, of which 130 MB and seconds would be made
    tracemalloc.start()
    with pytest.raises(wire.WireError, match="elements in all"):
        wire.decode(b"\x81\xa1a" + frame)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 2**20


def test_a_message_has_a_largest_size():
    frame = wire.encode({"a": np.zeros(1000, np.uint8)})
    assert wire.decode(frame, largest=len(frame))["a"].size == 1000
    with pytest.raises(wire.WireError, match="more than the 1000"):
        wire.decode(frame, largest=1000)


@pytest.mark.parametrize(
    "value", [object(), np.zeros(2, complex), np.array(["a"]), np.array([object()]), 2**70, {1, 2}]
)
def test_what_cannot_be_sent_is_named(value):
    with pytest.raises(wire.WireError, match="cannot be sent"):
        wire.encode({"a": value})


def test_it_needs_no_torch():
    code = "import sys, diffpolicy.deploy.wire, diffpolicy.deploy.manifest; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
