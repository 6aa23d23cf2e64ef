"""One test per break of safety-gymnasium 0.4.0, and one for the sky box."""

import dataclasses
import importlib
import sys
from typing import Any

import numpy as np
import pytest

import envs
from envs.dsrl import adapter

pytestmark = pytest.mark.usefixtures("safety_gymnasium")
REMOVED = ("autoreset", "compatibility", "env_checker", "time_limit")


@pytest.mark.parametrize("name", [f"gymnasium.wrappers.{name}" for name in REMOVED])
def test_break_1_the_removed_wrapper_modules_are_provided(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(name)
    adapter.provide_removed_wrappers()
    assert importlib.import_module(name)


def test_break_2_colours_can_be_dataclass_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter.adapt_safety_gymnasium()
    colours = importlib.import_module("safety_gymnasium.assets.color")
    monkeypatch.setattr(colours, "COLOR", {"red": np.array([1, 0, 0, 1])})

    def with_default() -> type:
        return dataclasses.make_dataclass("Geom", [("color", Any, colours.COLOR["red"])])

    with pytest.raises(ValueError, match="mutable default"):
        with_default()
    adapter.make_colours_hashable()
    np.testing.assert_array_equal(with_default()().color, [1, 0, 0, 1])


def test_break_3_environments_are_made_without_the_broken_registration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adapter.adapt_safety_gymnasium()
    registration = importlib.import_module("safety_gymnasium.utils.registration")
    with pytest.raises(AttributeError, match="apply_api_compatibility"):
        registration.make("SafetyPointGoal1-v0")
    monkeypatch.delattr(registration, "make")
    env = envs.make("PointGoal1")
    observation, _ = env.reset(seed=0)
    assert len(observation) == 60
    assert "cost" in env.step(np.zeros(2, np.float32))[-1]


def test_break_4_an_agent_finds_its_joint_sensors() -> None:
    env: Any = envs.make("CarGoal1").unwrapped
    agent = env.raw.task.agent
    with pytest.raises(TypeError):
        agent.engine.model.jnt(np.array([0], np.int32))
    assert adapter._IntegerJoints(agent.engine.model).jnt(np.array([0], np.int32)).id == 0
    assert not isinstance(agent.engine.model, adapter._IntegerJoints), "the stand-in is only for the sensors"
    assert agent.sensor_info.ballquat_names == ["ballquat_rear"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the broken viewer's own
def test_break_5_navigation_tasks_render_without_the_broken_viewer() -> None:
    env = envs.make("PointGoal1", render_mode="rgb_array")
    env.reset(seed=0)
    raw: Any = env.unwrapped.raw
    with pytest.raises(TypeError, match="width"):
        raw.task._get_viewer("rgb_array")
    try:
        picture: Any = env.render()
    except envs.RenderingError as error:
        pytest.skip(str(error))
    assert picture.shape == (256, 256, 3)
    env.close()


def test_the_sky_box_is_no_longer_decoded_at_every_reset() -> None:
    env: Any = envs.make("PointGoal1").unwrapped
    env.reset(seed=0)
    assert env.raw.task.model.ntexdata < 1_000_000
