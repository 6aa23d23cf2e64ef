"""From a node of the configuration to the dataclass that a part of the project is configured by, strictly."""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf

from diffpolicy.cli.errors import ConfigError
from diffpolicy.cli.suggestions import nearest

T = TypeVar("T")


def build(kind: type[T], node: DictConfig | Mapping[str, Any] | None, where: str = "") -> T:
    """Return the dataclass `kind` filled from `node`, nested ones too; fields left out keep their defaults.

    `where` is the dotted name of `node` for messages ("policy"). Raises ConfigError for a key that is not a
    field, a value of the wrong type, or a field without default that is left out. Whole floats count as
    integers (`steps=1e6`), and integers as floats.
    """
    if isinstance(node, DictConfig):
        node = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    filled: T = _dataclass(kind, {} if node is None else node, where)
    return filled


def _dataclass(kind: Any, node: Any, where: str) -> Any:
    if not isinstance(node, Mapping):
        raise ConfigError(f"{where or kind.__name__} must be a group of options, not {node!r}")
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    for key in node:
        if key not in fields:
            near = nearest(str(key), fields)
            hint = f"did you mean '{_join(where, near)}'?" if near else f"its options are {', '.join(fields)}"
            raise ConfigError(f"{where or kind.__name__} has no option '{key}'; {hint}")
    types_of = get_type_hints(kind)
    for name, field in fields.items():
        no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if no_default and name not in node:
            raise ConfigError(f"{_join(where, name)} has no default: set {_join(where, name)}=...")
    given = {name: _value(types_of[name], value, _join(where, name)) for name, value in node.items()}
    try:
        return kind(**given)
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        raise ConfigError(f"{where or kind.__name__}: {error}") from error


def _value(kind: Any, value: Any, where: str) -> Any:
    """Return `value` as a `kind`, which is any annotation made of the types below."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _union(kind, arguments, value, where)
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
        raise _wrong_choice(where, value, arguments)
    if origin in (list, tuple, Sequence):
        return _sequence(kind, value, where)
    if origin in (dict, Mapping):
        if isinstance(value, Mapping):
            return {
                _value(arguments[0], k, where): _value(arguments[1], v, _join(where, str(k)))
                for k, v in value.items()
            }
        raise _wrong(where, kind, value)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, where)
    return _scalar(kind, value, where)


def _scalar(kind: Any, value: Any, where: str) -> Any:
    if isinstance(kind, type) and issubclass(kind, Enum):
        if isinstance(value, str) and value in kind.__members__:
            return kind[value]
        raise _wrong_choice(where, value, tuple(kind.__members__))
    if kind is Path and isinstance(value, str):
        return _path(value, where)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and number:
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    # A bool is an int to Python and a mistake to everyone else.
    if isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
        return value
    raise _wrong(where, kind, value)


def _path(value: str, where: str) -> Path:
    try:
        return Path(value).expanduser()  # the shell leaves the ~ of `data=~/file` alone
    except RuntimeError as error:
        raise ConfigError(f"{where}={value}: {error}") from error


def _union(kind: Any, arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    members = [member for member in arguments if member is not type(None)]
    if len(members) == 1:
        return _value(members[0], value, where)
    # An exact type before a converted one, so that 3 stays an integer in `float | int`.
    for member in sorted(members, key=lambda member: member is not type(value)):
        try:
            return _value(member, value, where)
        except ConfigError:
            continue
    raise _wrong(where, kind, value)


def _sequence(kind: Any, value: Any, where: str) -> Any:
    arguments = get_args(kind)
    if not isinstance(value, list | tuple):
        raise _wrong(where, kind, value)
    whole = tuple if get_origin(kind) is tuple else list
    if whole is tuple and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise ConfigError(f"{where} must have {len(arguments)} values, not {len(value)}: {list(value)}")
        each: Sequence[Any] = arguments
    else:
        each = [arguments[0]] * len(value)
    return whole(
        _value(item, part, f"{where}[{i}]") for i, (item, part) in enumerate(zip(each, value, strict=True))
    )


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _wrong(where: str, kind: Any, value: Any) -> ConfigError:
    name = (
        kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("typing.", "")
    )
    return ConfigError(f"{where} must be {name}, not {type(value).__name__} {value!r}")


def _wrong_choice(where: str, value: Any, choices: tuple[Any, ...]) -> ConfigError:
    near = nearest(value, map(str, choices)) if isinstance(value, str) else None
    hint = f"; did you mean '{near}'?" if near else ""
    return ConfigError(f"{where} must be one of {', '.join(map(str, choices))}, not {value!r}{hint}")
