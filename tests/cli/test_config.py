"""Dataclasses from the configuration: strict, typed, nested, and clear about what is wrong."""

from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from diffpolicy.cli.config import build
from diffpolicy.cli.errors import ConfigError


class Rule(Enum):
    lowest = 1
    highest = 2


@dataclass(frozen=True)
class Critic:
    hidden: tuple[int, ...] = (64, 64)
    learning_rate: float = 3e-4


@dataclass(frozen=True)
class Policy:
    horizon: int
    critic: Critic = field(default_factory=Critic)
    network: Literal["mlp", "residual"] = "mlp"
    rule: Rule = Rule.lowest
    bound: float | None = None
    either: int | str = 0
    limits: tuple[float, float] = (0.0, 1.0)
    names: list[str] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)
    data: Path | None = None
    flag: bool = False
    anything: Any = None
    derived: int = field(default=7, init=False)


def test_defaults_stay_where_nothing_is_said():
    assert build(Policy, {"horizon": 3}) == Policy(horizon=3)


def test_every_kind_of_field():
    node = OmegaConf.create(
        {
            "steps": 5,
            "policy": {
                "horizon": "${steps}",
                "critic": {"hidden": [8], "learning_rate": 1},
                "network": "residual",
                "rule": "highest",
                "bound": 2,
                "either": "x",
                "limits": [0, 3],
                "names": ["a", "b"],
                "weights": {"cost": 1},
                "data": "some/file.hdf5",
                "flag": True,
                "anything": {"a": [1]},
            },
        }
    )
    policy = build(Policy, node.policy, "policy")
    assert policy == Policy(
        horizon=5,
        critic=Critic((8,), 1.0),
        network="residual",
        rule=Rule.highest,
        bound=2.0,
        either="x",
        limits=(0.0, 3.0),
        names=["a", "b"],
        weights={"cost": 1.0},
        data=Path("some/file.hdf5"),
        flag=True,
        anything={"a": [1]},
    )
    assert isinstance(policy.critic.learning_rate, float)
    assert isinstance(policy.bound, float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"horizn": 3}, "policy has no option 'horizn'; did you mean 'policy.horizon'?"),
        ({"qqq": 3}, "policy has no option 'qqq'; its options are horizon, critic"),
        ({"derived": 3}, "policy has no option 'derived'"),
        (
            {"critic": {"hiden": 3}},
            "policy.critic has no option 'hiden'; did you mean 'policy.critic.hidden'?",
        ),
        ({"critic": 3}, "policy.critic must be a group of options, not 3"),
        ({"horizon": "three"}, "policy.horizon must be int, not str 'three'"),
        ({"horizon": 2.5}, "policy.horizon must be int, not float 2.5"),
        ({"horizon": True}, "policy.horizon must be int, not bool True"),
        ({"horizon": None}, "policy.horizon must be int, not NoneType None"),
        ({"flag": 1}, "policy.flag must be bool, not int 1"),
        ({"bound": "x"}, "policy.bound must be float, not str 'x'"),
        ({"either": [1]}, "policy.either must be int | str, not list [1]"),
        ({"critic": {"hidden": [8, "x"]}}, "policy.critic.hidden[1] must be int, not str 'x'"),
        ({"critic": {"hidden": 8}}, "policy.critic.hidden must be tuple[int, ...], not int 8"),
        ({"limits": [1, 2, 3]}, "policy.limits must have 2 values, not 3: [1, 2, 3]"),
        (
            {"network": "rezidual"},
            "policy.network must be one of mlp, residual, not 'rezidual'; did you mean 'residual'?",
        ),
        ({"rule": "best"}, "policy.rule must be one of lowest, highest, not 'best'"),
        ({"weights": {"cost": "x"}}, "policy.weights.cost must be float"),
    ],
)
def test_what_is_wrong_is_named(change, message):
    with pytest.raises(ConfigError) as caught:
        build(Policy, {"horizon": 1, **change}, "policy")
    assert message in str(caught.value)


def test_what_a_group_of_options_refuses_itself_is_a_mistake_too():
    @dataclass(frozen=True)
    class Steps:
        count: int

        def __post_init__(self):
            raise ValueError(f"at least 1 step, got {self.count}")

    with pytest.raises(ConfigError, match="sampler: at least 1 step, got 0"):
        build(Steps, {"count": 0}, "sampler")


def test_a_field_without_default_must_be_set():
    with pytest.raises(ConfigError, match=r"policy\.horizon has no default: set policy\.horizon="):
        build(Policy, {}, "policy")


def test_a_whole_float_is_an_integer():
    steps = build(Policy, {"horizon": 1e6}).horizon
    assert steps == 1_000_000
    assert isinstance(steps, int)


@settings(deadline=None, max_examples=50)
@given(st.floats() | st.integers() | st.text() | st.none() | st.lists(st.integers()) | st.booleans())
def test_any_value_is_taken_or_refused_and_never_crashes(value):
    for name in (
        "horizon",
        "critic",
        "network",
        "rule",
        "bound",
        "either",
        "limits",
        "names",
        "weights",
        "data",
    ):
        with suppress(ConfigError):
            assert isinstance(build(Policy, {"horizon": 1, name: value}, "policy"), Policy)
