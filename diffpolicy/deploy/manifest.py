"""What a controller must know of a policy before its first action: names, shapes, units, rates, limits, hashes.

Plain data in JSON. Imports nothing but the standard library, so that it can be read beside any robot.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffpolicy.deploy.errors import ManifestError

SCHEMA = 1
DTYPES = ("float32", "uint8")


@dataclass(frozen=True)
class Signal:
    """One array that goes in or out: `shape` is that of one reading, without batch or history.

    `names` has one entry for every element of a vector, or is empty; `low` and `high` bound each of them in `unit`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    unit: str = ""
    names: tuple[str, ...] = ()
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        where = f"signal {self.name!r}"
        if not self.shape or min(self.shape) < 1:
            raise ManifestError(f"{where}: shape {list(self.shape)} has no elements")
        if self.dtype not in DTYPES:
            raise ManifestError(f"{where}: dtype is one of {', '.join(DTYPES)}, not {self.dtype!r}")
        for key in ("names", "low", "high"):
            values = getattr(self, key)
            if values and len(values) != self.shape[0]:
                raise ManifestError(f"{where}: {key} has {len(values)} entries, the shape {self.shape[0]}")
        _ordered(self.low, self.high, where)

    def element(self, index: int) -> str:
        """Return how messages call element `index` of a vector."""
        return self.names[index] if self.names else f"{self.name}[{index}]"


@dataclass(frozen=True)
class Safety:
    """What the shield keeps to, per action element (A,): in the unit of actions, per s, s^2 and s^3.

    `workspace` names elements of the observation, which `workspace_low` and `workspace_high` bound. An observation
    older than `max_observation_age` [s] is not acted on; without a fresh chunk for `watchdog` [s] the robot is brought
    to a hold. An action is feasible when the critics' value is at most `feasible_below`; None: they are not asked.
    """

    position_low: tuple[float, ...]
    position_high: tuple[float, ...]
    velocity: tuple[float, ...]
    acceleration: tuple[float, ...]
    jerk: tuple[float, ...]
    workspace: tuple[str, ...] = ()
    workspace_low: tuple[float, ...] | None = None
    workspace_high: tuple[float, ...] | None = None
    max_observation_age: float = 0.2
    watchdog: float = 0.5
    feasible_below: float | None = None

    def __post_init__(self) -> None:
        size = len(self.position_low)
        for key in ("position_high", "velocity", "acceleration", "jerk"):
            if len(getattr(self, key)) != size:
                raise ManifestError(
                    f"safety.{key} has {len(getattr(self, key))} entries, position_low {size}"
                )
        for key in ("velocity", "acceleration", "jerk"):
            if not all(value > 0.0 for value in getattr(self, key)):
                raise ManifestError(f"safety.{key} is above 0 everywhere, got {list(getattr(self, key))}")
        _ordered(self.position_low, self.position_high, "safety.position")
        for key in ("workspace_low", "workspace_high"):
            bound = getattr(self, key)
            if bool(self.workspace) != (bound is not None) or len(bound or ()) != len(self.workspace):
                raise ManifestError(f"safety.{key} bounds each of safety.workspace, {list(self.workspace)}")
        _ordered(self.workspace_low, self.workspace_high, "safety.workspace")
        if not self.max_observation_age > 0.0 or not self.watchdog > 0.0:
            raise ManifestError("safety.max_observation_age and safety.watchdog are above 0 [s]")


