"""The manifest survives JSON, and whatever else JSON can hold is refused by the name of its key."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffpolicy.deploy.manifest import Manifest, ManifestError, Safety, Signal, read_limits

SAFETY = Safety((0.0, -1.0), (1.0, 1.0), (5.0, 10.0), (50.0, 100.0), (1e3, 2e3), ("x",), (0.0,), (2.0,))
MANIFEST = Manifest(
    policy="diffusion",
    arm="rti_2_1_0",
    task="PushT-v0",
    version="1",
    git="",
    observation=(Signal("state", (2,), "float32", "m", ("x", "y")), Signal("top", (4, 6, 3), "uint8")),
    action=Signal("action", (2,), "float32", "m/s", (), (0.0, -1.0), (1.0, 1.0)),
    control_rate=20.0,
    chunk=8,
    execute=1,
    horizon=16,
    observation_horizon=2,
    sampler="ddim",
    evaluations=3,
    safety=SAFETY,
    licence="CC-BY-4.0",
    data_sha256="a",
    weights_sha256="b",
)


def changed(path: str, value: Any) -> str:
    """The manifest's JSON with one key, such as "safety.velocity", set to `value`; None removes it."""
    stored = MANIFEST.as_dict()
    *parents, last = path.split(".")
    inner = stored
    for key in parents:
        inner = inner[int(key) if key.isdigit() else key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return json.dumps(stored)


def test_json_and_back() -> None:
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST
    assert Manifest.from_dict(MANIFEST.as_dict()) == MANIFEST
    assert MANIFEST.control_period == 0.05
    assert [MANIFEST.observation[0].element(1), MANIFEST.action.element(1)] == ["y", "action[1]"]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("schema", 2, "schema 2"),
        ("control_rate", None, "control_rate is missing"),
        ("control_rate", 0, "control_rate"),
        ("control_rate", True, "control_rate"),
        ("chunk", "8", "chunk is '8'"),
        ("chunk", 17, "chunk <= horizon"),
        ("colour", "red", "unknown key colour"),
        ("safety", [], "safety is an object"),
        ("safety.velocity", [1.0], "velocity has 1 entries"),
        ("safety.velocity", [1.0, 0.0], "above 0"),
        ("safety.velocity", [1.0, math.nan], "NaN"),
        ("safety.velocity", [1.0, 1e999], "Infinity"),
        ("safety.jerk", None, "safety.jerk is missing"),
        ("safety.velocity", [1.0, 10**400], "finite"),
        ("safety.position_low", [2.0, -1.0], "not below"),
        ("safety.workspace", ["z"], "'z'"),
        ("safety.workspace_low", None, "workspace_low"),
        ("safety.watchdog", -1, "above 0"),
        ("observation", [], "at least one"),
        ("observation.0.dtype", "object", "dtype"),
        ("observation.0.shape", [], "no elements"),
        ("observation.0.names", ["x"], "1 entries"),
        ("observation.1.name", "state", "each once"),
        ("action.shape", [3], "3"),
    ],
)
def test_what_is_refused_is_named(path: str, value: Any, words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        Manifest.from_json(changed(path, value))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(MANIFEST.as_dict())), _JSON)
def test_any_value_of_any_key_is_read_or_refused(key: str, value: Any) -> None:
    stored = MANIFEST.as_dict() | {key: value}
    try:
        read = Manifest.from_json(json.dumps(stored))
    except ManifestError:
        return
    assert Manifest.from_json(read.to_json()) == read


@given(st.binary(max_size=40) | st.text(max_size=40))
def test_anything_else_is_refused(text: str | bytes) -> None:
    with pytest.raises(ManifestError):
        Manifest.from_json(text)


def test_no_infinity_is_written() -> None:
    with pytest.raises(ManifestError, match="finite"):
        replace(MANIFEST, control_rate=math.inf).to_json()


def test_limits_replace_those_of_the_task() -> None:
    read = read_limits({"velocity": 3, "jerk": [7.0, 8.0], "watchdog": 0.25, "feasible_below": None}, SAFETY)
    assert read == replace(SAFETY, velocity=(3.0, 3.0), jerk=(7.0, 8.0), watchdog=0.25)
    with pytest.raises(ManifestError, match="speed"):
        read_limits({"speed": 3}, SAFETY)
    with pytest.raises(ManifestError, match="velocity"):
        read_limits({"velocity": "fast"}, SAFETY)


def test_what_runs_beside_a_robot_does_not_import_torch() -> None:
    names = "manifest, chunks, run_policy, exported"
    check = f"import sys; from diffpolicy.deploy import {names}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
