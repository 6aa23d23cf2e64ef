"""How images travel to a reward in another process and rewards come back: JSON and .npy, nothing that can run.

A question is four bytes (big-endian, the length of what follows), JSON `{"labels": [...]}` in UTF-8, and the images as
a version 1.0 .npy file of uint8 (B, H, W, C). An answer is JSON `{"rewards": [...], "terms": {name: [...]}}`, B finite
numbers each, with "cost" and "uncertainty" if there are any; "terms" may be left out.
"""

import json
import math
import re
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffpolicy.alignment.reward import Rewards

MAX_HEADER = 1 << 24  # bytes of labels in a question
# The header is read by this pattern alone: whatever else .npy files can say, a question does not.
_NPY = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '\|u1', 'fortran_order': False, "
    rb"'shape': \((\d{1,9}), (\d{1,9}), (\d{1,9}), ([13])\), \} *\n",
    re.DOTALL,
)


class WireError(ValueError):
    """A message is not what this format says; the text tells where."""


def encode_question(pixels: NDArray[np.uint8], labels: Sequence[Any]) -> bytes:
    """Return images (B, H, W, C) and their B labels as a question.

    Raises:
        WireError: if the labels are not something that JSON can hold.
    """
    try:
        head = json.dumps({"labels": list(labels)}, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise WireError(f"labels travel as JSON, and these cannot: {error}") from error
    shape = ", ".join(str(size) for size in pixels.shape)
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({shape}), }}"
    padded = text.ljust(-(len(text) + 11) % 64 + len(text)) + "\n"  # numpy aligns the data to 64 bytes
    npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded.encode()
    return struct.pack(">I", len(head)) + head + npy + np.ascontiguousarray(pixels).tobytes()


def decode_question(message: bytes) -> tuple[NDArray[np.uint8], list[Any]]:
    """Return the images (B, H, W, C) and labels of a question, which may come from anybody.

    Raises:
        WireError: if it is not one.
    """
    if len(message) < 4:
        raise WireError("a question starts with the length of its JSON in four bytes")
    (length,) = struct.unpack(">I", message[:4])
    if length > min(MAX_HEADER, len(message) - 4):
        raise WireError(
            f"the question's JSON is said to have {length} bytes, which are not there or too many"
        )
    head = _json(message[4 : 4 + length])
    if not isinstance(head, dict) or not isinstance(labels := head.get("labels"), list):
        raise WireError('the question\'s JSON is an object with a list of "labels"')
    start = _NPY.match(message, 4 + length)
    if start is None:
        raise WireError(
            "the images are a .npy file, version 1.0, of uint8 (B, H, W, 1 or 3) in C order; pickles are not read"
        )
    shape = tuple(int(size) for size in start.groups())
    data = memoryview(message)[start.end() :]
    if math.prod(shape) != len(data) or not len(data) or len(labels) != shape[0]:
        raise WireError(f"{len(data)} bytes and {len(labels)} labels do not make images of shape {shape}")
    return np.frombuffer(data, np.uint8).reshape(shape), labels


def encode_answer(rewards: Rewards) -> bytes:
    """Return rewards as an answer."""
    answer: dict[str, Any] = {
        "rewards": rewards.total.tolist(),
        "terms": {name: values.tolist() for name, values in rewards.terms.items()},
    }
    for name, values in (("cost", rewards.cost), ("uncertainty", rewards.uncertainty)):
        if values is not None:
            answer[name] = values.tolist()
    return json.dumps(answer, allow_nan=False).encode()


def decode_answer(message: bytes, count: int, device: torch.device | str = "cpu") -> Rewards:
    """Return the rewards of `count` samples in an answer, which may come from anybody.

    Raises:
        WireError: if it is not one, or not of so many samples.
    """
    answer = _json(message)
    if not isinstance(answer, dict) or not isinstance(terms := answer.get("terms", {}), dict):
        raise WireError(
            'an answer is a JSON object with "rewards" and, if there are any, an object of "terms"'
        )
    extra = {
        name: _numbers(answer[name], name, count).to(device)
        for name in ("cost", "uncertainty")
        if answer.get(name) is not None
    }
    return Rewards(
        _numbers(answer.get("rewards"), "rewards", count).to(device),
        {name: _numbers(values, name, count).to(device) for name, values in terms.items()},
        **extra,
    )


def _numbers(values: Any, name: str, count: int) -> torch.Tensor:
    if not isinstance(values, list) or len(values) != count:
        got = f"{len(values)} values" if isinstance(values, list) else type(values).__name__
        raise WireError(f"{name!r} is a list of {count} numbers, one for each sample, not {got}")
    for index, value in enumerate(values):
        # Float32 has to hold it: an integer of a hundred digits is JSON too.
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 3e38:
            raise WireError(f"{name!r} of sample {index} is {str(value)[:40]!r}, not a finite number")
    return torch.tensor([float(value) for value in values])


def _json(message: bytes) -> Any:
    try:
        return json.loads(message)
    except (ValueError, RecursionError) as error:
        raise WireError(f"this is not JSON: {error}") from error
