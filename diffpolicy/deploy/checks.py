"""What is wrong with what came from outside? Each check returns the reason, or None."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpolicy.deploy.manifest import Manifest

Reading = Mapping[str, NDArray[Any]]


def invalid_observation(observation: Reading, manifest: Manifest) -> str | None:
    """Say which signal is missing, of another shape or dtype than `manifest` has it, or not finite and where."""
    for signal in manifest.observation:
        value = observation.get(signal.name)
        if not isinstance(value, np.ndarray):
            return f"observation {signal.name!r} is missing or no array"
        if value.shape != signal.shape or value.dtype != np.dtype(signal.dtype):
            expected = f"{signal.dtype} {signal.shape}"
            return f"observation {signal.name!r} is {value.dtype} {value.shape}, expected {expected}"
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            where = int(np.flatnonzero(~np.isfinite(value))[0])
            name = signal.element(where) if len(signal.shape) == 1 else signal.name
            return f"observation {name} is {value.ravel()[where]}"
    return None


def invalid_action(action: Any, manifest: Manifest) -> str | None:
    """Say whether an action is no array (A,) of numbers, or which element is not finite."""
    shape = manifest.action.shape
    if not isinstance(action, np.ndarray) or action.shape != shape or action.dtype.kind not in "fiu":
        got = getattr(action, "shape", type(action).__name__)
        return f"the action is {got}, expected numbers {shape}"
    if not np.isfinite(action).all():
        where = int(np.flatnonzero(~np.isfinite(action))[0])
        return f"action {manifest.action.element(where)} is {action[where]}"
    return None


def outside_workspace(observation: Reading, manifest: Manifest) -> str | None:
    """Say which element of a valid observation is outside the workspace."""
    safety = manifest.safety
    if safety.workspace_low is None or safety.workspace_high is None:
        return None
    bounds = dict(
        zip(safety.workspace, zip(safety.workspace_low, safety.workspace_high, strict=True), strict=True)
    )
    for signal in manifest.observation:
        for index in range(signal.shape[0] if len(signal.shape) == 1 else 0):
            if (name := signal.element(index)) in bounds:
                (low, high), value = bounds[name], float(observation[signal.name][index])
                if not low <= value <= high:
                    return f"{name} is {value:.4g}, outside [{low:g}, {high:g}]"
    return None