@dataclass(frozen=True)
class Manifest:
    """A deployed policy. A reply holds the next `chunk` actions; `execute` of them belong before the next decision.

    `horizon` is the number of actions that the network predicts, `observation_horizon` how many control steps of
    readings it looks at, `evaluations` the denoiser evaluations of a usual decision, and `control_rate` [Hz] what one
    action lasts. Actions are in physical units, as `action` says. The hashes are SHA-256, "" where unknown.
    """

    policy: str
    arm: str
    task: str
    version: str
    git: str
    observation: tuple[Signal, ...]
    action: Signal
    control_rate: float
    chunk: int
    execute: int
    horizon: int
    observation_horizon: int
    sampler: str
    evaluations: int
    safety: Safety
    licence: str
    data_sha256: str
    weights_sha256: str
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ManifestError(f"schema {self.schema!r} is not known here, only {SCHEMA}: update diffpolicy")
        if not self.control_rate > 0.0:
            raise ManifestError(f"control_rate is above 0 Hz, got {self.control_rate}")
        if not 1 <= self.execute <= self.chunk <= self.horizon:
            raise ManifestError(
                f"1 <= execute <= chunk <= horizon, got {self.execute}, {self.chunk}, {self.horizon}"
            )
        if self.observation_horizon < 1 or self.evaluations < 0:
            raise ManifestError("observation_horizon is at least 1 and evaluations at least 0")
        if self.action.shape != (len(self.safety.position_low),):
            raise ManifestError(
                f"safety bounds {len(self.safety.position_low)} action elements, action has {self.action.shape}"
            )
        keys = [signal.name for signal in self.observation]
        if not keys or len(set(keys)) != len(keys):
            raise ManifestError(f"observation names at least one signal, each once, got {keys}")
        known = {signal.element(i) for signal in self.observation for i in range(signal.shape[0])}
        if unknown := [name for name in self.safety.workspace if name not in known]:
            raise ManifestError(f"safety.workspace names {unknown}, which no observation has")

    @property
    def control_period(self) -> float:
        """What one action lasts [s]."""
        return 1.0 / self.control_rate

    def as_dict(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings."""
        plain: dict[str, Any] = json.loads(self.to_json())
        return plain

    def to_json(self) -> str:
        """Return the manifest as JSON; ManifestError for NaN or infinity."""
        try:
            return json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False)
        except ValueError as error:
            raise ManifestError(f"a manifest holds finite numbers only: {error}") from error

    @classmethod
    def from_json(cls, text: str | bytes) -> "Manifest":
        """Read what `to_json` wrote; ManifestError names the key that is missing, unknown or of the wrong kind."""
        try:
            stored = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"the manifest is not JSON: {error}") from error
        return cls.from_dict(stored)

    @classmethod
    def from_dict(cls, stored: Any) -> "Manifest":
        """Read what `as_dict` returned, as `from_json` does."""
        if not isinstance(stored, Mapping):
            raise ManifestError("a manifest is a JSON object")
        if stored.get("schema") != SCHEMA:
            raise ManifestError(f"schema {stored.get('schema')!r} is not known here, only {SCHEMA}")
        return cls(**_fields(cls, stored, ""))


def read_limits(given: Mapping[str, Any], safety: Safety) -> Safety:
    """Return `safety` with the keys of `given` in its place, numbers for (A,) being meant for every element.

    Raises ManifestError for unknown keys and values that are no limits.
    """
    names = {field.name for field in dataclasses.fields(Safety)}
    if unknown := sorted(set(map(str, given)) - names):
        raise ManifestError(f"safety has no {unknown[0]!r}; it has {', '.join(sorted(names))}")
    stored = {**dataclasses.asdict(safety), **given}
    for key in ("position_low", "position_high", "velocity", "acceleration", "jerk"):
        if isinstance(stored[key], int | float) and not isinstance(stored[key], bool):
            stored[key] = [stored[key]] * len(safety.position_low)
    return Safety(**_fields(Safety, stored, "safety."))


def _fields(kind: type[Any], stored: Any, where: str) -> dict[str, Any]:
    """Return the constructor's arguments of a dataclass; ManifestError for others than those."""
    if not isinstance(stored, Mapping):
        raise ManifestError(f"{where.rstrip('.')} is an object, got {stored!r:.40}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in stored:
        if key not in fields:
            raise ManifestError(f"unknown key {where}{key}; was it written by a newer version?")
    for key, field in fields.items():
        if key not in stored and field.default is dataclasses.MISSING:
            raise ManifestError(f"key {where}{key} is missing")
    return {key: _value(fields[key].type, value, f"{where}{key}") for key, value in stored.items()}


def _value(kind: Any, value: Any, where: str) -> Any:
    """Return `value` as a field of type `kind`; ManifestError where it is something else."""
    if kind in (Signal, Safety):
        return kind(**_fields(kind, value, f"{where}."))
    if kind == tuple[Signal, ...]:
        return tuple(
            Signal(**_fields(Signal, each, f"{where}[{i}].")) for i, each in enumerate(_list(value, where))
        )
    if kind == tuple[str, ...]:
        return tuple(_checked(str, each, where) for each in _list(value, where))
    if kind == tuple[int, ...]:
        return tuple(_checked(int, each, where) for each in _list(value, where))
    if kind in (float | None, tuple[float, ...] | None) and value is None:
        return None
    if kind in (tuple[float, ...], tuple[float, ...] | None):
        return tuple(_checked(float, each, where) for each in _list(value, where))
    return _checked(float if kind == float | None else kind, value, where)


def _checked(kind: type[Any], value: Any, where: str) -> Any:
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # an integer of more than 308 digits
            number = math.inf
        if not math.isfinite(number):
            raise ManifestError(f"{where} is {number}: only finite numbers are limits")
        return number
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ManifestError(f"{where} is {value!r:.40}, which is no {kind.__name__}")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ManifestError(f"{where} is a list, got {value!r:.40}")
    return list(value)


def _ordered(low: tuple[float, ...] | None, high: tuple[float, ...] | None, where: str) -> None:
    for index, (below, above) in enumerate(zip(low or (), high or (), strict=False)):
        if not below < above:
            raise ManifestError(f"{where}: low {below} is not below high {above} (element {index})")


def _no_constant(name: str) -> float:
    raise ManifestError(f"{name} in the manifest: only finite numbers are allowed")
