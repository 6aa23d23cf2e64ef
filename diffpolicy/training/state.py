"""Nested training state to safetensors bytes and back, exactly and without pickle."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from diffpolicy.training.errors import StateError

STORABLE_DTYPES = frozenset(
    {
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
    }
)
_METADATA_KEY = "state"


def encode_tensors(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Named tensors (any shape, any device) as the bytes of a safetensors file.

    Every tensor is copied to the CPU first, so tensors that share memory are stored once each. Raises
    `StateError` for a dtype or layout that safetensors cannot hold exactly.
    """
    copies = {}
    for name, tensor in tensors.items():
        if tensor.dtype not in STORABLE_DTYPES or tensor.layout != torch.strided:
            raise StateError(
                f"tensor {name!r} has dtype {tensor.dtype} and layout {tensor.layout}, which a checkpoint "
                f"cannot hold "
                "exactly; convert it to a dense real tensor in state() or model()"
            )
        copies[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return safetensors.torch.save(copies, metadata)


def decode_tensors(data: bytes) -> dict[str, Tensor]:
    """Named CPU tensors from safetensors bytes; raises `safetensors.SafetensorError` on damage."""
    return safetensors.torch.load(data)


def encode_state(state: Any) -> bytes:
    """Nested dicts, lists and tuples of tensors, numbers, strings, bools and None as safetensors bytes.

    Dict keys may be strings or ints (optimisers number their parameters). Raises `StateError`, naming the
    place, for anything else. The structure is JSON in the metadata of the file; tensors are numbered in
    reading order.
    """
    tensors: dict[str, Tensor] = {}
    structure = _pack(state, "state", tensors)
    return encode_tensors(tensors, {_METADATA_KEY: json.dumps(structure)})


def decode_state(data: bytes) -> Any:
    """The value given to `encode_state`, bit for bit, with all tensors on the CPU.

    Raises `safetensors.SafetensorError`, `KeyError` or `ValueError` on damaged bytes.
    """
    tensors = decode_tensors(data)
    header_length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + header_length])
    return _unpack(json.loads(header["__metadata__"][_METADATA_KEY]), tensors)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of named tensors: their names, shapes and values, wherever they are."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def tensors_of(state: Any, path: str = "state") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a nested state with the place it was found, like `state.critic.0.weight`."""
    if isinstance(state, Tensor):
        yield path, state
    elif isinstance(state, dict):
        for key, value in state.items():
            yield from tensors_of(value, f"{path}.{key}")
    elif isinstance(state, list | tuple):
        for index, value in enumerate(state):
            yield from tensors_of(value, f"{path}.{index}")


def _pack(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """JSON for `value`: scalars as they are, everything else as a dict with one key that says what it is."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return {"tensor": name}
    # Exact types only: a numpy float is a float and an enum may be an int, but neither would come back as
    # one.
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, dict):
        for key in value:
            if type(key) not in (str, int):
                raise StateError(
                    f"{path} has the key {key!r}; keys of a training state must be strings or ints"
                )
        return {"dict": [[key, _pack(item, f"{path}.{key}", tensors)] for key, item in value.items()]}
    if type(value) in (list, tuple):
        items = [_pack(item, f"{path}.{index}", tensors) for index, item in enumerate(value)]
        return {type(value).__name__: items}
    raise StateError(
        f"{path} is a {type(value).__name__}; a training state may hold dicts, lists, tuples, tensors, "
        f"numbers, "
        "strings, bools and None (turn arrays into tensors)"
    )


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unpack(item, tensors) for key, item in content}
    if kind == "list":
        return [_unpack(item, tensors) for item in content]
    if kind == "tuple":
        return tuple(_unpack(item, tensors) for item in content)
    raise ValueError(f"unknown kind {kind!r} in a training state")
