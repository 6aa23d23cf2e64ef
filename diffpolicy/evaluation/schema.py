"""The certificate's JSON Schema, and a checker of the part of JSON Schema that it uses.

docs/certificate.schema.json is this schema, for other people's tools; a test keeps the two equal.
"""

import re
import sys
from typing import Any

VERSION = "diffpolicy.certificate/1"

_TEXT = {"type": "string", "minLength": 1}
_SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_NUMBER = {"type": "number"}
_COUNT = {"type": "integer", "minimum": 0}


def _record(**properties: Any) -> dict[str, Any]:
    """An object with exactly these properties, all required."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _list(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


_INTERVAL = {"type": "array", "items": _NUMBER, "minItems": 2, "maxItems": 2}
_ESTIMATE = _record(mean=_NUMBER, mean_interval=_INTERVAL, iqm=_NUMBER, iqm_interval=_INTERVAL)
_PROBABILITY = {"type": "number", "minimum": 0, "maximum": 1}
EPISODE = _record(
    seed={"type": "integer"},
    episode_return=_NUMBER,
    episode_cost={"type": "number", "minimum": 0},
    length={"type": "integer", "minimum": 1},
    terminated={"type": "boolean"},
    violation={"type": "boolean"},
)
_LIMIT_SUMMARY = _record(
    limit={"type": "number", "minimum": 0},
    normalized_cost=_ESTIMATE,
    exceeded=_COUNT,
    exceed_probability_upper=_PROBABILITY,
    safe={"type": "boolean"},
)
_SUMMARY = _record(
    training_seeds=_COUNT,
    episodes=_COUNT,
    normalized_return=_ESTIMATE,
    cost=_ESTIMATE,
    cost_cvar=_NUMBER,
    violating_episodes=_COUNT,
    violation_probability_upper=_PROBABILITY,
    limits=_list(_LIMIT_SUMMARY),
)

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "diffpolicy certificate: an evaluation's episodes, what they add up to, where they come from",
    **_record(
        schema={"const": VERSION},
        created={"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"},
        task=_TEXT,
        protocol=_record(
            seed={"type": "integer"},
            episodes={"type": "integer", "minimum": 1},
            limits=_list({"type": "number", "minimum": 0}),
            reference=_TEXT,
            confidence={"const": 0.95},
            rule=_TEXT,
        ),
        data=_record(sha256=_SHA256),
        code=_record(
            sha256=_SHA256,
            commit={"type": ["string", "null"], "pattern": "^[0-9a-f]{40,64}$"},
            dirty={"type": ["boolean", "null"]},
        ),
        versions={"type": "object", "additionalProperties": _TEXT},
        machine=_record(
            cpu={"type": "string"},
            cores={"type": "integer", "minimum": 1},
            accelerator={"type": ["string", "null"]},
            system=_TEXT,
        ),
        command={"type": "string"},
        manifest={"type": "object"},
        arms=_list(
            _record(name=_TEXT, weights=_list(_SHA256), episodes=_list(_list(EPISODE)), summary=_SUMMARY)
        ),
        differences={
            "type": "array",
            "items": _record(arm=_TEXT, reference=_TEXT, normalized_return=_ESTIMATE, cost=_ESTIMATE),
        },
        digest=_SHA256,
    ),
}

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}


def problem(value: Any, schema: dict[str, Any] = SCHEMA, where: str = "") -> str | None:
    """The first thing in `value` that breaks `schema`, as "field: what is wrong"; None if it keeps to it."""
    name = where or "the certificate"
    if "const" in schema and (value != schema["const"] or isinstance(value, bool)):
        return f"{name}: is {_shown(value)}, expected {schema['const']!r}"
    expected = schema.get("type")
    if expected is not None:
        kinds = expected if isinstance(expected, list) else [expected]
        if not any(_is(value, kind) for kind in kinds):
            return f"{name}: is {_shown(value)}, expected {' or '.join(kinds)}"
    if isinstance(value, str):
        return _string_problem(value, schema, name)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _number_problem(value, schema, name)
    if isinstance(value, list):
        return _array_problem(value, schema, where, name)
    if isinstance(value, dict):
        return _object_problem(value, schema, where, name)
    return None


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES[kind])


def _string_problem(value: str, schema: dict[str, Any], name: str) -> str | None:
    if len(value) < schema.get("minLength", 0):
        return f"{name}: is empty"
    if "pattern" in schema and re.search(schema["pattern"], value) is None:
        return f"{name}: {_shown(value)} does not match {schema['pattern']}"
    return None


def _number_problem(value: float, schema: dict[str, Any], name: str) -> str | None:
    if not abs(value) <= sys.float_info.max:  # NaN, infinity, or an integer beyond every float
        return f"{name}: is {_shown(value)}, expected a finite number"
    if "minimum" in schema and value < schema["minimum"]:
        return f"{name}: is {_shown(value)}, expected at least {schema['minimum']}"
    if "maximum" in schema and value > schema["maximum"]:
        return f"{name}: is {_shown(value)}, expected at most {schema['maximum']}"
    return None


def _array_problem(value: list[Any], schema: dict[str, Any], where: str, name: str) -> str | None:
    if len(value) < schema.get("minItems", 0):
        return f"{name}: has {len(value)} entries, expected at least {schema['minItems']}"
    if len(value) > schema.get("maxItems", len(value)):
        return f"{name}: has {len(value)} entries, expected at most {schema['maxItems']}"
    items = schema.get("items", {})
    found = (problem(item, items, f"{where}[{index}]") for index, item in enumerate(value))
    return next((one for one in found if one is not None), None)


def _object_problem(value: dict[str, Any], schema: dict[str, Any], where: str, name: str) -> str | None:
    properties: dict[str, Any] = schema.get("properties", {})
    for key in schema.get("required", []):
        if key not in value:
            return f"{name}: the field {key!r} is missing"
    others = schema.get("additionalProperties", True)
    for key, entry in value.items():
        rule = properties.get(key, others)
        if rule is False:
            return f"{name}: the field {_shown(key)} is not known"
        found = problem(entry, rule if isinstance(rule, dict) else {}, f"{where}.{key}" if where else key)
        if found is not None:
            return found
    return None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
