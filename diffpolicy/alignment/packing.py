"""Batches as nested dicts, lists and tensors, which is what a training state may hold, and back."""

from typing import Any

import torch
from torch import Tensor

from diffpolicy.alignment.samples import Pairs, Prompted, Rated, Rollout
from diffpolicy.diffusion import Path, Tree

KINDS: dict[str, Any] = {kind.__name__: kind for kind in (Rollout, Rated, Pairs, Prompted, Path, Tree)}
KIND = "named tuple"


def pack(value: Any) -> Any:
    """Return a batch, or a part of one, without named tuples.

    Raises:
        TypeError: if a condition holds a named tuple of another kind.
    """
    if hasattr(value, "_fields"):
        if type(value).__name__ not in KINDS:
            raise TypeError(
                f"a batch of alignment is kept in checkpoints, which cannot hold the {type(value).__name__} in its "
                "condition: make conditions of dicts, lists, tuples and tensors"
            )
        return {KIND: type(value).__name__} | {name: pack(part) for name, part in value._asdict().items()}
    if isinstance(value, dict):
        return {key: pack(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(pack(part) for part in value)
    return value


def unpack(value: Any, device: torch.device) -> Any:
    """Return the batch that `pack` was given, with its tensors on `device`."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict) and KIND in value:
        fields = {key: unpack(part, device) for key, part in value.items() if key != KIND}
        return KINDS[value[KIND]](**fields)
    if isinstance(value, dict):
        return {key: unpack(part, device) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(unpack(part, device) for part in value)
    return value
