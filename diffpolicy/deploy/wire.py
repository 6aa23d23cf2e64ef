"""Messages as bytes: msgpack with numpy arrays, the format of openpi's client, safe to read from anybody.

An array travels as {b"__ndarray__": true, b"data": bytes, b"dtype": "<f4", b"shape": [..]}, a numpy number as
{b"__npgeneric__": true, b"data": number, b"dtype": "<f4"}. Nothing that a peer sends is executed or trusted: dtypes
come from a list, sizes have to agree, and nothing is allocated that the message does not carry. Numpy and msgpack only.
"""

import math
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from diffpolicy.deploy.errors import DeployError

LARGEST = 16 * 2**20  # bytes of a message; eight pictures of 640 x 480 fit twice
ITEMS = 1024  # elements of one list or one map; a peer announces a length before it sends anything
DIMENSIONS = 8  # of one array
ELEMENTS = 16384  # of all lists and maps together; a byte on the wire can be an object of 64 in memory
TEXT = 4096  # bytes of one string

_PLAIN = [np.dtype(kind) for kind in ("?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")]
DTYPES = {
    ordered.str: ordered for dtype in _PLAIN for ordered in (dtype.newbyteorder("<"), dtype.newbyteorder(">"))
}
"""The dtypes that travel, by numpy's own code: booleans, integers and floats of up to 8 bytes, in both byte orders."""


class WireError(DeployError):
    """Bytes that are no message of this format."""


def encode(message: dict[str, Any]) -> bytes:
    """Return `message` as bytes; WireError for what has no place in it: objects, complex and structured arrays."""
    try:
        return bytes(msgpack.packb(message, default=_pack, use_bin_type=True))
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"cannot be sent: {error}") from error


def decode(frame: bytes, *, largest: int = LARGEST, items: int = ITEMS) -> dict[str, Any]:
    """Return the message in `frame`: a map with text for keys, whose arrays are read-only views of `frame`.

    Raises WireError for anything else, and for more than `largest` bytes, `items` elements in a list or map, or
    `ELEMENTS` in all.
    """
    if len(frame) > largest:
        raise WireError(f"{len(frame)} bytes are more than the {largest} that a message may have")
    counter = _Counter()
    try:
        message = msgpack.unpackb(
            frame,
            object_hook=counter.map,
            list_hook=counter.list,
            ext_hook=_refuse_extension,
            max_bin_len=largest,
            max_str_len=TEXT,
            max_array_len=items,
            max_map_len=items,
            max_ext_len=TEXT,
        )
    except WireError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise WireError(f"not msgpack: {str(error)[:200] or type(error).__name__}") from error
    if not isinstance(message, dict) or not all(isinstance(key, str) for key in message):
        raise WireError("a message is a map whose keys are text")
    return message


def _pack(value: Any) -> dict[bytes, Any]:
    if isinstance(value, np.ndarray | np.generic) and value.dtype.str in DTYPES:
        if isinstance(value, np.generic):
            return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
        return {
            b"__ndarray__": True,
            b"data": value.tobytes(),
            b"dtype": value.dtype.str,
            b"shape": value.shape,
        }
    kind = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
    raise TypeError(f"{kind} is not a number, text, list, map or array of numbers")


class _Counter:
    """Takes lists and maps as they are completed, until there are too many elements in them."""

    def __init__(self) -> None:
        self._count = 0

    def map(self, stored: dict[Any, Any]) -> Any:
        self._add(len(stored))
        return _unpack(stored)

    def list(self, stored: list[Any]) -> list[Any]:
        self._add(len(stored))
        return stored

    def _add(self, elements: int) -> None:
        self._count += 1 + elements
        if self._count > ELEMENTS:
            raise WireError(f"more than {ELEMENTS} elements in all lists and maps together")


def _unpack(stored: dict[Any, Any]) -> Any:
    if b"__ndarray__" in stored:
        return _array(stored)
    if b"__npgeneric__" in stored:
        return _number(stored)
    return stored


def _array(stored: dict[Any, Any]) -> NDArray[Any]:
    data, shape, dtype = stored.get(b"data"), stored.get(b"shape"), _dtype(stored)
    if not isinstance(data, bytes) or not isinstance(shape, list):
        raise WireError("an array has data (bytes) and shape (a list)")
    if len(shape) > DIMENSIONS or not all(type(size) is int and 0 <= size < 2**31 for size in shape):
        raise WireError(f"an array's shape is at most {DIMENSIONS} sizes from 0")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise WireError(f"an array of shape {shape} and dtype {dtype.str} does not have {len(data)} bytes")
    return np.ndarray(shape, dtype, buffer=data)


def _number(stored: dict[Any, Any]) -> Any:
    data = stored.get(b"data")
    if not isinstance(data, bool | int | float):
        raise WireError("a numpy number has data that is a number")
    try:
        with np.errstate(over="ignore"):
            return _dtype(stored).type(data)
    except (OverflowError, ValueError) as error:
        raise WireError(f"a numpy number does not fit its dtype: {error}") from error


def _dtype(stored: dict[Any, Any]) -> np.dtype[Any]:
    name = stored.get(b"dtype")
    if not isinstance(name, str) or name not in DTYPES:
        raise WireError(
            f"dtype {name!r:.40} does not travel: booleans, integers and floats of up to 8 bytes do"
        )
    return DTYPES[name]


def _refuse_extension(code: int, data: bytes) -> Any:
    raise WireError(f"msgpack extension {code} has no meaning here")
