"""What a client asks: a decoded message, checked against the manifest before the policy or its memory sees anything."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffpolicy.deploy.errors import DeployError
from diffpolicy.deploy.manifest import Manifest, Signal

SHIELD_STEPS = 64  # names of shield steps that one client may count
LARGEST_COST = 1e9  # of one request, so that no sum of them is infinite
KEYS = ("__seq", "__stamp", "__reset", "__cost", "__shield")
"""Beside the observation, all optional: `__seq` int and `__stamp` [s] on the client's clock come back in the reply;
`__reset` begins a new episode; `__cost` since the last request and `__shield` {step: times so far} are for the
status page.
"""

REFUSALS = {
    "malformed": "bytes that are no message of this format",
    "keys": "a signal is missing, or one is there that the policy does not know",
    "shape": "a signal has another shape than the manifest says",
    "dtype": "a signal has another dtype than the manifest says",
    "not_finite": "NaN or infinity",
    "field": "one of the optional fields has another type than it should",
    "superseded": "a newer request of the same client came before this one's turn",
    "deadline": "the answer would come too late; it is dropped",
    "policy": "the policy failed, or its actions are not finite or of another shape than the manifest says",
    "stopping": "the server is stopping",
}
"""Why a request is refused, by the code in the reply."""


class RefusedError(DeployError):
    """A request that gets an error for its reply: `code` is one of REFUSALS."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Request:
    """One robot's reading, arrays of the manifest's shapes and dtypes; `KEYS` says what the rest is."""

    observation: dict[str, NDArray[Any]]
    sequence: int | None = None
    stamp: float | None = None
    reset: bool = False
    cost: float | None = None
    shield: dict[str, int] = field(default_factory=dict)


def read_request(message: Mapping[str, Any], manifest: Manifest) -> Request:
    """Return the request in a decoded message; RefusedError for everything that `manifest` does not ask for."""
    signals = {signal.name: signal for signal in manifest.observation}
    given = {key: value for key, value in message.items() if key not in KEYS}
    if missing := [name for name in signals if name not in given]:
        raise RefusedError("keys", f"signal {missing[0]!r} is missing; the policy takes {', '.join(signals)}")
    if unknown := sorted(set(given) - set(signals)):
        raise RefusedError("keys", f"the policy knows no {unknown[0]!r:.60}; it takes {', '.join(signals)}")
    observation = {name: _read(signal, given[name], manifest) for name, signal in signals.items()}
    if len({array.ndim - len(signals[name].shape) for name, array in observation.items()}) > 1:
        raise RefusedError("shape", "either every signal comes with its history, or none does")
    return Request(
        observation,
        _field(message, "__seq", int),
        _field(message, "__stamp", float),
        bool(_field(message, "__reset", bool)),
        _cost(message),
        _shield(message),
    )


def _read(signal: Signal, value: Any, manifest: Manifest) -> NDArray[Any]:
    """Return the array of a signal: one reading, or `manifest.observation_horizon` of them, oldest first."""
    name, wanted = signal.name, np.dtype(signal.dtype)
    if not isinstance(value, np.ndarray):
        raise RefusedError("dtype", f"{name!r} is a numpy array, got {type(value).__name__}")
    shapes = (signal.shape, (manifest.observation_horizon, *signal.shape))
    if value.shape not in shapes:
        raise RefusedError("shape", f"{name!r} has shape {shapes[0]} or {shapes[1]}, got {value.shape}")
    floats = (
        wanted.kind == value.dtype.kind == "f"
    )  # numpy computes in float64: what is only rounded is welcome
    if not floats and value.dtype.newbyteorder("=") != wanted:
        raise RefusedError("dtype", f"{name!r} has dtype {wanted}, got {value.dtype}")
    with np.errstate(over="ignore"):  # what overflows is refused below
        array = np.ascontiguousarray(value, wanted)
    if floats and not np.isfinite(array).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        where = signal.element(index[-1]) if len(signal.shape) == 1 else f"{name}{list(index)}"
        raise RefusedError("not_finite", f"{where} is {value[index]}")
    return array


def _field(message: Mapping[str, Any], key: str, kind: type[Any]) -> Any:
    value = message.get(key)
    if value is None:
        return None
    if isinstance(value, np.generic):
        value = value.item()
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (kind is not bool and isinstance(value, bool)):
        raise RefusedError("field", f"{key} is of type {kind.__name__}, got {type(value).__name__}")
    if kind is float and not math.isfinite(value):
        raise RefusedError("not_finite", f"{key} is {value}")
    return kind(value)


def _cost(message: Mapping[str, Any]) -> float | None:
    cost: float | None = _field(message, "__cost", float)
    if cost is not None and not 0.0 <= cost <= LARGEST_COST:
        raise RefusedError("field", f"__cost is from 0 to {LARGEST_COST:g}, got {cost:g}")
    return cost


def _shield(message: Mapping[str, Any]) -> dict[str, int]:
    counts = message.get("__shield")
    if counts is None:
        return {}
    if not isinstance(counts, dict) or len(counts) > SHIELD_STEPS:
        raise RefusedError(
            "field", f"__shield is a map of at most {SHIELD_STEPS} steps to how often each has acted"
        )
    for step, count in counts.items():
        if not isinstance(step, str) or len(step) > 64 or type(count) is not int or not 0 <= count < 2**63:
            raise RefusedError("field", "__shield maps names of up to 64 letters to counts from 0")
    return dict(counts)
